"""Pull: the project's classifications, subjects and workflow versions, to ``exports/``."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_bridge.config import Settings
from zoo_bridge.errors import EmptyError, NotReadyError, RefusedError, SettingsError, StaleError
from zoo_bridge.files import digest_value, join_gzipped, read_json, write_json
from zoo_bridge.steps.context import Context, Result, settings_digest
from zoo_bridge.steps.present import Present, declared
from zoo_bridge.votes.rules import NO_TEXTS

if TYPE_CHECKING:
    from zoo_bridge.zooniverse.download import Content
    from zoo_bridge.zooniverse.exports import Export, Patience
    from zoo_bridge.zooniverse.project import Project
    from zoo_bridge.zooniverse.session import Session

HOUR, DAY = 3600.0, 24 * 3600.0
# The export of votes of the project's workflow; those of others have their number after a dash.
VOTES = "classifications"
MOST_PARTS = 24
# A classification gets its number before it can be seen, by so long at most.
VISIBLE = timedelta(hours=2)
# So many later ones may be such as were never completed.
FEW_INCOMPLETE = 5


def pull(ctx: Context) -> Result:
    """Fetch what Zooniverse has of the workflow.

    In the mode "export" these are the three exports, made anew when they are old. In the mode
    "incremental" they are the last exports, however old, and what came since through the API.

    Parameters
    ----------
    ctx : Context
        The run.

    Returns
    -------
    Result
        The artifact ``exports`` is a manifest that names the files.

    Raises
    ------
    RefusedError
        If the account has no rights to the project's votes, or an export is smaller than the last
        one, or ends earlier.
    """
    from zoo_bridge.zooniverse.project import find_access, find_workflows
    from zoo_bridge.zooniverse.session import Session

    session = Session.of(ctx.settings)
    access = find_access(session, ctx.settings.project.slug, ctx.settings.project.workflow)
    # Without rights there seem to be no votes and no exports, and nothing says why.
    access.require_rights()
    project = access.project
    last = _last(ctx)
    if not last:
        check_tasks(ctx.settings, project.workflow.tasks)
    others = find_workflows(session, project, ctx.settings.other_workflows)
    present = {}
    for workflow in (project.workflow, *others):
        asked = Present.of_tasks(workflow.workflow_id, workflow.version, workflow.tasks)
        present[str(workflow.workflow_id)] = asked.as_facts()
        for what, advice in asked.differences(declared(ctx.settings), NO_TEXTS):
            # Votes are fetched all the same; it is counting that must wait for a person.
            ctx.warn(f"{what} {advice}")
    sources = {
        VOTES: f"workflows/{project.workflow.workflow_id}",
        **{f"{VOTES}-{each.workflow_id}": f"workflows/{each.workflow_id}" for each in others},
        "subjects": f"projects/{project.project_id}",
        "workflows": f"projects/{project.project_id}",
    }
    incremental = ctx.settings.pull.mode == "incremental"
    if ctx.options.dry_run:
        names = ", ".join(f"{kind} of {source}" for kind, source in sources.items())
        more = " as they are, and the classifications since" if incremental else ""
        return Result("planned", f"would fetch {names} from {project.name}{more}")
    exports = _fetch_exports(ctx, session, sources, last)
    for kind, export in exports.items() if not incremental else ():
        if kind.startswith(VOTES):
            number = int(sources[kind].rpartition("/")[2])
            _check_end(ctx, session, project.project_id, number, export)
    manifest = {
        "slug": ctx.settings.project.slug,
        "workflow": project.workflow.workflow_id,
        "workflows": _workflows(ctx),
        "project": project.name,
        "retirement_limit": project.workflow.limit,
        "present": present,
        "exports": {kind: _entry(ctx, export) for kind, export in exports.items()},
        **_going_on(ctx, last, _least(ctx, exports)),
        "versions": None,
        "excluded": {},
    }
    if incremental:
        _add_since(ctx, session, project, manifest)
    return _end(ctx, manifest, last)


def _last(ctx: Context) -> dict[str, Any]:
    """The last manifest of this workflow; empty if there is none."""
    for artifact in ctx.ledger.list_artifacts("exports"):
        manifest: dict[str, Any] = read_json(artifact.path)
        project = ctx.settings.project
        if (manifest.get("slug"), manifest.get("workflow")) == (project.slug, project.workflow):
            return manifest
    return {}


def _fetch_exports(
    ctx: Context, session: Session, sources: dict[str, str], last: dict[str, Any]
) -> dict[str, Export]:
    from zoo_bridge.zooniverse import exports

    found = {}
    patience = _patience(ctx.settings)
    # All at once, so that all are made, and waited for, at once.
    began = time.monotonic()
    for kind, source in sources.items():
        exports.ask_early(session, source, kind_of(kind), patience, ctx.say)
    for kind, source in sources.items():
        if ctx.settings.pull.mode == "incremental" and not exports.find_last(
            session, source, kind_of(kind)
        ):
            ctx.say(f"{kind}: there is no export yet; all of it comes through the API")
            continue
        known = None if ctx.options.force else _known(ctx, last, kind)
        left = replace(patience, wait=max(0.0, patience.wait - (time.monotonic() - began)))
        folder = ctx.work / "exports"
        try:
            with ctx.progress.bar(f"{kind} export (bytes)") as tick:
                export = exports.fetch(
                    session, source, kind_of(kind), folder, left, tick, ctx.say, known
                )
        except EmptyError as error:
            if kind_of(kind) == kind:
                raise
            # A workflow that a question names and nobody has classified yet.
            ctx.say(f"{kind}: {error.message}")
            continue
        _tell(ctx, kind, export)
        old = last.get("exports", {}).get(kind)
        if old and not ctx.options.accept_shrunk:
            _check_grown(kind, export.content, old, export.path)
        found[kind] = export
    return found


def _tell(ctx: Context, kind: str, export: Export) -> None:
    """What was fetched, and a warning if Zooniverse has stopped making it."""
    same = ", the same as last time" if export.again else ""
    age = f"{export.age_seconds / HOUR:.1f} hours old"
    if export.overdue:
        age = f"{export.days:.1f} days old"
    note = f"; {export.note}" if export.note else ""
    ctx.say(f"{kind}: {export.content.rows} rows, {age}{same}{note}", file=export.path.name)
    if export.overdue and export.note and ctx.settings.pull.mode == "export":
        ctx.warn(f"the {kind} export is {age}: {export.note}")


def kind_of(name: str) -> str:
    """What kind of export one in a manifest is; those of other workflows have numbers."""
    return name.partition("-")[0]


def _workflows(ctx: Context) -> list[int]:
    """All workflows whose votes count, the project's own first."""
    return [ctx.settings.project.workflow, *ctx.settings.other_workflows]


