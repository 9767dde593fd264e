"""The manifest of a pull: which files there are, and how far they reach."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

from zoo_bridge.files import read_json
from zoo_bridge.steps.context import Context
from zoo_bridge.steps.shelf import here
from zoo_bridge.zooniverse.content import Content, Frontier

if TYPE_CHECKING:
    from zoo_bridge.zooniverse.exports import Export


# The export of votes of the project's workflow; those of others have their number after a dash.
VOTES = "classifications"
# A classification gets its number before it can be seen, by so long at most.
VISIBLE = timedelta(hours=2)


@dataclass(frozen=True)
class ExportEntry:
    """An export that was fetched.

    Parameters
    ----------
    file : str
        Where it lies, relative to ``work_dir``.
    digest : str
        The same for the same bytes.
    rows, size : int
        Rows; and rows, or of a subjects export subjects.
    newest : str
        The newest date in it, as the export has it.
    updated_at : str
        When Zooniverse wrote it: UTC, as ISO text.
    frontier : Frontier
        How far it reaches, of classifications.
    """

    file: str
    digest: str
    rows: int
    size: int
    newest: str
    updated_at: str
    frontier: Frontier

    @classmethod
    def of(cls, ctx: Context, export: Export) -> Self:
        """What is noted of an export."""
        content = export.content
        return cls(
            export.path.relative_to(ctx.work).as_posix(),
            export.digest,
            content.rows,
            content.size,
            content.newest,
            export.updated_at,
            content.frontier,
        )

    def export(self, ctx: Context) -> Export:
        """The export that this was noted of."""
        from zoo_bridge.zooniverse.exports import Export

        content = Content(self.digest, self.rows, self.size, self.newest, self.frontier)
        return Export(here(ctx.settings, self.file), self.digest, content, self.updated_at, 0.0)


@dataclass(frozen=True)
class SincePart:
    """A file of what came through the classifications API.

    Parameters
    ----------
    file : str
        Where it lies, relative to ``work_dir``.
    rows : int
        Classifications in it.
    last_id : int
        The greatest number of a classification in it.
    """

    file: str
    rows: int
    last_id: int


@dataclass
class Manifest:
    """What one pull has brought, and where the next one goes on.

    Parameters
    ----------
    slug : str
        The project, as it was called then.
    workflow : int
        The project's own workflow.
    workflows : list of int
        All whose votes count, the project's own first.
    project : str
        The project's name.
    retirement_limit : int or None
        Classifications after which a subject is retired.
    present : dict
        What each workflow asked then: see `counting.answers_now`.
    exports : dict
        By kind; those of other workflows have their number after a dash.
    since : list of SincePart
        What came through the API and may not be in the exports.
    frontier : Frontier
        How far the API was read.
    versions : str or None
        A file of workflow versions, read from the API.
    excluded : dict
        Numbers of the users that the settings exclude.
    """

    slug: str
    workflow: int
    workflows: list[int]
    project: str
    retirement_limit: int | None
    present: dict[str, Any]
    exports: dict[str, ExportEntry]
    since: list[SincePart]
    frontier: Frontier
    versions: str | None = None
    excluded: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """As it is written; see `from_json`."""
        exports = {
            kind: {**vars(entry), "frontier": vars(entry.frontier)}
            for kind, entry in self.exports.items()
        }
        since = [vars(part) for part in self.since]
        return {**vars(self), "exports": exports, "since": since, "frontier": vars(self.frontier)}

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Self:
        """A manifest as it was written, by this version or an earlier one."""
        exports = {
            kind: ExportEntry(**{**entry, "frontier": Frontier(**entry["frontier"])})
            for kind, entry in kept.get("exports", {}).items()
        }
        return cls(
            slug=kept["slug"],
            workflow=kept["workflow"],
            workflows=kept.get("workflows", [kept["workflow"]]),
            project=kept.get("project", ""),
            retirement_limit=kept.get("retirement_limit"),
            present=kept.get("present", {}),
            exports=exports,
            since=[SincePart(**part) for part in kept.get("since", [])],
            frontier=Frontier(**(kept.get("frontier") or {"last_id": 0})),
            versions=kept.get("versions"),
            excluded=kept.get("excluded", {}),
        )


def last_manifest(ctx: Context) -> Manifest | None:
    """The last manifest of this workflow; None if there is none."""
    for artifact in ctx.ledger.list_artifacts("exports"):
        kept = read_json(artifact.path)
        if kept.get("workflow") == ctx.settings.project.workflow:
            return Manifest.from_json(kept)
    return None


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


def reach_of(manifest: Manifest) -> dict[str, dict[str, Any]]:
    """Up to where exports have every classification that was ever completed, by workflow.

    Numbers are given out before they can be seen; two hours later all of them can.
    """
    found = {}
    for kind, export in manifest.exports.items():
        if not kind.startswith(VOTES):
            continue
        numbers = [ident for ids in export.frontier.hours.values() for ident in ids]
        written = datetime.fromisoformat(export.updated_at.replace("Z", "+00:00"))
        found[kind.partition("-")[2] or str(manifest.workflow)] = {
            "below": max([export.frontier.last_id, *numbers]),
            "before": (written - VISIBLE).isoformat(),
        }
    return found
