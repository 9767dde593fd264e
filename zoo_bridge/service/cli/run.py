"""Commands that run jobs: once, or as the schedule says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from zoo_bridge.config import DEFAULT_PATH, JOBS, with_cluster
from zoo_bridge.errors import SettingsError
from zoo_bridge.service.cli.common import (
    AsJson,
    Config,
    DryRun,
    Force,
    Why,
    app,
    finish,
    open_project,
)


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
        bool, typer.Option(help="pull, cycle: take an export that is smaller than the last one.")
    ] = False,
    cluster: Annotated[
        str | None, typer.Option(help="score, cycle: a Dask scheduler, in place of score.cluster.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="score: the whole survey, whatever score.pool says.")
    ] = False,
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
    if everything and job != "score":
        raise SettingsError("--all goes with the job score.", f"Leave it out for {job}.")
    from zoo_bridge.progress import for_stream
    from zoo_bridge.service.runner import run_job
    from zoo_bridge.steps.context import Options

    settings, ledger = open_project(config)
    if cluster is not None:
        if job not in ("score", "cycle"):
            raise SettingsError(f"--cluster does not go with {job}.", "It goes with score, cycle.")
        settings = with_cluster(settings, cluster)
    files = tuple(export or ()), subjects, workflows
    options = Options(dry_run, force, *files, accept_shrunk, everything)
    ended = run_job(job, settings, ledger, for_stream(), options)
    ledger.close()
    finish(ended, as_json)


@app.command()
def serve(
    config: Annotated[
        list[Path] | None,
        typer.Option(
            "--config",
            "-c",
            help="The settings file; may be repeated, for several workflows.",
            envvar="ZOO_BRIDGE_CONFIG",
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="In place of serve.host; in a container: 0.0.0.0."),
    ] = None,
    port: Annotated[int | None, typer.Option(help="In place of serve.port.", min=0)] = None,
) -> None:
    """Run the jobs of the [schedule] table until told to stop; watch, and tell of what goes wrong.

    Its console shows the loop, batches and models on pages, and takes decisions. On several hosts
    one is at work, the others stand by. SIGHUP reads the settings again.
    """
    from zoo_bridge.service.serving.service import serve as run_service

    opened = [open_project(path) for path in config or [DEFAULT_PATH]]
    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    first = opened[0][0]
    pages = None
    if other := [each.path.name for each, _ in opened if each.console != first.console]:
        raise SettingsError(
            f"{', '.join(other)}: [console] is another than in {first.path.name}.",
            "One serve has one console: say the same of it in all of them, or serve them apart.",
        )
    if first.console.enabled:
        from zoo_bridge.console.serving import pages_of

        pages = pages_of(first.console)
    sys.exit(run_service(opened, first.serve.model_copy(update=given), pages))


@app.command()
def stop(
    run: Annotated[str, typer.Argument(help="A run, or a job of which one is under way.")],
    config: Config = DEFAULT_PATH,
    why: Why = None,
) -> None:
    """Stop a run that is under way on this host; what was done is kept, and gone on with."""
    from zoo_bridge.service.stopping import stop_run

    _, ledger = open_project(config)
    print(stop_run(ledger, run, why))
    ledger.close()


@app.command()
def pause(
    job: Annotated[list[str] | None, typer.Argument(help="Which; none: all that is due.")] = None,
    config: Config = DEFAULT_PATH,
    why: Why = None,
) -> None:
    """Let the schedule pass over jobs until resumed; runs under way go on."""
    _on_schedule(config, job, "paused", why)


@app.command()
def resume(
    job: Annotated[list[str] | None, typer.Argument(help="Which; none: all.")] = None,
    config: Config = DEFAULT_PATH,
    why: Why = None,
) -> None:
    """Let paused jobs be run by the schedule again."""
    _on_schedule(config, job, "resumed", why)


def _on_schedule(config: Path, jobs: list[str] | None, what: str, why: str | None) -> None:
    for job in jobs or ():
        if job not in JOBS:
            raise SettingsError(f"There is no job {job}.", f"Jobs: {', '.join(JOBS)}.")
    settings, ledger = open_project(config)
    paused = set(ledger.paused())
    for job in jobs or JOBS:
        if (job in paused) == (what == "paused"):
            continue
        ledger.note_act(what, job, why)
        if job in settings.schedule.lines or jobs:
            print(f"{job} is {what}.")
    ledger.close()


@app.command()
def notify(
    config: Config = DEFAULT_PATH,
    test: Annotated[
        bool, typer.Option("--test", help="Send a message that says it is one.")
    ] = False,
) -> None:
    """Look whether all is well, and tell of what is not: for cron, where serve does not run."""
    from zoo_bridge.ledger.watching import NOT_TOLD
    from zoo_bridge.service.watching.channels import URLS, Channels, Message, NotTold
    from zoo_bridge.service.watching.telling import TEST, tell_news

    settings, ledger = open_project(config)
    channels = Channels.of_environment()
    if not channels:
        raise SettingsError(
            f"Nobody is to be told: {URLS} is not set.",
            f"Set it (or {URLS}_FILE) to addresses of apprise, such as mailto:// or ntfy://: "
            "https://github.com/caronc/apprise/wiki",
        )
    if test:
        channels.send(Message(f"[{settings.project.slug}] a test", TEST, good=True))
        print(f"Sent to {len(channels.urls)} address(es). Has it arrived?")
        return
    before = ledger.list_acts(NOT_TOLD, limit=1)
    message = tell_news(settings, ledger, channels)
    failed = ledger.list_acts(NOT_TOLD, limit=1)
    if message is None and failed != before:
        raise NotTold(
            f"There is something to tell, and it reached nobody: {failed[0].text}",
            "It is tried again after four minutes. Try the addresses: zoo-bridge notify --test.",
        )
    print(f"Told: {message.title}" if message else "There is nothing new to tell.")
