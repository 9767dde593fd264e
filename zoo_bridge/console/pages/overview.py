"""The overview: where the loop stands, what runs, what waits for somebody."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from starlette.responses import Response

from zoo_bridge.config import JOBS
from zoo_bridge.console.site import Visit
from zoo_bridge.cron import Cron
from zoo_bridge.ledger import BatchState, RunRecord
from zoo_bridge.service.counts import numbers_of
from zoo_bridge.service.reporting import facts
from zoo_bridge.service.watching.findings import LOOKED_AT, ended_last, under_way

# Of a log, for its last line.
LAST_BYTES = 65_536
STEPS = {
    "pull": "votes come from Zooniverse",
    "aggregate": "votes become labels",
    "retrain": "a model learns from them",
    "score": "it reads the survey",
    "upload": "what it would learn most from is staged",
}


@dataclass(frozen=True)
class Step:
    """A job as the overview shows it: its last run, the one under way, when it is due next."""

    job: str
    what: str
    last: RunRecord | None
    going: RunRecord | None
    next: str | None
    paused: bool

    @property
    def state(self) -> str:
        """One word, by which it is drawn."""
        if self.going is not None:
            return "running"
        if self.last is None:
            return "never"
        if self.last.kept_out:
            return "done"
        return {"unchanged": "done", "stale": "failed"}.get(self.last.outcome, self.last.outcome)


def steps_of(visit: Visit) -> list[Step]:
    """Every job, the cycle last."""
    settings, ledger = visit.settings, visit.ledger
    paused = ledger.paused()
    now = datetime.now(UTC)
    found = []
    for job in JOBS:
        runs = ledger.list_runs(job, LOOKED_AT)
        line = settings.schedule.lines.get(job)
        due = Cron(line, settings.schedule.timezone).after(now) if line else None
        found.append(
            Step(
                job,
                STEPS.get(job, "all of it, in order"),
                ended_last(runs),
                under_way(runs),
                due.astimezone(UTC).isoformat() if due else None,
                job in paused,
            )
        )
    return found


def progress_of(visit: Visit, run: RunRecord) -> dict[str, Any]:
    """How far a run of this host is, and what it said last."""
    folder = visit.settings.work / "runs" / run.run_id
    told: dict[str, Any] = {"title": "", "done": 0, "total": None, "last": ""}
    with suppress(OSError, ValueError):
        told |= json.loads((folder / "progress.json").read_text(encoding="utf-8"))
    with suppress(OSError, ValueError, KeyError):
        with (folder / "log.jsonl").open("rb") as log:
            log.seek(max(0, log.seek(0, 2) - LAST_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
        told["last"] = json.loads(lines[-1])["message"] if lines else ""
    return told


def overview(visit: Visit) -> Response:
    """The page."""
    ledger = visit.ledger
    steps = steps_of(visit)
    measures = ledger.measures()
    labels, scores = ledger.newest("labels"), ledger.newest("scores")
    batches = ledger.list_batches()
    model = ledger.model_in_use()
    models = facts.models_so_far(visit.context, "rmse")
    return visit.show(
        "overview.html",
        steps=steps,
        measures=measures,
        findings=[each for each in visit.place.findings() if each.kind != "approval"],
        waiting=[batch for batch in batches if batch.state == BatchState.STAGED],
        shown=[batch for batch in batches if batch.state == BatchState.PUBLISHED],
        labels=labels,
        scores=scores,
        model=model,
        point=next((point for point in models if point.name == model), None),
        models=len(models),
        acts=visit.site.acts.running(visit.place.key),
        max_backlog=visit.settings.upload.max_backlog_days,
        scheduled=bool(visit.settings.schedule.lines),
        state=visit.place.served.state,
    )


def running(visit: Visit) -> Response:
    """What runs now: a part of pages, asked for again and again."""
    found = [under_way(visit.ledger.list_runs(job, LOOKED_AT)) for job in JOBS]
    going = [run for run in found if run is not None]
    # A cycle is where its part is.
    parts = [run for run in going if run.job != "cycle"]
    told = [(run, progress_of(visit, run)) for run in parts or going]
    return visit.show("_running.html", runs=told)


def counts_of(run: RunRecord) -> list[tuple[str, float]]:
    """A run's counts as lines."""
    return [(": ".join(path).replace("_", " "), value) for path, value in numbers_of(run.counts)]
