"""Commands that change what volunteers see, and which model is in use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo_bridge.config import DEFAULT_PATH
from zoo_bridge.errors import SettingsError
from zoo_bridge.service.cli.common import (
    AsJson,
    Config,
    Why,
    Yes,
    app,
    context_for,
    open_project,
)

if TYPE_CHECKING:
    from zoo_bridge.config import Settings
    from zoo_bridge.steps.context import Context


@app.command()
def promote(
    model: Annotated[str, typer.Argument(help="The model's version.")],
    config: Config = DEFAULT_PATH,
    why: Why = None,
) -> None:
    """Put a model in use."""
    settings, ledger = open_project(config)
    known = {artifact.name for artifact in ledger.list_artifacts("model")}
    if model not in known:
        raise SettingsError(
            f"There is no model {model}.", f"Models: {', '.join(sorted(known)) or 'none yet'}."
        )
    _load_model(settings, model)
    ledger.promote(model, "promote", "by hand", why)
    print(f"The model in use is now {model}.")


def _load_model(settings: Settings, version: str) -> None:
    """See that a model can be used with these settings; raise otherwise."""
    from zoo_bridge.steps.inputs import open_model

    open_model(settings, version, settings.score.runtime)


@app.command()
def rollback(config: Config = DEFAULT_PATH, why: Why = None, as_json: AsJson = False) -> None:
    """Put the model that was in use before this one back."""
    from zoo_bridge.service.show import print_json

    settings, ledger = open_project(config)
    history = ledger.list_promotions()
    current = history[0].version if history else None
    known = {artifact.name for artifact in ledger.list_artifacts("model")}
    # Models that were rolled back from are not gone back to.
    gone = {row.reason for row in history if row.action == "rollback"}
    before = next(
        (
            row.version
            for row in history
            if row.version not in gone | {current} and row.version in known
        ),
        None,
    )
    if before is None or current is None:
        raise SettingsError("There is no earlier model to go back to.", "See: zoo-bridge models.")
    _load_model(settings, before)
    ledger.promote(before, "rollback", current, why)
    if as_json:
        print_json({"model": before, "before": current})
        return
    print(f"The model in use is now {before}; {current} was taken out of use.")


@app.command()
def publish(
    batch: Annotated[str, typer.Argument(help="The batch.")],
    config: Config = DEFAULT_PATH,
    why: Why = None,
    as_json: AsJson = False,
) -> None:
    """Show a staged batch to volunteers."""
    from zoo_bridge.steps.batches.publish import publish as show

    _on_batch(lambda ctx: show(ctx, batch, why=why), batch, config, as_json)


@app.command()
def withdraw(
    batch: Annotated[str, typer.Argument(help="The batch.")],
    config: Config = DEFAULT_PATH,
    why: Why = None,
    as_json: AsJson = False,
) -> None:
    """Take a batch back from volunteers; nothing is deleted."""
    from zoo_bridge.steps.batches.publish import withdraw as take_back

    _on_batch(lambda ctx: take_back(ctx, batch, why=why), batch, config, as_json)


@app.command("leave-out")
def leave_out(
    batch: Annotated[str, typer.Argument(help="The batch; volunteers do not see it.")],
    objects: Annotated[list[str], typer.Argument(metavar="OBJECT...", help="Which galaxies.")],
    why: Annotated[str, typer.Option(help="Kept, and shown in the history.")],
    config: Config = DEFAULT_PATH,
    instead: Annotated[
        bool, typer.Option("--replace", help="Put the next best in their place.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Take galaxies out of a batch before volunteers see it; nothing is deleted."""
    from zoo_bridge.steps.batches.leave_out import leave_out as take_out

    _on_batch(lambda ctx: take_out(ctx, batch, objects, why, instead), batch, config, as_json)


@app.command()
def abandon(
    batch: Annotated[str, typer.Argument(help="The batch.")],
    config: Config = DEFAULT_PATH,
    yes: Yes = False,
    why: Why = None,
    as_json: AsJson = False,
) -> None:
    """Say what is lost if a batch is given up; with --yes, give it up. Nothing is deleted."""
    from zoo_bridge.steps.batches.abandon import abandon as give_up

    _on_batch(lambda ctx: give_up(ctx, batch, yes, why), batch, config, as_json)


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
    from zoo_bridge.service.runner import lock_of
    from zoo_bridge.service.show import print_json, show_rows
    from zoo_bridge.steps.batches.abandon import release as free

    ctx = context_for("release", config)
    if not objects:
        locked = ctx.ledger.list_locked()
        show_rows(locked, ("object_id", "batch", "asked_at"), as_json)
        return
    with lock_of(ctx.ledger, "upload"):
        lines = free(ctx, objects, yes)
    if as_json:
        print_json({"objects": objects, "messages": lines})
    else:
        print("\n".join(lines))


def _on_batch(action: Callable[[Context], str], batch: str, config: Path, as_json: bool) -> None:
    from zoo_bridge.service.runner import lock_of
    from zoo_bridge.service.show import print_json
    from zoo_bridge.steps.batches.publish import find_batch

    ctx = context_for("batch", config)
    with lock_of(ctx.ledger, "upload"):
        told = action(ctx)
    if as_json:
        print_json({"batch": batch, "state": find_batch(ctx, batch).state, "message": told})
    else:
        print(told)
