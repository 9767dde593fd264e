"""The posterior over networks: analytic against sampled, at any number of votes, and calibrated."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit, logsumexp

from zoo_bridge.acquisition import calibration, masks
from zoo_bridge.acquisition.calibration import Evidence
from zoo_bridge.acquisition.grid import Grid
from zoo_bridge.acquisition.logits import Dropped, Sampled, normal
from zoo_bridge.acquisition.posterior import WITHIN, Calibration, Posterior, flat


def reference(mean: float, spread: float, n: int, e: float = 0.0) -> float:
    """Mutual information in float64 on 10,001 nodes, from scipy's distributions."""
    x = np.linspace(-9, 9, 10_001)
    weight = stats.norm.pdf(x)
    weight /= weight.sum()
    rho, k = expit(mean + spread * x)[:, None], np.arange(n + 1)
    mixed, inner = np.zeros(n + 1), 0.0
    for part in np.array_split(np.arange(len(x)), 10):
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
    ours = Posterior.of([normal(*np.array(grid).T)], n).information(n)
    exact = np.array([reference(mean, spread, n) for mean, spread in grid])
    np.testing.assert_allclose(ours, exact, atol=5e-6)
    assert np.all(ours >= 0)
    assert np.all(np.isfinite(ours))


def test_far_narrow_and_wide_normals_are_as_exact() -> None:
    rng = np.random.default_rng(0)
    mean = np.concatenate([rng.uniform(-40, 40, 20), rng.normal(0, 3, 20)])
    spread = np.concatenate([rng.uniform(0, 12, 20), rng.uniform(0, 0.4, 20)])
    for n in (40, 7):
        ours = Posterior.of([normal(mean, spread)], n).information(n)
        exact = [reference(*each, n) for each in zip(mean, spread, strict=True)]
        np.testing.assert_allclose(ours, exact, atol=5e-6)


@pytest.mark.parametrize("n", [12, 40, 129])
def test_a_finer_grid_changes_nothing(n: int) -> None:
    rng = np.random.default_rng(1)
    logits = normal(rng.normal(0, 3, 300), rng.uniform(0, 2, 300))
    own, fine = Posterior.of([logits], n), Posterior.of([logits], 16 * n)
    np.testing.assert_allclose(own.counts(n), fine.counts(n), atol=2e-6)
    np.testing.assert_allclose(own.information(n), fine.information(n), atol=5e-6)
    known = Calibration(0.01, 0.3, 0.03)
    own, fine = own.calibrated(known), fine.calibrated(known)
    np.testing.assert_allclose(own.counts(n), fine.counts(n), atol=2e-6)
    np.testing.assert_allclose(own.mean, fine.mean, atol=2e-6)


def test_no_votes_and_infinite_logits_are_no_trouble() -> None:
    said = Posterior.of([normal(np.array([-np.inf, 0.0, np.inf]), np.array([0.0, 1.0, 2.0]))], 40)
    for n in (0, 1, 40):
        p, information = said.both(n)
        assert p.shape == (3, n + 1)
        np.testing.assert_allclose(p.sum(axis=1), 1)
        np.testing.assert_allclose(information[[0, 2]], 0, atol=1e-5)
        known = said.calibrated(Calibration(0.05, 0.2, 0.03)).counts(n)
        np.testing.assert_allclose(known.sum(axis=1), 1)
    assert said.information(0) == pytest.approx([0, 0, 0])
    np.testing.assert_allclose(said.mean, [0, 0.5, 1], atol=1e-6)
    forecast = said.forecast(np.array([0, 0, 3]), np.array([0, 5, 3]), (90,))
    assert forecast.log_p[[0, 2]] == pytest.approx([0, 0], abs=1e-4)
    nobody = Posterior.of([normal(np.zeros(2), 1.0)], 0)
    np.testing.assert_array_equal(nobody.counts(0), np.ones((2, 1)))
    with pytest.raises(ValueError, match="laid out for 0 votes"):
        nobody.counts(1)


