"""The network, its posterior, and models on disk."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from scipy.special import expit

from zoo_bridge.errors import InputError, RefusedError
from zoo_bridge.model import registry
from zoo_bridge.model.augment import augment
from zoo_bridge.model.evaluate import compare
from zoo_bridge.model.network import Network, build_trunk
from zoo_bridge.model.train import Schedule, train

PREPROCESSING = {"size": 32, "colour": "grey"}


def make_network(questions: int = 1, seed: int = 0) -> Network:
    return Network("small", 32, 1, questions, 0.5, seed)


def test_the_default_network_is_the_papers() -> None:
    trunk = build_trunk("walmsley2020", 128, 1)
    # 1.34 million parameters, the head's 129 included.
    assert round((trunk.count_params() + 129) / 1e6, 2) == 1.34


def test_moments_are_those_of_sampled_masks() -> None:
    rng = np.random.default_rng(0)
    network = make_network(2)
    features = network.features(rng.uniform(size=(5, 32, 32, 1)).astype("float32"))
    mean, spread = network.logit_moments(features)
    samples = network.logit_samples(features, 20_000, 1)
    assert samples.shape == (5, 20_000, 2)
    np.testing.assert_allclose(samples.mean(axis=1), mean, atol=4 * spread.max() / 140)
    np.testing.assert_allclose(samples.std(axis=1), spread, rtol=0.05)


def test_samples_are_what_keras_says_with_dropout_on() -> None:
    rng = np.random.default_rng(0)
    network = make_network()
    image = rng.uniform(size=(1, 32, 32, 1)).astype("float32")
    passes = np.repeat(image, 4000, axis=0)
    keras_logits = np.asarray(network.model(passes, training=True))[:, 0]
    mean, spread = network.logit_moments(network.features(image))
    assert keras_logits.mean() == pytest.approx(mean[0, 0], abs=4 * spread[0, 0] / 63)
    assert keras_logits.std() == pytest.approx(spread[0, 0], rel=0.08)
    without = np.asarray(network.model(image, training=False))
    np.testing.assert_allclose(without, mean, atol=1e-5)


def blobs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Round and long blobs, and votes on which is which."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32] - 15.5
    long = rng.uniform(size=count) < 0.5
    images = np.stack(
        [
            np.exp(-0.5 * ((x / (9 if each else 4)) ** 2 + (y / (2 if each else 4)) ** 2))
            for each in long
        ]
    )
    images += rng.normal(0, 0.03, images.shape)
    n = np.full(count, 10)
    k = rng.binomial(n, np.where(long, 0.9, 0.1))
    return np.clip(images, 0, 1)[..., None].astype("float32"), np.stack([k, n], axis=1)


def test_training_learns_and_is_repeatable() -> None:
    images, votes = blobs(160, 0)
    logits = []
    for _ in range(2):
        network = make_network()
        facts = train(network, images, votes, Schedule(6, 6, 16, 2e-3, 0))
        unseen, its_votes = blobs(80, 1)
        mean, _ = network.logit_moments(network.features(unseen))
        logits.append(mean)
        error = expit(mean[:, 0]) - its_votes[:, 0] / 10
        assert np.sqrt((error**2).mean()) < 0.2
        assert 1 <= facts["best_epoch"] <= facts["epochs"] <= 6
    np.testing.assert_array_equal(*logits)


def test_views_are_different_and_keep_shape_and_range() -> None:
    rng = np.random.default_rng(0)
    image = blobs(1, 0)[0][0]
    views = [augment(image, rng) for _ in range(4)]
    assert all(view.shape == image.shape and view.dtype == np.float32 for view in views)
    assert not np.allclose(views[0], views[1])
    assert all(view.min() > -0.2 and view.max() < 1.2 for view in views)


def save(folder: Path, network: Network) -> registry.Record:
    record = registry.Record(
        version=folder.name,
        network="small",
        size=32,
        channels=1,
        dropout=0.5,
        seed=0,
        questions=[{"name": "shape", "target": "featured"}],
        preprocessing=PREPROCESSING,
        labels_digest="d",
        training={"galaxies": 5, "epochs": 2, "best_epoch": 1},
        metrics={},
        baselines={},
        verdict="the first model",
    )
    return registry.save(folder, network, record)


def test_a_model_comes_back_as_it_was(tmp_path: Path) -> None:
    network = make_network(seed=3)
    record = save(tmp_path / "m1", network)
    assert [entry.name for entry in tmp_path.iterdir()] == ["m1"]
    loaded, again = registry.load(tmp_path / "m1", PREPROCESSING)
    assert again == record
    images = blobs(3, 0)[0]
    np.testing.assert_array_equal(loaded.features(images), network.features(images))
    assert "the first model" in (tmp_path / "m1" / "card.md").read_text()


def test_other_preprocessing_is_refused_and_named(tmp_path: Path) -> None:
    save(tmp_path / "m1", make_network())
    with pytest.raises(RefusedError, match="size 32 -> 64") as caught:
        registry.load(tmp_path / "m1", {**PREPROCESSING, "size": 64})
    assert caught.value.exit_code == 3


def test_a_damaged_model_is_not_used(tmp_path: Path) -> None:
    save(tmp_path / "m1", make_network())
    weights = tmp_path / "m1" / registry.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="missing or damaged"):
        registry.load(tmp_path / "m1", PREPROCESSING)
    (tmp_path / "m1" / "model.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        registry.load(tmp_path / "m1", PREPROCESSING)


def test_the_gate_keeps_worse_out_and_lets_ties_and_better_in() -> None:
    rng = np.random.default_rng(0)
    current = rng.normal(-3, 1, 200)
    assert not compare(current - 0.2 + rng.normal(0, 0.3, 200), current, 0.9, 0).promote
    assert compare(current.copy(), current, 0.9, 0).promote
    better = compare(current + 0.2 + rng.normal(0, 0.3, 200), current, 0.9, 0)
    assert better.promote
    assert better.reason.startswith("better than the model in use: +0.")
    assert compare(current.copy(), current, 0.9, 0).reason.startswith("not worse")


def test_the_backend_can_be_chosen_and_is_tensorflow_by_default() -> None:
    assert keras.backend.backend() == "tensorflow"
