"""What came since the exports, through the classifications API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo_bridge.files import join_gzipped
from zoo_bridge.steps.context import Context
from zoo_bridge.steps.pulling.manifest import (
    workflows_of,
)

if TYPE_CHECKING:
    from zoo_bridge.zooniverse.exports import Export
    from zoo_bridge.zooniverse.project import Project
    from zoo_bridge.zooniverse.session import Session


MOST_PARTS = 24


def going_on(ctx: Context, last: dict[str, Any], base: Export | None) -> dict[str, Any]:
    """What came through the API and may not be in the export, and where the API is read from.

    An export may have been made today and end a month ago: what counts is how far it reaches.
    """
    start: dict[str, Any] = vars(base.content.frontier) if base else {"last_id": 0}
    parts = last.get("since", [])
    if any(not (ctx.work / part["file"]).is_file() for part in parts):
        ctx.say("files of the classifications API are gone; they are read again")
        return {"since": [], "frontier": start}
    # What came through the API was of these workflows alone.
    same = last.get("workflows", [last.get("workflow")]) == workflows_of(ctx)
    known = last.get("frontier") if same else None
    return {
        "since": [part for part in parts if part["last_id"] > start["last_id"]],
        "frontier": known if known and known["last_id"] > start["last_id"] else start,
    }


def add_since(ctx: Context, session: Session, project: Project, manifest: dict[str, Any]) -> None:
    """Add what came since to a manifest."""
    from zoo_bridge.zooniverse.classifications import fetch_since, find_users, write_versions
    from zoo_bridge.zooniverse.content import Frontier

    folder = ctx.work / "exports"
    frontier = Frontier(**manifest["frontier"])
    workflows = workflows_of(ctx)
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
