"""Upload: the galaxies worth asking about, staged as a subject set that nobody sees yet.

An interrupted upload is finished before anything new is planned. Then: look whether all is as it
must be, choose, draw, look again, write the plan, stage it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from zoo_bridge.balance import Balance
from zoo_bridge.ledger import Batch
from zoo_bridge.steps.batches import before, pictures, plan, safety
from zoo_bridge.steps.batches.checks import Check, refuse_unless
from zoo_bridge.steps.batches.choose import Sources, choose
from zoo_bridge.steps.batches.stage import stage
from zoo_bridge.steps.context import Context, Result
from zoo_bridge.steps.inputs import open_store, read_survey
from zoo_bridge.steps.login import log_in
from zoo_bridge.steps.scoring.catalogue import FORM


def upload(ctx: Context) -> Result:
    """Plan a batch and stage it; finish an interrupted one first.

    Parameters
    ----------
    ctx : Context
        The settings, the ledger and what the command line asked for.

    Returns
    -------
    Result
        The artifact ``batch`` is a folder with ``plan.parquet``, previews and a contact sheet.

    Raises
    ------
    RefusedError
        If a check says no: rights, caps, quota, backlog, scores of another model, a degenerate
        BALD, previews all alike.
    """
    session, access = log_in(ctx)
    project, account = access.project, access.account
    ctx.say(f"{account.login} at {project.name}, workflow {project.workflow.name}")
    if (started := before.find_started(ctx)) is not None:
        return before.finish(ctx, session, access, started)
    if (waits := before.waits_for_approval(ctx)) is not None:
        return waits
    version, labels = ctx.ledger.model_in_use(), ctx.ledger.newest("labels")
    scores = ctx.ledger.newest("scores") if version else None
    of_model = safety.check_scores(version, scores, FORM)
    refuse_unless([of_model])
    if (made := before.already_made(ctx, version, labels)) is not None:
        return made
    store = open_store(ctx.settings)
    sources = Sources(read_survey(ctx, store), store, scores, labels)
    looked, room, newer = safety.run_checks(ctx, session, access, sources)
    looked.append(of_model)
    refuse_unless(looked)
    chosen = choose(ctx, sources, room, newer)
    if not chosen:
        return Result("unchanged", "no object of the survey is left to upload")
    looked.append(safety.check_quota(ctx, account, sum(row.action == "create" for row in chosen)))
    refuse_unless(looked)
    if ctx.options.dry_run:
        return _planned(ctx, chosen)
    batch = _make(ctx, sources, chosen, looked)
    return stage(ctx, session, project, batch, account)


def _planned(ctx: Context, chosen: Sequence[plan.Planned]) -> Result:
    """What a dry run says."""
    for row in chosen[:10]:
        ctx.say(f"{row.object_id}: {row.why}")
    counts = _counts(chosen)
    balance = Balance("planned", len(chosen), counts)
    return Result("planned", f"would stage {_summary(chosen)}", counts, [balance])


def _make(
    ctx: Context, sources: Sources, chosen: Sequence[plan.Planned], looked: list[Check]
) -> Batch:
    """Draw a batch, look at its pictures, and write its plan."""
    ctx.say(f"planned {_summary(chosen)}")
    folder = ctx.work / "batches" / f"batch-{ctx.tag}"
    shutil.rmtree(folder, ignore_errors=True)
    drawn, faults = pictures.draw(ctx, chosen, sources.store, folder)
    pictures.write_contact_sheet(ctx, folder, drawn)
    paths, sheet = sorted((folder / "previews").glob("*-1.*")), folder / "contact-sheet.jpg"
    looked.append(safety.check_previews(paths, faults, len(drawn), sheet))
    refuse_unless(looked)
    batch = plan.write_plan(ctx, folder, drawn, looked, sources.scores, sources.labels)
    told = [row.bald for row in drawn if row.reason == "bald" and row.bald is not None]
    if told:
        ctx.measures.update(batch_bald=sum(told) / len(told), batch_bald_least=min(told))
    ctx.say(f"look at it: {sheet}")
    return batch


def _counts(chosen: Sequence[plan.Planned]) -> dict[str, int]:
    return {kind: sum(row.reason == kind for row in chosen) for kind in ("bald", "random")}


def _summary(chosen: Sequence[plan.Planned]) -> str:
    counts = _counts(chosen)
    return f"{len(chosen)} objects: {counts['bald']} by BALD, {counts['random']} at random"
