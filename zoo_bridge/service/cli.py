"""The ``zoo-bridge`` command.

Nothing heavy is imported before it is needed: ``--help`` must not wait for TensorFlow.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from zoo_bridge import __version__
from zoo_bridge.config import DEFAULT_PATH, JOBS
from zoo_bridge.errors import SettingsError, ZooBridgeError
from zoo_bridge.redact import redact
from zoo_bridge.trouble import unexpected

if TYPE_CHECKING:
    from zoo_bridge.config import Settings
    from zoo_bridge.ledger import Ledger
    from zoo_bridge.service.runner import Run
    from zoo_bridge.steps.context import Context

app = typer.Typer(
    help="Close the loop between a Zooniverse project and a sky survey.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ledger_app = typer.Typer(
    help="Look after the ledger's database.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(ledger_app, name="ledger")

Config = Annotated[
    Path, typer.Option("--config", "-c", help="The settings file.", envvar="ZOO_BRIDGE_CONFIG")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it; without this it is only told.")]
Force = Annotated[bool, typer.Option("--force", help="Do it although nothing has changed.")]


def main() -> None:
    """Entry point: errors made for people become two lines and an exit code."""
    try:
        app()
    except ZooBridgeError as error:
        fail(error.message, error.hint, error.exit_code)
    except BrokenPipeError:
        # The reader of our output went away (| head): no traceback, as cat does it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        known = unexpected(error, next((word for word in sys.argv[1:2]), "zoo-bridge"))
        fail(known.message, known.hint, known.exit_code)


def run_script(job: str) -> None:
    """What the scripts in ``jobs/`` do: ``zoo-bridge run JOB`` with their command line."""
    sys.argv[1:1] = ["run", job]
    main()


def fail(message: str, hint: str, code: int) -> NoReturn:
    """Say what went wrong, in one line, and what to do, in another."""
    print(redact(f"zoo-bridge: {message}"), file=sys.stderr)
    if hint:
        print(redact(f"  {hint}"), file=sys.stderr)
    sys.exit(code)


def open_project(config: Path) -> tuple[Settings, Ledger]:
    """The settings and the ledger of a project."""
    from zoo_bridge.config import load
    from zoo_bridge.ledger import Ledger

    settings = load(config)
    for warning in settings.warnings:
        print(redact(f"zoo-bridge: warning: {warning}"), file=sys.stderr)
    return settings, Ledger(settings.ledger_url, settings.work)


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Close the loop between a Zooniverse project and a sky survey."""
    if show:
        print(f"zoo-bridge {__version__}")
        raise typer.Exit


