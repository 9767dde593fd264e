"""Trunks that stay: that of the model in use, or an encoder that learned elsewhere.

What such a trunk sees in a galaxy is the same from week to week, and scoring has kept it. So only
the last layer is learned, on kept features.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zoo_bridge.config import Settings
from zoo_bridge.errors import InputError, RefusedError
from zoo_bridge.files import digest_file
from zoo_bridge.steps.context import Context
from zoo_bridge.steps.inputs import heads_of, open_model, open_store, preprocessing_of
from zoo_bridge.steps.scoring.task import kept_features

if TYPE_CHECKING:
    from zoo_bridge.model.encoder import Encoder
    from zoo_bridge.model.network import Network
    from zoo_bridge.model.registry import Model

Array = NDArray[Any]
ONNX = "onnx:"


@dataclass(frozen=True)
class Trunk:
    """What turns cutouts into features, and stays.

    Parameters
    ----------
    name : str
        As `registry.trunk_of` has it.
    told : str
        What it is, for people.
    see : callable
        From images to the features of each network.
    build : callable
        A network on it, from its number and its seed, whose last layer has learned nothing.
    learned_from : int
        Galaxies that it learned from, or was last held against a whole training with; 0 of one that
        learned elsewhere.
    networks : int
        How many there are.
    """

    name: str
    told: str
    see: Callable[[Array], list[Array]]
    build: Callable[[int, int], Network]
    learned_from: int
    networks: int

    def features(
        self,
        ctx: Context,
        objects: Sequence[tuple[str, str]],
        load: Callable[[Sequence[tuple[str, str]]], tuple[list[int], Array]],
    ) -> tuple[list[int], list[Array]]:
        """Features of galaxies: kept ones, and of the others by their cutouts.

        Parameters
        ----------
        ctx : Context
            Where they are kept.
        objects : sequence of (object_id, uri)
            Which galaxies.
        load : callable
            Gives the places of those whose cutouts can be used, and their images.

        Returns
        -------
        places : list of int
            Of the galaxies that have features, in their order.
        features : list of ndarray, shape (N, D)
            Each network's, float16 in value.
        """
        rows, found = kept_features(ctx, self.name).find(objects)
        if len(found) == 1:
            found *= self.networks
        missing = sorted(set(range(len(objects))) - set(rows))
        if not missing:
            return rows, [each.astype(np.float32) for each in found]
        good, images = load([objects[place] for place in missing])
        seen = [each.astype(np.float16) for each in self.see(images)]
        places = np.array([*rows, *(missing[at] for at in good)], dtype=np.int64)
        order = np.argsort(places)
        joined = [np.concatenate(pair) for pair in zip(found, seen, strict=True)] if found else seen
        return places[order].tolist(), [each[order].astype(np.float32) for each in joined]


def trunk_that_stays(ctx: Context) -> Trunk | None:
    """The trunk that the settings want to stay; None if a whole network is to be trained.

    Raises
    ------
    RefusedError, InputError
        If an encoder cannot be used.
    """
    wanted = ctx.settings.model.trunk
    if wanted == "train":
        return None
    if wanted.startswith(ONNX):
        return _of_encoder(ctx, wanted.removeprefix(ONNX))
    version = ctx.ledger.model_in_use()
    if version is None:
        ctx.say("there is no trunk to keep yet: a whole network is trained")
        return None
    try:
        model = open_model(ctx.settings, version, ctx.settings.score.runtime)
    except (RefusedError, InputError) as error:
        ctx.say(f"the trunk is not kept: {error.message}")
        return None
    if (why := _other_network(ctx.settings, model)) is not None:
        ctx.say(f"the trunk of {version} is not kept: {why}")
        return None
    return _of_model(ctx, model)


def _other_network(settings: Settings, model: Model) -> str | None:
    config, design = settings.model, model.networks[0].design
    if design.encoder is not None or design.name != config.network:
        return f"it is another network ({design.name}, not {config.network})"
    if len(model.networks) != config.ensemble:
        return f"it has {len(model.networks)} networks, not {config.ensemble}"
    if design.views != config.sides:
        return f"it sees from {design.views} side(s), not from {config.sides}"
    return None


def _of_model(ctx: Context, model: Model) -> Trunk:
    """That of the model in use."""
    from dataclasses import replace

    from zoo_bridge.model.network import Network
    from zoo_bridge.model.predict import features_of
    from zoo_bridge.model.registry import trunk_of

    config, record = ctx.settings.model, model.record
    heads, rate, likelihood = heads_of(ctx.settings), config.dropout, config.likelihood
    before = model.networks[0].design
    design = replace(before, heads=heads, dropout=rate, likelihood=likelihood)

    def build(member: int, seed: int) -> Network:
        network = Network(design, seed)
        network.trunk.set_weights(model.networks[member].trunk.get_weights())
        return network

    facts = record.training.get("trunk") or {"galaxies": record.training["galaxies"]}
    return Trunk(
        record.trunk or trunk_of(model.networks, record.preprocessing),
        facts.get("told") or f"the trunk of {record.version}",
        lambda images: features_of(model, images),
        build,
        int(facts.get("checked", facts["galaxies"])),
        len(model.networks),
    )


def _of_encoder(ctx: Context, uri: str) -> Trunk:
    """An ONNX file's, checked before it is used."""
    from zoo_bridge.model.network import Network
    from zoo_bridge.model.registry import trunk_of_encoder
    from zoo_bridge.steps.training.ensemble import design_of

    config, preprocessing = ctx.settings.model, preprocessing_of(ctx.settings)
    encoder = fetch_encoder(ctx, uri)
    encoder.check(preprocessing.size, preprocessing.channels)
    design = design_of(ctx, np.zeros(1), encoder)
    assert design.encoder

    def build(member: int, seed: int) -> Network:
        return Network(design, seed, encoder)

    def see(images: Array) -> list[Array]:
        return [build(0, ctx.settings.seed).features(images)] * config.ensemble

    name = trunk_of_encoder(design, preprocessing.as_dict())
    told = f"the encoder {Path(uri).name} ({design.encoder['file'][:8]})"
    return Trunk(name, told, see, build, 0, config.ensemble)


def fetch_encoder(ctx: Context, uri: str) -> Encoder:
    """The encoder of the settings, on this disk."""
    from zoo_bridge.model.encoder import Encoder

    config, home = ctx.settings.model, ctx.work / "cache"
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".encoder-", dir=home) as folder:
        store = open_store(ctx.settings)
        if not store.entries(uri):
            raise InputError(
                f"There is no file {uri} (model.trunk).",
                "Name an ONNX file, on disk or as onnx:s3://bucket/key.",
            )
        came = store.copy_to(uri, Path(folder) / "encoder.onnx")
        path = home / f"encoder-{digest_file(came)}.onnx"
        if not path.exists():
            shutil.copyfile(came, Path(folder) / "whole.onnx")
            (Path(folder) / "whole.onnx").replace(path)
    order, mean, spread = config.trunk_order, config.trunk_mean, config.trunk_spread
    return Encoder(path, order, tuple(mean), tuple(spread))
