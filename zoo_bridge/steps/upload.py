"""Upload: the galaxies worth asking about, staged as a subject set that nobody sees yet.

An interrupted upload is finished before anything new is planned. Then: look whether all is as it
must be, choose, draw, look again, write the plan, stage it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from zoo_bridge.balance import Balance
from zoo_bridge.ledger import Artifact, Batch, BatchState, ObjectState
from zoo_bridge.steps.batches import choose, pictures, plan, safety
from zoo_bridge.steps.batches.publish import publish
from zoo_bridge.steps.batches.stage import stage
from zoo_bridge.steps.batches.staging import facts_of
from zoo_bridge.steps.context import Context, Result
from zoo_bridge.steps.counting.matching import Matching, match_subjects
from zoo_bridge.steps.inputs import open_store, read_labels, read_survey
from zoo_bridge.steps.login import log_in
from zoo_bridge.steps.scoring.catalogue import FORM

if TYPE_CHECKING:
    from zoo_bridge.zooniverse.project import Access, Project
    from zoo_bridge.zooniverse.session import Session
    from zoo_bridge.zooniverse.subjects import Subject


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
    settings = ctx.settings
    session, access = log_in(ctx)
    project, account = access.project, access.account
    ctx.say(f"{account.login} at {project.name}, workflow {project.workflow.name}")
    if (started := _started(ctx)) is not None:
        name = started.name
        if ctx.options.dry_run:
            return Result("planned", f"would finish the interrupted batch {name} first")
        looked = [safety.check_rights(access)]
        if facts_of(ctx, name).get("publish") == "automatic":
            looked.append(safety.check_backlog(ctx, session, project))
        looked.append(safety.check_quota(ctx, account, _to_create(ctx, name)))
        safety.refuse_unless(looked)
        if started.state == BatchState.STAGED:
            # Its run ended between the last check and the publishing that was asked for.
            return Result("done", publish(ctx, name, session), {}, [], name)
        ctx.say(f"finishing the interrupted batch {name}")
        return stage(ctx, session, project, started, account)
    if (waits := _waiting(ctx)) is not None and not ctx.options.force:
        return waits
    version, labels = ctx.ledger.model_in_use(), ctx.ledger.newest("labels")
    scores = ctx.ledger.newest("scores") if version else None
    of_model = safety.check_scores(version, scores, FORM)
    safety.refuse_unless([of_model])
    if used := _batch_of(ctx, version, labels):
        since = "no new votes or model since" if version else "no model yet, and there is"
        return Result("unchanged", f"{since} {used}; --force makes another")
    store = open_store(settings)
    sources = choose.Sources(read_survey(ctx, store), store, scores, labels)
    safety.refuse_unless([safety.check_rights(access)])
    newer = _newer_subjects(ctx, session, project)
    looked, room = _look(ctx, session, access, newer)
    looked += [
        of_model,
        safety.check_information(scores),
        safety.check_survey(ctx, _matching(ctx, session, project, sources)),
    ]
    safety.refuse_unless(looked)
    chosen = choose.choose(ctx, sources, room, newer)
    if not chosen:
        return Result("unchanged", "no object of the survey is left to upload")
    looked.append(safety.check_quota(ctx, account, sum(row.action == "create" for row in chosen)))
    safety.refuse_unless(looked)
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
    drawn, faults = pictures.draw(ctx, chosen, store, folder)
    paths, sheet = sorted((folder / "previews").glob("*-1.*")), folder / "contact-sheet.jpg"
    looked.append(safety.check_previews(paths, faults, len(drawn), sheet))
    safety.refuse_unless(looked)
    batch = plan.write_plan(
        ctx,
        name,
        folder,
        drawn,
        looked,
        "start" if scores is None else "active",
        scores.name if scores else None,
        labels.name if labels else None,
    )
    ctx.say(f"look at it: {sheet}")
    return stage(ctx, session, project, batch, account)


def _matching(
    ctx: Context, session: Session, project: Project, sources: choose.Sources
) -> Matching:
    """Whether labels, or before there are any the workflow's subjects, meet the survey."""
    if sources.labels is None:
        return match_subjects(ctx.settings, session, project, sources.survey)
    names = read_labels(sources.labels)["object_id"]
    told = Matching.of("labelled objects", names, sources.survey, {})
    # What the subjects carry was seen when the votes were counted, if this version did that.
    known = sources.labels.facts.get("survey")
    if not known:
        known = match_subjects(ctx.settings, session, project, sources.survey).as_facts()
    return replace(told, sampled=known["sampled"], keys=known["keys"])


