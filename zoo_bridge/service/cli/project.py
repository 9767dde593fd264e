"""Commands that begin a project and look after it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo_bridge.config import DEFAULT_PATH
from zoo_bridge.errors import SettingsError
from zoo_bridge.redact import redact
from zoo_bridge.service.cli.common import AsJson, Config, Yes, app, ledger_app, open_project


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


@app.command()
def tidy(config: Config = DEFAULT_PATH, yes: Yes = False, as_json: AsJson = False) -> None:
    """Say what is old and may go (see [keep]); with --yes, take it away."""
    from zoo_bridge.service.show import print_json, show_rows
    from zoo_bridge.service.tidy import plan_tidy
    from zoo_bridge.service.tidy import tidy as take_away

    settings, ledger = open_project(config)
    found = take_away(settings, ledger) if yes else plan_tidy(settings, ledger)
    work = settings.work
    rows = [{**vars(each), "path": str(each.path.relative_to(work))} for each in found]
    if as_json:
        print_json({"removed": yes, "rows": rows})
        return
    if not found:
        print("Nothing is old enough to go; see [keep] in the settings.")
        return
    shown = [{**row, "MB": f"{row['bytes'] / 1e6:,.1f}"} for row in rows]
    show_rows(shown, ("path", "kind", "MB"), False)
    freed = sum(each.bytes for each in found) / 1e6
    done = f"{len(found)} are gone" if yes else f"{len(found)} would go"
    print(f"{done}: {freed:,.1f} MB of {work}." + ("" if yes else " Take them away with --yes."))


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
