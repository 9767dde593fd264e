"""Upload: the galaxies worth asking about, staged as a subject set that nobody sees yet.

An interrupted upload is finished before anything new is planned. Then: look whether all is as it
must be, choose, draw, look again, write the plan, stage it.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from zoo_bridge.balance import Balance
from zoo_bridge.errors import NotReadyError
from zoo_bridge.ledger import Artifact
from zoo_bridge.steps import checks, plan
from zoo_bridge.steps.context import Context, Result
from zoo_bridge.steps.galaxies import open_store, read_survey
from zoo_bridge.steps.score import FORM
from zoo_bridge.steps.stage import stage

if TYPE_CHECKING:
    from zoo_bridge.zooniverse.project import Account, Project
    from zoo_bridge.zooniverse.session import Session


def upload(ctx: Context) -> Result:
    """Plan a batch and stage it; finish an interrupted one first.

    Parameters
    ----------
    ctx : Context
        The run.

    Returns
    -------
    Result
        The artifact ``batch`` is a folder with ``plan.parquet``, previews and a contact sheet.

    Raises
    ------
    RefusedError
        If a check says no: rights, caps, quota, backlog, a degenerate BALD, previews all alike.
    NotReadyError
        If the survey was not scored by the model in use.
    """
    from zoo_bridge.zooniverse.project import find_account, find_project
    from zoo_bridge.zooniverse.session import Session

    settings = ctx.settings
    session = Session(settings.project.endpoint, settings.pull.timeout_seconds)
    project = find_project(session, settings.project.slug, settings.project.workflow)
    account = find_account(session)
    ctx.say(f"{account.login} at {project.name}, workflow {project.workflow.name}")
    if (started := _started(ctx)) and not ctx.options.dry_run:
        ctx.say(f"finishing the interrupted batch {started}")
        return stage(ctx, session, project, _batch(ctx, started))
    scores, labels = _scores_in_use(ctx), ctx.ledger.newest("labels")
    if used := _batch_of(ctx, scores, labels):
        since = "no new votes or scores since" if scores else "no model yet, and there is"
        return Result("unchanged", f"{since} {used}; --force makes another")
    store = open_store(settings)
    sources = plan.Sources(read_survey(ctx, store), store, scores, labels)
    looked, room = _look(ctx, session, project, account, scores)
    checks.refuse_unless(looked)
    chosen = plan.choose(ctx, sources, room)
    if not chosen:
        return Result("unchanged", "no object of the survey is left to upload")
    looked.append(checks.check_quota(account, sum(row.action == "create" for row in chosen)))
    checks.refuse_unless(looked)
    counts = {kind: sum(row.reason == kind for row in chosen) for kind in ("bald", "random")}
    planned = f"{len(chosen)} objects: {counts['bald']} by BALD, {counts['random']} at random"
    if ctx.options.dry_run:
        for row in chosen[:10]:
            ctx.say(f"{row.object_id}: {row.why}")
        balance = Balance("planned", len(chosen), counts)
        return Result("planned", f"would stage {planned}", counts, [balance])
    ctx.say(f"planned {planned}")
    name = f"batch-{ctx.tag}"
    folder = ctx.work / "batches" / name
    shutil.rmtree(folder, ignore_errors=True)
    drawn = plan.draw(ctx, chosen, store, folder)
    looked.append(checks.check_previews(sorted((folder / "previews").glob("*-1.*"))))
    checks.refuse_unless(looked)
    made_from = {
        "kind": "start" if scores is None else "active",
        "scores": scores.name if scores else None,
        "labels": labels.name if labels else None,
    }
    batch = plan.write(ctx, name, folder, drawn, looked, made_from)
    ctx.say(f"look at it: {folder / 'contact-sheet.jpg'}")
    return stage(ctx, session, project, batch)


def _look(
    ctx: Context, session: Session, project: Project, account: Account, scores: Artifact | None
) -> tuple[list[checks.Check], int]:
    """What can be looked at before anything is chosen; and how many objects there is room for."""
    from zoo_bridge.zooniverse.project import find_roles

    caps, room = checks.check_caps(ctx)
    looked = [
        checks.check_rights(project, account, find_roles(session, project, account)),
        caps,
        checks.check_backlog(ctx, project),
        checks.check_information(scores),
    ]
    return looked, room


def _started(ctx: Context) -> str | None:
    """A batch whose staging was interrupted."""
    batches = ctx.ledger.list_batches(ctx.settings.project.slug)
    started = [str(batch["name"]) for batch in batches if batch["state"] == "staging"]
    return started[-1] if started else None


def _batch(ctx: Context, name: str) -> dict[str, object]:
    batches = ctx.ledger.list_batches(ctx.settings.project.slug)
    return next(batch for batch in batches if batch["name"] == name)


def _scores_in_use(ctx: Context) -> Artifact | None:
    """The newest scores; None before there is a model, when the first batch is random."""
    version = ctx.ledger.model_in_use()
    if version is None:
        return None
    scores = ctx.ledger.newest("scores")
    if scores is None or scores.facts["model"] != version or scores.facts.get("form") != FORM:
        raise NotReadyError(
            f"The survey was not scored by the model in use, {version}, and this zoo_bridge.",
            "Score it first: zoo-bridge run score.",
        )
    return scores


def _batch_of(ctx: Context, scores: Artifact | None, labels: Artifact | None) -> str | None:
    """A batch that was already made from these scores and votes.

    New votes allow another batch from the same scores: when a new model was kept out, volunteers
    still go on with what the model in use would ask next. Without a model there is one batch.
    """
    if ctx.options.force or ctx.options.dry_run:
        return None
    made_from = (scores.name, labels.name if labels else None) if scores else (None,)
    for batch in ctx.ledger.list_batches(ctx.settings.project.slug):
        if (batch["scores"], batch["labels"])[: len(made_from)] == made_from:
            return str(batch["name"])
    return None
