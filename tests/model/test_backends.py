"""The same network, loss and posterior on the other back ends of Keras, where they are there."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np
from zoo_bridge.model.heads import Head
from zoo_bridge.model.likelihood import votes_loss
from zoo_bridge.model.network import Design, Network
from zoo_bridge.model.train import Schedule, train
import keras

heads = (Head("two", ("no", "yes"), "yes"), Head("three", ("a", "b", "c"), "b"))
network = Network(Design("small", 32, 1, heads, likelihood="beta-binomial"), 0)
rng = np.random.default_rng(0)
images = rng.random((40, 32, 32, 1), dtype=np.float32)
path = Path(sys.argv[1])
if path.exists():
    network.model.load_weights(path)
else:
    network.model.save_weights(path)
k = rng.integers(0, 6, (40, 5))
votes = np.column_stack([k[:, :2], k[:, :2].sum(1), k[:, 2:], k[:, 2:].sum(1)]).astype("float32")
features = network.features(images[:4])
output = network.model(images[:4])
loss = votes_loss(heads, "beta-binomial", 20)(votes[:4], output)
told = {
    "backend": keras.backend.backend(),
    "features": features.tolist(),
    "loss": keras.ops.convert_to_numpy(loss).tolist(),
    "samples": network.sample(features, 1, 0, 5, 1).tolist(),
}
facts = train(network, images, votes, Schedule(2, 2, 16, 1e-3, 0))
told["losses"] = facts["history"]["loss"]
print(json.dumps(told))
"""


def told_by(backend: str, weights: Path) -> dict:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(weights)],
        env={**os.environ, "KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_another_back_end_says_the_same_and_trains(backend: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    ours = told_by("tensorflow", tmp_path / "some.weights.h5")
    theirs = told_by(backend, tmp_path / "some.weights.h5")
    assert theirs["backend"] == backend
    for name in ("features", "loss", "samples"):
        np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-4, atol=1e-4)
    assert len(theirs["losses"]) == 2
    assert np.all(np.isfinite(theirs["losses"]))
