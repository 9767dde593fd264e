"""Staging a planned batch, publishing it, and taking it back.

Staging may be interrupted anywhere and is simply done again: the subject set's members say what
exists already, by the object id that each carries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo_bridge.balance import Balance
from zoo_bridge.errors import (
    OutcomeUnknownError,
    RefusedError,
    SettingsError,
    ZooniverseError,
)
from zoo_bridge.files import digest_file
from zoo_bridge.ledger import now
from zoo_bridge.steps.context import Context, Result
from zoo_bridge.tables import BATCH, read_table

if TYPE_CHECKING:
    from zoo_bridge.zooniverse.project import Project
    from zoo_bridge.zooniverse.session import Session
    from zoo_bridge.zooniverse.subjects import Subject

MIME = "image/jpeg"
CREATE_ROUNDS = 3


@dataclass
class _Staging:
    """One staging under way."""

    ctx: Context
    session: Session
    project: Project
    batch: dict[str, Any]
    set_id: str

    @property
    def key(self) -> str:
        return self.ctx.settings.upload.metadata_key

    def note(self, object_id: str, state: str, subject_id: str | None) -> None:
        slug = self.ctx.settings.project.slug
        self.ctx.ledger.set_object(slug, object_id, state, subject_id)


def stage(ctx: Context, session: Session, project: Project, batch: dict[str, Any]) -> Result:
    """Bring every planned object of a batch into its subject set, with its image.

    Parameters
    ----------
    ctx : Context
        The run.
    session : Session
        The log-in.
    project : Project
        Where to.
    batch : dict
        The ledger's row of the batch.

    Returns
    -------
    Result
    """
    from zoo_bridge.zooniverse import subjects

    folder = ctx.work / batch["path"]
    rows = read_table(folder / "plan.parquet", BATCH).to_pylist()
    extra = _catalogue_columns(ctx, [row["object_id"] for row in rows])
    title = f"zoo_bridge {project.name} {batch['name']}"
    set_id = subjects.create_set(session, project.project_id, title, {"#zoo_bridge": batch["name"]})
    ctx.ledger.set_batch(batch["name"], subject_set_id=set_id)
    work = _Staging(ctx, session, project, batch, set_id)
    creates = [row for row in rows if row["action"] == "create"]
    failures: list[str] = []
    with ctx.progress.bar("uploading", len(creates)) as advance:
        members = _create_all(work, creates, extra, folder, failures, advance)
    links = [row for row in rows if row["action"] == "link"]
    subject_ids = [subject.subject_id for subject in members.values()]
    subject_ids += [str(row["subject_id"]) for row in links]
    subjects.link(session, set_id, subject_ids)
    for row in links:
        work.note(row["object_id"], "staged", str(row["subject_id"]))
    counts = {
        "planned": len(rows),
        "created": len(members),
        "linked": len(links),
        "skipped": sum(row["action"] == "skip" for row in rows),
        "failed": len(creates) - len(members),
    }
    parts = {name: count for name, count in counts.items() if name != "planned"}
    balance = Balance("planned", counts["planned"], parts)
    if counts["failed"]:
        raise ZooniverseError(
            f"{counts['failed']} of {counts['planned']} objects of {batch['name']} are not "
            f"uploaded: {failures[0]}",
            "The batch stays unpublished; zoo-bridge run upload finishes it.",
        )
    ctx.ledger.set_batch(batch["name"], state="staged")
    digest = digest_file(folder / "plan.parquet")
    ctx.ledger.add_artifact("batch", batch["name"], folder, digest, ctx.run_id, counts)
    message = f"{batch['name']} staged: {len(members)} subjects created, {len(links)} linked"
    if ctx.settings.upload.publish == "automatic":
        publish(ctx, batch["name"], session)
        message += ", published"
    else:
        message += f"; show it with: zoo-bridge publish {batch['name']}"
    return Result("done", message, counts, [balance], batch["name"])


def _create_all(
    work: _Staging,
    rows: list[dict[str, Any]],
    extra: dict[str, dict[str, str]],
    folder: Any,
    failures: list[str],
    advance: Any,
) -> dict[str, Subject]:
    """Create what is missing, image by image; give back the members by object id.

    When a create ends without an answer, the members are read again before the next one: it is
    never sent a second time in the dark.
    """
    done: dict[str, Subject] = {}
    for _ in range(CREATE_ROUNDS):
        present = _members(work)
        failures.clear()
        for row in rows:
            if row["object_id"] in done:
                continue
            picture = (folder / "previews" / f"{row['rank']:06d}.jpg").read_bytes()
            try:
                subject = _ensure(work, row, present.get(row["object_id"]), extra, picture)
            except OutcomeUnknownError as error:
                work.ctx.log.warning("%s", error.message)
                failures.append(error.message)
                break
            except ZooniverseError as error:
                failures.append(error.message)
                if error.status in (401, 403):
                    return done
                continue
            done[row["object_id"]] = subject
            advance(1)
        if not failures:
            break
    return done


def _members(work: _Staging) -> dict[str, Subject]:
    from zoo_bridge.zooniverse import subjects

    found = subjects.list_members(work.session, work.set_id)
    members: dict[str, Subject] = {}
    for subject in found:
        object_id = str(subject.metadata.get(work.key, ""))
        if object_id in members:
            raise RefusedError(
                f"The set {work.set_id} holds {object_id} twice (subjects "
                f"{members[object_id].subject_id} and {subject.subject_id}).",
                "Take one out on Zooniverse; the batch stays unpublished.",
            )
        members[object_id] = subject
    return members


def _ensure(
    work: _Staging,
    row: dict[str, Any],
    present: Subject | None,
    extra: dict[str, dict[str, str]],
    picture: bytes,
) -> Subject:
    """The subject of one object, with its image: found, mended or created."""
    from zoo_bridge.zooniverse import subjects

    object_id = row["object_id"]
    if present is None:
        work.note(object_id, "creating", None)
        metadata = {work.key: object_id, **extra.get(object_id, {})}
        present = subjects.create(
            work.session, work.project.project_id, work.set_id, metadata, MIME
        )
        work.note(object_id, "created", present.subject_id)
    elif subjects.has_image(work.session, present.urls[0], picture):
        work.note(object_id, "staged", present.subject_id)
        return present
    subjects.put_image(work.session, present, picture, MIME)
    work.note(object_id, "staged", present.subject_id)
    return present


def _catalogue_columns(ctx: Context, object_ids: list[str]) -> dict[str, dict[str, str]]:
    """Chosen catalogue columns for the subjects' metadata; never a score or a prediction."""
    from zoo_bridge.steps.galaxies import open_store, read_survey

    wanted = ctx.settings.upload.metadata_columns
    if not wanted:
        return {}
    survey = read_survey(ctx, open_store(ctx.settings))
    missing = [name for name in wanted if name.lstrip("#!/") not in survey.columns]
    if missing:
        raise SettingsError(
            f"upload.metadata_columns: the survey has no column {', '.join(missing)}.",
            f"It has {', '.join(survey.columns)}.",
        )
    plain = dict.fromkeys(name.lstrip("#!/") for name in wanted)
    columns = [name for name in plain if name != "object_id"]
    return {
        row["object_id"]: {name: str(row[name.lstrip("#!/")]) for name in wanted}
        for row in survey.find(object_ids, columns).to_dicts()
    }