def test_information_with_overdispersed_votes_matches_the_reference() -> None:
    grid = [(mean, spread) for mean in (-3.0, 0.0, 1.5) for spread in (0.1, 1.0, 2.5)]
    ours = Posterior.of([normal(*np.array(grid).T)], 40, 0.1).information(40)
    exact = [reference(mean, spread, 40, 0.1) for mean, spread in grid]
    np.testing.assert_allclose(ours, exact, atol=1e-4)


def test_extreme_logits_give_neither_nan_nor_negative_values() -> None:
    mean = np.array([-700.0, -80.0, 0.0, 80.0, 700.0, 0.0])
    spread = np.array([1.0, 50.0, 100.0, 0.0, 300.0, 0.0])
    said = Posterior.of([normal(mean, spread)], 200)
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


def sampled(terms: np.ndarray, networks: int, seed: int, rate: float) -> Sampled:
    """The same masks for every galaxy, each drawn by itself."""
    mask_TD = masks.drawn(networks, terms.shape[1], rate, seed)
    return Sampled(terms, np.ones((terms.shape[1], 1)), np.zeros(1), mask_TD, softmax=False)


def shared_top(one: np.ndarray, other: np.ndarray) -> float:
    count = len(one) // 20
    best = [set(np.argsort(-ranking)[:count]) for ranking in (one, other)]
    return len(best[0] & best[1]) / count


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_samples_tend_to_the_analytic_value(rate: float) -> None:
    mean, terms = head(heavy=False, galaxies=60)
    exact = Posterior.of([Dropped(mean, terms, rate)], 40).information(40)
    errors = []
    for networks in (50, 500, 5000, 50_000):
        told = Posterior.of([sampled(terms, networks, 1, rate)], 40).information(40)
        errors.append(np.abs(told - exact).mean())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.005
    assert errors[0] > 5 * errors[-1]


@pytest.mark.parametrize("active", [1, 4, 5, 6, 8, 9, 10])
@pytest.mark.parametrize("rate", [0.5, 0.2])
def test_few_active_features_are_as_exact_as_all_their_masks(active: int, rate: float) -> None:
    rng = np.random.default_rng(active)
    kept = np.array(list(product([0, 1], repeat=active)))
    share = np.prod(np.where(kept, 1 - rate, rate), axis=1)
    for scale, n in ((0.5, 40), (2.0, 40), (2.0, 200), (6.0, 200)):
        terms = np.zeros((12, 64))
        for row in terms:
            row[rng.choice(64, active, replace=False)] = rng.normal(0, scale, active)
        mean = terms.sum(axis=1) + rng.normal(0, 1, 12)
        p, information = Posterior.of([Dropped(mean, terms, rate)], n).both(n)
        for place, row in enumerate(terms):
            factor = np.where(kept, rate / (1 - rate), -1.0)
            z = mean[place] + factor @ row[row != 0]
            each = stats.binom.pmf(np.arange(n + 1), n, expit(z)[:, None])
            whole = share @ each
            exact = stats.entropy(whole) - share @ stats.entropy(each, axis=1)
            assert information[place] == pytest.approx(exact, abs=3e-3), (scale, n)
            np.testing.assert_allclose(p[place], whole, atol=2e-3 if rate == 0.2 else 5e-4)


def test_a_few_large_terms_among_many_small_ones() -> None:
    rng = np.random.default_rng(5)
    terms = rng.normal(0, 0.01, (8, 60))
    terms[:, :7] = rng.normal(0, 3, (8, 7))
    mean = terms.sum(axis=1)
    for n in (40, 200):
        ours = Posterior.of([Dropped(mean, terms, 0.5)], n).information(n)
        kept = np.array(list(product([-1, 1], repeat=7)))
        z = (mean + kept @ terms[:, :7].T).T[:, :, None]
        rest = np.sqrt(np.square(terms[:, 7:]).sum(axis=1))[:, None, None]
        node, weight = np.polynomial.hermite_e.hermegauss(31)
        z = (z + rest * node).reshape(8, -1)
        share = np.tile(weight / weight.sum(), 128) / 128
        each = stats.binom.pmf(np.arange(n + 1), n, expit(z)[..., None])
        whole = np.einsum("j,njk->nk", share, each)
        exact = stats.entropy(whole, axis=1) - stats.entropy(each, axis=2) @ share
        np.testing.assert_allclose(ours, exact, atol=1e-4)


