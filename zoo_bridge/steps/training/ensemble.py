"""Training an ensemble: from the model in use or from scratch; what was broken off goes on."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo_bridge.errors import InputError, RefusedError
from zoo_bridge.steps.context import (
    Context,
)
from zoo_bridge.steps.inputs import heads_of, open_model, open_store, preprocessing_of
from zoo_bridge.steps.training.labelled import Array, Labelled

if TYPE_CHECKING:
    from zoo_bridge.model.design import Design
    from zoo_bridge.model.encoder import Encoder
    from zoo_bridge.model.network import Network
    from zoo_bridge.model.registry import Model
    from zoo_bridge.steps.training.trunks import Trunk


def checkpoints_of(ctx: Context) -> Path:
    """The folder of what a killed training goes on from."""
    return ctx.work / "models" / ".training"


def train_ensemble(
    ctx: Context, data: Labelled, identity: str
) -> tuple[list[Network], dict[str, Any]]:
    """Train the ensemble; a training that was killed goes on."""
    from zoo_bridge.model.network import Network
    from zoo_bridge.model.train import Checkpoint, Schedule, train

    config, learn = ctx.settings.model, ~data.heldout
    images, names = data.images[learn], data.learned_ids
    current, start = _current(ctx)
    if current:
        design = replace(current.networks[0].design, views=config.sides)
    else:
        design = design_of(ctx, images)
    networks, members = [], []
    for member in range(config.ensemble):
        # Far apart, so that the next seed of the settings is another ensemble altogether.
        seed = ctx.settings.seed + 1000 * member
        network = Network(design, seed)
        if current:
            of = current.networks[member % len(current.networks)]
            network.model.set_weights(of.model.get_weights())
        elif config.pretrained_weights:
            _load_pretrained(ctx, network, config.pretrained_weights)
        schedule = Schedule(
            config.epochs, config.patience, config.batch_size, config.learning_rate, seed
        )
        checkpoint = Checkpoint(
            checkpoints_of(ctx) / f"{member}.npz", f"{identity} {member} {start}"
        )
        name = "training (epochs)"
        if config.ensemble > 1:
            name = f"training {member + 1} of {config.ensemble} (epochs)"
        with ctx.progress.bar(name, config.epochs) as advance:
            facts = train(network, images, data.votes[learn], schedule, advance, checkpoint, names)
        if facts["resumed_from"]:
            ctx.say(
                f"the training that was broken off went on after {facts['resumed_from']} epochs"
            )
        networks.append(network)
        members.append(facts)
    return networks, {"galaxies": int(learn.sum()), "start": start, "members": members}


def learn_last_layers(
    ctx: Context, data: Labelled, trunk: Trunk
) -> tuple[list[Network], dict[str, Any]]:
    """Learn the last layers of an ensemble on the features of a trunk that stays."""
    from zoo_bridge.model.tail import learn_tail

    learn = ~data.heldout
    names = data.learned_ids
    networks, members = [], []
    with ctx.progress.bar("last layers", trunk.networks) as advance:
        for member in range(trunk.networks):
            seed = ctx.settings.seed + 1000 * member
            network = trunk.build(member, seed)
            features_ND = data.features[member][learn]
            if network.encoder:
                network.standardise(features_ND)
            members.append(learn_tail(network, features_ND, data.votes[learn], seed, names))
            networks.append(network)
            advance(1)
    facts = {"galaxies": trunk.learned_from, "told": trunk.told}
    training = {"galaxies": int(learn.sum()), "start": trunk.told, "members": members}
    return networks, {**training, "trunk": facts}


def design_of(ctx: Context, images: Array, encoder: Encoder | None = None) -> Design:
    """The network of the settings, for images of this mean and spread; or that of an encoder."""
    from zoo_bridge.model.design import Design

    config, preprocessing = ctx.settings.model, preprocessing_of(ctx.settings)
    return Design(
        "onnx" if encoder else config.network,
        preprocessing.size,
        preprocessing.channels,
        heads_of(ctx.settings),
        config.dropout,
        config.likelihood,
        round(float(images.mean(dtype=np.float64)), 6),
        round(float(images.std(dtype=np.float64)), 6),
        encoder.as_dict() if encoder else None,
        config.sides,
    )


def _current(ctx: Context) -> tuple[Model | None, str]:
    """The model to go on from, if the settings want one and it fits; and what to call the start."""
    version = ctx.ledger.model_in_use()
    if ctx.settings.model.start == "scratch" or version is None:
        return None, "scratch"
    try:
        model = open_model(ctx.settings, version)
    except (RefusedError, InputError) as error:
        ctx.say(f"training starts from scratch: {error.message}")
        return None, "scratch"
    wanted = design_of(ctx, np.zeros(1)).as_dict()
    # What does not matter to weights: the scale of pixels stays theirs, and sides are for later.
    other = {"pixel_mean": 0.0, "pixel_spread": 0.0, "views": 1}
    if {**wanted, **other} != {**model.networks[0].design.as_dict(), **other}:
        ctx.say(f"training starts from scratch: {version} is another network or asks otherwise")
        return None, "scratch"
    return model, f"the weights of {version}"


def _load_pretrained(ctx: Context, network: Network, uri: str) -> None:
    content = open_store(ctx.settings).read_whole(uri)
    if content is None:
        raise InputError(
            f"There is no file {uri} (model.pretrained_weights).",
            "Name the weights without their top, on disk or as s3://bucket/key.",
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(uri).name
        path.write_bytes(content)
        network.load_pretrained(path)
