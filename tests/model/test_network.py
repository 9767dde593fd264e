"""The network: its layers, and what it says of dropout masks for every kind of question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from zoo_bridge.acquisition import masks
from zoo_bridge.errors import InputError
from zoo_bridge.model.heads import Head
from zoo_bridge.model.network import PRETRAINED, SHAPES, Design, Network, build_trunk

TWO = Head("two", ("no", "yes"), "yes")
THREE = Head("three", ("smooth", "featured", "artifact"), "featured")
TICKS = Head("ticks", ("ring", "lens", "merger"), "ring", multiple=True)


def make_network(*heads: Head, seed: int = 0, size: int = 32, **design: Any) -> Network:
    name = design.pop("name", "small")
    return Network(Design(name, size, 1, heads or (TWO,), **design), seed)


def some_features(network: Network, galaxies: int = 6) -> np.ndarray:
    rng = np.random.default_rng(0)
    size = network.design.size
    return network.features(rng.uniform(size=(galaxies, size, size, 1)).astype("float32"))


def test_the_default_network_is_the_papers() -> None:
    trunk = build_trunk(Design("walmsley2020", 128, 1, (TWO,)))
    # 1.34 million parameters, the head's 129 included.
    assert round((trunk.count_params() + 129) / 1e6, 2) == 1.34
    network = make_network(name="walmsley2020", size=128)
    layers = [layer for layer in network.model.layers if isinstance(layer, keras.layers.Dropout)]
    assert [layer.rate for layer in layers] == [0.5]
    assert [tuple(v.shape) for v in network.head.weights] == [(128, 1), (1,)]


def test_networks_go_from_small_to_large() -> None:
    sizes = [
        build_trunk(Design(name, 64, 1, (TWO,))).count_params()
        for name in ("small", "walmsley2020", "large")
    ]
    assert sizes == sorted(sizes)
    assert set(SHAPES) == {"small", "walmsley2020", "large"}


def test_moments_are_those_of_sampled_masks_for_every_linear_question() -> None:
    network = make_network(TWO, THREE, TICKS)
    # An untrained head says little: let it say more.
    network.head.set_weights([3 * w for w in network.head.get_weights()])
    features = some_features(network)
    mask_TD = masks.drawn(20_000, network.width, 0.5, 1)
    for question, head in enumerate(network.design.heads):
        for answer in range(len(head.answers)):
            samples = network.sample(features, question, answer, mask_TD)
            assert samples.shape == (6, 20_000)
            if head.kind == "softmax":
                with pytest.raises(ValueError, match="not linear"):
                    network.linear(features, question, answer)
                continue
            mean, terms = network.linear(features, question, answer)
            spread = np.sqrt((terms**2).sum(axis=1))
            error = np.abs(samples.mean(axis=1) - mean)
            assert np.all(error < 5 * spread / np.sqrt(20_000)), (head.kind, answer)
            np.testing.assert_allclose(samples.std(axis=1), spread, rtol=0.1)
            plain = network.plain(features, question, answer)
            np.testing.assert_allclose(plain, mean, rtol=1e-6)


def test_two_answers_are_each_others_opposite_and_a_softmax_sums_to_one() -> None:
    network = make_network(TWO, THREE)
    features = some_features(network)
    no, yes = (network.plain(features, 0, answer) for answer in (0, 1))
    np.testing.assert_allclose(no, -yes)
    rho = [1 / (1 + np.exp(-network.plain(features, 1, answer))) for answer in range(3)]
    np.testing.assert_allclose(np.sum(rho, axis=0), 1)


def test_samples_are_what_keras_says_with_dropout_on() -> None:
    network = make_network()
    image = np.random.default_rng(0).uniform(size=(1, 32, 32, 1)).astype("float32")
    passes = np.repeat(image, 4000, axis=0)
    told = np.asarray(network.model(passes, training=True))[:, 0]
    mean, terms = network.linear(network.features(image), 0, 1)
    spread = np.sqrt((terms**2).sum())
    assert told.mean() == pytest.approx(mean[0], abs=4 * spread / 63)
    assert told.std() == pytest.approx(spread, rel=0.08)
    without = np.asarray(network.model(image, training=False))[:, 0]
    np.testing.assert_allclose(without, mean, atol=1e-5)


def test_sample_t_is_the_same_network_for_every_galaxy() -> None:
    network = make_network(TWO, THREE)
    features = some_features(network)
    mask_TD = masks.drawn(50, network.width, 0.5, 3)
    together = network.sample(features, 1, 0, mask_TD)
    alone = network.sample(features[4:5], 1, 0, mask_TD)
    np.testing.assert_allclose(together[4:5], alone, rtol=1e-5)
    others = masks.drawn(50, network.width, 0.5, 4)
    assert not np.allclose(together, network.sample(features, 1, 0, others))


def test_features_do_not_depend_on_the_batch() -> None:
    network = make_network()
    images = np.random.default_rng(0).uniform(size=(11, 32, 32, 1)).astype("float32")
    whole = network.features(images)
    np.testing.assert_allclose(whole, network.features(images, 4), atol=1e-6)
    assert network.features(images[:0]).shape == (0, network.width)


def test_pixels_lose_their_mean_and_spread() -> None:
    images = np.random.default_rng(0).uniform(size=(3, 32, 32, 1)).astype("float32")
    plain = make_network().features(images)
    moved = make_network(pixel_mean=0.25, pixel_spread=0.5).features(images * 0.5 + 0.25)
    np.testing.assert_allclose(plain, moved, atol=1e-5)


def test_the_overdispersion_is_learned_and_told() -> None:
    assert make_network().overdispersion.tolist() == [0.0]
    network = make_network(TWO, THREE, likelihood="beta-binomial")
    np.testing.assert_allclose(network.overdispersion, 0.05, rtol=1e-5)
    images = np.zeros((2, 32, 32, 1), "float32")
    assert np.asarray(network.model(images)).shape == (2, 1 + 3 + 2)


@pytest.mark.parametrize("name", sorted(PRETRAINED))
def test_pretrained_trunks_take_their_weights_and_have_the_same_head(
    name: str, tmp_path: Path
) -> None:
    network = make_network(name=name, seed=1)
    images = np.random.default_rng(0).uniform(size=(2, 32, 32, 1)).astype("float32")
    other = make_network(name=name, seed=2)
    path = tmp_path / "notop.weights.h5"
    other.trunk.get_layer(name).save_weights(path)
    network.load_pretrained(path)
    for ours, theirs in zip(
        network.trunk.get_layer(name).get_weights(),
        other.trunk.get_layer(name).get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)
    before = network.features(images)
    # Prediction does not disturb batch normalisation.
    np.testing.assert_array_equal(before, network.features(images))
    mask_TD = masks.drawn(7, network.width, 0.5, 0)
    assert network.sample(before, 0, 1, mask_TD).shape == (2, 7)
    (tmp_path / "wrong.h5").write_bytes(b"no weights")
    with pytest.raises(InputError, match="do not fit"):
        network.load_pretrained(tmp_path / "wrong.h5")


def test_the_backend_is_tensorflow_by_default() -> None:
    assert keras.backend.backend() == "tensorflow"
