"""Runs: what ran, what came of it, what runs now; run a job, stop it, pause the schedule."""

from __future__ import annotations

from collections import Counter
from typing import Any

import polars as pl
from starlette.responses import RedirectResponse, Response

from zoo_bridge.config import JOBS
from zoo_bridge.console.pages.batches import start
from zoo_bridge.console.pages.overview import counts_of, progress_of, steps_of
from zoo_bridge.console.site import Visit
from zoo_bridge.errors import SettingsError
from zoo_bridge.ledger import Artifact, RunRecord
from zoo_bridge.ledger.actors import CONSOLE, acting
from zoo_bridge.redact import redact
from zoo_bridge.service.show import took
from zoo_bridge.service.show_run import tail_of
from zoo_bridge.service.stopping import STOPPED
from zoo_bridge.steps.shelf import here
from zoo_bridge.tables import REJECTS, read_table

PAGE = 50
SHOWN_LINES, SHOWN_REJECTS = 200, 50
# Which artifact of a run has rows or cutouts that were set aside.
ASIDE = {"aggregate": "labels", "score": "scores"}
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"


def list_runs(visit: Visit) -> Response:
    """The last runs, newest first."""
    job = visit.asked("job")
    offset = visit.number("offset", 0, 10**7)
    runs = visit.ledger.list_runs(job if job in JOBS else None, offset + PAGE + 1)[offset:]
    return visit.show(
        "runs.html",
        runs=runs[:PAGE],
        took=took,
        job=job,
        jobs=JOBS,
        offset=offset,
        more=offset + PAGE if len(runs) > PAGE else None,
        page=PAGE,
        steps=steps_of(visit),
        paused=visit.ledger.paused(),
        acts=visit.site.acts.running(visit.place.key),
    )


def _run(visit: Visit) -> RunRecord:
    found = visit.ledger.find_run(visit.param("run"))
    if found is None:
        raise SettingsError(f"There is no run {visit.param('run')}.", "See: Runs.")
    return found


def run_page(visit: Visit) -> Response:
    """One run: how it ended, what it counted, its log, its report, what it set aside."""
    run = _run(visit)
    folder = here(visit.settings, f"runs/{run.run_id}")
    rejects = _rejects(visit, run)
    return visit.show(
        "run.html",
        run=run,
        took=took(run),
        parts=visit.ledger.list_parts(run.run_id),
        counts=counts_of(run),
        lines=tail_of(folder / "log.jsonl", SHOWN_LINES),
        has_report=(folder / "report.html").exists(),
        told=progress_of(visit, run) if run.outcome == "running" else None,
        rejects=rejects,
        shown=SHOWN_REJECTS,
    )


def _rejects(visit: Visit, run: RunRecord) -> dict[str, Any] | None:
    """Rows or cutouts that it set aside: counts by reason, and some of them."""
    kind = ASIDE.get(run.job)
    made = visit.ledger.find_artifact(kind, run.artifact) if kind and run.artifact else None
    if made is None or not made.exists:
        return None
    frame = _set_aside(made)
    if frame is None or not len(frame):
        return None
    counts = Counter(frame["reason"].to_list())
    reason = visit.asked("reason")
    some = frame.filter(pl.col("reason") == reason) if reason else frame
    rows = [
        {name: redact(str(value or "")) for name, value in row.items()}
        for row in some.head(SHOWN_REJECTS).to_dicts()
    ]
    return {"counts": counts.most_common(), "rows": rows, "total": len(some), "reason": reason}


def _set_aside(made: Artifact) -> pl.DataFrame | None:
    path = made.path / "rejects.parquet"
    if not path.exists():
        return None
    return pl.DataFrame(read_table(path, REJECTS).select(REJECTS.names))


def report(visit: Visit) -> Response:
    """A run's report, as it was written: a page of its own, that can do nothing here."""
    run = _run(visit)
    path = here(visit.settings, f"runs/{run.run_id}") / "report.html"
    if not path.exists():
        raise SettingsError(f"{run.run_id} has no report here.", "report.every_run writes them.")
    headers = {"Content-Security-Policy": REPORT_POLICY}
    return Response(path.read_bytes(), media_type="text/html; charset=utf-8", headers=headers)


# acts


def run_job(visit: Visit) -> Response:
    """Start a job, with its options."""
    job = visit.given("job")
    if job not in JOBS:
        raise SettingsError(f"There is no job {job}.", f"Jobs: {', '.join(JOBS)}.")
    words = ["run", job]
    words += [f"--{name}" for name in ("dry-run", "force") if visit.given(name)]
    if visit.given("accept-shrunk") and job in ("pull", "cycle"):
        words.append("--accept-shrunk")
    return start(visit, words, visit.url("runs"))


def stop(visit: Visit) -> Response:
    """Stop a run that is under way."""
    run = _run(visit)
    words = ["stop", *_why(visit), "--", run.run_id]
    return start(visit, words, visit.url("runs", run.run_id))


def on_schedule(visit: Visit) -> Response:
    """Pause or resume jobs of the schedule."""
    what = visit.param("what")
    if what not in ("pause", "resume"):
        raise SettingsError(f"There is no such act as {what}.", "Go back, and look again.")
    job = visit.given("job")
    if job and job not in JOBS:
        raise SettingsError(f"There is no job {job}.", f"Jobs: {', '.join(JOBS)}.")
    return start(visit, [what, *_why(visit), *([job] if job else [])], visit.url("runs"))


def _why(visit: Visit) -> list[str]:
    return [f"--why={visit.given('why')}"] if visit.given("why") else []


def act_page(visit: Visit) -> Response:
    """A command under way: what it says, until it has ended."""
    act = visit.site.acts.find(visit.place.key, visit.param("act"))
    if act is None:
        if visit.is_fragment:
            return Response("", headers={"HX-Refresh": "true"})
        return visit.site.sorry(
            visit,
            404,
            "This is not known here any more: the service was started again since, or it is long "
            "past.",
            "What was done stands in the audit, and in the runs.",
        )
    name = "_act.html" if visit.is_fragment else "act.html"
    return visit.show(name, act=act)


def stop_act(visit: Visit) -> Response:
    """Ask a command of the console to stop."""
    act = visit.site.acts.find(visit.place.key, visit.param("act"))
    if act is not None and act.is_running:
        with acting(visit.person.signature, CONSOLE):
            visit.ledger.note_act(STOPPED, act.command)
        act.process.terminate()
    return RedirectResponse(visit.url("acts", visit.param("act")), 303)
