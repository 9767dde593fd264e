"""Commands that begin a project and look after it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo_bridge.config import DEFAULT_PATH
from zoo_bridge.errors import SettingsError
from zoo_bridge.redact import redact
from zoo_bridge.service.cli.common import AsJson, Config, app, ledger_app


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
    from zoo_bridge.service.check import check as look
    from zoo_bridge.service.show import print_json

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
