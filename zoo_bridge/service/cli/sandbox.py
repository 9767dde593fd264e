"""Commands that need no account: the sandbox and the demo."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from zoo_bridge.errors import SettingsError
from zoo_bridge.service.cli.common import app


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
    rounds: Annotated[int, typer.Option(help="Rounds of the loop.", min=1)] = 3,
    galaxies: Annotated[int, typer.Option(help="Size of the survey.", min=300)] = 1500,
    seed: Annotated[int, typer.Option(help="Of everything.")] = 0,
    keep_serving: Annotated[
        bool,
        typer.Option(
            "--keep-serving", help="Leave the sandbox up, and a console with a batch to decide on."
        ),
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