@app.command()
def init(path: Annotated[Path, typer.Argument(help="Where to.")] = DEFAULT_PATH) -> None:
    """Write a commented settings file."""
    from importlib.resources import files

    path = path / DEFAULT_PATH.name if path.is_dir() else path
    if path.exists():
        raise SettingsError(f"{path} exists already.", "Name another, or remove it first.")
    text = (files("zoo_bridge") / "example.toml").read_text(encoding="utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"Wrote {path}. Fill in what is marked, then run: zoo-bridge check --config {path}")


@app.command()
def check(
    config: Config = DEFAULT_PATH,
    as_json: AsJson = False,
    pictures: Annotated[
        Path | None,
        typer.Option(help="Draw twenty galaxies into this folder, as network and volunteers see."),
    ] = None,
) -> None:
    """Look at settings, log-in, project, workflow, questions, quota, bucket and cutouts."""
    from zoo_bridge.config import load
    from zoo_bridge.service.show import print_json
    from zoo_bridge.steps.check import check as look

    worst = 0
    lines = []
    for line in look(load(config), pictures):
        lines.append(vars(line))
        worst = worst or line.exit_code
        if not as_json:
            mark = {True: "ok     ", False: "FAILED ", None: "-      "}[line.ok]
            mark = "warn   " if line.warning else mark
            print(redact(f"{mark}{line.what:<10} {line.text}"))
            if line.hint:
                print(redact(f"{'':<18}{line.hint}"))
    if as_json:
        print_json(lines)
    raise typer.Exit(worst)


@app.command()
def run(
    job: Annotated[str, typer.Argument(help=f"One of: {', '.join(JOBS)}.")],
    config: Config = DEFAULT_PATH,
    dry_run: DryRun = False,
    force: Force = False,
    as_json: AsJson = False,
    export: Annotated[
        list[Path] | None,
        typer.Option(help="aggregate: a classifications export on disk (may be repeated)."),
    ] = None,
    subjects: Annotated[Path | None, typer.Option(help="aggregate: a subjects export.")] = None,
    workflows: Annotated[Path | None, typer.Option(help="aggregate: a workflows export.")] = None,
    accept_shrunk: Annotated[
        bool, typer.Option(help="pull: take an export that is smaller than the last one.")
    ] = False,
    cluster: Annotated[
        str | None, typer.Option(help="score: a Dask scheduler, in place of score.cluster.")
    ] = None,
) -> None:
    """Run one job, or a whole cycle."""
    if job not in JOBS:
        raise SettingsError(f"There is no job {job}.", f"Jobs: {', '.join(JOBS)}.")
    if (export or subjects or workflows) and job != "aggregate":
        raise SettingsError(
            "--export, --subjects and --workflows go with the job aggregate.",
            f"Leave them out, or run: zoo-bridge run aggregate (not {job}).",
        )
    if (subjects or workflows) and not export:
        raise SettingsError("--subjects and --workflows need --export.", "Name it too.")
    if accept_shrunk and job not in ("pull", "cycle"):
        raise SettingsError(
            "--accept-shrunk goes with the jobs pull and cycle.", f"Leave it out for {job}."
        )
    from zoo_bridge.progress import for_stream
    from zoo_bridge.service.runner import run_job
    from zoo_bridge.steps.context import Options

    settings, ledger = open_project(config)
    if cluster is not None:
        if job not in ("score", "cycle"):
            raise SettingsError(f"--cluster does not go with {job}.", "It goes with score, cycle.")
        settings = settings.with_cluster(cluster)
    options = Options(dry_run, force, tuple(export or ()), subjects, workflows, accept_shrunk)
    ended = run_job(job, settings, ledger, for_stream(), options)
    ledger.close()
    _finish(ended, as_json)


def _finish(ended: Run, as_json: bool) -> NoReturn:
    from zoo_bridge.service.show import print_json

    if as_json:
        print_json(vars(ended))
    if ended.exit_code:
        fail(ended.message, ended.hint, ended.exit_code)
    sys.exit(0)


@app.command()
def promote(
    model: Annotated[str, typer.Argument(help="The model's version.")],
    config: Config = DEFAULT_PATH,
) -> None:
    """Put a model in use."""
    settings, ledger = open_project(config)
    known = {artifact.name for artifact in ledger.list_artifacts("model")}
    if model not in known:
        raise SettingsError(
            f"There is no model {model}.", f"Models: {', '.join(sorted(known)) or 'none yet'}."
        )
    _load_model(settings, model)
    ledger.promote(model, "promote", "by hand")
    print(f"The model in use is now {model}.")


def _load_model(settings: Settings, version: str) -> None:
    """See that a model can be used with these settings; raise otherwise."""
    from zoo_bridge.model.registry import load
    from zoo_bridge.steps.galaxies import preprocessing

    how = preprocessing(settings).as_dict()
    load(settings.work / "models" / version, how, settings.score.runtime)


@app.command()
def rollback(config: Config = DEFAULT_PATH, as_json: AsJson = False) -> None:
    """Put the model that was in use before this one back."""
    from zoo_bridge.service.show import print_json

    settings, ledger = open_project(config)
    history = ledger.list_promotions()
    current = history[0]["version"] if history else None
    known = {artifact.name for artifact in ledger.list_artifacts("model")}
    # Models that were rolled back from are not gone back to.
    gone = {row["reason"] for row in history if row["action"] == "rollback"}
    before = next(
        (
            row["version"]
            for row in history
            if row["version"] not in gone | {current} and row["version"] in known
        ),
        None,
    )
    if before is None or current is None:
        raise SettingsError("There is no earlier model to go back to.", "See: zoo-bridge models.")
    _load_model(settings, before)
    ledger.promote(before, "rollback", current)
    if as_json:
        print_json({"model": before, "before": current})
        return
    print(f"The model in use is now {before}; {current} was taken out of use.")


@app.command()
def publish(
    batch: Annotated[str, typer.Argument(help="The batch.")],
    config: Config = DEFAULT_PATH,
    as_json: AsJson = False,
) -> None:
    """Show a staged batch to volunteers."""
    from zoo_bridge.steps.publish import publish as show

    _on_batch(lambda ctx: show(ctx, batch), batch, config, as_json)


@app.command()
def withdraw(
    batch: Annotated[str, typer.Argument(help="The batch.")],
    config: Config = DEFAULT_PATH,
    as_json: AsJson = False,
) -> None:
    """Take a batch back from volunteers; nothing is deleted."""
    from zoo_bridge.steps.publish import withdraw as take_back

    _on_batch(lambda ctx: take_back(ctx, batch), batch, config, as_json)


@app.command()
def abandon(
    batch: Annotated[str, typer.Argument(help="The batch.")],
    config: Config = DEFAULT_PATH,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Say what is lost if a batch is given up; with --yes, give it up. Nothing is deleted."""
    from zoo_bridge.steps.abandon import abandon as give_up

    _on_batch(lambda ctx: give_up(ctx, batch, yes), batch, config, as_json)


@app.command()
def release(
    objects: Annotated[
        list[str] | None, typer.Argument(metavar="[OBJECT]...", help="Which; none: list them.")
    ] = None,
    config: Config = DEFAULT_PATH,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """List objects whose create was never answered; with --yes, let some be planned again."""
    from zoo_bridge.service.runner import upload_lock
    from zoo_bridge.service.show import print_json, show_rows
    from zoo_bridge.steps.abandon import release as free

    ctx = _context("release", config)
    if not objects:
        locked = ctx.ledger.list_locked(ctx.settings.project.slug)
        show_rows(locked, ("object_id", "batch", "asked_at"), as_json)
        return
    with ctx.ledger.lock(upload_lock(ctx.settings)):
        lines = free(ctx, objects, yes)
    if as_json:
        print_json({"objects": objects, "messages": lines})
    else:
        print("\n".join(lines))


def _on_batch(action: Callable[[Context], str], batch: str, config: Path, as_json: bool) -> None:
    from zoo_bridge.service.runner import upload_lock
    from zoo_bridge.service.show import print_json
    from zoo_bridge.steps.publish import find_batch

    ctx = _context("batch", config)
    with ctx.ledger.lock(upload_lock(ctx.settings)):
        told = action(ctx)
    if as_json:
        print_json({"batch": batch, "state": find_batch(ctx, batch)["state"], "message": told})
    else:
        print(told)


def _context(what: str, config: Path) -> Context:
    """For what is no run."""
    import logging

    from zoo_bridge.progress import for_stream
    from zoo_bridge.steps.context import Context

    settings, ledger = open_project(config)
    return Context(settings, ledger, what, for_stream(), logging.getLogger("zoo_bridge"))


@ledger_app.command("upgrade")
def ledger_upgrade(config: Config = DEFAULT_PATH) -> None:
    """Bring the ledger up to date; every other command does that, too, when it opens it."""
    from zoo_bridge.config import load
    from zoo_bridge.ledger.schema import open_engine, upgrade

    engine = open_engine(load(config).ledger_url)
    before, after = upgrade(engine)
    engine.dispose()
    if before == after:
        print(f"The ledger is up to date: migration {after}.")
    elif before:
        print(f"The ledger was upgraded from migration {before} to {after}; nothing was lost.")
    else:
        print(f"A new ledger was made, at migration {after}.")


@ledger_app.command("backup")
def ledger_backup(
    path: Annotated[Path, typer.Argument(help="A new file, of SQLite, whatever the ledger is.")],
    config: Config = DEFAULT_PATH,
) -> None:
    """Copy the ledger as it is, also while it is in use."""
    from zoo_bridge.config import load
    from zoo_bridge.ledger.schema import backup

    rows = backup(load(config).ledger_url, path)
    print(f'Copied {rows} rows to {path}. To use it: ledger = "sqlite:///{path.resolve()}"')


@app.command()
def serve(config: Config = DEFAULT_PATH) -> None:
    """Run the jobs of the [schedule] table until told to stop."""
    from zoo_bridge.service.scheduler import serve as run_scheduler

    settings, ledger = open_project(config)
    sys.exit(run_scheduler(settings, ledger))


@app.command()
def status(config: Config = DEFAULT_PATH, as_json: AsJson = False) -> None:
    """Show where the loop stands; the exit code is 0 only if the last runs ended well."""
    from zoo_bridge.service.show import show_status

    raise typer.Exit(show_status(*open_project(config), as_json))


@app.command()
def runs(
    config: Config = DEFAULT_PATH,
    as_json: AsJson = False,
    limit: Annotated[int, typer.Option(help="How many.", min=1)] = 20,
) -> None:
    """List the last runs."""
    from zoo_bridge.service.show import show_runs

    _, ledger = open_project(config)
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
def capacity(
    config: Config = DEFAULT_PATH,
    seconds: Annotated[float, typer.Option(help="How long to measure.", min=4)] = 60,
    per_day: Annotated[
        float | None, typer.Option(help="Galaxies a day that you have to keep pace with.", min=1)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure this machine on the survey: cutouts a day, the limit, machines to keep pace."""
    from zoo_bridge.service.show import show_capacity

    show_capacity(_context("capacity", config), seconds, per_day, as_json)


@app.command()
def pack(
    to: Annotated[str, typer.Argument(help="A folder, on disk or s3://bucket/prefix.")],
    config: Config = DEFAULT_PATH,
    shard_objects: Annotated[int, typer.Option(help="Cutouts in a tar.", min=1)] = 1000,
    as_json: AsJson = False,
) -> None:
    """Pack the survey's cutouts into tars, with a catalogue of where each lies."""
    from zoo_bridge.service.show import print_json
    from zoo_bridge.steps.pack import pack as pack_survey

    packed = pack_survey(_context("pack", config), to, shard_objects)
    if as_json:
        print_json(vars(packed))
        return
    print(f"{packed.objects} objects in {packed.shards} shards, {packed.written} of them new.")
    if packed.missing:
        print(
            f"{packed.missing} cutouts are missing or cannot be read; the catalogue keeps their "
            "old addresses."
        )
    print(f'Read them with: [survey] catalogue = "{packed.catalogue}"')


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
    columns = ["at", "action", "version", "reason"]
    rows = [{name: row[name] for name in columns} for row in ledger.list_promotions()]
    show_rows(rows, columns, as_json)


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

    ctx = _context("batches", config)
    if history:
        show_history(ctx, as_json)
    else:
        show_batches(ctx, offline, as_json)


@app.command()
def sandbox(
    where: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where it lives.")] = Path(
        "sandbox"
    ),
    folder: Annotated[Path | None, typer.Option(help="The same, as an option.")] = None,
    galaxies: Annotated[int, typer.Option(help="Size of the survey.", min=1)] = 1500,
    seed: Annotated[int, typer.Option(help="Of the survey and the votes.")] = 0,
    votes: Annotated[int, typer.Option(help="Classifications that retire a subject.")] = 20,
    images: Annotated[Path | None, typer.Option(help="A folder of images of your own.")] = None,
    catalogue: Annotated[Path | None, typer.Option(help="A CSV with a row for each image.")] = None,
    id_column: Annotated[str, typer.Option(help="Its column of object ids.")] = "object_id",
    fraction: Annotated[
        list[str] | None,
        typer.Option(help="ANSWER=COLUMN: vote fractions for smooth, featured, artifact."),
    ] = None,
    size: Annotated[int, typer.Option(help="Side of the network's input.")] = 64,
    week: Annotated[
        float, typer.Option(help="Volunteers do a week's work every so many seconds; 0: never.")
    ] = 20.0,
    contract: Annotated[
        bool,
        typer.Option(
            "--contract",
            help="Serve the world in which the real Panoptes was recorded, described in "
            "contract.json, and nothing else.",
        ),
    ] = False,
) -> None:
    """Serve a local Panoptes and S3 to try everything against."""
    need_sandbox()
    from zoo_bridge.sandbox.serve import serve_sandbox
    from zoo_bridge.sandbox.world import Plan

    fractions = dict(_pair(text) for text in fraction or [])
    plan = Plan(
        galaxies=galaxies,
        seed=seed,
        votes=votes,
        images=images,
        catalogue=catalogue,
        id_column=id_column,
        fractions=fractions,
        size=size,
        contract=contract,
    )
    sys.exit(serve_sandbox(folder or where, plan, week))


def _pair(text: str) -> tuple[str, str]:
    answer, found, column = text.partition("=")
    if not found or not column:
        raise SettingsError(
            f"--fraction {text!r} is not ANSWER=COLUMN.", "Such as: --fraction featured=Class1.2"
        )
    return answer, column


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where everything is left.")] = Path("demo"),
    rounds: Annotated[int, typer.Option(help="Rounds of the loop.", min=1)] = 4,
    galaxies: Annotated[int, typer.Option(help="Size of the survey.", min=300)] = 1500,
    seed: Annotated[int, typer.Option(help="Of everything.")] = 0,
    keep_serving: Annotated[
        bool, typer.Option("--keep-serving", help="Leave the sandbox up afterwards.")
    ] = False,
) -> None:
    """Run the whole loop in the sandbox, on an invented survey."""
    need_sandbox()
    from zoo_bridge.service.demo import run_demo

    sys.exit(run_demo(folder, rounds, galaxies, seed, keep_serving))


def need_sandbox() -> None:
    """Say what to install when the sandbox's libraries are absent."""
    from importlib.util import find_spec

    missing: list[Any] = [name for name in ("flask", "moto") if find_spec(name) is None]
    if missing:
        raise SettingsError(
            f"The sandbox needs {' and '.join(missing)}, which this installation lacks.",
            "Install it with: pip install 'zoo-bridge[sandbox]'.",
        )
