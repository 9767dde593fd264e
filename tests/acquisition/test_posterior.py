"""The posterior over networks: analytic against sampled, at any number of votes, and calibrated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit

from zoo_bridge.acquisition import calibration
from zoo_bridge.acquisition.posterior import (
    NODES,
    WITHIN,
    Calibration,
    Masks,
    Posterior,
    dropped,
    normal,
)


def reference(mean: float, spread: float, n: int, e: float = 0.0) -> float:
    """Mutual information in float64 on 40,001 nodes, from scipy's distributions."""
    x = np.linspace(-9, 9, 40_001)
    weight = stats.norm.pdf(x)
    weight /= weight.sum()
    rho, k = expit(mean + spread * x)[:, None], np.arange(n + 1)
    mixed, inner = np.zeros(n + 1), 0.0
    for part in np.array_split(np.arange(len(x)), 40):
        r = rho[part]
        log_p = (
            stats.betabinom.logpmf(k, n, r / e, (1 - r) / e) if e else stats.binom.logpmf(k, n, r)
        )
        p = np.exp(log_p)
        mixed += weight[part] @ p
        inner -= weight[part] @ np.where(p > 0, p * np.where(p > 0, log_p, 0), 0).sum(axis=1)
    return float(-np.sum(np.where(mixed > 0, mixed * np.log(np.maximum(mixed, 1e-300)), 0)) - inner)


@pytest.mark.parametrize("n", [1, 3, 10, 40, 80, 200])
def test_information_matches_a_fine_reference_over_a_wide_grid(n: int) -> None:
    means, spreads = [-12.0, -4.0, -1.0, 0.0, 0.5, 2.5, 7.0], [0.0, 0.02, 0.3, 1.0, 2.5, 6.0]
    grid = [(mean, spread) for mean in means for spread in spreads]
    said = Posterior([normal(*np.array(grid).T)])
    ours = said.information(n)
    exact = np.array([reference(mean, spread, n) for mean, spread in grid])
    np.testing.assert_allclose(ours, exact, atol=1e-4)
    assert np.all(ours >= 0)
    assert np.all(np.isfinite(ours))


@pytest.mark.parametrize("overdispersion", [0.0, 0.1])
@pytest.mark.parametrize("n", [1, 5, 40, 200])
def test_many_galaxies_on_a_grid_are_as_exact_as_few(n: int, overdispersion: float) -> None:
    draw = np.random.default_rng(0)
    mean = np.concatenate([draw.normal(0, 3, 1500), draw.uniform(-40, 40, 500)])
    spread = np.concatenate([draw.uniform(0, 2, 1500), draw.uniform(0, 3, 500)])
    many = Posterior([normal(mean, spread)], overdispersion)
    wide = many._wide(n)
    assert 0 < wide.sum() < 2000
    p_NK, told = many.both(n)
    few = [many.at(part) for part in np.array_split(np.arange(2000), 4)]
    assert not any(each._wide(n).any() for each in few)
    exact_NK, exact = (
        np.concatenate(found) for found in zip(*(f.both(n) for f in few), strict=True)
    )
    np.testing.assert_allclose(p_NK, exact_NK, atol=2e-6)
    np.testing.assert_allclose(told, exact, atol=2e-5)
    assert np.all(told >= 0)


def test_information_with_overdispersed_votes_matches_the_reference() -> None:
    grid = [(mean, spread) for mean in (-3.0, 0.0, 1.5) for spread in (0.1, 1.0, 2.5)]
    ours = Posterior([normal(*np.array(grid).T)], overdispersion=0.1).information(40)
    exact = [reference(mean, spread, 40, 0.1) for mean, spread in grid]
    np.testing.assert_allclose(ours, exact, atol=1e-4)


def test_extreme_logits_give_neither_nan_nor_negative_values() -> None:
    mean = np.array([-700.0, -80.0, 0.0, 80.0, 700.0, 0.0])
    spread = np.array([1.0, 50.0, 100.0, 0.0, 300.0, 0.0])
    said = Posterior([normal(mean, spread)])
    for n in (1, 40, 200):
        information, p = said.information(n), said.counts(n)
        assert np.all((information >= 0) & (information <= np.log(n + 1)))
        np.testing.assert_allclose(p.sum(axis=1), 1)
        assert np.all((said.mean >= 0) & (said.mean <= 1))


