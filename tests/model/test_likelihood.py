"""The losses are scipy's distributions, from logits, for every kind of question."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops
from scipy import stats
from scipy.special import expit, gammaln, softmax

from zoo_bridge.model.heads import Head, logit_slices, vote_slices
from zoo_bridge.model.likelihood import votes_loss

TWO = Head("two", ("no", "yes"), "yes")
THREE = Head("three", ("smooth", "featured", "artifact"), "featured")
TICKS = Head("ticks", ("ring", "lens", "merger"), "ring", multiple=True)
HEADS = (TWO, THREE, TICKS)
GALAXIES = 60


def choose(n: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Logarithm of the binomial coefficient, which the losses leave out."""
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)


def draw() -> tuple[np.ndarray, np.ndarray]:
    """Votes on three questions, some galaxies without any, and logits."""
    rng = np.random.default_rng(0)
    n = rng.integers(0, 41, (GALAXIES, 3))
    yes = rng.binomial(n[:, 0], 0.3)
    many = np.array([rng.multinomial(each, [0.2, 0.3, 0.5]) for each in n[:, 1]])
    ticks = np.stack([rng.binomial(n[:, 2], p) for p in (0.05, 0.5, 0.9)], axis=1)
    columns = [n[:, 0] - yes, yes, n[:, 0], *many.T, n[:, 1], *ticks.T, n[:, 2]]
    return np.stack(columns, axis=1).astype("float64"), rng.normal(0, 3, (GALAXIES, 7))


def scipys(votes: np.ndarray, logits: np.ndarray, e: np.ndarray | None) -> np.ndarray:
    """What the loss must be: minus log-probability, without coefficients."""
    loss = np.zeros(len(votes))

    def binomial(k: np.ndarray, n: np.ndarray, z: np.ndarray, place: int) -> np.ndarray:
        rho = expit(z)
        if e is None:
            return choose(n, k) - stats.binom.logpmf(k, n, rho)
        a, b = rho / e[place], (1 - rho) / e[place]
        return choose(n, k) - stats.betabinom.logpmf(k, n, a, b)

    loss += binomial(votes[:, 1], votes[:, 2], logits[:, 0], 0)
    k, n, rho = votes[:, 3:6], votes[:, 6], softmax(logits[:, 1:4], axis=1)
    coefficient = gammaln(n + 1) - gammaln(k + 1).sum(axis=1)
    for row in range(len(votes)):
        one = k[row].astype(int), int(n[row])
        if e is None:
            loss[row] += coefficient[row] - stats.multinomial.logpmf(one[0], one[1], rho[row])
        else:
            told = stats.dirichlet_multinomial.logpmf(one[0], rho[row] / e[1], one[1])
            loss[row] += coefficient[row] - told
    for place in range(3):
        loss += binomial(votes[:, 7 + place], votes[:, 10], logits[:, 4 + place], 2)
    return loss


def test_binomial_and_multinomial_losses_are_scipys() -> None:
    votes, logits = draw()
    ours = ops.convert_to_numpy(votes_loss(HEADS, "binomial", 40)(votes, logits))
    np.testing.assert_allclose(ours, scipys(votes, logits, None), rtol=1e-9, atol=1e-9)


def test_beta_binomial_and_dirichlet_multinomial_losses_are_scipys() -> None:
    votes, logits = draw()
    e = np.array([0.05, 0.3, 0.01])
    output = np.concatenate([logits, np.tile(np.log(e), (GALAXIES, 1))], axis=1)
    ours = ops.convert_to_numpy(votes_loss(HEADS, "beta-binomial", 40)(votes, output))
    np.testing.assert_allclose(ours, scipys(votes, logits, e), rtol=1e-8, atol=1e-8)


def test_a_vanishing_overdispersion_is_the_binomial_in_single_precision_too() -> None:
    votes, logits = draw()
    output = np.concatenate([logits, np.full((GALAXIES, 3), -25.0)], axis=1).astype("float32")
    wide = ops.convert_to_numpy(votes_loss(HEADS, "beta-binomial", 40)(votes, output))
    plain = ops.convert_to_numpy(votes_loss(HEADS, "binomial", 40)(votes, logits))
    np.testing.assert_allclose(wide, plain, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("likelihood", ["binomial", "beta-binomial"])
def test_no_votes_add_nothing_and_extreme_logits_stay_finite(likelihood: str) -> None:
    extra = 3 if likelihood == "beta-binomial" else 0
    loss = votes_loss(HEADS, likelihood, 40)
    extreme = np.zeros((3, 7 + extra), "float32")
    extreme[1, :7], extreme[2, :7] = 200, -200
    nothing = ops.convert_to_numpy(loss(np.zeros((3, 11), "float32"), extreme))
    np.testing.assert_array_equal(nothing, 0)
    some = np.array([[5, 5, 10, 2, 3, 5, 10, 5, 5, 5, 10]] * 3, "float32")
    assert np.all(np.isfinite(ops.convert_to_numpy(loss(some, extreme))))


def test_gradients_of_extreme_logits_are_finite() -> None:
    # Only TensorFlow is asked: the tape differs from back end to back end.
    tensorflow = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("another back end is in use")
    votes, logits = draw()
    output = np.concatenate([60 * logits, np.full((GALAXIES, 3), -3.0)], axis=1)
    variable = tensorflow.Variable(output.astype("float32"))
    with tensorflow.GradientTape() as tape:
        loss = ops.sum(votes_loss(HEADS, "beta-binomial", 40)(votes, variable))
    assert np.all(np.isfinite(tape.gradient(loss, variable).numpy()))


def test_votes_weigh_by_their_number() -> None:
    loss = votes_loss((TWO,), "binomial", 40)
    logits = np.array([[0.5]])
    few, many = (
        loss(np.array([[1.0, 3.0, 4.0]]), logits),
        loss(np.array([[10.0, 30.0, 40.0]]), logits),
    )
    np.testing.assert_allclose(many, 10 * np.asarray(few), rtol=1e-12)


def test_where_logits_and_votes_stand() -> None:
    assert [head.kind for head in HEADS] == ["sigmoid", "softmax", "independent"]
    assert logit_slices(HEADS) == [slice(0, 1), slice(1, 4), slice(4, 7)]
    assert vote_slices(HEADS) == [slice(0, 3), slice(3, 7), slice(7, 11)]
    assert Head.from_dict(TICKS.as_dict()) == TICKS
