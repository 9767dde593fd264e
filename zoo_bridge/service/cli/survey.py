"""Commands about the survey: how fast it can be scored, and packing it."""

from __future__ import annotations

from typing import Annotated

import typer

from zoo_bridge.config import DEFAULT_PATH
from zoo_bridge.service.cli.common import AsJson, Config, app, context_for


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

    show_capacity(context_for("capacity", config), seconds, per_day, as_json)


@app.command()
def pack(
    to: Annotated[str, typer.Argument(help="A folder, on disk or s3://bucket/prefix.")],
    config: Config = DEFAULT_PATH,
    shard_objects: Annotated[int, typer.Option(help="Cutouts in a tar.", min=1)] = 1000,
    as_json: AsJson = False,
) -> None:
    """Pack the survey's cutouts into tars, with a catalogue of where each lies."""
    from zoo_bridge.service.pack import pack as pack_survey
    from zoo_bridge.service.show import print_json

    packed = pack_survey(context_for("pack", config), to, shard_objects)
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
