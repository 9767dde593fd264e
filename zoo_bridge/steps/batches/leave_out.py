"""Leaving galaxies out of a batch before volunteers see it, and taking the next best instead.

What a person leaves out is taken out of the subject set and never deleted; the ledger remembers who
did it and why, and no batch plans it again. The ledger is told first: if the process dies between
the two, publishing finishes the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from zoo_bridge.errors import RefusedError, SettingsError, ZooBridgeError
from zoo_bridge.ledger import HIDDEN, Batch, BatchState, ObjectState, PlannedObject
from zoo_bridge.ledger.actors import signed
from zoo_bridge.steps.batches import pictures, safety
from zoo_bridge.steps.batches.abandon import some
from zoo_bridge.steps.batches.checks import refuse_unless
from zoo_bridge.steps.batches.choose import Sources, choose
from zoo_bridge.steps.batches.plan import Planned, extend_plan, known_lines
from zoo_bridge.steps.batches.publish import find_batch
from zoo_bridge.steps.batches.stage import stage
from zoo_bridge.steps.context import Context
from zoo_bridge.steps.inputs import open_store, read_survey
from zoo_bridge.steps.login import log_in
from zoo_bridge.steps.scoring.catalogue import FORM
from zoo_bridge.steps.shelf import here

if TYPE_CHECKING:
    from zoo_bridge.zooniverse.project import Access
    from zoo_bridge.zooniverse.session import Session

# Some of those that are chosen cannot be shown.
ATTEMPTS = 5


def leave_out(
    ctx: Context, name: str, objects: Sequence[str], why: str, instead: bool = False
) -> str:
    """Take galaxies out of a batch that volunteers do not see.

    Parameters
    ----------
    ctx : Context
        The settings and the ledger; the caller holds the lock of uploads.
    name : str
        The batch's name.
    objects : sequence of str
        Ids of objects in it.
    why : str
        A person's reason, which is kept.
    instead : bool
        Put as many of the next best in their place, and of those that were left out before and
        have none: those drawn at random by others at random. They wait for a person, whatever the
        settings say of publishing.

    Returns
    -------
    str
        What was done.

    Raises
    ------
    SettingsError
        If an object is not in the batch, or no reason is given.
    RefusedError
        If volunteers see the batch, it is not complete, or nothing would be left of it.
    ZooniverseError
        If the server does not take them out; publishing does it later, or is refused.
    """
    from zoo_bridge.zooniverse import subjects

    batch = find_batch(ctx, name)
    rows = {row.object_id: row for row in ctx.ledger.list_objects(name)}
    wanted = list(dict.fromkeys(objects))
    _require_hidden(batch)
    if not why.strip():
        raise SettingsError("No reason is given.", "Say why: --why TEXT. It is kept.")
    if unknown := [each for each in wanted if each not in rows]:
        raise SettingsError(
            f"{some(unknown)}: not in {name}.", f"See: zoo-bridge batches, and {batch.path}."
        )
    gone = [rows[each] for each in wanted if rows[each].state == ObjectState.STAGED]
    left = sum(row.state == ObjectState.STAGED for row in rows.values()) - len(gone)
    if gone and not left:
        raise RefusedError(
            f"Nothing would be left of {name}.", f"Give it up: zoo-bridge abandon {name}."
        )
    session, access = log_in(ctx)
    access.require_rights()
    ctx.ledger.require_lock()
    if gone:
        found = {row.object_id: str(row.subject_id) for row in gone}
        ctx.ledger.leave_out(name, found, why.strip(), signed(access.account.login))
    # Also what was left out before: the server may not have heard of it.
    out = [row for row in ctx.ledger.list_objects(name) if row.state == ObjectState.LEFT_OUT]
    assert batch.subject_set_id is not None
    subjects.unlink(session, batch.subject_set_id, [str(row.subject_id) for row in out])
    told = f"{len(gone)} left out of {name}, {left} are left; nothing was deleted"
    open_places = _without_another(ctx, name, out, wanted) if instead else []
    if not open_places:
        return told
    if batch.state != BatchState.STAGED:
        return f"{told}; none is put in their place, since volunteers have seen the batch"
    try:
        return f"{told}; {_replace(ctx, session, access, batch, open_places)}"
    except ZooBridgeError as error:
        error.message = f"{told}, and not replaced: {error.message}"
        raise


def _without_another(
    ctx: Context, name: str, out: Sequence[PlannedObject], wanted: Sequence[str]
) -> list[PlannedObject]:
    """Objects that were left out, those named first, as many as have none in their place."""
    events = ctx.ledger.list_events(name)
    put = sum(len(each.facts.get("objects", ())) for each in events if each.what == "replaced")
    ordered = sorted(out, key=lambda row: (row.object_id not in wanted, row.object_id))
    return ordered[: max(0, len(out) - put)]


def _require_hidden(batch: Batch) -> None:
    name = batch.name
    if batch.state == BatchState.PUBLISHED:
        raise RefusedError(
            f"{name} is published: volunteers see it.",
            f"Take it back first: zoo-bridge withdraw {name}.",
        )
    if batch.state not in HIDDEN:
        raise RefusedError(
            f"{name} is {batch.state}.",
            "Finish it first: zoo-bridge run upload."
            if batch.state == BatchState.STAGING
            else "There is nothing to leave out of it.",
        )


def _replace(
    ctx: Context, session: Session, access: Access, batch: Batch, gone: Sequence[PlannedObject]
) -> str:
    """Stage the next best in the place of some objects: as many, and of the same kind."""
    version = ctx.ledger.model_in_use()
    scores = ctx.ledger.newest("scores") if version else None
    refuse_unless([safety.check_scores(version, scores, FORM)])
    store = open_store(ctx.settings)
    sources = Sources(read_survey(ctx, store), store, scores, ctx.ledger.newest("labels"))
    share = sum(row.reason == "random" for row in gone) / len(gone)
    changed = ctx.settings.upload.model_copy(update={"random_share": share})
    settings = ctx.settings.model_copy(update={"upload": changed})
    newer = safety.find_newer(ctx, session, access.project)
    refuse_unless([safety.check_known(ctx, newer), safety.check_information(scores)])
    folder = here(ctx.settings, batch.path)
    plan = known_lines(ctx, batch, folder)
    # What could not be shown when the batch was planned is not tried again.
    tried = {row.object_id for row in plan if row.action == "skip"}
    last = max(row.rank for row in plan)
    drawn: list[Planned] = []
    for _ in range(ATTEMPTS):
        lacks = len(gone) - sum(row.action != "skip" for row in drawn)
        chosen = choose(replace(ctx, settings=settings), sources, lacks, newer, tried)
        if not lacks or not chosen:
            break
        ranked = [replace(row, rank=last + row.rank) for row in chosen]
        creates = sum(row.action == "create" for row in [*drawn, *ranked])
        refuse_unless([safety.check_quota(ctx, access.account, creates)])
        more, _ = pictures.draw(ctx, ranked, store, folder)
        drawn += more
        tried |= {row.object_id for row in more}
        last += len(more)
    if not any(row.action != "skip" for row in drawn):
        return "no object of the survey is left to take their place"
    plan = extend_plan(ctx, batch, folder, drawn)
    pictures.write_contact_sheet(ctx, folder, plan)
    again = find_batch(ctx, batch.name)
    staged = stage(ctx, session, access.project, again, access.account)
    put = sum(row.action != "skip" for row in drawn)
    return f"{put} put in their place: {staged.message}"