def find_batch(ctx: Context, name: str) -> dict[str, Any]:
    """The ledger's row of a batch of this project."""
    batches = ctx.ledger.list_batches(ctx.settings.project.slug)
    found = next((batch for batch in batches if batch["name"] == name), None)
    if found is None:
        known = ", ".join(batch["name"] for batch in batches[:5]) or "none yet"
        raise SettingsError(f"There is no batch {name}.", f"Batches of this project: {known}.")
    return found


def publish(ctx: Context, name: str, session: Session | None = None) -> str:
    """Show a staged batch to volunteers.

    Parameters
    ----------
    ctx : Context
        The settings and the ledger.
    name : str
        The batch.
    session : Session, optional
        A log-in to use.

    Returns
    -------
    str
        What was done.

    Raises
    ------
    RefusedError
        If the batch is not staged completely.
    """
    from zoo_bridge.zooniverse import subjects

    batch = find_batch(ctx, name)
    if batch["state"] == "published":
        return f"{name} is published already"
    if batch["state"] not in ("staged", "withdrawn"):
        raise RefusedError(
            f"{name} is not staged completely (its state is {batch['state']}).",
            "Finish it first: zoo-bridge run upload.",
        )
    _call(ctx, session, batch, subjects.publish)
    ctx.ledger.set_batch(name, state="published", published_at=now())
    return f"{name} is published: volunteers of workflow {batch['workflow']} see it"


def withdraw(ctx: Context, name: str, session: Session | None = None) -> str:
    """Take a batch back from volunteers; nothing is deleted."""
    from zoo_bridge.zooniverse import subjects

    batch = find_batch(ctx, name)
    if batch["subject_set_id"] is None or batch["state"] == "staging":
        return f"{name} was never published"
    _call(ctx, session, batch, subjects.withdraw)
    ctx.ledger.set_batch(name, state="withdrawn")
    return f"{name} is withdrawn: volunteers no longer see it; nothing was deleted"


def _call(ctx: Context, session: Session | None, batch: dict[str, Any], action: Any) -> None:
    from zoo_bridge.zooniverse.session import Session

    config = ctx.settings
    session = session or Session(config.project.endpoint, config.pull.timeout_seconds)
    try:
        action(session, batch["workflow"], batch["subject_set_id"])
    except ZooniverseError as error:
        raise type(error)(f"{batch['name']}: {error.message}", error.hint, error.status) from None
