"""Posteriors by waves, against every mask there is, in float64."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

from zoo_bridge.acquisition.logits import Dropped
from zoo_bridge.acquisition.posterior import Calibration, Posterior, lay
from zoo_bridge.acquisition.waves import ENUMERATED, Waves


def by_all_masks(
    mean_N: np.ndarray, term_ND: np.ndarray, rate: float, n: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """p(k), information and mean over all 2^D masks, one by one."""
    kept_MD = np.array(list(product([0, 1], repeat=term_ND.shape[1])))
    share_M = np.prod(np.where(kept_MD, 1 - rate, rate), axis=1)
    z_NM = mean_N[:, None] + term_ND @ (kept_MD / (1 - rate) - 1).T
    p_NMK = stats.binom.pmf(np.arange(n + 1), n, expit(z_NM)[..., None])
    p_NK = np.einsum("m,nmk->nk", share_M, p_NMK)
    information = stats.entropy(p_NK, axis=1) - stats.entropy(p_NMK, axis=2) @ share_M
    return p_NK, information, expit(z_NM) @ share_M


@pytest.mark.parametrize("rate", [0.5, 0.2])
@pytest.mark.parametrize(("features", "n"), [(6, 1), (6, 40), (12, 40), (12, 200)])
def test_information_is_that_of_all_masks(features: int, n: int, rate: float) -> None:
    rng = np.random.default_rng(features)
    size = 40
    # Ten are enumerated; the others are small beside them, as a trained head's are.
    term_ND = rng.normal(0, 0.5, (size, features))
    term_ND[:, ENUMERATED:] *= 0.3
    mean_N = rng.normal(0, 2, size)
    p_NK, information, mean = by_all_masks(mean_N, term_ND, rate, n)
    (ours,) = lay([Dropped(mean_N, term_ND, rate)], n, many=True)
    assert isinstance(ours.parts[0].grid, Waves)
    told_NK, told = ours.both(n)
    exact = features <= ENUMERATED
    np.testing.assert_allclose(told, information, atol=1e-5 if exact else 2e-4)
    np.testing.assert_allclose(told_NK, p_NK, atol=3e-6 if exact else 2e-4)
    np.testing.assert_allclose(ours.mean, mean, atol=3e-6 if exact else 1e-4)


def test_many_features_agree_with_more_of_them_enumerated(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    h_ND = np.maximum(rng.normal(0, 1, (300, 128)), 0)
    term_ND = h_ND * rng.normal(0, 0.16, 128)
    dropped = Dropped(term_ND.sum(axis=1) - 0.3, term_ND, 0.5)
    ours = lay([dropped], 40, many=True)[0].information(40)
    monkeypatch.setattr("zoo_bridge.acquisition.waves.ENUMERATED", 128)
    exact = lay([dropped], 40, many=True)[0].information(40)
    np.testing.assert_allclose(ours, exact, atol=1e-4)
    by_grid = lay([dropped], 40)[0].information(40)
    assert stats.spearmanr(ours, by_grid).statistic >= 0.9999
    assert np.abs(ours - exact).max() < np.abs(by_grid - exact).max() / 5


def test_sure_galaxies_and_scattered_votes() -> None:
    """Logits beyond the grid, networks trained on overdispersed votes, ensembles, calibration."""
    rng = np.random.default_rng(2)
    mean_N = np.array([-40.0, -18.0, -5.0, 0.0, 5.0, 18.0, 40.0])
    terms = [rng.normal(0, 0.3, (len(mean_N), 30)) for _ in range(2)]
    networks = [Dropped(mean_N, term_ND, 0.5) for term_ND in terms]
    for overdispersion in (0.0, 0.05):
        (ours,) = lay(networks, 40, overdispersion, many=True)
        (theirs,) = lay(networks, 40, overdispersion)
        assert len(ours.parts) == 2
        for known in (None, Calibration(0.01, 0.2, 0.02)):
            one, other = ours.calibrated(known), theirs.calibrated(known)
            for mine, its in zip(one.both(40), other.both(40), strict=True):
                np.testing.assert_allclose(mine, its, atol=2e-3)
            np.testing.assert_allclose(one.mean, other.mean, atol=1e-3)
            np.testing.assert_allclose(one.counts(40).sum(axis=1), 1, atol=1e-9)
    assert (ours.information(40)[[0, -1]] < 1e-5).all()


def test_terms_of_nothing_leave_one_network() -> None:
    mean_N = np.linspace(-6, 6, 25)
    (ours,) = lay([Dropped(mean_N, np.zeros((25, 3)), 0.5)], 40, many=True)
    p_NK, information = ours.both(40)
    np.testing.assert_allclose(information, 0, atol=1e-5)
    exact = stats.binom.pmf(np.arange(41), 40, expit(mean_N)[:, None])
    np.testing.assert_allclose(p_NK, exact, atol=2e-6)
    (none,) = lay([Dropped(np.empty(0), np.empty((0, 3)), 0.5)], 40, many=True)
    assert none.both(40)[0].shape == (0, 41)


def test_what_judges_votes_keeps_to_the_grid() -> None:
    """Waves know nothing of votes that are next to impossible: a forecast needs the grid."""
    said = Posterior.of([Dropped(np.zeros(3), np.ones((3, 4)) * 0.1, 0.5)], 40)
    forecast = said.forecast(np.array([0, 20, 40]), np.full(3, 40), (90,))
    assert (forecast.log_p < [-20, -1, -20]).all()
