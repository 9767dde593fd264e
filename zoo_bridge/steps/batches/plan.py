"""A batch as it is planned: its folder, and the intent in the ledger, before any create."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from zoo_bridge.files import write_json
from zoo_bridge.ledger import Artifact, Batch, BatchState, NewObject, now
from zoo_bridge.steps.batches.checks import Check, as_rows
from zoo_bridge.steps.batches.publish import find_batch
from zoo_bridge.steps.context import Context
from zoo_bridge.tables import BATCH, read_table, write_table


@dataclass(frozen=True)
class Planned:
    """One line of a plan.

    ``heldout`` is the role that its votes will have; None where a hash decides. ``adopted`` marks
    what a batch that was given up had, ``redrawn`` those of it that are subjects of ours without a
    vote: they are to show what this batch draws.
    """

    rank: int
    object_id: str
    uri: str
    reason: str
    action: str
    bald: float | None
    subject_id: int | None
    why: str
    heldout: bool | None = None
    adopted: bool = False
    redrawn: bool = False


def write_plan(
    ctx: Context,
    folder: Path,
    plan: Sequence[Planned],
    checks: Sequence[Check],
    scores: Artifact | None,
    labels: Artifact | None,
) -> Batch:
    """Write a plan to its folder, and the intent to the ledger, in one transaction.

    Parameters
    ----------
    ctx : Context
        Its ledger is told.
    folder : Path
        The batch's, and called as it is; its pictures are there already.
    plan : sequence of Planned
        A line for each object, also for those that cannot be shown.
    checks : sequence of Check
        What was looked at before, for ``checks.json``.
    scores, labels : Artifact or None
        What it was chosen from; without scores it was drawn at random.

    Returns
    -------
    Batch
        As the ledger has it now.
    """
    rows = [vars(row) for row in plan]
    write_table(folder / "plan.parquet", pa.Table.from_pylist(rows, schema=BATCH), BATCH)
    write_json(folder / "checks.json", as_rows(checks))
    # What could not be shown today may be tomorrow.
    shown = [row for row in plan if row.action != "skip"]
    redrawn = [row.object_id for row in shown if row.redrawn]
    # What must not change while the batch is staged, whatever becomes of the settings.
    config = ctx.settings.upload
    facts = {
        "run": ctx.run_id,
        "key": config.metadata_key,
        "publish": config.publish,
        "redrawn": redrawn,
    }
    batch = Batch(
        folder.name,
        BatchState.STAGING,
        "start" if scores is None else "active",
        None,
        scores.name if scores else None,
        labels.name if labels else None,
        folder.relative_to(ctx.work).as_posix(),
        len(shown),
        created_at=now(),
    )
    # Another machine may have to go on with it.
    ctx.ledger.shelve(folder)
    ctx.ledger.add_batch(batch, *_members(shown, facts))
    return find_batch(ctx, folder.name)


def extend_plan(ctx: Context, batch: Batch, folder: Path, more: Sequence[Planned]) -> list[Planned]:
    """Add lines to the plan of a staged batch, and the intent to the ledger.

    Lines of a former attempt that the ledger never heard of are dropped.

    Parameters
    ----------
    ctx : Context
        Its ledger is told.
    batch : Batch
        It is being staged again from now on.
    folder : Path
        Its folder; pictures of the new lines are there already.
    more : sequence of Planned
        Lines whose ranks no other has.

    Returns
    -------
    list of Planned
        All lines of the plan.
    """
    plan = [*known_lines(ctx, batch, folder), *more]
    rows = [vars(row) for row in plan]
    write_table(folder / "plan.parquet", pa.Table.from_pylist(rows, schema=BATCH), BATCH)
    ctx.ledger.shelve(folder)
    shown = [row for row in more if row.action != "skip"]
    facts = {
        "objects": [row.object_id for row in shown],
        "redrawn": [row.object_id for row in shown if row.redrawn],
    }
    ctx.ledger.extend_batch(batch.name, *_members(shown, facts))
    return plan


def known_lines(ctx: Context, batch: Batch, folder: Path) -> list[Planned]:
    """The lines of a batch's plan that the ledger knows of, and those that are skipped."""
    mine = {row.object_id for row in ctx.ledger.list_objects(batch.name)}
    rows = read_table(folder / "plan.parquet", BATCH).to_pylist()
    return [
        Planned(**{name: row[name] for name in BATCH.names})
        for row in rows
        if row["object_id"] in mine or row["action"] == "skip"
    ]


def _members(
    shown: Sequence[Planned], facts: dict[str, Any]
) -> tuple[list[NewObject], dict[str, Any], list[NewObject]]:
    """New objects, the event's facts, and those that are taken from batches that were given up."""
    new = [_member(row) for row in shown if not row.adopted]
    return new, facts, [_member(row) for row in shown if row.adopted]


def _member(row: Planned) -> NewObject:
    """A line of the plan as the ledger keeps it."""
    return NewObject(
        row.object_id,
        row.reason,
        None if row.subject_id is None else str(row.subject_id),
        row.heldout,
        # It has votes, or a hash decides: whatever its role was, it keeps it.
        keeps_role=row.adopted and row.heldout is None,
    )