def test_a_head_of_heavy_tails_ranks_as_its_samples_do() -> None:
    mean, terms = head(heavy=True, galaxies=1000)
    truth = Posterior.of([sampled(terms, 20_000, 1, 0.5)], 40).information(40)
    as_if_normal = normal(mean, np.sqrt(np.square(terms).sum(axis=1)))
    plain = Posterior.of([as_if_normal], 40).information(40)
    ours = Posterior.of([Dropped(mean, terms, 0.5)], 40).information(40)
    assert shared_top(ours, truth) >= 0.94
    assert shared_top(plain, truth) < shared_top(ours, truth)
    assert np.abs(ours - truth).max() < 0.05 < np.abs(plain - truth).max()


def test_what_is_laid_keeps_mean_and_spread() -> None:
    mean, terms = head(heavy=True)
    terms, mean = terms / 20, mean / 20
    grid, places = Grid(40), np.arange(len(mean))
    for rate in (0.1, 0.5):
        ((mass, _),) = Dropped(mean, terms, rate).lay(grid, places)
        assert np.all(np.abs(mass.sum(axis=1) - 1) < 1e-5)
        np.testing.assert_allclose(mass @ grid.points, mean, atol=1e-4)
        variance = rate / (1 - rate) * (terms**2).sum(axis=1)
        told = mass @ grid.points**2 - (mass @ grid.points) ** 2
        np.testing.assert_allclose(told, variance, rtol=1e-3, atol=1e-4)


def test_many_samples_are_laid_without_changing_what_they_say() -> None:
    _, terms = head(heavy=False, galaxies=20)
    for networks in (1024, 3000):
        logits = sampled(terms, networks, 2, 0.5)
        said = Posterior.of([logits], 40)
        rho = expit(terms @ logits.mask_TD.T)
        exact = stats.binom.pmf(np.arange(41), 40, rho[..., None]).mean(axis=1)
        np.testing.assert_allclose(said.counts(40), exact, atol=2e-4)
        np.testing.assert_allclose(said.mean, rho.mean(axis=1), atol=2e-4)


@settings(max_examples=40, deadline=None)
@given(st.floats(-8, 8), st.floats(0, 4), st.integers(1, 80), st.sampled_from([0.0, 0.03, 0.5]))
def test_information_has_its_bounds_and_its_symmetry(
    mean: float, spread: float, n: int, e: float
) -> None:
    said = Posterior.of([normal(np.array([mean, -mean]), np.array([spread, spread]))], n, e)
    one, other = said.information(n)
    assert 0 <= one <= np.log(n + 1)
    # To single precision.
    assert one == pytest.approx(other, abs=5e-6)
    np.testing.assert_allclose(said.counts(n)[0], said.counts(n)[1][::-1], atol=2e-6)


def test_an_ensemble_that_disagrees_knows_it() -> None:
    sure = [normal(np.array([each]), 0.0) for each in (-3.0, 3.0)]
    alone = [Posterior.of([each], 40).information(40)[0] for each in sure]
    together = Posterior.of(sure, 40)
    assert alone == pytest.approx([0, 0], abs=5e-6)
    assert together.information(40)[0] == pytest.approx(np.log(2), abs=0.01)
    assert together.mean[0] == pytest.approx(0.5)
    expected = (Posterior.of(sure[:1], 40).counts(9) + Posterior.of(sure[1:], 40).counts(9)) / 2
    np.testing.assert_allclose(together.counts(9), expected, atol=1e-6)


