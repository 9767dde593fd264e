"""Mutual information and predictive distributions, against other ways to compute them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from scipy.special import expit

from zoo_bridge.acquisition.information import inside, interval, log_votes
from zoo_bridge.acquisition.logits import normal
from zoo_bridge.acquisition.posterior import ROWS, Posterior


def said(mean: np.ndarray, spread: np.ndarray, n: int, e: float = 0.0) -> Posterior:
    """Of normally distributed logits."""
    return Posterior.of([normal(mean, spread)], n, e)


def two_networks(one: list[float], other: list[float], n: int) -> Posterior:
    """Of two networks that are sure of their logits."""
    return Posterior.of([normal(np.array(each), 0.0) for each in (one, other)], n)


@pytest.mark.parametrize("n", [1, 5, 40])
@pytest.mark.parametrize("logit", [-30.0, -2.0, 0.0, 3.5, 30.0])
def test_log_votes_is_scipys(logit: float, n: int) -> None:
    k = np.arange(n + 1)
    ours = log_votes(np.array(logit), n)
    if abs(logit) < 20:
        np.testing.assert_allclose(ours, stats.binom.logpmf(k, n, expit(logit)), rtol=1e-10)
    assert np.exp(ours).sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("logit", [-np.inf, np.inf, -800.0, 800.0])
def test_certain_answers_have_no_entropy_and_no_nan(logit: float) -> None:
    log_p = log_votes(np.array(logit), 10)
    assert np.exp(log_p).sum() == pytest.approx(1)
    assert stats.entropy(np.exp(log_p)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("n", [20, 40])
@pytest.mark.parametrize("spread", [0.3, 1.3, 2.5])
def test_quadrature_matches_an_integral(spread: float, n: int) -> None:
    mean = 0.7
    ours = said(np.array([mean]), np.array([spread]), n).counts(n)[0]
    for k in (0, 7, 14, n):
        exact, _ = integrate.quad(
            lambda z, k=k: stats.binom.pmf(k, n, expit(z)) * stats.norm.pdf(z, mean, spread),
            mean - 10 * spread,
            mean + 10 * spread,
            limit=400,
            epsabs=1e-12,
        )
        assert ours[k] == pytest.approx(exact, abs=1e-5)


def test_mutual_information_of_two_networks_by_hand() -> None:
    # One volunteer; two sure networks that say yes and no: everything is to be learned, log 2.
    ours = two_networks([-40.0, 0.0, 2.0], [40.0, 0.0, 2.0], 1).information(1)
    np.testing.assert_allclose(ours, [np.log(2), 0, 0], atol=2e-6)
    # rho = 0.2 and 0.6: H(0.4) - (H(0.2) + H(0.6)) / 2.
    rho = np.array([0.2, 0.6])
    by_hand = stats.bernoulli(0.4).entropy() - stats.bernoulli(rho).entropy().mean()
    one, other = np.log(rho / (1 - rho))
    told = two_networks([one], [other], 1).information(1)[0]
    assert told == pytest.approx(by_hand, abs=2e-6)


def test_mutual_information_matches_sampled_networks() -> None:
    rng = np.random.default_rng(1)
    mean, spread, n = np.array([-1.0, 0.0, 2.5]), np.array([0.4, 1.5, 0.9]), 40
    exact = said(mean, spread, n).information(n)
    samples = mean[:, None] + spread[:, None] * rng.standard_normal((3, 20_000))
    p_NTK = stats.binom.pmf(np.arange(n + 1), n, expit(samples)[..., None])
    within = stats.entropy(p_NTK, axis=2).mean(axis=1)
    sampled = stats.entropy(p_NTK.mean(axis=1), axis=1) - within
    np.testing.assert_allclose(exact, sampled, rtol=0.02)


@settings(max_examples=60, deadline=None)
@given(st.floats(-8, 8), st.floats(0, 4), st.integers(1, 80))
def test_mutual_information_has_its_bounds(mean: float, spread: float, n: int) -> None:
    information = said(np.array([mean]), np.array([spread]), n).information(n)[0]
    assert 0 <= information <= np.log(n + 1)


def test_it_does_not_depend_on_how_galaxies_are_cut_in_chunks() -> None:
    mean, spread = np.linspace(-4, 4, 20_000), np.linspace(0.1, 2, 20_000)
    assert len(mean) > 2 * ROWS
    whole, some = said(mean, spread, 40), slice(8_150, 8_250)
    alone = said(mean[some], spread[some], 40)
    np.testing.assert_allclose(whole.information(40)[some], alone.information(40), atol=2e-6)
    np.testing.assert_allclose(whole.counts(40)[some], alone.counts(40), atol=1e-7)
    assert said(np.empty(0), np.empty(0), 40).information(40).shape == (0,)


def test_the_interval_holds_at_least_its_share_and_no_more_than_it_must() -> None:
    p = stats.binom.pmf(np.arange(21), 20, 0.3)[None]
    low, high = interval(p, 0.9)
    assert p[0, low[0] : high[0] + 1].sum() >= 0.9
    assert p[0, : low[0]].sum() < 0.05
    assert p[0, high[0] + 1 :].sum() <= 0.05 + 1e-12


def test_the_mean_fraction_is_that_of_the_counts() -> None:
    posterior = said(np.array([0.4]), np.array([1.1]), 30)
    from_counts = (posterior.counts(30) * np.arange(31)).sum() / 30
    assert posterior.mean[0] == pytest.approx(from_counts, abs=2e-6)


@pytest.mark.parametrize("n", [1, 2, 40, 200])
@pytest.mark.parametrize("e", [1e-6, 0.02, 0.7])
def test_overdispersed_votes_are_scipys_beta_binomial(n: int, e: float) -> None:
    logit = np.array([-6.0, -1.0, 0.0, 2.5])
    rho, k = expit(logit)[:, None], np.arange(n + 1)
    ours = log_votes(logit, n, e)
    if e > 1e-4:
        # Below, scipy's gamma functions of a million cancel to four digits.
        np.testing.assert_allclose(
            ours, stats.betabinom.logpmf(k, n, rho / e, (1 - rho) / e), rtol=1e-8, atol=1e-9
        )
    else:
        np.testing.assert_allclose(np.exp(ours), stats.binom.pmf(k, n, rho), atol=1e-4)
    np.testing.assert_allclose(np.exp(ours).sum(axis=-1), 1, atol=1e-11)


@pytest.mark.parametrize("logit", [-np.inf, np.inf, -800.0, 800.0])
def test_certain_overdispersed_answers_give_no_nan(logit: float) -> None:
    p, information = said(np.full(3, logit), np.zeros(3), 10, 0.2).both(10)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    # What is certain is so to a millionth.
    np.testing.assert_allclose(information, 0, atol=1e-5)


def test_coverage_counted_by_shares_is_nominal_however_few_the_votes() -> None:
    rng = np.random.default_rng(0)
    for n, rho in ((1, 0.3), (3, 0.05), (40, 0.02), (40, 0.5)):
        p = np.tile(stats.binom.pmf(np.arange(n + 1), n, rho), (40_000, 1))
        k = rng.binomial(n, rho, 40_000)
        for level in (0.5, 0.8, 0.9):
            assert inside(p, k, level).mean() == pytest.approx(level, abs=0.012)
            low, high = interval(p, level)
            # What whole counts in an interval cover is more, by far when they are few.
            assert ((k >= low) & (k <= high)).mean() > level - 0.012
