"""The ``zoo-bridge`` command."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from zoo_bridge import memory
from zoo_bridge.errors import ZooBridgeError
from zoo_bridge.service.cli.common import app, fail
from zoo_bridge.trouble import unexpected
from zoo_bridge.version import __version__


def main() -> None:
    """Entry point: errors made for people become two lines and an exit code."""
    memory.begin_again(sys.argv[1:])
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


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Close the loop between a Zooniverse project and a sky survey."""
    if show:
        print(f"zoo-bridge {__version__}")
        raise typer.Exit
