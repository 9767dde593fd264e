"""What state batches and objects are in, and from which state to which they go.

A batch::

    staging ◄─► staged ──► published ◄──► withdrawn
       │           │  └──────────────────►   │
       └───────────┴──────► abandoned ◄──────┘

Publishing and withdrawing may be repeated. What volunteers see is taken back before it is given up.
A batch is staged again when galaxies that were left out of it are replaced.
"""

from __future__ import annotations

from enum import StrEnum


class BatchState(StrEnum):
    """How far a batch has come.

    ``staging``: planned, its subjects are being made. ``staged``: complete, in a set that no
    workflow shows. ``published``: volunteers see it. ``withdrawn``: they saw it, and no longer do.
    ``abandoned``: given up; its subjects may be linked by a later batch.
    """

    STAGING = "staging"
    STAGED = "staged"
    PUBLISHED = "published"
    WITHDRAWN = "withdrawn"
    ABANDONED = "abandoned"

    @property
    def may_become(self) -> frozenset[BatchState]:
        """The states that may follow this one."""
        return _AFTER[self]


_AFTER = {
    BatchState.STAGING: frozenset({BatchState.STAGED, BatchState.ABANDONED}),
    BatchState.STAGED: frozenset(
        # A set of its own that somebody linked by hand is withdrawn, too.
        {
            BatchState.STAGED,
            BatchState.STAGING,
            BatchState.PUBLISHED,
            BatchState.WITHDRAWN,
            BatchState.ABANDONED,
        }
    ),
    BatchState.PUBLISHED: frozenset({BatchState.PUBLISHED, BatchState.WITHDRAWN}),
    BatchState.WITHDRAWN: frozenset(
        {BatchState.WITHDRAWN, BatchState.PUBLISHED, BatchState.ABANDONED}
    ),
    BatchState.ABANDONED: frozenset({BatchState.ABANDONED}),
}


# Complete, and volunteers do not see it: a person may still take single galaxies out of it.
HIDDEN = (BatchState.STAGED, BatchState.WITHDRAWN)


class ObjectState(StrEnum):
    """How far the upload of an object has come.

    ``planned``: no create was sent. ``creating``: one was sent. ``doubtful``: it was not answered.
    ``created``: its subject is known. ``uploaded``: its pictures were fetched back and are right.
    ``staged``: it is in the set that volunteers will see. ``skipped``: it cannot be shown.
    ``freed``: a subject of others, whose batch was given up. ``left out``: a person took it out of
    its batch before volunteers saw it; no batch plans it again.
    """

    PLANNED = "planned"
    CREATING = "creating"
    DOUBTFUL = "doubtful"
    CREATED = "created"
    UPLOADED = "uploaded"
    STAGED = "staged"
    SKIPPED = "skipped"
    FREED = "freed"
    LEFT_OUT = "left out"


# A create was sent for these, and nobody knows whether there is a subject.
IN_DOUBT = (ObjectState.CREATING, ObjectState.DOUBTFUL)
