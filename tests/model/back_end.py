"""What a network says and how it trains, by the back end of Keras that this process has.

As a program: ``python -m tests.model.back_end WEIGHTS`` writes it as JSON. The weights are read, or
written if there are none.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from zoo_bridge.acquisition.masks import balanced
from zoo_bridge.model.backend import keras
from zoo_bridge.model.heads import Head
from zoo_bridge.model.likelihood import votes_loss
from zoo_bridge.model.network import Design, Network
from zoo_bridge.model.train import Schedule, train

HEADS = (Head("two", ("no", "yes"), "yes"), Head("three", ("a", "b", "c"), "b"))


def tell(weights: Path) -> dict[str, Any]:
    """Features, loss, drawn networks and the losses of two epochs, of a small network."""
    network = Network(Design("small", 32, 1, HEADS, likelihood="beta-binomial"), 0)
    rng = np.random.default_rng(0)
    images = rng.random((40, 32, 32, 1), dtype=np.float32)
    if weights.exists():
        network.model.load_weights(weights)
    else:
        network.model.save_weights(weights)
    k = rng.integers(0, 6, (40, 5))
    votes = np.column_stack([k[:, :2], k[:, :2].sum(1), k[:, 2:], k[:, 2:].sum(1)])
    votes = votes.astype("float32")
    features = network.features(images[:4])
    loss = votes_loss(HEADS, "beta-binomial", 20)(votes[:4], network.model(images[:4]))
    mask_TD = balanced(256, network.width, network.design.dropout, 1)
    told = {
        "backend": keras.backend.backend(),
        "features": features.tolist(),
        "loss": keras.ops.convert_to_numpy(loss).tolist(),
        "samples": network.sample(features, 1, 0, mask_TD).tolist(),
    }
    facts = train(network, images, votes, Schedule(2, 2, 16, 1e-3, 0))
    return {**told, "losses": facts["history"]["loss"]}


if __name__ == "__main__":
    print(json.dumps(tell(Path(sys.argv[1]))))