def test_each_galaxys_numbers_do_not_depend_on_its_company() -> None:
    rng = np.random.default_rng(0)
    mean, spread = rng.normal(0, 2, 50), rng.uniform(0, 5, 50)
    known = Calibration(0.01, 0.3, 0.03)
    whole = Posterior.of([normal(mean, spread)], 60, calibration=known)
    alone = Posterior.of([normal(mean[7:8], spread[7:8])], 60, calibration=known)
    for one in (whole.at([7]), alone):
        assert whole.information(60)[7] == one.information(60)[0]
        np.testing.assert_array_equal(whole.counts(60)[7], one.counts(60)[0])
        assert whole.mean[7] == one.mean[0]
    # Neither do they on how many votes others got.
    n = np.where(np.arange(50) % 2, 60, 700)
    mixed = Posterior.of([normal(mean, spread)], n, calibration=known).at(np.arange(1, 50, 2))
    np.testing.assert_allclose(mixed.counts(60), whole.counts(60)[1::2], atol=2e-6)


def test_calibration_widens_error_bars_and_leaves_information_alone() -> None:
    said = Posterior.of([normal(np.array([0.0, 3.0]), np.array([0.3, 0.3]))], 40)
    wide = said.calibrated(Calibration(0.02, 0.4, 0.05))
    np.testing.assert_array_equal(said.information(40), wide.information(40))
    k = np.arange(41)
    for place in (0, 1):
        spread = [
            np.sqrt(p[place] @ k**2 - (p[place] @ k) ** 2)
            for p in (said.counts(40), wide.counts(40))
        ]
        assert spread[1] > 1.3 * spread[0]
        assert wide.counts(40)[place] @ k / 40 == pytest.approx(wide.mean[place], abs=1e-5)
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
    return Posterior.of([normal(told, 0.2)], n), k, n


def coverage(said: Posterior, k: np.ndarray, n: np.ndarray) -> list[float]:
    inside = said.forecast(k, n, (50, 80, 90)).inside
    return [float(inside[level].mean()) for level in (50, 80, 90)]


def test_calibration_learned_on_some_galaxies_holds_for_others() -> None:
    said, k, n = overconfident(700, 0)
    (known,) = calibration.fit([Evidence.of(said, k, n)])
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
    assert calibration.fit([Evidence.of(said, k, n)]) == []


def test_the_paper_s_coverage_within_so_many_votes() -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(0, 2, 4000)
    n = np.full(4000, 30)
    k = rng.binomial(n, expit(logit))
    said = Posterior.of([normal(logit, 0.0)], n).forecast(k, n, ())
    for place, votes in enumerate(WITHIN):
        observed = np.mean(said.mode_error <= votes)
        assert said.near_NW[:, place].mean() == pytest.approx(observed, abs=0.03)


@pytest.mark.parametrize("n", [40, 128, 250])
@pytest.mark.parametrize("spread", [0.0, 0.02, 0.5])
def test_votes_that_are_next_to_impossible_have_their_log_likelihood(n: int, spread: float) -> None:
    logit = np.repeat([-3.0, 0.0, 2.0, 3.3], 9)
    k = np.tile(np.linspace(0, n, 9).astype(int), 4)
    said = Posterior.of([normal(logit, spread)], n)
    told = said.forecast(k, np.full(36, n), ()).log_p
    node, weight = np.polynomial.hermite_e.hermegauss(121)
    z = logit[:, None] + spread * node
    log_p = stats.binom.logpmf(k[:, None], n, expit(z))
    exact = logsumexp(log_p, b=weight / weight.sum(), axis=1)
    # In the tails to three hundredths.
    likely = exact > -12
    np.testing.assert_allclose(told[likely], exact[likely], atol=2e-3)
    np.testing.assert_allclose(told, exact, atol=0.5, rtol=0.03)


def test_a_whole_number_of_another_kind_is_one_too() -> None:
    said = Posterior.of([normal(np.zeros(3), 1.0)], np.int64(40))
    np.testing.assert_allclose(said.mean, 0.5, atol=1e-6)