def _least(ctx: Context, exports: dict[str, Export]) -> Export | None:
    """Of the exports of votes, the one that reaches least far; None if a workflow has none."""
    votes = [export for kind, export in exports.items() if kind.startswith(VOTES)]
    if len(votes) < len(_workflows(ctx)):
        return None
    return min(votes, key=lambda each: each.content.frontier.last_id)


def _check_end(
    ctx: Context, session: Session, project_id: int, workflow: int, export: Export
) -> None:
    """See that a file which is new does not end long ago: exports have stopped a month early.

    That nobody has voted is the other reason for an old last row; then the API has no votes either,
    but for a few that were begun and never completed, which no export has.
    """
    from zoo_bridge.zooniverse.classifications import count_after

    written = datetime.fromisoformat(export.updated_at)
    end = _moment(export.content.newest)
    if end is None or written - end < timedelta(days=1):
        return
    frontier = export.content.frontier
    after = max([frontier.last_id, *frontier.recent])
    most = FEW_INCOMPLETE + 1
    lacking = count_after(session, project_id, workflow, after, written - VISIBLE, most)
    if lacking <= FEW_INCOMPLETE:
        return
    days = ((written - end).total_seconds() + export.age_seconds) / DAY
    text = (
        f"the classifications export was written on {written:%Y-%m-%d} and ends on "
        f"{end:%Y-%m-%d}, {days:.1f} days ago, though Zooniverse has later votes"
    )
    if days >= ctx.settings.pull.stale_after_days:
        raise StaleError(
            f"{text[0].upper()}{text[1:]}.",
            "Write to Zooniverse's team: their export leaves votes out. Until then they come with "
            'pull.mode = "incremental".',
        )
    ctx.warn(text)


