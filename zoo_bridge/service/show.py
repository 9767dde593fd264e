"""What is there, as tables for people or JSON for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_bridge.config import JOBS, Settings
from zoo_bridge.errors import InputError, NotReadyError
from zoo_bridge.ledger import Batch, BatchState, Ledger, RunRecord
from zoo_bridge.ledger.actors import COMMAND_LINE
from zoo_bridge.redact import redact, redact_all
from zoo_bridge.service.watching.findings import look, only_kept_out, too_old

if TYPE_CHECKING:
    from rich.console import Console

    from zoo_bridge.steps.context import Context


# Where a column is narrower than its name.
HEADINGS = {"days_left": "days"}
# Of lines that go into a file or another program.
ANY_WIDTH = 10_000


def print_json(value: Any) -> None:
    """Print a value as JSON, without secrets."""
    print(json.dumps(redact_all(value), indent=2))


def show_rows(records: Sequence[Any], columns: Sequence[str], as_json: bool) -> None:
    """Print rows as a table, or all of each as JSON.

    Parameters
    ----------
    records : sequence of dict or of dataclasses
        A row each.
    columns : sequence of str
        Keys, or attributes, that stand in the table, in this order.
    as_json : bool
        Print everything of each row as JSON instead.
    """
    rows = [each if isinstance(each, dict) else asdict(each) for each in records]
    if as_json:
        print_json(rows)
        return
    if not rows:
        print("None yet.")
        return
    from rich.table import Table

    table = Table(
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for place, column in enumerate(columns):
        # The first names the row: it is copied from here into the next command.
        heading = HEADINGS.get(column, column.replace("_", " "))
        table.add_column(heading, overflow="fold", no_wrap=not place)
    for row in rows:
        table.add_row(*(redact(cell(row.get(column))) for column in columns))
    _console().print(table)


def _console() -> Console:
    """As wide as the terminal; without one, as wide as it takes."""
    from rich.console import Console

    free = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(highlight=False, markup=False, width=ANY_WIDTH if free else None)


def show_runs(runs: Sequence[RunRecord], as_json: bool) -> None:
    """Print runs: a line each that can be copied from, and below it how it ended.

    Parameters
    ----------
    runs : sequence of RunRecord
        Runs of the ledger, newest first.
    as_json : bool
        All of each as JSON instead.
    """
    if as_json:
        print_json([asdict(run) for run in runs])
        return
    if not runs:
        print("None yet.")
        return
    import textwrap

    width = _console().width
    longest = max(len(run.run_id) for run in runs)
    for run in runs:
        began = cell(run.started_at)
        by = "" if run.through in (None, COMMAND_LINE) else f"  {run.through}"
        print(f"{run.run_id:<{longest}} {run.outcome:<9} {began} {took(run)}{by}".rstrip())
        warnings = [f"warning: {text}" for text in run.warnings]
        for text in filter(None, [run.message, *warnings]):
            told = redact(text)
            print(textwrap.fill(told, width, initial_indent="  ", subsequent_indent="  "))


def took(run: RunRecord) -> str:
    """How long a run took, as far as the clock can tell."""
    if run.ended_at is None:
        return ""
    began, ended = map(datetime.fromisoformat, (run.started_at, run.ended_at))
    seconds = (ended - began).total_seconds()
    if seconds < 0:
        return ""
    units = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    size, unit = next((each for each in units if seconds >= 2 * each[0]), units[-1])
    return f"{seconds / size:.0f} {unit}"


def cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    # Times are kept to the microsecond; people want the minute.
    return text[:16].replace("T", " ") if text[10:11] == "T" and text[:2] == "20" else text


# What a command should exit with after a run that ended so: as the run itself did, or as failed.
CODES = {"failed": 1, "stale": 1, "stopped": 1, "refused": 3}


def show_status(
    settings: Settings, ledger: Ledger, as_json: bool, max_age: timedelta | None = None
) -> int:
    """The last run of each job, the model in use, what waits, and what is not as it should be.

    Parameters
    ----------
    settings : Settings
        Of the project.
    ledger : Ledger
        What is known.
    as_json : bool
        JSON in place of a table.
    max_age : timedelta, optional
        The loop's last success must not be older, nor anything be wrong: not late, hanging, killed.

    Returns
    -------
    int
        An exit code: 0 unless the last run of a job failed (1) or was refused (3), those of a whole
        cycle first. That a model was kept out is no failure of its training, nor of its cycle. With
        ``max_age``, 1 for all that is wrong.
    """
    rows, kept_out = [], set()
    for job in JOBS:
        last = next(iter(ledger.list_runs(job, 1)), None)
        if last:
            rows.append(asdict(last))
            kept_out |= {last.run_id} if only_kept_out(ledger, last) else set()
    over = (BatchState.PUBLISHED, BatchState.ABANDONED)
    staged = [batch for batch in ledger.list_batches() if batch.state not in over]
    failed = [
        code
        for row in reversed(rows)
        if (code := CODES.get(row["outcome"], 0)) and row["run_id"] not in kept_out
    ]
    code = failed[0] if failed else 0
    found = look(settings, ledger)
    old = None if max_age is None else too_old(settings, ledger, max_age)
    if max_age is not None:
        code = 1 if old or any(each.is_problem for each in found) else 0
    if as_json:
        facts: dict[str, Any] = {"model": ledger.model_in_use(), "jobs": rows}
        facts["findings"] = [asdict(each) for each in found]
        facts["too_old"] = old
        facts["paused"] = {job: asdict(act) for job, act in ledger.paused().items()}
        facts["unpublished"] = [_of_project(settings, batch) for batch in staged]
        print_json({**facts, "exit_code": code})
        return code
    print(f"Project {settings.project.slug}, workflow {settings.project.workflow}")
    print(f"Model in use: {ledger.model_in_use() or 'none yet'}")
    for batch in staged:
        print(f"Batch {batch.name}: {batch.state}, {batch.size} objects, not published")
    show_rows(rows, ("job", "outcome", "ended_at", "message"), False)
    for row in rows:
        for text in row["warnings"]:
            print(redact(f"{row['job']}: warning: {text}"))
    for job, act in ledger.paused().items():
        print(redact(f"{job}: paused since {cell(act.at)} by {act.who}: {act.text or 'no reason'}"))
    if old:
        print(old)
    # What the table does not say already.
    for each in found:
        if each.kind not in ("failed", "refused", "killed", "kept out"):
            print(redact(f"{each.text}\n  {each.todo}"))
    return code


def _of_project(settings: Settings, batch: Batch) -> dict[str, Any]:
    """A batch, and whose it is."""
    project = settings.project
    return {**asdict(batch), "project": project.slug, "workflow": project.workflow}


def show_labels(
    settings: Settings,
    ledger: Ledger,
    as_json: bool,
    csv: Path | None,
    objects: Sequence[str] = (),
) -> None:
    """The newest labels: a summary, some objects, or a file of all.

    Raises
    ------
    NotReadyError
        If there are no labels yet.
    InputError
        If none of the objects named has a label.
    """
    artifact = ledger.newest("labels")
    if artifact is None:
        raise NotReadyError("There are no labels yet.", "Make them: zoo-bridge run aggregate.")
    import polars as pl

    from zoo_bridge.steps.inputs import read_labels

    table = read_labels(artifact)
    if objects:
        table = table.filter(pl.col("object_id").is_in(list(objects)))
        if not len(table):
            raise InputError(
                f"No label of {artifact.name} is for {', '.join(objects)}.",
                "Object ids are those of the survey; see them with: zoo-bridge labels --csv FILE.",
            )
    if csv is not None:
        table.write_csv(csv)
        print(f"Wrote {len(table)} rows to {csv}.")
        return
    if objects:
        rows = table.with_columns(fraction=pl.col("k") / pl.col("n")).to_dicts()
        show_rows(rows, list(rows[0]), as_json)
        return
    summary = (
        table.group_by("question", "answer")
        .agg(
            subjects=(pl.col("n") > 0).sum(),
            votes=pl.col("k").sum(),
            mean_fraction=(pl.col("k") / pl.col("n")).mean(),
            median_n=pl.col("n").median(),
        )
        .sort("question", "answer")
    )
    if as_json:
        facts = {"labels": artifact.name, **artifact.facts, "answers": summary.to_dicts()}
        print_json(facts)
        return
    from zoo_bridge.steps.counting.describe import describe

    print(f"Labels {artifact.name}")
    for line in describe(artifact.facts):
        print(line)
    print()
    show_rows(summary.to_dicts(), summary.columns, False)
    print()
    show_rows(_votes_each(artifact.facts), ("question", "N", "labels", "share"), False)


def _votes_each(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """How many labels have how many votes, in eight steps at most."""
    rows = []
    for question, found in facts["questions"].items():
        sizes = {int(n): number for n, number in found["n_of_labels"].items()}
        low, high = min(sizes, default=0), max(sizes, default=-1)
        step = max(1, -(-(high + 1 - low) // 8))
        for start in range(low, high + 1, step):
            end = min(start + step - 1, high)
            number = sum(sizes.get(n, 0) for n in range(start, end + 1))
            text = str(start) if start == end else f"{start} to {end}"
            share = number / found["labels"]
            rows.append({"question": question, "N": text, "labels": number, "share": share})
    return rows


def show_models(settings: Settings, ledger: Ledger, as_json: bool) -> None:
    """Every model with its held-out metrics."""
    in_use = ledger.model_in_use()
    rows = []
    for artifact in ledger.list_artifacts("model"):
        first = artifact.facts["metrics"].get(settings.question[0].name, {})
        rows.append(
            {
                "version": artifact.name,
                "in_use": "yes" if artifact.name == in_use else "",
                "trained_on": artifact.facts["training"]["galaxies"],
                "held_out": first.get("galaxies"),
                "rmse": first.get("rmse"),
                "log_likelihood": first.get("log_likelihood"),
                "gate": artifact.facts["verdict"],
            }
        )
    columns = list(rows[0]) if rows else []
    show_rows(rows, columns, as_json)


BATCH_COLUMNS = ("name", "state", "size", "votes", "retired", "days_left", "published")


def show_batches(ctx: Context, offline: bool, as_json: bool) -> None:
    """Every batch of the project, with how far volunteers have come.

    Parameters
    ----------
    ctx : Context
        The settings and the ledger.
    offline : bool
        Do not ask Zooniverse.
    as_json : bool
        JSON in place of a table.
    """
    from zoo_bridge.errors import ZooBridgeError
    from zoo_bridge.steps.batches.volunteers import follow

    batches = ctx.ledger.list_batches()
    note, found = "", {}
    if not offline:
        try:
            found = follow(ctx, batches)
        except ZooBridgeError as error:
            # What the ledger knows is worth showing, though Zooniverse does not answer.
            note = f"Votes are not known: {error.message}"
    rows = []
    for batch in batches:
        progress = found.get(batch.name)
        rows.append(
            {
                **_of_project(ctx.settings, batch),
                "votes": progress.votes if progress else None,
                "retired": progress.share_retired if progress else None,
                "days_left": progress.days_left if progress else None,
                "published": batch.published_at and batch.published_at[:10],
            }
        )
    show_rows(rows, BATCH_COLUMNS, as_json)
    if note:
        print(note, file=sys.stderr)


def show_history(ctx: Context, as_json: bool) -> None:
    """What was done to batches, by whom and when."""
    names = [row.name for row in ctx.ledger.list_batches()]
    rows = [event for name in reversed(names) for event in ctx.ledger.list_events(name)]
    show_rows(rows, ("at", "batch", "what", "who", "through"), as_json)


def show_capacity(ctx: Context, seconds: float, per_day: float | None, as_json: bool) -> None:
    """Measure, and say what it means for surveys.

    Parameters
    ----------
    ctx : Context
        The settings and the ledger.
    seconds : float
        How long to measure.
    per_day : float, optional
        Galaxies a day of a survey of one's own.
    as_json : bool
        JSON in place of tables.
    """
    from zoo_bridge.service.capacity import NEEDS, Need, measure

    found = measure(ctx, seconds)
    own = [Need("yours", per_day * 365.25, 1, "--per-day")] if per_day else []
    needs = [
        {
            "survey": need.name,
            "galaxies_a_day": round(need.per_day),
            "machines": found.machines(need.per_day),
            "source": need.source,
        }
        for need in (*own, *NEEDS)
    ]
    if as_json:
        more = {"per_day": found.per_day, "survey_days": found.survey_days, "limit": found.limit}
        print_json({**vars(found), **more, "needs": needs})
        return
    decoders = {0: "threads", 1: "1 process"}.get(found.workers, f"{found.workers} processes")
    stages = {
        "fetching alone": found.fetching,
        f"fetching and decoding ({decoders})": found.ready,
        "network and posterior alone": found.network,
        "all at once": found.whole,
    }
    rows = [{"stage": name, "cutouts/s": f"{rate:,.0f}"} for name, rate in stages.items()]
    show_rows(rows, ("stage", "cutouts/s"), False)
    print(f"\nThe limit is {found.limit}; the model: {found.model}.")
    if found.rejected:
        print(f"{found.rejected:.1%} of the cutouts cannot be used; see: zoo-bridge check.")
    units = (("days", 1), ("hours", 24), ("minutes", 1440), ("seconds", 86_400))
    lengths = [(found.survey_days * times, unit) for unit, times in units]
    length, unit = next((each for each in lengths if each[0] >= 2), lengths[-1])
    took = f"{length:,.0f} {unit}"
    print(
        f"This machine scores {found.per_day:,.0f} cutouts a day, and this survey of "
        f"{found.objects:,} objects in {took}.\n\nMachines like it that keep pace:"
    )
    for row in needs:
        row["galaxies_a_day"] = f"{row['galaxies_a_day']:,}"
    show_rows(needs, ("survey", "galaxies_a_day", "machines", "source"), False)
