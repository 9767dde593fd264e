"""Metrics for Prometheus: whatever an alert or a dashboard asks, from the ledger alone.

The same for `serve`, which is asked for them, and for runs without it, which leave them in a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest, write_to_textfile
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric

from zoo_bridge.config import JOBS, Settings
from zoo_bridge.ledger import BatchState, Ledger, RunRecord
from zoo_bridge.ledger.watching import NOT_TOLD
from zoo_bridge.service.counts import numbers_of
from zoo_bridge.service.watching.findings import LOOKED_AT, ended_last, last_well, look, under_way
from zoo_bridge.version import __version__

LABELS = ("project", "workflow")
OUTCOMES = ("done", "unchanged", "refused", "stale", "failed", "stopped")
# What runs measure (see ``steps``), and what it is called here.
MEASURED = {
    "votes_a_day": ("votes_per_day", "Classifications a day, over the last two weeks."),
    "waiting_subjects": ("backlog_subjects", "Subjects that volunteers have before them."),
    "backlog_days": ("backlog_days", "Days of work that volunteers have before them."),
    "quota_left": ("quota_left", "Subjects that the account may still upload, ever."),
    "batch_bald": (
        "batch_bald_nats",
        "Mean mutual information of the last batch's picks, in nats.",
    ),
}
JUDGED = {
    "rmse": (
        "heldout_rmse",
        "Error of the vote fraction on held-out galaxies, by the model in use.",
    ),
    "log_likelihood": ("heldout_log_likelihood", "Log-likelihood of a held-out galaxy, in nats."),
    "coverage_50": ("heldout_coverage_50", "Share of votes inside the 50 % credible interval."),
    "coverage_90": ("heldout_coverage_90", "Share of votes inside the 90 % credible interval."),
}


# What has names of columns and files in it, and what lies deeper than a question of a job, is
# looked up in a report: labels of metrics are to be few.
LEFT_OUT, DEEPEST = ("marked", "grids", "missing"), 3


class LoopCollector:
    """Collects what the ledgers of some workflows know, anew each time that it is asked.

    Parameters
    ----------
    workflows : sequence of (Settings, Ledger)
        Those that are told of, with a label each for project and workflow.
    """

    def __init__(self, workflows: Sequence[tuple[Settings, Ledger]]) -> None:
        self.workflows = workflows

    def collect(self) -> Iterator[Metric]:
        """See ``prometheus_client``: each kind of number once, with all workflows in it."""
        found: dict[str, Metric] = {}
        version = InfoMetricFamily("zoo_bridge", "The zoo_bridge that says so.")
        version.add_metric([], {"version": __version__})
        yield version
        for settings, ledger in self.workflows:
            of = [settings.project.slug, str(settings.project.workflow)]
            for name, text, more, value in _numbers(settings, ledger):
                family = found.get(name)
                if family is None:
                    names = [*LABELS, *more]
                    family = found[name] = GaugeMetricFamily(
                        f"zoo_bridge_{name}", text, labels=names
                    )
                family.add_metric([*of, *more.values()], value)  # type: ignore[attr-defined]
        yield from found.values()


_Number = tuple[str, str, dict[str, str], float]


def _numbers(settings: Settings, ledger: Ledger) -> Iterator[_Number]:
    """Name, meaning, labels beside project and workflow, value."""
    for job in JOBS:
        yield from _of_job(job, ledger.list_runs(job, LOOKED_AT), ledger)
    found = look(settings, ledger)
    overdue = {each.of for each in found if each.kind == "overdue"}
    for job in settings.schedule.lines:
        yield "job_overdue", "1 if a run was due and did not come.", {"job": job}, job in overdue
    problems = sum(each.is_problem for each in found)
    yield "problems", "What keeps the loop from going on: see zoo-bridge status.", {}, problems
    yield "decisions", "What waits for a person.", {}, len(found) - problems
    paused = ledger.paused()
    for job in settings.schedule.lines:
        yield "job_paused", "1 if its schedule is paused.", {"job": job}, job in paused
    measures = ledger.measures()
    for measure, (name, text) in MEASURED.items():
        if measure in measures:
            yield name, text, {}, measures[measure]
    yield from _of_learning(ledger)
    batches = ledger.list_batches()
    for state in BatchState:
        many = sum(batch.state == state for batch in batches)
        yield "batches", "Batches by their state.", {"state": state.value}, many
    told = ledger.last_told()
    silent = told is not None and told.what == NOT_TOLD
    yield "notifications_failing", "1 if the last message reached nobody.", {}, silent


def _of_job(job: str, runs: list[RunRecord], ledger: Ledger) -> Iterator[_Number]:
    label = {"job": job}
    running = under_way(runs)
    yield "job_running", "1 while it runs.", label, running is not None
    if running is not None:
        began = _seconds(running.started_at)
        yield "job_running_since_timestamp_seconds", "When it began.", label, began
    good = last_well(ledger, job)
    if good is not None and good.ended_at:
        text = "When it last ended well: alert on this one."
        yield "job_last_success_timestamp_seconds", text, label, _seconds(good.ended_at)
    last = ended_last(runs)
    if last is None:
        return
    ended = _seconds(last.ended_at or last.started_at)
    yield "job_last_end_timestamp_seconds", "When it last ended.", label, ended
    if last.ended_at:
        took = ended - _seconds(last.started_at)
        yield "job_last_duration_seconds", "How long it last took.", label, max(0.0, took)
    for outcome in OUTCOMES:
        text = "1 for how it last ended."
        yield "job_last_outcome", text, {**label, "outcome": outcome}, last.outcome == outcome
    counts = dict(last.counts)
    if job == "score" and last.artifact:
        made = ledger.find_artifact("scores", last.artifact)
        counts["rejected_by_reason"] = made.facts.get("rejected_by_reason", {}) if made else {}
    for path, count in numbers_of(counts):
        if len(path) <= DEEPEST and not set(LEFT_OUT) & set(path):
            text = "What it last counted."
            yield "job_last_count", text, {**label, "what": "/".join(path)}, count


def _of_learning(ledger: Ledger) -> Iterator[_Number]:
    labels = ledger.newest("labels")
    if labels is not None:
        yield "labelled_objects", "Objects with a label.", {}, labels.facts.get("objects", 0)
        yield "votes", "Votes that count.", {}, labels.facts.get("votes", 0)
    version = ledger.model_in_use()
    model = ledger.find_artifact("model", version) if version else None
    if model is None:
        return
    made = _seconds(model.created_at)
    yield "model_timestamp_seconds", "When the model in use was trained.", {}, made
    for question, metrics in model.facts.get("metrics", {}).items():
        for metric, (name, text) in JUDGED.items():
            for end in ("", "_lo", "_hi"):
                if metric + end in metrics:
                    part = {"": "mean", "_lo": "lo", "_hi": "hi"}[end]
                    labelled = {"question": question, "interval": part}
                    yield name, text, labelled, metrics[metric + end]


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def registry_of(workflows: Sequence[tuple[Settings, Ledger]]) -> CollectorRegistry:
    """A registry of these workflows' numbers alone."""
    registry = CollectorRegistry()
    registry.register(LoopCollector(workflows))
    return registry


def as_text(workflows: Sequence[tuple[Settings, Ledger]]) -> bytes:
    """The metrics as Prometheus reads them."""
    return bytes(generate_latest(registry_of(workflows)))


def write_textfile(settings: Settings, ledger: Ledger) -> Path | None:
    """Write the metrics to the file of ``serve.textfile``, whole; where there is none, nothing."""
    if not settings.serve.textfile:
        return None
    path = settings.path.parent / settings.serve.textfile
    path.parent.mkdir(parents=True, exist_ok=True)
    write_to_textfile(str(path), registry_of([(settings, ledger)]))
    return path
