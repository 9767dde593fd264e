"""The exports of a pull: all asked for at once, each fetched whole, none that ends early."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_bridge.config import Settings
from zoo_bridge.errors import EmptyError, RefusedError, StaleError
from zoo_bridge.steps.context import Context
from zoo_bridge.steps.pulling.manifest import VISIBLE, VOTES, ExportEntry, Manifest, kind_of

if TYPE_CHECKING:
    from zoo_bridge.zooniverse.content import Content
    from zoo_bridge.zooniverse.exports import Export, Patience
    from zoo_bridge.zooniverse.session import Session


HOUR, DAY = 3600.0, 24 * 3600.0


# So many later ones may be such as were never completed.
FEW_INCOMPLETE = 5


def fetch_exports(
    ctx: Context, session: Session, sources: dict[str, str], last: Manifest | None
) -> dict[str, Export]:
    """Every export of a pull, by kind, each whole; asked for all at once, then waited for."""
    from zoo_bridge.zooniverse import exports

    found = {}
    before = last.exports if last else {}
    patience = patience_of(ctx.settings)
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
        old = before.get(kind)
        known = old.export(ctx) if old and not ctx.options.force else None
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
        _report(ctx, kind, export)
        if old and not ctx.options.accept_shrunk:
            _check_grown(kind, export.content, old, export.path)
        found[kind] = export
    return found


def _report(ctx: Context, kind: str, export: Export) -> None:
    """What was fetched, and a warning if Zooniverse has stopped making it."""
    same = ", the same as last time" if export.again else ""
    age = f"{export.age_seconds / HOUR:.1f} hours old"
    if export.overdue:
        age = f"{export.days:.1f} days old"
    note = f"; {export.note}" if export.note else ""
    ctx.say(f"{kind}: {export.content.rows} rows, {age}{same}{note}", file=export.path.name)
    if export.overdue and export.note and ctx.settings.pull.mode == "export":
        ctx.warn(f"the {kind} export is {age}: {export.note}")


def check_ends(
    ctx: Context,
    session: Session,
    project_id: int,
    sources: dict[str, str],
    exports: dict[str, Export],
) -> None:
    """See that no new file of votes ends long ago; see `check_end`."""
    for kind, export in exports.items():
        if kind.startswith(VOTES):
            workflow = int(sources[kind].rpartition("/")[2])
            check_end(ctx, session, project_id, workflow, export)


def check_end(
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


def patience_of(settings: Settings) -> Patience:
    """``[pull]`` as the exports are fetched by: ages and waits in seconds."""
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


def _check_grown(kind: str, content: Content, old: ExportEntry, path: Path) -> None:
    """Exports only ever grow; ones that did not have been cut short by Zooniverse before."""
    what = "subjects" if kind == "subjects" else "rows"
    faults = []
    if content.size < old.size:
        faults.append(f"has {content.size} {what} where the last had {old.size}")
    if content.newest < old.newest:
        faults.append(f"ends at {content.newest} where the last ended at {old.newest}")
    if faults:
        raise RefusedError(
            f"The new {kind} export {' and '.join(faults)}: it may have been cut short. "
            "The last one stays in use.",
            f"Look at {path}. If it is right, take it with: zoo-bridge run pull --accept-shrunk.",
        )
