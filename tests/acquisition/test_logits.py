"""Softmax heads under balanced masks, against twenty thousand masks drawn one by one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, log_softmax

from zoo_bridge.acquisition import masks
from zoo_bridge.acquisition.logits import Dropped, Logits, Sampled
from zoo_bridge.acquisition.posterior import Calibration, Posterior, lay
from zoo_bridge.model.predict import FEW_ANSWERS, MASKS, MASKS_OF_FEW_ANSWERS

GALAXIES, FEATURES, N, RATE = 2000, 128, 40, 0.5
DRAWN = 20_000


def features(rng: np.random.Generator) -> np.ndarray:
    """What a trunk might say: rectified, of a few things that galaxies differ in."""
    latent = rng.normal(size=(GALAXIES, 6))
    mixed = latent @ rng.normal(0, 0.5, (6, FEATURES)) + rng.normal(0.2, 0.5, FEATURES)
    noise = rng.normal(0, 0.3, (GALAXIES, FEATURES))
    return np.maximum(mixed + noise, 0).astype(np.float32)


def trained(rng: np.random.Generator, h_ND: np.ndarray, answers: int) -> np.ndarray:
    """A head's weights, learned with dropout on votes of a hidden truth: shape (D, A)."""
    truth = h_ND[:, :12] @ rng.normal(0, 1, (12, answers))
    votes = np.array([rng.multinomial(N, np.exp(each)) for each in log_softmax(truth, axis=1)])
    weight = rng.normal(0, 0.05, (FEATURES, answers))
    for _ in range(400):
        some = rng.integers(0, GALAXIES, 256)
        kept = h_ND[some] * (rng.random((256, FEATURES)) < 1 - RATE) / (1 - RATE)
        told = np.exp(log_softmax(kept @ weight, axis=1))
        weight -= 0.02 * kept.T @ (told * N - votes[some]) / 256
    return weight


def heavy(rng: np.random.Generator, h_ND: np.ndarray, answers: int) -> np.ndarray:
    """A head that leans on few features: Pareto's tail of 1.5."""
    size = (FEATURES, answers)
    return 0.1 * rng.pareto(1.5, size) * rng.choice([-1, 1], size)


