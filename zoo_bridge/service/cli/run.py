"""Commands that run jobs: once, or as the schedule says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from zoo_bridge.config import DEFAULT_PATH, JOBS, with_cluster
from zoo_bridge.errors import SettingsError
from zoo_bridge.service.cli.common import AsJson, Config, DryRun, Force, app, finish, open_project


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
        settings = with_cluster(settings, cluster)
    options = Options(dry_run, force, tuple(export or ()), subjects, workflows, accept_shrunk)
    ended = run_job(job, settings, ledger, for_stream(), options)
    ledger.close()
    finish(ended, as_json)


@app.command()
def serve(config: Config = DEFAULT_PATH) -> None:
    """Run the jobs of the [schedule] table until told to stop."""
    from zoo_bridge.service.scheduler import serve as run_scheduler

    settings, ledger = open_project(config)
    sys.exit(run_scheduler(settings, ledger))
