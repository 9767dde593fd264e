"""Commands that show what is there, and take it away in files."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from zoo_bridge.config import DEFAULT_PATH
from zoo_bridge.errors import SettingsError
from zoo_bridge.service.cli.common import AsJson, Config, app, context_for, open_project


@app.command()
def status(
    config: Config = DEFAULT_PATH,
    max_age: Annotated[
        str | None,
        typer.Option(
            help="Such as 26h or 8d: exit with 1 if the loop's last success is older, or anything "
            "is not as it should be; for a monitor, where serve does not run."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show where the loop stands; the exit code is 0 only if the last runs ended well."""
    from zoo_bridge.service.show import show_status

    age = None if max_age is None else _age(max_age)
    raise typer.Exit(show_status(*open_project(config), as_json, age))


def _age(text: str) -> timedelta:
    """A length of time, such as ``26h``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([mhdw])", text.strip())
    if found is None:
        raise SettingsError(f"--max-age {text!r} is no length of time.", "Such as: 90m, 26h, 8d.")
    units = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
    return timedelta(**{units[found[2]]: float(found[1])})


@app.command()
def runs(
    run: Annotated[
        str | None, typer.Argument(help="One run, or the beginning of its name: all of it.")
    ] = None,
    config: Config = DEFAULT_PATH,
    as_json: AsJson = False,
    limit: Annotated[int, typer.Option(help="How many.", min=1)] = 20,
) -> None:
    """List the last runs; of one, show counts, log and report."""
    from zoo_bridge.service.show import show_runs
    from zoo_bridge.service.show_run import show_run

    settings, ledger = open_project(config)
    if run is not None:
        show_run(settings, ledger, run, as_json)
        return
    show_runs(ledger.list_runs(limit=limit), as_json)


@app.command()
def labels(
    config: Config = DEFAULT_PATH,
    as_json: AsJson = False,
    csv: Annotated[Path | None, typer.Option(help="Write the whole table to this file.")] = None,
    objects: Annotated[
        list[str] | None, typer.Option("--object", help="Only this object (may be repeated).")
    ] = None,
) -> None:
    """Show the newest labels."""
    from zoo_bridge.service.show import show_labels

    show_labels(*open_project(config), as_json, csv, tuple(objects or ()))


@app.command()
def scores(
    config: Config = DEFAULT_PATH,
    where: Annotated[str, typer.Option(help="SQL, such as: bald > 0.1 AND magnitude < 20.")] = "",
    sort: Annotated[str, typer.Option(help="SQL, such as: mean DESC.")] = "bald DESC, object_id",
    limit: Annotated[
        int | None, typer.Option(help="How many; 20 unless all go to a file.", min=1)
    ] = None,
    question: Annotated[str | None, typer.Option(help="Only this question.")] = None,
    objects: Annotated[
        list[str] | None, typer.Option("--object", help="Only this object (may be repeated).")
    ] = None,
    all_answers: Annotated[
        bool, typer.Option("--all-answers", help="Every answer, not just each question's target.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write to a .csv, .parquet, .fits or .vot file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the newest scores, filter them, or write them to a file."""
    from zoo_bridge.service.scores import Wanted, show_scores

    limit = limit if limit or out else 20
    wanted = Wanted(where, sort, limit, tuple(objects or ()), question, all_answers)
    show_scores(*open_project(config), wanted, out, as_json)


@app.command()
def alike(
    object_id: Annotated[str, typer.Argument(help="A galaxy that was scored.")],
    config: Config = DEFAULT_PATH,
    limit: Annotated[int, typer.Option(help="How many.", min=1)] = 20,
    as_json: AsJson = False,
) -> None:
    """More like this: the galaxies that the networks see as most alike."""
    from zoo_bridge.service.show import show_rows
    from zoo_bridge.steps.scoring.alike import alike as find

    rows = find(context_for("alike", config), object_id, limit)
    show_rows(rows, ["object_id", "distance", "uri"], as_json)


@app.command()
def rejects(
    config: Config = DEFAULT_PATH,
    objects: Annotated[
        list[str] | None, typer.Option("--object", help="Only this object (may be repeated).")
    ] = None,
    reason: Annotated[str, typer.Option(help="Only these, such as: cut short.")] = "",
    limit: Annotated[int, typer.Option(help="How many to list.", min=1)] = 50,
    csv: Annotated[Path | None, typer.Option(help="Write all of them to this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """List what the newest labels and scores set aside: rows, cutouts, and why."""
    from zoo_bridge.service.rejects import show_rejects

    show_rejects(*open_project(config), tuple(objects or ()), reason, limit, csv, as_json)


@app.command()
def models(
    config: Config = DEFAULT_PATH,
    history: Annotated[
        bool, typer.Option("--history", help="What was put in use when, and why.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the models and which is in use."""
    from zoo_bridge.service.show import show_models, show_rows

    settings, ledger = open_project(config)
    if not history:
        show_models(settings, ledger, as_json)
        return
    columns = ("at", "action", "version", "who", "through", "reason", "why")
    show_rows(ledger.list_promotions(), columns, as_json)


@app.command()
def batches(
    config: Config = DEFAULT_PATH,
    offline: Annotated[
        bool, typer.Option("--offline", help="Only what the ledger knows; ask nobody.")
    ] = False,
    history: Annotated[
        bool, typer.Option("--history", help="Who planned, staged, published, withdrew, and when.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the batches: state, size, votes so far, share retired, days to finish."""
    from zoo_bridge.service.show import show_batches, show_history

    ctx = context_for("batches", config)
    if history:
        show_history(ctx, as_json)
    else:
        show_batches(ctx, offline, as_json)
