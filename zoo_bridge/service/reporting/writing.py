"""Writing a run's report: the verdict, what changed, figures, what waits, how to undo."""

from __future__ import annotations

from pathlib import Path

from zoo_bridge.config import Settings
from zoo_bridge.ledger import Ledger, RunRecord
from zoo_bridge.redact import redact
from zoo_bridge.report.pages import Section, Table, write_report
from zoo_bridge.service.reporting.stories import STORIES, undo_of
from zoo_bridge.service.watching.findings import look, only_kept_out
from zoo_bridge.steps.context import Context

# What a reader is told first, by how it ended; in words, for those who print it, or see no colour.
VERDICTS = {
    "done": "Done",
    "unchanged": "Nothing had to be done",
    "planned": "A dry run",
    "refused": "Refused by a safety rule",
    "stale": "Failed: what there is to go on is too old",
    "failed": "Failed",
    "stopped": "Stopped",
    "busy": "Another run was at work",
}
# Of such runs there is nothing to see but how they ended.
SHORT = ("busy", "planned")


def write_run_report(ctx: Context, run_id: str) -> Path | None:
    """Write ``report.html`` of a run that has ended.

    Parameters
    ----------
    ctx : Context
        The settings and the ledger.
    run_id : str
        The run.

    Returns
    -------
    Path or None
        The page; None for a run that did nothing, or that the ledger does not know.
    """
    run = ctx.ledger.find_run(run_id)
    if run is None or run.outcome in SHORT:
        return None
    sections: list[Section] = []
    if run.outcome != "unchanged" or run.job == "cycle":
        sections = [_safe(each) for each in STORIES[run.job](ctx, run)]
    if undo := undo_of(ctx, run):
        sections.append(Section("How to undo it", undo))
    if waits := _waits(ctx.settings, ctx.ledger, run):
        sections.insert(0, waits)
    path = ctx.work / "runs" / run.run_id / "report.html"
    project = ctx.settings.project
    title = f"{project.slug}: {run.job} of {run.started_at[:16].replace('T', ' ')} UTC"
    write_report(path, title, _lead(ctx, run), sections, redact(verdict_of(ctx.ledger, run)))
    return path


def verdict_of(ledger: Ledger, run: RunRecord) -> str:
    """How a run ended, in one sentence."""
    if only_kept_out(ledger, run):
        return f"The loop goes on; the new model was kept out of use. {run.message}"
    message = (run.message or "").rstrip(".")
    if run.job == "cycle" and run.outcome == "done":
        message = _of_parts(ledger, run) or message
    return f"{VERDICTS.get(run.outcome, run.outcome)}: {message}."


def _of_parts(ledger: Ledger, run: RunRecord) -> str:
    """What a cycle did, by what its parts say first of themselves."""
    parts = {part.job: part for part in ledger.list_parts(run.run_id)}
    told = [
        (parts[job].message or "").partition(",")[0].rstrip(".")
        for job in ("aggregate", "retrain", "upload")
        if job in parts
    ]
    return "; ".join(text for text in told if text)


def _lead(ctx: Context, run: RunRecord) -> list[str]:
    lines = [redact(f"Warning: {text}") for text in run.warnings]
    model = ctx.ledger.model_in_use()
    lines.append(f"Model in use: {model or 'none yet'}.")
    by = f"started by {run.who}, through the {run.through}" if run.who else "started by hand"
    lines.append(redact(f"Run {run.run_id}, {by}."))
    if run.outcome not in ("done", "unchanged"):
        lines.append(f"Its log: `zoo-bridge runs {run.run_id}`.")
    return lines


def _waits(settings: Settings, ledger: Ledger, run: RunRecord) -> Section | None:
    """What a person is to decide, or to know: as of the run's end."""
    found = [each for each in look(settings, ledger) if each.run_id != run.run_id]
    if not found:
        return None
    rows = [(each.kind, redact(each.text), redact(each.todo)) for each in found]
    return Section("What waits for you", "", Table(("", "what", "what to do"), rows, words=True))


def _safe(section: Section) -> Section:
    """The same without secrets: texts of a run may name addresses."""
    body = section.body
    if isinstance(body, Table):
        rows = [[redact(cell) for cell in row] for row in body.rows]
        body = Table(body.header, rows, body.words)
    return Section(redact(section.title), redact(section.text), body, redact(section.alt))
