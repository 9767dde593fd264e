"""Metrics with their intervals, and the gate's two questions: not worse, and still calibrated."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from zoo_bridge.acquisition.evaluate import compare, join, off_calibration, summarise
from zoo_bridge.acquisition.logits import normal
from zoo_bridge.acquisition.posterior import Posterior

LEVELS = (50, 80, 90)


def votes(galaxies: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, and k of n drawn from them."""
    rng = np.random.default_rng(seed)
    logit, n = rng.normal(0, 1.5, galaxies), rng.integers(1, 50, galaxies)
    return logit, rng.binomial(n, expit(logit)), n


def test_metrics_of_a_model_that_knows_the_truth() -> None:
    logit, k, n = votes(3000, 0)
    metrics = summarise(Posterior.of([normal(logit, 0.0)], n).forecast(k, n, LEVELS), k, n, 0)
    assert metrics["galaxies"] == 3000
    rho = expit(logit)
    assert metrics["rmse"] == pytest.approx(np.sqrt(np.mean(rho * (1 - rho) / n)), rel=0.06)
    assert metrics["bias_lo"] < 0 < metrics["bias_hi"]
    for name in ("log_likelihood", "rmse", "bias", "coverage_80"):
        assert metrics[f"{name}_lo"] < metrics[name] < metrics[f"{name}_hi"]
    for level in LEVELS:
        assert metrics[f"coverage_{level}"] == pytest.approx(level / 100, abs=0.02)
    assert metrics["within_3"] == pytest.approx(metrics["within_3_expected"], abs=0.03)


def test_the_bootstrap_interval_is_as_wide_as_repeated_experiments() -> None:
    one = [summarise_likelihood(seed) for seed in range(60)]
    spread = np.std([metrics["log_likelihood"] for metrics in one])
    widths = [metrics["log_likelihood_hi"] - metrics["log_likelihood_lo"] for metrics in one]
    # 90 % of a normal distribution: 3.29 standard deviations from end to end.
    assert np.mean(widths) == pytest.approx(3.29 * spread, rel=0.3)


def summarise_likelihood(seed: int) -> dict[str, float]:
    logit, k, n = votes(200, seed)
    return summarise(Posterior.of([normal(logit, 0.0)], n).forecast(k, n, LEVELS), k, n, seed)


def test_the_gate_keeps_worse_out_and_lets_ties_and_better_in() -> None:
    rng = np.random.default_rng(0)
    current = rng.normal(-3, 1, 200)
    assert not compare(current - 0.2 + rng.normal(0, 0.3, 200), current, 0.9, 0).promote
    assert compare(current.copy(), current, 0.9, 0).promote
    better = compare(current + 0.2 + rng.normal(0, 0.3, 200), current, 0.9, 0)
    assert better.promote
    assert better.reason.startswith("better than the model in use: +0.")
    assert compare(current.copy(), current, 0.9, 0).reason.startswith("not worse")


def test_error_bars_that_are_surely_off_are_named() -> None:
    logit, k, n = votes(600, 1)
    right = Posterior.of([normal(logit, 0.0)], n).forecast(k, n, LEVELS)
    assert off_calibration(right, 0.1, 0) == {}
    rng = np.random.default_rng(0)
    wrong = Posterior.of([normal(logit + rng.normal(0, 1, 600), 0.0)], n).forecast(k, n, LEVELS)
    off = off_calibration(wrong, 0.1, 0)
    assert set(off) == {50, 80, 90}
    assert off[90] < 0.75


def test_forecasts_of_halves_join_to_that_of_all() -> None:
    logit, k, n = votes(101, 2)
    said = Posterior.of([normal(logit, 0.4)], n)
    whole = said.forecast(k, n, LEVELS)
    halves = [np.flatnonzero(np.arange(101) % 2 == rest) for rest in (1, 0)]
    parts = [(at, said.at(at).forecast(k[at], n[at], LEVELS)) for at in halves]
    joined = join(101, parts)
    np.testing.assert_array_equal(joined.log_p, whole.log_p)
    np.testing.assert_array_equal(joined.near_NW, whole.near_NW)
    np.testing.assert_array_equal(joined.inside[80], whole.inside[80])
