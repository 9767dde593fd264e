"""A galaxy from several sides: however it lies, it is the same galaxy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from zoo_bridge.model import runtime
from zoo_bridge.model.heads import Head
from zoo_bridge.model.network import Design, Network

HEAD = Head("featured", ("yes", "no"), "yes")


def network(views: int) -> Network:
    return Network(Design("small", 32, 1, (HEAD,), views=views), seed=0)


@pytest.fixture
def images() -> NDArray[np.float32]:
    return np.random.default_rng(1).random((3, 32, 32, 1), dtype=np.float32)


def by_hand(see: Callable[[Any], Any], images: NDArray[Any], mirrored: bool) -> NDArray[Any]:
    """One image after the other, each from one side after the other."""
    rows = []
    for image in images:
        views = [image, image[::-1, ::-1]]  # half a turn
        views += [view.transpose(1, 0, 2)[::-1] for view in views]  # and a quarter more
        if mirrored:
            views += [view[::-1] for view in views]
        rows.append(np.mean([see(view[None].copy())[0] for view in views], axis=0))
    return np.array(rows)


@pytest.mark.parametrize("views", [4, 8])
def test_features_are_the_mean_of_what_is_seen_from_each_side(
    images: NDArray[Any], views: int
) -> None:
    one, many = network(1), network(views)
    told = many.features(images)
    np.testing.assert_allclose(told, by_hand(one.features, images, views == 8), atol=1e-5)
    assert np.abs(told - one.features(images)).max() > 1e-4
    # Turned, it is the same galaxy; mirrored, it is to who has seen it so.
    turned = images.transpose(0, 2, 1, 3)[:, ::-1]
    np.testing.assert_allclose(many.features(turned.copy()), told, atol=1e-5)
    apart = np.abs(many.features(images[:, ::-1].copy()) - told).max()
    assert apart < 1e-5 if views == 8 else apart > 1e-4
    assert many.features(images[:0]).shape == (0, many.width)


def test_another_runtime_sees_from_the_same_sides(images: NDArray[Any], tmp_path: Path) -> None:
    many = network(4)
    runtime.export(many, "onnxruntime", tmp_path, 0)
    see = runtime.open_trunk(many, "onnxruntime", tmp_path, 0)
    np.testing.assert_allclose(see(images), many.features(images), atol=1e-4)
    assert see(images[:0]).shape == (0, many.width)
