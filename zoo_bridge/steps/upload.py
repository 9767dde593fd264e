"""Upload: the galaxies worth asking about, staged as a subject set that nobody sees yet.

An interrupted upload is finished before anything new is planned. Intent is written to the ledger
before a subject is created, and the members of the set are read back to learn what exists.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa

from zoo_bridge.acquisition.select import Pick, select
from zoo_bridge.balance import Balance
from zoo_bridge.cutouts.preprocess import BadCutoutError, preview
from zoo_bridge.cutouts.store import Store
from zoo_bridge.cutouts.survey import Survey
from zoo_bridge.errors import NotReadyError, RefusedError
from zoo_bridge.ledger import Artifact
from zoo_bridge.steps import catalogue
from zoo_bridge.steps.context import Context, Result
from zoo_bridge.steps.galaxies import open_store, preprocessing, read_survey
from zoo_bridge.steps.labelled import read_labels
from zoo_bridge.steps.score import FORM
from zoo_bridge.steps.stage import stage
from zoo_bridge.tables import BATCH, write_table

if TYPE_CHECKING:
    from zoo_bridge.zooniverse.session import Session

WEEK_DAYS = 7


def upload(ctx: Context) -> Result:
    """Plan a batch and stage it; finish an interrupted one first.

    Parameters
    ----------
    ctx : Context
        The run.

    Returns
    -------
    Result
        The artifact ``batch`` is a folder with ``plan.parquet``.

    Raises
    ------
    RefusedError
        If a safety rule says no: caps, quota, a degenerate BALD, scores of another model.
    """
    from zoo_bridge.zooniverse.project import find_project
    from zoo_bridge.zooniverse.session import Session

    settings = ctx.settings
    session = Session(settings.project.endpoint, settings.pull.timeout_seconds)
    project = find_project(session, settings.project.slug, settings.project.workflow)
    ctx.say(f"project {project.name}, workflow {project.workflow.name}")
    started = [
        batch
        for batch in ctx.ledger.list_batches(settings.project.slug)
        if batch["state"] == "staging"
    ]
    if started and not ctx.options.dry_run:
        ctx.say(f"finishing the interrupted batch {started[-1]['name']}")
        return stage(ctx, session, project, started[-1])
    scores = _scores_in_use(ctx)
    labels = ctx.ledger.newest("labels")
    if used := _batch_of(ctx, scores, labels):
        since = "no new votes or scores since" if scores else "no model yet, and there is"
        return Result("unchanged", f"{since} {used}; --force makes another")
    store = open_store(settings)
    survey = read_survey(ctx, store)
    _check_information(scores)
    room = _room(ctx, session)
    candidates = _candidates(ctx, survey, scores, labels, room)
    picks = select(
        candidates.ids,
        candidates.bald,
        (),
        room,
        settings.upload.random_share,
        settings.seed,
    )
    if not picks:
        return Result("unchanged", "no object of the survey is left to upload")
    reasons = {
        reason: sum(pick.reason == reason for pick in picks) for reason in ("bald", "random")
    }
    planned = f"{len(picks)} objects: {reasons['bald']} by BALD, {reasons['random']} at random"
    if ctx.options.dry_run:
        balance = Balance("planned", len(picks), reasons)
        return Result("planned", f"would stage {planned}", reasons, [balance])
    ctx.say(f"planned {planned}")
    sources = {
        "kind": "start" if scores is None else "active",
        "scores": scores.name if scores else None,
        "labels": labels.name if labels else None,
    }
    batch = _write_plan(ctx, candidates, picks, sources, store)
    return stage(ctx, session, project, batch)


@dataclass(frozen=True)
class Candidates:
    """Objects that may be chosen, with their information, and the subjects that some are."""

    ids: list[str]
    uris: dict[str, str]
    bald: list[float] | None
    known_subjects: dict[str, int]


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


def _check_information(scores: Artifact | None) -> None:
    if scores is None:
        return
    found = catalogue.summarise(scores.path)
    if found.wrong or (found.rows and found.highest <= 0):
        raise RefusedError(
            "The mutual information of the survey is zero or not a number: dropout does not act.",
            "Do not upload by it; train anew with: zoo-bridge run retrain --force.",
        )


def _candidates(
    ctx: Context, survey: Survey, scores: Artifact | None, labels: Artifact | None, room: int
) -> Candidates:
    """Without what is uploaded already, labelled enough, or has no score."""
    settings = ctx.settings
    excluded = {row["object_id"] for row in ctx.ledger.list_objects(settings.project.slug)}
    known: dict[str, int] = {}
    if labels is not None:
        frame = read_labels(labels)
        first = frame.filter(question=settings.question[0].name)
        enough = first.filter(pl.col("n") >= settings.upload.enough_votes)
        excluded |= set(enough["object_id"])
        known = dict(first.select("object_id", "subject_id").iter_rows())
    folder = scores.path if scores else None
    found = catalogue.contenders(survey, folder, excluded, room, settings.seed)
    ids, uris = [each.object_id for each in found], {each.object_id: each.uri for each in found}
    bald = [each.bald for each in found if each.bald is not None]
    return Candidates(ids, uris, bald if scores else None, known)


def _room(ctx: Context, session: Session) -> int:
    """How many objects may be uploaded now: caps of the settings, quota of the account."""
    from zoo_bridge.zooniverse.project import find_account

    config = ctx.settings.upload
    recent = ctx.ledger.planned_since(ctx.settings.project.slug, WEEK_DAYS)
    left_this_week = config.per_week - recent
    if left_this_week <= 0:
        raise RefusedError(
            f"{recent} objects were uploaded in the last week, and upload.per_week is "
            f"{config.per_week}.",
            "Wait, or raise upload.per_week if volunteers keep up.",
        )
    room = min(config.per_run, left_this_week)
    account = find_account(session)
    if account.left is not None and account.left < room:
        raise RefusedError(
            f"{account.login} may upload {account.left} more subjects ({account.uploaded} of "
            f"{account.limit} used, never refunded); {room} are planned.",
            "Ask Zooniverse for a higher limit, or lower upload.per_run.",
        )
    return room


def _write_plan(
    ctx: Context,
    candidates: Candidates,
    picks: list[Pick],
    sources: dict[str, str | None],
    store: Store,
) -> dict[str, Any]:
    """Previews and the plan on disk, and the intent in the ledger, before anything is created."""
    name = f"batch-{ctx.tag}"
    folder = ctx.work / "batches" / name
    rows = []
    with ctx.progress.bar("previews", len(picks)) as advance:
        for pick in picks:
            rows.append(_plan_row(ctx, candidates, pick, store, folder))
            advance(1)
    write_table(folder / "plan.parquet", pa.Table.from_pylist(rows, schema=BATCH), BATCH)
    batch = {
        "name": name,
        "project": ctx.settings.project.slug,
        "workflow": ctx.settings.project.workflow,
        "state": "staging",
        "subject_set_id": None,
        **sources,
        "path": folder.relative_to(ctx.work).as_posix(),
        "size": sum(row["action"] != "skip" for row in rows),
    }
    members = [
        {
            "project": ctx.settings.project.slug,
            "object_id": row["object_id"],
            "reason": row["reason"],
            "state": "skipped" if row["action"] == "skip" else "planned",
            "subject_id": str(row["subject_id"]) if row["subject_id"] else None,
        }
        for row in rows
    ]
    ctx.ledger.add_batch(batch, members)
    return batch


def _plan_row(
    ctx: Context, candidates: Candidates, pick: Pick, store: Store, folder: Any
) -> dict[str, Any]:
    """One line of the plan; an object that cannot be shown is planned to be skipped."""
    object_id = candidates.ids[pick.index]
    uri = candidates.uris[object_id]
    known = candidates.known_subjects.get(object_id)
    action = "link" if known else "create"
    if action == "create":
        data = store.read(uri)
        try:
            if data is None:
                raise BadCutoutError("missing", "there is no such object")
            size = ctx.settings.upload.preview_size
            picture = preview(data, preprocessing(ctx.settings), size)
            path = folder / "previews" / f"{pick.rank:06d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture)
        except BadCutoutError as error:
            ctx.say(f"{object_id} is skipped, it cannot be shown: {error}")
            action = "skip"
    return {
        "rank": pick.rank,
        "object_id": object_id,
        "uri": uri,
        "reason": pick.reason,
        "action": action,
        "bald": None if candidates.bald is None else candidates.bald[pick.index],
        "subject_id": known,
    }
