"""The same network, loss and posterior on the other back ends of Keras, where they are there."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.model.back_end import tell


def told_by(backend: str, weights: Path) -> dict[str, Any]:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.model.back_end", str(weights)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    told: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return told


@pytest.mark.slow
@pytest.mark.usefixtures("quick_training")
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_every_back_end_says_the_same_and_trains(backend: str, tmp_path: Path) -> None:
    # TensorFlow's turn is for what this test itself asks, which nobody else would see go stale.
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    weights = tmp_path / "some.weights.h5"
    ours = tell(weights)
    theirs = tell(weights) if backend == "tensorflow" else told_by(backend, weights)
    assert theirs["backend"] == backend
    for name in ("features", "loss", "samples"):
        np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-4, atol=1e-4)
    assert len(theirs["losses"]) == 2
    assert np.all(np.isfinite(theirs["losses"]))