@pytest.mark.parametrize("spread", [0.0, 0.004, 0.03])
def test_samples_that_hardly_differ_are_not_rounded(spread: float) -> None:
    rng = np.random.default_rng(0)
    # So many equal terms about a mean that lies between two points of the grid.
    terms = np.tile(rng.normal(0, 1, (1, 64)), (4, 1))
    terms *= spread / max(np.sqrt(np.square(terms[0]).sum()), 1e-9)
    bias = np.array([0.37])
    mask_TD = masks.balanced(1024, 64, 0.5, 0)
    said = Posterior.of([Sampled(terms, np.ones((64, 1)), bias, mask_TD, softmax=False)], 5)
    rho = expit(terms @ mask_TD.T + bias)
    np.testing.assert_allclose(said.mean, rho.mean(axis=1), atol=1e-5)
    exact = stats.binom.pmf(np.arange(6), 5, rho[..., None]).mean(axis=1)
    np.testing.assert_allclose(said.counts(5), exact, atol=1e-5)


@pytest.mark.parametrize("answers", [2, 3, 8])
@pytest.mark.parametrize("n", [0, 1, 7, 40])
def test_a_surprise_is_the_margin_of_a_flat_dirichlet(answers: int, n: int) -> None:
    k = np.arange(n + 1)
    ours = flat(n, answers)
    np.testing.assert_allclose(ours, stats.betabinom.pmf(k, n, 1, answers - 1), rtol=1e-9)
    assert ours @ k == pytest.approx(n / answers)


@pytest.mark.parametrize("e", [1e-5, 2e-4, 0.013, 0.07, 0.4, 3.0])
def test_an_overdispersion_between_two_of_the_lattice_is_scipys(e: float) -> None:
    logit, n = np.array([-5.0, -1.3, 0.0, 2.2]), 40
    said = Posterior.of([normal(logit, 0.0)], n, calibration=Calibration(e, e))
    rho, k = expit(logit)[:, None], np.arange(n + 1)
    exact = stats.betabinom.pmf(k, n, rho / e, (1 - rho) / e)
    np.testing.assert_allclose(said.counts(n), exact, atol=1e-4)
    votes = np.array([1, 9, 15, 38])
    evidence = Evidence.of(said, votes, np.full(4, n))
    # What is to be learned from is looked for between the bounds of a calibration.
    if e > calibration.LEAST:
        ours = evidence.log_likelihood(Calibration(e, e, 1e-12))
        assert ours == pytest.approx(np.log(exact[np.arange(4), votes]).sum(), abs=2e-3)


def test_answers_of_a_question_share_their_surprise_and_scatter_by_themselves() -> None:
    rng = np.random.default_rng(3)
    size, n = 1200, np.full(1200, 40)
    # Three answers: a rare one whose votes scatter little, two whose votes scatter much.
    z = np.stack([rng.normal(0, 2, size), rng.normal(0, 2, size), np.full(size, -3.0)], axis=1)
    rho = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    lost = rng.random(size) < 0.05
    shown = np.where(lost[:, None], rng.dirichlet(np.ones(3), size), rho)
    k = np.array([rng.multinomial(40, rng.dirichlet(each / 0.1)) for each in shown])
    said = [Posterior.of([normal(np.log(p / (1 - p)), 0.05)], n) for p in rho.T]
    said = [replace(each, answers=3) for each in said]
    known = calibration.fit([Evidence.of(s, each, n) for s, each in zip(said, k.T, strict=True)])
    assert len({each.surprise for each in known}) == 1
    assert 0.02 < known[0].surprise < 0.09
    wide = [each.calibrated(c) for each, c in zip(said, known, strict=True)]
    np.testing.assert_allclose(np.sum([each.mean for each in wide], axis=0), 1, atol=1e-3)
    for each, votes in zip(wide, k.T, strict=True):
        found = each.forecast(votes, n, (50, 80, 90)).inside
        covered = [float(found[level].mean()) for level in (50, 80, 90)]
        np.testing.assert_allclose(covered, [0.5, 0.8, 0.9], atol=0.03)
        assert each.mean.mean() == pytest.approx(votes.mean() / 40, abs=0.01)