def _moment(text: str) -> datetime | None:
    """A time as exports have it, in UTC."""
    try:
        return datetime.fromisoformat(text[:19].replace("T", " ")).replace(tzinfo=UTC)
    except ValueError:
        return None


def _patience(settings: Settings) -> Patience:
    from zoo_bridge.zooniverse.exports import Patience

    config = settings.pull
    incremental = config.mode == "incremental"
    return Patience(
        max_age=config.max_age_hours * HOUR,
        stale_after=config.stale_after_days * DAY,
        wait=config.wait_minutes * 60,
        poll=config.poll_seconds,
        # The API has what an old export lacks: nothing to wait for.
        ask=not incremental,
    )


def _check_grown(kind: str, content: Content, old: dict[str, Any], path: Path) -> None:
    """Exports only ever grow; ones that did not have been cut short by Zooniverse before."""
    what = "subjects" if kind == "subjects" else "rows"
    faults = []
    if content.size < old["size"]:
        faults.append(f"has {content.size} {what} where the last had {old['size']}")
    if content.newest < old["newest"]:
        faults.append(f"ends at {content.newest} where the last ended at {old['newest']}")
    if faults:
        raise RefusedError(
            f"The new {kind} export {' and '.join(faults)}: it may have been cut short. "
            "The last one stays in use.",
            f"Look at {path}. If it is right, take it with: zoo-bridge run pull --accept-shrunk.",
        )


def _entry(ctx: Context, export: Export) -> dict[str, Any]:
    """An export in the manifest."""
    return {
        "file": export.path.relative_to(ctx.work).as_posix(),
        "digest": export.digest,
        "rows": export.content.rows,
        "size": export.content.size,
        "newest": export.content.newest,
        "updated_at": export.updated_at,
        "frontier": vars(export.content.frontier),
    }


def _known(ctx: Context, last: dict[str, Any], kind: str) -> Export | None:
    """The export of the last manifest."""
    from zoo_bridge.zooniverse.download import Content, Frontier
    from zoo_bridge.zooniverse.exports import Export

    entry = last.get("exports", {}).get(kind)
    if not entry:
        return None
    names = ("digest", "rows", "size", "newest")
    content = Content(
        **{name: entry[name] for name in names}, frontier=Frontier(**entry["frontier"])
    )
    path = ctx.work / entry["file"]
    return Export(path, entry["digest"], content, entry["updated_at"], 0.0)


def _going_on(ctx: Context, last: dict[str, Any], base: Export | None) -> dict[str, Any]:
    """What came through the API and may not be in the export, and where the API is read from.

    An export may have been made today and end a month ago: what counts is how far it reaches.
    """
    start: dict[str, Any] = vars(base.content.frontier) if base else {"last_id": 0}
    parts = last.get("since", [])
    if any(not (ctx.work / part["file"]).is_file() for part in parts):
        ctx.say("files of the classifications API are gone; they are read again")
        return {"since": [], "frontier": start}
    # What came through the API was of these workflows alone.
    same = last.get("workflows", [last.get("workflow")]) == _workflows(ctx)
    known = last.get("frontier") if same else None
    return {
        "since": [part for part in parts if part["last_id"] > start["last_id"]],
        "frontier": known if known and known["last_id"] > start["last_id"] else start,
    }


