"""What the ledger tells: runs, artifacts, promotions, batches, objects and events, as records."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo_bridge.ledger.shelf import Shelf
from zoo_bridge.ledger.states import BatchState, ObjectState


@dataclass(frozen=True)
class RunRecord:
    """A run, under way or ended.

    Parameters
    ----------
    run_id : str
        When it began, its job, and a few letters.
    job : str
        pull, aggregate, retrain, score, upload or cycle.
    started_at, ended_at : str
        In UTC, as ISO text; the end is None while it goes on.
    outcome : str
        running, done, unchanged, planned, refused, stale, failed, stopped or busy.
    message : str or None
        How it ended, in one line.
    counts : dict
        What it counted; a cycle has those of its jobs.
    warnings : list of str
        What was not yet a failure.
    inputs_digest, settings_digest : str or None
        The same for the same inputs, and settings that matter to the job.
    artifact : str or None
        The name of what it left behind.
    number : int or None
        Greater than that of every run before it.
    owner : str or None
        The process, as it signs its locks: ``host:process:thread``.
    who, through : str or None
        Who started it, and through what; None for runs of an earlier version.
    parent : str or None
        The cycle that it was part of.
    measures : dict
        Numbers that are watched from run to run, such as ``quota_left``.
    """

    run_id: str
    job: str
    started_at: str
    ended_at: str | None
    outcome: str
    message: str | None
    counts: dict[str, Any]
    warnings: list[str]
    inputs_digest: str | None
    settings_digest: str | None
    artifact: str | None
    number: int | None
    owner: str | None
    who: str | None
    through: str | None
    parent: str | None
    measures: dict[str, float]

    @property
    def kept_out(self) -> bool:
        """Whether a model was trained and the gate kept it out of use: no failure of the loop."""
        return self.job == "retrain" and self.outcome == "refused" and self.artifact is not None


@dataclass(frozen=True)
class Artifact:
    """Something a step left behind: a file or folder under ``work_dir``.

    Parameters
    ----------
    kind : str
        exports, labels, model, scores or batch.
    name : str
        A run's, a model's version or a batch's.
    home : Path
        Its place in ``work_dir``; it may be on the shelf alone.
    digest : str
        The same for the same content.
    run_id : str
        The run that made it.
    created_at : str
        In UTC, as ISO text.
    facts : dict
        What is known of it without opening it.
    shelf : Shelf or None
        Where it is kept beside ``work_dir``.
    """

    kind: str
    name: str
    home: Path
    digest: str
    run_id: str
    created_at: str
    facts: dict[str, Any]
    shelf: Shelf | None = field(default=None, compare=False, repr=False)

    @property
    def path(self) -> Path:
        """Where it lies; fetched from the shelf first, if it is not here."""
        if self.shelf is not None and not self.home.exists():
            self.shelf.bring(self.home)
        return self.home

    @property
    def exists(self) -> bool:
        """Whether it is here, or can be fetched."""
        return self.home.exists() or (self.shelf is not None and self.shelf.has(self.home))


@dataclass(frozen=True)
class Promotion:
    """A model that was put in use, by the gate or by hand; or put back in use, by a rollback.

    Parameters
    ----------
    version : str
        The model that was in use from then on.
    action : str
        promote or rollback.
    reason : str or None
        The gate's verdict; of a rollback, the model that was taken out of use.
    at : str
        In UTC, as ISO text.
    who, through : str or None
        Who did it, and through what; None for what an earlier version noted.
    why : str or None
        A person's reason.
    """

    version: str
    action: str
    reason: str | None
    at: str
    who: str | None
    through: str | None
    why: str | None = None


@dataclass(frozen=True)
class Batch:
    """A batch of galaxies: planned, staged, shown to volunteers, taken back or given up.

    Parameters
    ----------
    name : str
        ``batch-`` and the run that planned it.
    state : BatchState
        How far it has come.
    kind : str
        ``start`` for one drawn at random before there was a model, else ``active``.
    subject_set_id : str or None
        The subject set's number on Zooniverse, once there is one.
    scores, labels : str or None
        The artifacts that it was chosen from.
    path : str
        Its folder, relative to ``work_dir``.
    size : int
        Objects that are to be shown.
    created_at, published_at : str or None
        In UTC, as ISO text.
    number : int or None
        Greater than that of every batch before it.
    """

    name: str
    state: BatchState
    kind: str
    subject_set_id: str | None
    scores: str | None
    labels: str | None
    path: str
    size: int
    created_at: str
    published_at: str | None = None
    number: int | None = None


@dataclass(frozen=True)
class PlannedObject:
    """An object that was planned in a batch, and what became of it.

    Parameters
    ----------
    object_id : str
        Its id in the survey.
    batch : str
        The batch's name.
    reason : str
        ``bald`` or ``random``.
    state : ObjectState
        How far its upload has come.
    subject_id : str or None
        Its subject's number on Zooniverse, once that is known.
    updated_at : str
        When the state was noted: UTC, as ISO text.
    account : str or None
        The user's number whose quota its subject counts to.
    asked_at : str or None
        When its last create was sent.
    creates : int
        How many creates were sent.
    heldout : bool or None
        Whether its votes judge models; None where a hash of its id decides.
    """

    object_id: str
    batch: str
    reason: str
    state: ObjectState
    subject_id: str | None
    updated_at: str
    account: str | None
    asked_at: str | None
    creates: int
    heldout: bool | None


@dataclass(frozen=True)
class NewObject:
    """An object as a plan has it: see `PlannedObject`.

    ``keeps_role`` leaves ``heldout`` as the ledger has it, of an object that had votes before.
    """

    object_id: str
    reason: str
    subject_id: str | None = None
    heldout: bool | None = None
    keeps_role: bool = False


@dataclass(frozen=True)
class Event:
    """Something that was done to a batch.

    Parameters
    ----------
    batch : str
        The batch's name.
    at : str
        In UTC, as ISO text.
    what : str
        planned, set made, staged, published, withdrawn, abandoned, left out, replaced or released,
        among others.
    who : str
        A log-in of Zooniverse where the server was asked, else ``name@address``.
    through : str or None
        Through what; None for what an earlier version noted.
    facts : dict
        What else was kept.
    """

    batch: str
    at: str
    what: str
    who: str
    through: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Incident:
    """Something that is not as it should be, and whether somebody was told of it.

    Parameters
    ----------
    name : str
        Its kind and what it is of, such as ``failed cycle``.
    text : str
        What was found when somebody was last to be told.
    opened_at : str
        When it was first found: UTC, as ISO text.
    told_at : str or None
        When somebody was last told.
    """

    name: str
    text: str
    opened_at: str
    told_at: str | None


@dataclass(frozen=True)
class Act:
    """Something that a person, or the service, did to the schedule.

    Parameters
    ----------
    at : str
        In UTC, as ISO text.
    what : str
        paused, resumed, scheduled, told or not told.
    subject : str
        The job, or whatever else it was done to.
    text : str or None
        Why, or what it became.
    who, through : str
        Who did it, and through what.
    """

    at: str
    what: str
    subject: str
    text: str | None
    who: str
    through: str
