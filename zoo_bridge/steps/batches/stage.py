"""Staging a planned batch: every object in its subject set once, each with its own pictures.

Staging may be interrupted anywhere and is simply done again. The set's members say what exists, by
the object id that each carries; `creating` brings in what is missing. Pictures are sent and fetched
back several at a time.

A create that was given up may still be carried out, hours later. Where there was one, what was
checked is linked into a second set, which no create ever named; that one volunteers will see.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zoo_bridge.balance import Balance
from zoo_bridge.errors import InputError, ZooniverseError
from zoo_bridge.files import digest_file
from zoo_bridge.ledger import Batch, BatchState, ObjectState
from zoo_bridge.steps.batches.creating import Creator
from zoo_bridge.steps.batches.staging import Row, Staging, give_up, publishes_itself
from zoo_bridge.steps.context import Context, Result
from zoo_bridge.steps.shelf import here
from zoo_bridge.tables import BATCH, read_table

if TYPE_CHECKING:
    from zoo_bridge.zooniverse.project import Account, Project
    from zoo_bridge.zooniverse.session import Session


def stage(
    ctx: Context, session: Session, project: Project, batch: Batch, account: Account
) -> Result:
    """Bring every planned object of a batch into its subject set, with its pictures.

    Parameters
    ----------
    ctx : Context
        The settings, the ledger and the run that stages.
    session : Session
        A log-in that may write to the project.
    project : Project
        The project, in which the subject set is made.
    batch : dict
        The ledger's row of the batch.
    account : Account
        Whose quota pays.

    Returns
    -------
    Result
        Its counts say what was planned, created, linked, skipped and failed, and how many calls
        that took.

    Raises
    ------
    ZooniverseError
        If the batch is not complete; it stays as it is, and the next run goes on.
    RefusedError
        If the set holds what was not planned.
    InputError
        If the batch's folder is not what it was.
    """
    from zoo_bridge.zooniverse import subjects

    folder = here(ctx.settings, batch.path)
    rows = _read_plan(ctx, batch, folder)
    config = ctx.settings.upload
    with subjects.Pictures(config.connections, session.timeout, session.pause) as pictures:
        work = Staging(ctx, session, pictures, project, batch, folder, rows, account.user_id)
        work.open_set()
        with ctx.progress.bar("uploading", len(work.creates)) as advance:
            creator = Creator(work, advance)
            creator.run()
        with ctx.progress.bar("checking", len(work.creates)) as advance:
            try:
                work.check_all(advance)
            except ZooniverseError as error:
                if not creator.ended:
                    raise
                # The server is away: why is told below, and nothing is complete.
                ctx.log.warning("%s", error.message)
        if len(work.complete) == len(work.creates):
            work.link_all()
    return _finish(work)


def _read_plan(ctx: Context, batch: Batch, folder: Path) -> list[Row]:
    """The plan; what the ledger says is another batch's by now, or was left out, is skipped."""
    try:
        rows = read_table(folder / "plan.parquet", BATCH).to_pylist()
    except InputError as error:
        raise InputError(error.message, give_up(batch.name)) from None
    mine = {row.object_id: row.state for row in ctx.ledger.list_objects(batch.name)}
    for row in rows:
        if mine.get(row["object_id"]) == ObjectState.LEFT_OUT:
            row["action"] = "skip"
        elif row["action"] != "skip" and row["object_id"] not in mine:
            ctx.say(f"{row['object_id']} is skipped: it is another batch's by now")
            row["action"] = "skip"
    return rows


def _finish(work: Staging) -> Result:
    """What became of the batch; staged if nothing is missing."""
    ctx, name = work.ctx, work.batch.name
    lost = [row["object_id"] for row in work.creates if row["object_id"] not in work.complete]
    counts = {
        "planned": len(work.rows),
        "created": len(work.complete),
        "linked": len(work.linked),
        "skipped": sum(row["action"] == "skip" for row in work.rows) + len(work.refused),
        # Nothing is linked before all is created.
        "failed": len(lost) + (len(work.links) if lost else 0),
    }
    parts = {part: count for part, count in counts.items() if part != "planned"}
    balance = Balance("planned", counts["planned"], parts)
    balance.check()
    if lost:
        told = ", ".join(f"{count} {part}" for part, count in parts.items())
        raise ZooniverseError(
            f"{name} is not complete: {counts['planned']} planned = {told}. Missing: "
            f"{', '.join(lost[:5])}{' …' if lost[5:] else ''}; {work.reason()}",
            f"{work.hint} It stays unpublished; zoo-bridge run upload finishes it, zoo-bridge "
            f"abandon {name} gives it up.".lstrip(),
        )
    ctx.ledger.add_event(name, "staged", counts)
    digest = digest_file(work.folder / "plan.parquet")
    ctx.ledger.add_artifact("batch", name, work.folder, digest, ctx.run_id, counts)
    # Last: until then the next run does all of this again.
    size = counts["created"] + counts["linked"]
    ctx.ledger.move_batch(name, BatchState.STAGED, subject_set_id=work.final_id, size=size)
    message = f"{name} staged: {counts['created']} subjects created, {counts['linked']} linked"
    if work.extra:
        message += f"; {work.extra} that a late answer made twice are left out"
    counts = counts | {"calls": work.session.calls, "media_calls": work.pictures.calls}
    if publishes_itself(ctx, name):
        from zoo_bridge.steps.batches.publish import publish

        message += f"; {publish(ctx, name, work.session)}"
        return Result("done", message, counts, [balance], name)
    hint = f"Show it to volunteers with: zoo-bridge publish {name}"
    return Result("done", message, counts, [balance], name, hint=hint)
