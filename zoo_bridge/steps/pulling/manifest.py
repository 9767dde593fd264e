"""The manifest of a pull: which files there are, and how far they reach."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from zoo_bridge.files import read_json
from zoo_bridge.steps.context import Context

if TYPE_CHECKING:
    from zoo_bridge.zooniverse.exports import Export


# The export of votes of the project's workflow; those of others have their number after a dash.
VOTES = "classifications"
# A classification gets its number before it can be seen, by so long at most.
VISIBLE = timedelta(hours=2)


def last_manifest(ctx: Context) -> dict[str, Any]:
    """The last manifest of this workflow; empty if there is none."""
    for artifact in ctx.ledger.list_artifacts("exports"):
        manifest: dict[str, Any] = read_json(artifact.path)
        project = ctx.settings.project
        if (manifest.get("slug"), manifest.get("workflow")) == (project.slug, project.workflow):
            return manifest
    return {}


def kind_of(name: str) -> str:
    """What kind of export one in a manifest is; those of other workflows have numbers."""
    return name.partition("-")[0]


def workflows_of(ctx: Context) -> list[int]:
    """All workflows whose votes count, the project's own first."""
    return [ctx.settings.project.workflow, *ctx.settings.other_workflows]


def least_far(ctx: Context, exports: dict[str, Export]) -> Export | None:
    """Of the exports of votes, the one that reaches least far; None if a workflow has none."""
    votes = [export for kind, export in exports.items() if kind.startswith(VOTES)]
    if len(votes) < len(workflows_of(ctx)):
        return None
    return min(votes, key=lambda each: each.content.frontier.last_id)


def entry_of(ctx: Context, export: Export) -> dict[str, Any]:
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


def known_export(ctx: Context, last: dict[str, Any], kind: str) -> Export | None:
    """The export of the last manifest."""
    from zoo_bridge.zooniverse.content import Content, Frontier
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


def reach_of(workflow: int, exports: dict[str, Any]) -> dict[str, dict[str, Any]]:
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