def head(heavy: bool, galaxies: int = 400, width: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """Means and terms of a linear layer, with evenly spread weights or a few heavy ones."""
    rng = np.random.default_rng(3)
    features = np.maximum(rng.normal(0.3, 1, (galaxies, width)), 0)
    weights = rng.standard_t(1.1, width) * 0.1 if heavy else rng.normal(0, 0.15, width)
    terms = features * weights
    return terms.sum(axis=1), terms


def sampled(mean: np.ndarray, terms: np.ndarray, networks: int, seed: int, rate: float) -> Masks:
    """The same masks for every galaxy."""
    rng = np.random.default_rng(seed)
    masks = (rng.random((networks, terms.shape[1])) >= rate) / (1 - rate)
    return Masks(terms @ masks.T + (mean - terms.sum(axis=1))[:, None])


def shared_top(one: np.ndarray, other: np.ndarray) -> float:
    count = len(one) // 20
    best = [set(np.argsort(-ranking)[:count]) for ranking in (one, other)]
    return len(best[0] & best[1]) / count


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_samples_tend_to_the_analytic_value(rate: float) -> None:
    mean, terms = head(heavy=False, galaxies=60)
    exact = Posterior([dropped(mean, terms, rate)]).information(40)
    errors = []
    for networks in (50, 500, 5000, 50_000):
        told = Posterior([sampled(mean, terms, networks, 1, rate)]).information(40)
        errors.append(np.abs(told - exact).mean())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.005
    assert errors[0] > 5 * errors[-1]


def test_a_head_that_leans_on_few_features_needs_them_enumerated() -> None:
    mean, terms = head(heavy=True, galaxies=1000)
    truth = Posterior([sampled(mean, terms, 20_000, 1, 0.5)]).information(40)
    plain = Posterior([dropped(mean, terms, 0.5, 0)]).information(40)
    ours = Posterior([dropped(mean, terms, 0.5)]).information(40)
    assert shared_top(ours, truth) >= 0.94
    assert shared_top(plain, truth) < shared_top(ours, truth)
    assert np.abs(ours - truth).max() < 0.05 < np.abs(plain - truth).max()


def test_enumeration_keeps_mean_and_spread() -> None:
    mean, terms = head(heavy=True)
    for rate in (0.1, 0.5):
        logit = dropped(mean, terms, rate)
        np.testing.assert_allclose(logit.offset_NC @ logit.share_C, 0, atol=1e-9)
        variance = rate / (1 - rate) * (terms**2).sum(axis=1)
        np.testing.assert_allclose(logit.total_N**2, variance, rtol=1e-9)
        nodes, weights = logit.nodes(2001)
        np.testing.assert_allclose((nodes * weights).sum(axis=1), mean, atol=0.02)


def test_many_samples_are_binned_without_changing_what_they_say() -> None:
    mean, terms = head(heavy=False, galaxies=20)
    masks = sampled(mean, terms, 3000, 2, 0.5)
    logits, weights = masks.nodes(NODES)
    assert logits.shape[1] < 3000
    np.testing.assert_allclose((logits * weights).sum(axis=1), masks.logit_NT.mean(axis=1))
    p = Posterior([masks]).counts(40)
    rho = expit(masks.logit_NT)[..., None]
    exact = stats.binom.pmf(np.arange(41), 40, rho).mean(axis=1)
    np.testing.assert_allclose(p, exact, atol=2e-4)


@settings(max_examples=40, deadline=None)
@given(st.floats(-8, 8), st.floats(0, 4), st.integers(1, 80), st.sampled_from([0.0, 0.03, 0.5]))
def test_information_has_its_bounds_and_its_symmetry(
    mean: float, spread: float, n: int, e: float
) -> None:
    said = Posterior([normal(np.array([mean, -mean]), np.array([spread, spread]))], e)
    one, other = said.information(n)
    assert 0 <= one <= np.log(n + 1)
    assert one == pytest.approx(other, abs=1e-9)
    np.testing.assert_allclose(said.counts(n)[0], said.counts(n)[1][::-1], atol=1e-12)


def test_an_ensemble_that_disagrees_knows_it() -> None:
    sure = [normal(np.array([each]), 0.0) for each in (-3.0, 3.0)]
    alone = [Posterior([each]).information(40)[0] for each in sure]
    together = Posterior(sure)
    assert alone == pytest.approx([0, 0], abs=1e-9)
    assert together.information(40)[0] == pytest.approx(np.log(2), abs=0.01)
    assert together.mean[0] == pytest.approx(0.5)
    expected = (Posterior(sure[:1]).counts(9) + Posterior(sure[1:]).counts(9)) / 2
    np.testing.assert_allclose(together.counts(9), expected)


def test_each_galaxys_numbers_do_not_depend_on_its_company() -> None:
    rng = np.random.default_rng(0)
    mean, spread = rng.normal(0, 2, 50), rng.uniform(0, 5, 50)
    whole = Posterior([normal(mean, spread)], calibration=Calibration(0.01, 0.3, 0.03))
    alone = whole.at([7])
    assert whole.information(60)[7] == alone.information(60)[0]
    np.testing.assert_array_equal(whole.counts(60)[7], alone.counts(60)[0])
    assert whole.mean[7] == alone.mean[0]


def test_calibration_widens_error_bars_and_leaves_information_alone() -> None:
    said = Posterior([normal(np.array([0.0, 3.0]), np.array([0.3, 0.3]))])
    wide = said.calibrated(Calibration(0.02, 0.4, 0.05))
    np.testing.assert_array_equal(said.information(40), wide.information(40))
    k = np.arange(41)
    for place in (0, 1):
        spread = [
            np.sqrt(p[place] @ k**2 - (p[place] @ k) ** 2)
            for p in (said.counts(40), wide.counts(40))
        ]
        assert spread[1] > 1.3 * spread[0]
        assert wide.counts(40)[place] @ k / 40 == pytest.approx(wide.mean[place])
    np.testing.assert_allclose(wide.counts(40).sum(axis=1), 1)


def overconfident(galaxies: int, seed: int) -> tuple[Posterior, np.ndarray, np.ndarray]:
    """Networks that are surer than they should be, and votes that scatter."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 2.5, galaxies)
    told = truth + rng.normal(0, 0.7, galaxies)
    n = rng.integers(5, 60, galaxies)
    rho = expit(truth)
    e = 0.05
    k = rng.binomial(n, rng.beta(rho / e + 1e-9, (1 - rho) / e + 1e-9))
    lost = rng.random(galaxies) < 0.03
    k[lost] = rng.integers(0, n[lost] + 1)
    return Posterior([normal(told, 0.2)]), k, n


def coverage(said: Posterior, k: np.ndarray, n: np.ndarray) -> list[float]:
    inside = said.forecast(k, n, (50, 80, 90)).inside
    return [float(inside[level].mean()) for level in (50, 80, 90)]


def test_calibration_learned_on_some_galaxies_holds_for_others() -> None:
    said, k, n = overconfident(700, 0)
    known = calibration.fit(said, k, n)
    assert known is not None
    other, k, n = overconfident(3000, 1)
    before, after = coverage(other, k, n), coverage(other.calibrated(known), k, n)
    assert before[2] < 0.75
    np.testing.assert_allclose(after, [0.5, 0.8, 0.9], atol=0.03)
    gain = other.calibrated(known).forecast(k, n, ()).log_p - other.forecast(k, n, ()).log_p
    assert gain.mean() > 0.3


def test_too_few_galaxies_are_not_calibrated_on() -> None:
    said, k, n = overconfident(40, 0)
    n[15:] = 0
    k[15:] = 0
    assert calibration.fit(said, k, n) is None


def test_the_paper_s_coverage_within_so_many_votes() -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(0, 2, 4000)
    n = np.full(4000, 30)
    k = rng.binomial(n, expit(logit))
    said = Posterior([normal(logit, 0.0)]).forecast(k, n, ())
    for place, votes in enumerate(WITHIN):
        observed = np.mean(said.mode_error <= votes)
        assert said.near_NW[:, place].mean() == pytest.approx(observed, abs=0.03)