def _add_since(ctx: Context, session: Session, project: Project, manifest: dict[str, Any]) -> None:
    """Add what came since to a manifest."""
    from zoo_bridge.zooniverse.classifications import fetch_since, find_users, write_versions
    from zoo_bridge.zooniverse.download import Frontier

    folder = ctx.work / "exports"
    frontier = Frontier(**manifest["frontier"])
    workflows = _workflows(ctx)
    with ctx.progress.bar("classifications since") as tick:
        since = fetch_since(session, project.project_id, workflows, frontier, folder, tick)
    manifest["frontier"] = vars(frontier)
    new = since.new if since else 0
    ctx.say(f"classifications since: {new} new, through the API")
    if since:
        file = since.path.relative_to(ctx.work).as_posix()
        manifest["since"].append({"file": file, "rows": since.rows, "last_id": since.last_id})
    if len(manifest["since"]) > MOST_PARTS:
        manifest["since"] = [_join(ctx, manifest["since"])]
    versions = write_versions(session, workflows, folder)
    manifest["versions"] = versions.relative_to(ctx.work).as_posix()
    # The API tells numbers and not names.
    manifest["excluded"] = find_users(session, ctx.settings.votes.excluded_users)
    for name, number in manifest["excluded"].items():
        if not number:
            ctx.say(f"votes.excluded_users: there is no user {name} on Zooniverse")


def _join(ctx: Context, parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Many small files as one, needed as long as any of them."""
    path = join_gzipped([ctx.work / part["file"] for part in parts], ctx.work / "exports", "since")
    return {
        "file": path.relative_to(ctx.work).as_posix(),
        "rows": sum(part["rows"] for part in parts),
        "last_id": max(part["last_id"] for part in parts),
    }


def _end(ctx: Context, manifest: dict[str, Any], last: dict[str, Any]) -> Result:
    exports, since = manifest["exports"], manifest["since"]
    counts = {kind: entry["rows"] for kind, entry in exports.items()}
    counts["since"] = sum(part["rows"] for part in since)
    votes = sum(rows for kind, rows in counts.items() if kind.startswith(VOTES))
    if not votes and not since:
        raise NotReadyError(
            "There are no classifications yet.",
            "Has a batch been published, and is project.workflow the right one?",
        )
    files = {kind: entry["file"] for kind, entry in exports.items()}
    facts = {
        "files": files,
        "versions": manifest["versions"],
        "since": since,
        "excluded": manifest["excluded"],
        "rows": counts,
        "reach": _reach(manifest["workflow"], exports) if since else None,
        "project": manifest["project"],
        "retirement_limit": manifest["retirement_limit"],
        "present": manifest["present"],
        "workflows": manifest["workflows"],
    }
    summary = f"{votes} classifications"
    summary += f" and {counts['since']} since" if since else ""
    parts = [part["file"] for part in since]
    told = [files, manifest["versions"], parts, manifest["excluded"], facts["reach"]]
    told.append(manifest["present"])
    digest = digest_value(told)
    newest = ctx.ledger.newest("exports")
    if newest and last and newest.digest == digest and not ctx.options.force:
        # Where it goes on next time may have moved all the same.
        write_json(newest.path, manifest)
        return Result("unchanged", f"the same as before: {summary}", counts, [], newest.name)
    path = ctx.work / "exports" / f"{ctx.run_id}.json"
    write_json(path, manifest)
    ctx.ledger.add_artifact("exports", ctx.run_id, path, digest, ctx.run_id, facts)
    settings = settings_digest(ctx.settings, "project")
    return Result("done", summary, counts, [], ctx.run_id, digest, settings)


def _reach(workflow: int, exports: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Up to where exports have every classification that was ever completed, by workflow.

    Numbers are given out before they can be seen; two hours later all of them can.
    """
    found = {}
    for kind, export in exports.items():
        if not kind.startswith(VOTES):
            continue
        frontier = export["frontier"]
        numbers = [ident for ids in frontier["hours"].values() for ident in ids]
        written = datetime.fromisoformat(export["updated_at"].replace("Z", "+00:00"))
        found[kind.partition("-")[2] or str(workflow)] = {
            "below": max([frontier["last_id"], *numbers]),
            "before": (written - VISIBLE).isoformat(),
        }
    return found


def check_tasks(settings: Settings, tasks: dict[str, object]) -> None:
    """See that every question's task is one of the workflow's."""
    for question in declared(settings):
        asked = [
            place.task
            for place in question.places
            if place.workflow == settings.project.workflow and place.last is None
        ]
        if asked and not set(asked) & set(tasks):
            raise SettingsError(
                f"The workflow {settings.project.workflow} has no task {' or '.join(asked)} "
                f"(question {question.name}).",
                f"Correct question.task: it has {', '.join(tasks) or 'none'}.",
            )
