"""Volunteers: their pace, what waits for them, and how far they have come with a batch."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl

from zoo_bridge.errors import ZooniverseError
from zoo_bridge.ledger import Batch, BatchState, ObjectState
from zoo_bridge.steps.context import Context

if TYPE_CHECKING:
    from zoo_bridge.zooniverse.project import Project
    from zoo_bridge.zooniverse.session import Session


# Of the votes: what a project does in a day differs from day to day.
PACE_DAYS = 14
# Batches that volunteers have seen.
SHOWN = (BatchState.PUBLISHED, BatchState.WITHDRAWN)


def count_waiting(ctx: Context, session: Session, project: Project) -> int:
    """How many subjects volunteers have before them, or soon will.

    The workflow's own counts lag by minutes and may be below zero: asked are the subjects. Ours
    that are published, those of other linked sets, and what is staged to be published.
    """
    from zoo_bridge.zooniverse.project import list_statuses
    from zoo_bridge.zooniverse.subjects import list_members

    ours = ctx.ledger.list_batches()
    shown: set[str] = set()
    staged: set[str] = set()
    for batch in ours:
        rows = ctx.ledger.list_objects(batch.name)
        staged_here = (row for row in rows if row.state == ObjectState.STAGED)
        ids = {row.subject_id for row in staged_here if row.subject_id is not None}
        if batch.state == BatchState.PUBLISHED:
            shown |= ids
        elif batch.state == BatchState.STAGED:
            staged |= ids
    # Of ours, too, what is shown though the ledger says otherwise.
    known = {batch.subject_set_id for batch in ours if batch.state == BatchState.PUBLISHED}
    for set_id in project.workflow.subject_sets:
        if set_id in known:
            continue
        try:
            shown |= {each.subject_id for each in list_members(session, set_id)}
        except ZooniverseError as error:
            # Deleted since the workflow was read.
            if error.status != 404:
                raise
    statuses = list_statuses(session, project.workflow.workflow_id, sorted(shown))
    retired = {ident for ident, status in statuses.items() if status.retired}
    return len((shown - retired) | staged)


def pace_of(ctx: Context) -> float | None:
    """Classifications that the project gets a day, of late; None if there are no votes yet.

    Of the two weeks before the votes were counted last, not before the newest vote: volunteers who
    left a month ago have no pace.
    """
    labels = ctx.ledger.newest("labels")
    path = labels.path / "votes.parquet" if labels else None
    if labels is None or path is None or not path.exists():
        return None
    votes = pl.scan_parquet(path).select("classification_id", "created_at")
    first, newest = (
        votes.select(
            pl.col("created_at").min().alias("first"), pl.col("created_at").max().alias("newest")
        )
        .collect()
        .row(0)
    )
    if newest is None:
        return None
    counted = ctx.ledger.last_done("aggregate")
    last = counted.started_at if counted else labels.created_at
    # A sandbox's clock may be ahead of this machine's.
    until = max(newest, datetime.fromisoformat(last))
    since = max(first, until - timedelta(days=PACE_DAYS))
    late = votes.filter(pl.col("created_at") >= since)
    count = late.select(pl.col("classification_id").n_unique()).collect().item()
    return float(count / max(1.0, (until - since).total_seconds() / 86_400))


@dataclass(frozen=True)
class Following:
    """How far volunteers have come with a batch.

    Parameters
    ----------
    subjects : int
        In the batch.
    votes : int
        Classifications so far.
    retired : int
        Subjects that need no more.
    days_left : float or None
        To finish at the project's pace; None if that is not known.
    """

    subjects: int
    votes: int
    retired: int
    days_left: float | None

    @property
    def share_retired(self) -> float:
        """0 to 1."""
        return self.retired / self.subjects if self.subjects else 1.0


def follow(ctx: Context, batches: list[Batch]) -> dict[str, Following]:
    """How far volunteers have come, by batch; of those that were shown to them.

    Parameters
    ----------
    ctx : Context
        The settings and the ledger.
    batches : list of Batch
        Of this workflow.

    Returns
    -------
    dict
        By the batch's name.
    """
    from zoo_bridge.zooniverse.project import Status, find_project, list_statuses
    from zoo_bridge.zooniverse.session import Session

    shown = [batch for batch in batches if batch.state in SHOWN]
    if not shown:
        return {}
    session = Session.of(ctx.settings)
    pace = pace_of(ctx)
    asked = ctx.settings.project
    limit = find_project(session, asked.slug, asked.workflow).workflow.limit
    found = {}
    for batch in shown:
        rows = ctx.ledger.list_objects(batch.name)
        hidden = (ObjectState.LEFT_OUT, ObjectState.SKIPPED)
        ids = [row.subject_id for row in rows if row.subject_id and row.state not in hidden]
        statuses = list_statuses(session, asked.workflow, ids)
        unseen = Status(0, False)
        each = [statuses.get(ident, unseen) for ident in ids]
        votes, retired = sum(one.classifications for one in each), sum(one.retired for one in each)
        days = None
        if limit and pace:
            left = [max(0, limit - one.classifications) for one in each if not one.retired]
            days = sum(left) / pace
        found[batch.name] = Following(len(ids), votes, retired, days)
    return found
