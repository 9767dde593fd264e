"""Training: it learns, repeats itself, stops in time, and goes on after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from zoo_bridge.model import train as module
from zoo_bridge.model.augment import Augmented, augment
from zoo_bridge.model.heads import Head
from zoo_bridge.model.network import Design, Network
from zoo_bridge.model.train import Checkpoint, Schedule, set_aside, train

HEAD = Head("shape", ("long", "round"), "long")


def blobs(count: int, seed: int, scatter: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
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
    rho = np.where(long, 0.9, 0.1)
    if scatter:
        rho = rng.beta(rho / scatter, (1 - rho) / scatter)
    k = rng.binomial(n, rho)
    return np.clip(images, 0, 1)[..., None].astype("float32"), np.stack([k, n - k, n], axis=1)


def make_network(likelihood: str = "binomial") -> Network:
    return Network(Design("small", 32, 1, (HEAD,), likelihood=likelihood), 0)


def logits(network: Network) -> np.ndarray:
    return network.plain(network.features(blobs(40, 1)[0]), 0, 0)


def test_training_learns_and_is_repeatable() -> None:
    images, votes = blobs(160, 0)
    told = []
    for _ in range(2):
        network = make_network()
        facts = train(network, images, votes, Schedule(6, 6, 16, 2e-3, 0))
        unseen, its_votes = blobs(80, 1)
        mean = network.plain(network.features(unseen), 0, 0)
        told.append(mean)
        error = expit(mean) - its_votes[:, 0] / 10
        assert np.sqrt((error**2).mean()) < 0.2
        assert 1 <= facts["best_epoch"] <= facts["epochs"] <= 6
        assert facts["stopping_loss"] == min(facts["history"]["stopping_loss"])
    np.testing.assert_array_equal(*told)


def test_it_stops_when_nothing_gets_better_and_keeps_the_best() -> None:
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(60, 32, 32, 1)).astype("float32")
    k = rng.integers(0, 11, 60)
    votes = np.stack([k, 10 - k, np.full(60, 10)], axis=1)
    facts = train(make_network(), images, votes, Schedule(40, 3, 16, 5e-3, 0))
    assert facts["epochs"] == facts["best_epoch"] + 3 < 40


def test_the_learned_overdispersion_goes_where_the_votes_scatter() -> None:
    found = {}
    for scatter in (0.0, 0.6):
        images, votes = blobs(300, 0, scatter)
        network = make_network("beta-binomial")
        train(network, images, votes, Schedule(12, 12, 16, 2e-3, 0))
        found[scatter] = network.overdispersion[0]
    assert 2 * found[0.0] < found[0.6]


KILLED = """
import sys
sys.path.insert(0, {folder!r})
import os, signal
from pathlib import Path
import importlib.util
spec = importlib.util.spec_from_file_location("test_train", {file!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
images, votes = module.blobs(80, 0)
epochs = 0
def ended(steps):
    global epochs
    epochs += steps
    if epochs == 3:
        os.kill(os.getpid(), signal.SIGKILL)
module.train(module.make_network(), images, votes, module.SCHEDULE, ended,
             module.Checkpoint(Path({path!r}), "this one"))
"""
SCHEDULE = Schedule(6, 6, 16, 2e-3, 0)


def test_a_killed_training_goes_on_and_ends_as_it_would_have(tmp_path: Path) -> None:
    images, votes = blobs(80, 0)
    undisturbed = make_network()
    whole = train(undisturbed, images, votes, SCHEDULE)
    path = tmp_path / "models" / "state.npz"
    code = KILLED.format(folder=str(Path(__file__).parents[2]), file=__file__, path=str(path))
    ended = subprocess.run([sys.executable, "-c", code], check=False, env=dict(os.environ))
    assert ended.returncode == -signal.SIGKILL
    assert [entry.name for entry in path.parent.iterdir()] == ["state.npz"]
    resumed, steps = make_network(), []
    facts = train(resumed, images, votes, SCHEDULE, steps.append, Checkpoint(path, "this one"))
    assert facts["resumed_from"] == 3
    assert steps == [3, 1, 1, 1]
    np.testing.assert_allclose(facts["history"]["loss"], whole["history"]["loss"], rtol=1e-4)
    np.testing.assert_allclose(logits(resumed), logits(undisturbed), rtol=1e-3, atol=1e-3)


def test_a_finished_training_is_not_repeated_and_another_one_is_not_taken_up(
    tmp_path: Path,
) -> None:
    images, votes = blobs(60, 0)
    state = Checkpoint(tmp_path / "state.npz", "this one")
    network = make_network()
    train(network, images, votes, Schedule(2, 2, 16, 1e-3, 0), checkpoint=state)
    again = make_network()
    facts = train(again, images, votes, Schedule(2, 2, 16, 1e-3, 0), checkpoint=state)
    assert facts["resumed_from"] == facts["epochs"] == 2
    np.testing.assert_array_equal(logits(network), logits(again))
    other = Checkpoint(state.path, "other galaxies")
    facts = train(make_network(), images, votes, Schedule(1, 1, 16, 1e-3, 0), checkpoint=other)
    assert facts["resumed_from"] == 0
    state.path.write_bytes(state.path.read_bytes()[:5000])
    facts = train(make_network(), images, votes, Schedule(1, 1, 16, 1e-3, 0), checkpoint=other)
    assert facts["resumed_from"] == 0


def test_who_says_when_to_stop_is_the_same_whoever_else_there_is() -> None:
    names = [f"G{number}" for number in range(4000)]
    aside = set_aside(4000, 3, names)
    # 12 % of them, to three standard errors of a binomial.
    assert abs(aside.mean() - 0.12) < 3 * (0.12 * 0.88 / 4000) ** 0.5
    some = np.random.default_rng(0).permutation(4000)[:900]
    np.testing.assert_array_equal(set_aside(900, 3, [names[at] for at in some]), aside[some])
    assert (set_aside(4000, 4, names) != aside).any()
    # One at least, and never all; without names so many are drawn.
    for count in range(2, 12):
        assert 1 <= set_aside(count, 0, names[:count]).sum() < count
    assert set_aside(500, 0).sum() == 60


def test_who_says_when_to_stop_is_not_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    images, votes = blobs(60, 0)
    names = [f"G{number}" for number in range(60)]
    aside, seen = set_aside(60, 0, names), []

    class Watched(module.Augmented):
        def __init__(self, images: Any, votes: Any, *rest: Any) -> None:
            seen.append(images)
            super().__init__(images, votes, *rest)

    monkeypatch.setattr(module, "Augmented", Watched)
    train(make_network(), images, votes, Schedule(1, 1, 16, 1e-3, 0), names=names)
    np.testing.assert_array_equal(seen[0], images[~aside])


def test_views_are_different_and_keep_shape_and_range() -> None:
    image = blobs(1, 0)[0]
    same = np.repeat(image, 4, axis=0)
    views = augment(same, np.random.default_rng(0))
    assert views.shape == same.shape
    assert views.dtype == np.float32
    assert not np.allclose(views[0], views[1])
    assert views.min() > -0.2
    assert views.max() < 1.2


def test_a_view_is_a_turned_zoomed_and_moved_image() -> None:
    """A spot off the centre stays a spot of about its size, at about its distance."""
    y, x = np.mgrid[:64, :64] - 31.5
    spot = np.exp(-0.5 * (((x - 12) / 3) ** 2 + (y / 3) ** 2))[..., None].astype("float32")
    views = augment(np.repeat(spot[None], 200, axis=0), np.random.default_rng(1))[..., 0]
    weight = np.clip(views - np.median(views, axis=(1, 2), keepdims=True), 0, None)
    weight[weight < 0.2] = 0
    total = weight.sum(axis=(1, 2))
    cx, cy = (weight * x).sum(axis=(1, 2)) / total, (weight * y).sum(axis=(1, 2)) / total
    distance = np.hypot(cx, cy)
    # Moved by up to 5.3 pixels a side and zoomed by up to 1.083.
    assert np.all((distance > 12 / 1.1 - 8) & (distance < 12 * 1.1 + 8))
    assert distance.mean() == pytest.approx(12.3, abs=0.8)
    # In all directions alike.
    angle = np.arctan2(cy, cx)
    assert abs(np.exp(1j * angle).mean()) < 0.15
    area = (views > views.max(axis=(1, 2), keepdims=True) / 2).sum(axis=(1, 2))
    assert area.mean() == pytest.approx(2 * np.pi * np.log(2) * 3**2, rel=0.1)
    assert area.std() > 1


def test_batches_depend_on_seed_epoch_and_place_alone() -> None:
    images, votes = blobs(20, 0)
    data = Augmented(images, votes, 8, 5)
    data.on_epoch_end()
    later = Augmented(images, votes, 8, 5, epoch=1)
    np.testing.assert_array_equal(data[1][0], later[1][0])
    np.testing.assert_array_equal(data[1][1], later[1][1])
    # Few galaxies are seen several times in an epoch, all of them before any of them again, and
    # each time anew. All batches are full.
    assert len(data) == 24
    assert [len(data[place][1]) for place in range(24)] == [8] * 24
    seen = np.concatenate([data[place][1] for place in range(24)])
    for start in range(0, 160, 20):
        assert sorted(map(tuple, seen[start : start + 20])) == sorted(map(tuple, votes))
    views = np.concatenate([data[place][0] for place in range(24)])
    one = np.flatnonzero((seen == seen[0]).all(axis=1))
    assert not np.array_equal(views[one[0]], views[one[-1]])
    assert len(Augmented(np.zeros((300, 4, 4, 1), "float32"), np.zeros((300, 3)), 8, 0)) == 38