def information(logit_NT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p(k) and mutual information of samples, by counting them in bins of a hundredth."""
    edges = np.arange(-2000, 2001) / 100
    at = np.clip(np.round(logit_NT * 100), -2000, 2000).astype(int) + 2000
    share = np.stack([np.bincount(row, minlength=len(edges)) for row in at]) / at.shape[1]
    p_k = stats.binom.pmf(np.arange(N + 1), N, expit(edges)[:, None])
    p_NK = share @ p_k
    return p_NK, stats.entropy(p_NK, axis=1) - share @ stats.entropy(p_k, axis=1)


def drawn_truth(h_ND: np.ndarray, weight_DA: np.ndarray) -> tuple[np.ndarray, ...]:
    """p(k) of the first answer, and its information: of all drawn masks, and of either half."""
    mask_TD = masks.drawn(DRAWN, FEATURES, RATE, 99)
    found = []
    for rows in np.array_split(np.arange(GALAXIES), 40):
        z = np.stack([(h_ND[rows] * w.astype(np.float32)) @ mask_TD.T for w in weight_DA.T])
        top = z[1:].max(axis=0)
        logit = z[0] - top - np.log(np.exp(z[1:] - top).sum(axis=0))
        whole = information(logit)
        halves = [information(half)[1] for half in np.split(logit, 2, axis=1)]
        found.append((*whole, *halves))
    return tuple(np.concatenate(each) for each in zip(*found, strict=True))


def shared(one: np.ndarray, other: np.ndarray) -> float:
    count = GALAXIES // 20
    best = [set(np.argsort(-ranking)[:count]) for ranking in (one, other)]
    return len(best[0] & best[1]) / count


@pytest.mark.slow
@pytest.mark.parametrize("made", [trained, heavy])
@pytest.mark.parametrize("answers", [2, 3, 8])
def test_the_estimator_ranks_and_predicts_as_twenty_thousand_networks_do(
    made: object, answers: int
) -> None:
    rng = np.random.default_rng(answers)
    h_ND = features(rng)
    weight_DA = made(rng, h_ND, answers)  # type: ignore[operator]
    p_NK, truth, one, other = drawn_truth(h_ND, weight_DA)
    logits: Logits
    if answers == 2:
        # Two logits of a softmax are one: their difference.
        term_ND = h_ND * (weight_DA[:, 0] - weight_DA[:, 1])
        logits = Dropped(term_ND.sum(axis=1), term_ND, RATE)
    else:
        count = MASKS_OF_FEW_ANSWERS if answers <= FEW_ANSWERS else MASKS
        mask_TD = masks.balanced(count, FEATURES, RATE, 1)
        logits = Sampled(h_ND, weight_DA, np.zeros(answers), mask_TD, softmax=True)
    ours_NK, ours = lay([logits], N)[0].both(N)
    assert shared(ours, truth) >= min(0.95, shared(one, other) - 0.02)
    # Where next to nothing is to be learned, the truth's own halves do not agree so well.
    agreed = stats.spearmanr(one, other).statistic
    assert stats.spearmanr(ours, truth).statistic >= min(0.998, agreed - 0.005)
    assert np.abs(ours - truth).mean() < 0.012
    assert 0.5 * np.abs(ours_NK - p_NK).sum(axis=1).mean() < 0.012


def test_answers_of_a_softmax_add_up_to_one_however_sure_they_are() -> None:
    rng = np.random.default_rng(0)
    h_ND = features(rng)[:300]
    for scale in (0.1, 1.0, 30.0):
        weight_DA = rng.normal(0, scale, (FEATURES, 5))
        mask_TD = masks.balanced(256, FEATURES, RATE, 0)
        said = lay([Sampled(h_ND, weight_DA, np.zeros(5), mask_TD, softmax=True)], N)
        total = np.sum([each.mean for each in said], axis=0)
        np.testing.assert_allclose(total, 1, atol=1e-12)
        exact = np.exp(log_softmax(np.einsum("td,nd,da->nta", mask_TD, h_ND, weight_DA), axis=2))
        ours = np.stack([each.mean for each in said], axis=1)
        np.testing.assert_allclose(ours, exact.mean(axis=1), atol=2e-3)
        counts = np.stack([each.counts(N) @ np.arange(N + 1) / N for each in said], axis=1)
        np.testing.assert_allclose(counts, ours, atol=1e-3)


@pytest.mark.parametrize("rate", [0.5, 0.2])
def test_a_sigmoid_under_masks_is_that_over_all_of_them(rate: float) -> None:
    rng = np.random.default_rng(2)
    h_ND = features(rng)[:200]
    weight = rng.normal(0, 0.15, FEATURES)
    term_ND = h_ND * weight
    exact = Posterior.of([Dropped(term_ND.sum(axis=1) + 0.3, term_ND, rate)], N)
    mask_TD = masks.balanced(4096, FEATURES, rate, 1)
    layer = weight[:, None], np.array([0.3])
    ours = Posterior.of([Sampled(h_ND, *layer, mask_TD, softmax=False)], N)
    np.testing.assert_allclose(ours.mean, exact.mean, atol=0.01)
    np.testing.assert_allclose(ours.information(N), exact.information(N), atol=0.03)


@pytest.mark.parametrize("rate", [0.5, 0.25])
def test_a_galaxys_numbers_do_not_depend_on_its_company(rate: float) -> None:
    rng = np.random.default_rng(4)
    h_ND, weight_DA = features(rng)[:157], rng.normal(0, 0.2, (FEATURES, 3))
    mask_TD = masks.balanced(2048, FEATURES, rate, 1)
    term_ND = h_ND * weight_DA[:, 0]

    def say(rows: np.ndarray) -> list[Posterior]:
        """By the grid, and by waves."""
        sampled = Sampled(h_ND[rows], weight_DA, np.zeros(3), mask_TD, softmax=True)
        dropped = Dropped(term_ND[rows].sum(axis=1), term_ND[rows], rate)
        one = lay([dropped], N), lay([dropped], N, many=True)
        return [*lay([sampled, sampled], N), *one[0], *one[1]]

    whole = say(np.arange(157))
    for rows in (np.array([66]), np.arange(60, 110), np.arange(3, 157)):
        for ours, theirs in zip(whole, say(rows), strict=True):
            np.testing.assert_array_equal(ours.mean[rows], theirs.mean)
            known = Calibration(0.01, 0.2, 0.02)
            for one, other in ((ours, theirs), (ours.calibrated(known), theirs.calibrated(known))):
                for mine, its in zip(one.both(N), other.both(N), strict=True):
                    np.testing.assert_array_equal(mine[rows], its)
    assert [each.information(N).shape for each in say(np.arange(0))] == [(0,)] * 5
