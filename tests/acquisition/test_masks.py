"""Balanced dropout masks, counted: features alone, in pairs and in triples."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from zoo_bridge.acquisition import masks


def test_with_half_dropped_all_triples_are_kept_as_often_as_they_should_be() -> None:
    mask_TD = masks.balanced(256, 40, 0.5, 3)
    assert set(np.unique(mask_TD)) == {0.0, 2.0}
    kept = mask_TD > 0
    assert np.all(kept.sum(axis=0) == 128)
    for one, other in combinations(range(40), 2):
        both = kept[:, one] & kept[:, other]
        assert both.sum() == 64
        thirds = [feature for feature in range(40) if feature not in (one, other)]
        assert np.all((both[:, None] & kept[:, thirds]).sum(axis=0) == 32)


@pytest.mark.parametrize(("width", "networks"), [(128, 2048), (128, 4096), (256, 4096), (96, 2048)])
@pytest.mark.parametrize("rate", [0.1, 0.2, 0.25, 0.3, 0.75, 0.9])
def test_every_rate_is_balanced_by_feature_and_nearly_by_pairs(
    rate: float, width: int, networks: int
) -> None:
    assert masks.fewest(width, rate) <= networks
    mask_TD = masks.balanced(networks, width, rate, 1)
    np.testing.assert_allclose(mask_TD.mean(axis=0, dtype=np.float64), 1, rtol=1e-6)
    kept = mask_TD > 0
    np.testing.assert_allclose(kept.mean(axis=0), 1 - rate, atol=5e-4)
    covariance = np.cov(kept.T.astype(float))
    np.fill_diagonal(covariance, 0)
    # A pair of independent draws would scatter by this much.
    drawn = rate * (1 - rate) / np.sqrt(networks)
    assert np.sqrt(np.mean(covariance**2)) < (1e-9 if rate in (0.25, 0.75) else drawn)
    assert np.abs(covariance).max() < 5 * drawn


def test_means_and_covariances_of_logits_are_those_of_dropout() -> None:
    rng = np.random.default_rng(0)
    term_DL = rng.normal(size=(64, 3))
    z_TL = masks.balanced(128, 64, 0.5, 0) @ term_DL
    np.testing.assert_allclose(z_TL.mean(axis=0), term_DL.sum(axis=0), rtol=1e-5)
    np.testing.assert_allclose(np.cov(z_TL.T, bias=True), term_DL.T @ term_DL, rtol=1e-5)


def test_masks_come_from_their_seed_and_must_be_enough() -> None:
    one, same = (masks.balanced(64, 20, 0.5, 1) for _ in range(2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, masks.balanced(64, 20, 0.5, 2))
    assert masks.fewest(128, 0.5) == 256
    assert masks.balanced(256, 128, 0.5, 0).shape == (256, 128)
    with pytest.raises(ValueError, match="too few"):
        masks.balanced(128, 128, 0.5, 0)
    with pytest.raises(ValueError, match="power of two"):
        masks.balanced(300, 20, 0.5, 0)


def test_no_dropout_keeps_all() -> None:
    assert np.all(masks.balanced(64, 8, 0.0, 0) == 1)
    assert np.all(masks.drawn(5, 8, 0.0, 0) == 1)


def test_drawn_masks_drop_their_share() -> None:
    mask_TD = masks.drawn(20_000, 3, 0.3, 0)
    np.testing.assert_allclose((mask_TD == 0).mean(axis=0), 0.3, atol=0.015)
    np.testing.assert_allclose(np.unique(mask_TD), [0, 1 / 0.7], rtol=1e-6)