def _newer_subjects(ctx: Context, session: Session, project: Project) -> list[Subject]:
    """Subjects of the project that the last subjects export does not have yet."""
    from zoo_bridge.zooniverse.subjects import newest_subjects

    newest = choose.newest_exported(ctx)
    return newest_subjects(session, project.project_id, newest, safety.MOST_NEWER)


def _look(
    ctx: Context, session: Session, access: Access, newer: Sequence[Subject]
) -> tuple[list[safety.Check], int]:
    """What can be looked at of project and account; and how many objects there is room for."""
    caps, room = safety.check_caps(ctx)
    looked = [
        safety.check_rights(access),
        caps,
        safety.check_backlog(ctx, session, access.project),
        safety.check_known(ctx, newer),
    ]
    return looked, room


def _started(ctx: Context) -> Batch | None:
    """A batch whose staging was interrupted, or whose publishing, if that was asked for."""
    for batch in reversed(ctx.ledger.list_batches()):
        asked_for = facts_of(ctx, batch.name).get("publish") == "automatic"
        if batch.state == BatchState.STAGING or (batch.state == BatchState.STAGED and asked_for):
            return batch
    return None


def _to_create(ctx: Context, name: str) -> int:
    rows = ctx.ledger.list_objects(name)
    # What is in doubt may have been made and paid for; only its create will tell.
    return sum(row.subject_id is None and row.state == ObjectState.PLANNED for row in rows)


def _waiting(ctx: Context) -> Result | None:
    """The result where a batch is staged that nobody has shown to volunteers yet."""
    if not ctx.settings.upload.wait_for_approval:
        return None
    for batch in ctx.ledger.list_batches():
        if batch.state == BatchState.STAGED:
            name = batch.name
            done = [row.at for row in ctx.ledger.list_events(name) if row.what == "staged"]
            since = max(done, default=batch.created_at)[:16].replace("T", " ")
            return Result(
                "unchanged",
                f"{name} waits for approval since {since}",
                hint=f"Show it to volunteers: zoo-bridge publish {name}; or give it up: zoo-bridge "
                f"abandon {name}.",
            )
    return None


def _batch_of(ctx: Context, version: str | None, labels: Artifact | None) -> str | None:
    """A batch that was already made by this model from these votes.

    New votes allow another batch by the same model: when a new one was kept out, volunteers still
    go on with what the model in use would ask next. What counts is what the labels say: they are
    made anew each day, though nobody has voted. Before the first model there is one batch; where it
    was kept out, new votes allow another, drawn at random. What was given up or taken back is as if
    it had not been made.
    """
    if ctx.options.force or ctx.options.dry_run:
        return None
    learns = version is not None or bool(ctx.ledger.list_artifacts("model"))
    now = version, labels.digest if labels and learns else None
    for batch in ctx.ledger.list_batches():
        if batch.state in (BatchState.ABANDONED, BatchState.WITHDRAWN):
            continue
        scores = _artifact(ctx, "scores", batch.scores)
        used = _artifact(ctx, "labels", batch.labels) if learns else None
        if (scores.facts["model"] if scores else None, used.digest if used else None) == now:
            return batch.name
    return None


def _artifact(ctx: Context, kind: str, name: str | None) -> Artifact | None:
    return ctx.ledger.find_artifact(kind, name) if name else None
