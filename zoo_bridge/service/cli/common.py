"""What the commands share: their options, an open project, and how they end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from zoo_bridge.redact import redact

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
Yes = Annotated[
    bool, typer.Option("--yes", help="Do it. Without --yes you are only told what would happen.")
]
Why = Annotated[str | None, typer.Option("--why", help="Kept, and shown in the history.")]
Force = Annotated[bool, typer.Option("--force", help="Do it although nothing has changed.")]


def fail(message: str, hint: str, code: int) -> NoReturn:
    """Say what went wrong, in one line, and what to do, in another."""
    print(redact(f"zoo-bridge: {message}"), file=sys.stderr)
    if hint:
        print(redact(f"  {hint}"), file=sys.stderr)
    sys.exit(code)


def open_project(config: Path) -> tuple[Settings, Ledger]:
    """The settings and the ledger of a project."""
    from zoo_bridge.config import load
    from zoo_bridge.steps.shelf import open_ledger

    settings = load(config)
    for warning in settings.warnings:
        print(redact(f"zoo-bridge: warning: {warning}"), file=sys.stderr)
    return settings, open_ledger(settings)


def context_for(what: str, config: Path) -> Context:
    """For what is no run."""
    import logging

    from zoo_bridge.progress import for_stream
    from zoo_bridge.steps.context import Context

    settings, ledger = open_project(config)
    return Context(settings, ledger, what, for_stream(), logging.getLogger("zoo_bridge"))


def finish(ended: Run, as_json: bool) -> NoReturn:
    """Print a run as JSON if that is wanted, and exit with its code."""
    from zoo_bridge.service.show import print_json

    if as_json:
        print_json(vars(ended))
    if ended.exit_code:
        fail(ended.message, ended.hint, ended.exit_code)
    sys.exit(0)
