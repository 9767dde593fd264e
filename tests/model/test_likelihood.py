"""The loss is the binomial's, from logits."""

from __future__ import annotations

import numpy as np
from keras import ops
from scipy import stats
from scipy.special import expit

from zoo_bridge.model.likelihood import binomial_loss


def test_the_loss_is_scipys_without_the_coefficient() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, size=(200, 2))
    n = rng.integers(0, 41, size=(200, 2))
    k = rng.binomial(n, expit(logits))
    ours = ops.convert_to_numpy(
        binomial_loss(np.concatenate([k, n], axis=1).astype("float64"), logits)
    )
    coefficient = stats.binom.logpmf(k, n, 0.5) - n * np.log(0.5)
    exact = -(stats.binom.logpmf(k, n, expit(logits)) - coefficient).sum(axis=1)
    np.testing.assert_allclose(ours, exact, rtol=1e-9, atol=1e-9)


def test_no_votes_add_nothing_and_extreme_logits_stay_finite() -> None:
    nothing = np.zeros((3, 2), dtype="float32")
    logits = np.array([[-200.0], [0.0], [200.0]], dtype="float32")
    assert ops.convert_to_numpy(binomial_loss(nothing, logits)).tolist() == [0, 0, 0]
    votes = np.array([[5, 10], [5, 10], [5, 10]], dtype="float32")
    loss = ops.convert_to_numpy(binomial_loss(votes, logits))
    np.testing.assert_allclose(loss, [1000, 10 * np.log(2), 1000], rtol=1e-6)


def test_votes_weigh_by_their_number() -> None:
    logits = np.array([[0.5]], dtype="float64")
    few = binomial_loss(np.array([[3.0, 4.0]]), logits)
    many = binomial_loss(np.array([[30.0, 40.0]]), logits)
    np.testing.assert_allclose(many, 10 * np.asarray(few), rtol=1e-12)
