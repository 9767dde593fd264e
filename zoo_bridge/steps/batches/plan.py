"""A batch as it is planned: its folder, and the intent in the ledger, before any create."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from zoo_bridge.files import write_json
from zoo_bridge.steps.batches.publish import find_batch
from zoo_bridge.steps.batches.safety import Check, as_rows
from zoo_bridge.steps.context import Context
from zoo_bridge.tables import BATCH, write_table


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
    name: str,
    folder: Path,
    plan: Sequence[Planned],
    checks: Sequence[Check],
    sources: dict[str, str | None],
) -> dict[str, Any]:
    """Write a plan to its folder, and the intent to the ledger, in one transaction.

    Parameters
    ----------
    ctx : Context
        The ledger.
    name : str
        The batch's.
    folder : Path
        Where its pictures are already.
    plan : sequence of Planned
        The batch.
    checks : sequence of Check
        What was looked at.
    sources : dict
        ``kind``, ``scores`` and ``labels`` of the batch.

    Returns
    -------
    dict
        The ledger's row of the batch.
    """
    rows = [vars(row) for row in plan]
    write_table(folder / "plan.parquet", pa.Table.from_pylist(rows, schema=BATCH), BATCH)
    write_json(folder / "checks.json", as_rows(checks))
    project = ctx.settings.project
    batch = {
        "name": name,
        "project": project.slug,
        "workflow": project.workflow,
        "state": "staging",
        "subject_set_id": None,
        **sources,
        "path": folder.relative_to(ctx.work).as_posix(),
        "size": sum(row.action != "skip" for row in plan),
    }
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
    ctx.ledger.add_batch(
        batch,
        [_member(project.slug, row) for row in shown if not row.adopted],
        facts,
        [_member(project.slug, row) for row in shown if row.adopted],
    )
    return find_batch(ctx, name)


def _member(project: str, row: Planned) -> dict[str, Any]:
    """A line of the plan as the ledger keeps it."""
    member = {
        "project": project,
        "object_id": row.object_id,
        "reason": row.reason,
        "state": "planned",
        "subject_id": None if row.subject_id is None else str(row.subject_id),
        "heldout": row.heldout,
    }
    if row.adopted and row.heldout is None:
        # It has votes, or a hash decides: whatever its role was, it keeps it.
        del member["heldout"]
    return member
