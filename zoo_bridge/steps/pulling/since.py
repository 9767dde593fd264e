"""What came since the exports, through the classifications API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_bridge.files import join_gzipped
from zoo_bridge.steps.context import Context
from zoo_bridge.steps.pulling.manifest import Manifest, SincePart, workflows_of
from zoo_bridge.steps.shelf import here
from zoo_bridge.zooniverse.content import Frontier

if TYPE_CHECKING:
    from zoo_bridge.zooniverse.exports import Export
    from zoo_bridge.zooniverse.project import Project
    from zoo_bridge.zooniverse.session import Session


MOST_PARTS = 24


def going_on(
    ctx: Context, last: Manifest | None, base: Export | None
) -> tuple[list[SincePart], Frontier]:
    """What came through the API and may not be in the export, and where the API is read from.

    An export may have been made today and end a month ago: what counts is how far it reaches.
    """
    start = _copy(base.content.frontier) if base else Frontier()
    if last is None:
        return [], start
    if any(not here(ctx.settings, part.file).is_file() for part in last.since):
        ctx.say("files of the classifications API are gone; they are read again")
        return [], start
    # What came through the API was of these workflows alone.
    same = last.workflows == workflows_of(ctx)
    further = same and last.frontier.last_id > start.last_id
    newer = [part for part in last.since if part.last_id > start.last_id]
    return newer, _copy(last.frontier) if further else start


def _copy(frontier: Frontier) -> Frontier:
    """One of its own: reading goes on from it and moves it."""
    return Frontier(frontier.last_id, frontier.hours)


def add_since(ctx: Context, session: Session, project: Project, manifest: Manifest) -> None:
    """Add what came since to a manifest."""
    from zoo_bridge.zooniverse.classifications import fetch_since, find_users, write_versions

    folder = ctx.work / "exports"
    workflows = workflows_of(ctx)
    with ctx.progress.bar("classifications since") as tick:
        since = fetch_since(session, project.project_id, workflows, manifest.frontier, folder, tick)
    new = since.new if since else 0
    ctx.say(f"classifications since: {new} new, through the API")
    if since:
        file = since.path.relative_to(ctx.work).as_posix()
        manifest.since.append(SincePart(file, since.rows, since.last_id))
    if len(manifest.since) > MOST_PARTS:
        manifest.since = [_join(ctx, manifest.since)]
    versions = write_versions(session, workflows, folder)
    manifest.versions = versions.relative_to(ctx.work).as_posix()
    # The API tells numbers and not names.
    manifest.excluded = find_users(session, ctx.settings.votes.excluded_users)
    for name, number in manifest.excluded.items():
        if not number:
            ctx.say(f"votes.excluded_users: there is no user {name} on Zooniverse")


def _join(ctx: Context, parts: list[SincePart]) -> SincePart:
    """Many small files as one, needed as long as any of them."""
    path = join_gzipped(
        [here(ctx.settings, part.file) for part in parts], ctx.work / "exports", "since"
    )
    return SincePart(
        path.relative_to(ctx.work).as_posix(),
        sum(part.rows for part in parts),
        max(part.last_id for part in parts),
    )
