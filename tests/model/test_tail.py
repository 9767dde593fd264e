"""A last layer that is learned on features which are there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit

from zoo_bridge.model.heads import Head
from zoo_bridge.model.network import Design, Network
from zoo_bridge.model.predict import ANALYTIC, posteriors_of
from zoo_bridge.model.tail import learn_tail

VOTES, JUDGED = 40, 400


@dataclass(frozen=True)
class Encoded:
    """As much of an encoder as a network asks for."""

    width: int

    def as_dict(self) -> dict[str, Any]:
        return {"width": self.width}


def ridge(x: NDArray[Any], y: NDArray[Any], other: NDArray[Any], penalty: float) -> NDArray[Any]:
    """Linear regression with a penalty, solved for the galaxies in place of the features."""
    alpha = np.linalg.solve(x @ x.T + penalty * np.eye(len(x)), y - y.mean())
    fitted: NDArray[Any] = np.clip(other @ (x.T @ alpha) + y.mean(), 0, 1)
    return fitted


def rectified(rng: np.random.Generator, hidden: NDArray[Any]) -> NDArray[Any]:
    """As encoders end: nothing below a threshold, so many are nothing but for a few galaxies."""
    width = 1280
    told = hidden @ rng.normal(size=(20, width)) + 3 * rng.normal(size=(len(hidden), width))
    return np.maximum(told - rng.uniform(0, 20, width), 0)


def dense(width: int) -> Callable[[np.random.Generator, NDArray[Any]], NDArray[Any]]:
    """So many features that all tell something, and vary as much as each other."""

    def made(rng: np.random.Generator, hidden: NDArray[Any]) -> NDArray[Any]:
        x = hidden @ rng.normal(size=(20, width)) + 3 * rng.normal(size=(len(hidden), width))
        return np.asarray(x / x.std(axis=0))

    return made


@pytest.mark.parametrize(
    ("features", "learned"),
    [(dense(128), 600), (dense(1280), 600), (rectified, 250)],
    ids=["128 features", "1280 features", "features that seldom are anything"],
)
def test_a_last_layer_is_as_good_as_a_regression_whatever_the_features(
    features: Callable[[np.random.Generator, NDArray[Any]], NDArray[Any]], learned: int
) -> None:
    rng = np.random.default_rng(3)
    hidden = rng.normal(size=(learned + JUDGED, 20))
    x = features(rng, hidden).astype("float32")
    k = rng.binomial(VOTES, expit(hidden @ rng.normal(size=20) / 3))
    votes = np.column_stack([k, VOTES - k, np.full(len(k), VOTES)])
    learn, judge = slice(0, learned), slice(learned, None)

    head = Head("featured", ("yes", "no"), "yes")
    encoder: Any = Encoded(x.shape[1])
    network = Network(Design("onnx", 32, 1, (head,), encoder=encoder.as_dict()), 0, encoder)
    network.standardise(x[learn])
    learn_tail(network, x[learn], votes[learn], 0)
    (told, *_) = posteriors_of([network], [x[judge]], 0, ANALYTIC, VOTES).values()

    def rmse(mean: NDArray[Any]) -> float:
        return float(np.sqrt(np.mean((mean - k[judge] / VOTES) ** 2)))

    total = float(x[learn].var(axis=0).sum())
    best = min(
        rmse(ridge(x[learn], k[learn] / VOTES, x[judge], penalty * total))
        for penalty in (1, 3, 10, 30, 100)
    )
    assert rmse(told.mean) < 1.1 * best
