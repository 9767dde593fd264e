"""How good a model is on galaxies that it never saw, and whether it may replace the one in use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo_bridge.acquisition.posterior import WITHIN, Forecast

Array = NDArray[np.floating[Any]]
Counts = NDArray[np.integer[Any]]
BOOTSTRAPS = 1000
LEVELS = (50, 80, 90)


def summarise(forecast: Forecast, k: Counts, n: Counts, seed: int) -> dict[str, float]:
    """Metrics over held-out galaxies, one question.

    Parameters
    ----------
    forecast : Forecast
        What the model said of them, with the intervals of `LEVELS`.
    k, n : ndarray of int, shape (N,)
        Votes for the answer, and votes in all, of each galaxy.
    seed : int
        Of the bootstrap.

    Returns
    -------
    dict
        galaxies, log_likelihood (nats a galaxy), rmse and bias of the vote fraction, coverage_50,
        _80, _90 (see `information.inside`), each with the 5 % and 95 % points of a bootstrap over
        galaxies (``_lo``, ``_hi``); and for each d of `WITHIN` how often k lay within d votes of
        the most likely count (within_<d>) and how often it was expected to (within_<d>_expected).
    """
    error = forecast.mean - k / n
    draws = np.random.default_rng(seed).integers(0, len(k), size=(BOOTSTRAPS, len(k)))
    each = {"log_likelihood": forecast.log_p, "bias": error}
    each |= {f"coverage_{level}": inside for level, inside in forecast.inside.items()}
    metrics: dict[str, float] = {"galaxies": len(k)}
    for name, values in each.items():
        _put(metrics, name, float(values.mean()), values[draws].mean(axis=1))
    rmse = float(np.sqrt((error**2).mean()))
    _put(metrics, "rmse", rmse, np.sqrt((error[draws] ** 2).mean(axis=1)))
    for place, votes in enumerate(WITHIN):
        metrics[f"within_{votes}"] = float(np.mean(forecast.mode_error <= votes))
        metrics[f"within_{votes}_expected"] = float(forecast.near_NW[:, place].mean())
    return metrics


def _put(metrics: dict[str, float], name: str, value: float, spread: Array) -> None:
    low, high = np.quantile(spread, [0.05, 0.95])
    metrics |= {name: value, f"{name}_lo": float(low), f"{name}_hi": float(high)}


def join(size: int, parts: list[tuple[NDArray[np.intp], Forecast]]) -> Forecast:
    """Forecasts of some galaxies each, as one of all.

    Parameters
    ----------
    size : int
        Galaxies in all.
    parts : list of (places, Forecast)
        Every place once.

    Returns
    -------
    Forecast
    """

    def put(values: list[Any]) -> Any:
        out = np.empty((size, *values[0].shape[1:]), values[0].dtype)
        for (places, _), some in zip(parts, values, strict=True):
            out[places] = some
        return out

    said = [forecast for _, forecast in parts]
    return Forecast(
        put([each.log_p for each in said]),
        put([each.mean for each in said]),
        {level: put([each.inside[level] for each in said]) for level in said[0].inside},
        put([each.mode_error for each in said]),
        put([each.near_NW for each in said]),
    )


@dataclass(frozen=True)
class Verdict:
    """Whether a candidate may replace the model in use, and why."""

    promote: bool
    reason: str
    difference: float
    worse_probability: float


def compare(candidate: Array, current: Array, confidence: float, seed: int) -> Verdict:
    """The promotion gate: a paired bootstrap of the log-likelihood on the same galaxies.

    Parameters
    ----------
    candidate, current : ndarray, shape (N,)
        Log-likelihood of each held-out galaxy under the two models.
    confidence : float
        The candidate is refused when it is worse with at least this probability.
    seed : int
        Of the bootstrap.

    Returns
    -------
    Verdict
    """
    gain = candidate - current
    rng = np.random.default_rng(seed)
    means = gain[rng.integers(0, len(gain), size=(BOOTSTRAPS, len(gain)))].mean(axis=1)
    worse = float((means < 0).mean())
    difference = float(gain.mean())
    text = f"{difference:+.3f} nats a galaxy on {len(gain)} held-out galaxies"
    if worse >= confidence:
        return Verdict(False, f"worse than the model in use: {text}", difference, worse)
    better = float((means > 0).mean())
    word = "better than" if better >= confidence else "not worse than"
    return Verdict(True, f"{word} the model in use: {text}", difference, worse)


def beats(gain: Array, confidence: float, seed: int) -> Verdict:
    """The first model's gate: it must surely be better than the mean vote fraction.

    Parameters
    ----------
    gain : ndarray, shape (N,)
        Log-likelihood of each held-out galaxy under the model less that under the mean.
    confidence : float
        With this probability at least.
    seed : int
        Of the bootstrap.

    Returns
    -------
    Verdict
        Its reason has the gain and its 90 % interval.
    """
    rng = np.random.default_rng(seed)
    means = gain[rng.integers(0, len(gain), size=(BOOTSTRAPS, len(gain)))].mean(axis=1)
    low, high = np.quantile(means, [0.05, 0.95])
    better = float((means > 0).mean())
    surely = better >= confidence
    word = "better" if surely else "not surely better"
    text = (
        f"{word} than the mean vote fraction: {gain.mean():+.3f} nats a galaxy (90 % interval "
        f"{low:+.3f} to {high:+.3f}) on {len(gain)} held-out galaxies"
    )
    return Verdict(surely, text, float(gain.mean()), 1 - better)


def off_calibration(forecast: Forecast, tolerance: float, seed: int) -> dict[int, float]:
    """Which credible intervals are surely wrong by more than is tolerated.

    Parameters
    ----------
    forecast : Forecast
        What a model said of held-out galaxies.
    tolerance : float
        How far coverage may lie from the interval's name, as a share.
    seed : int
        Of the bootstrap.

    Returns
    -------
    dict
        By level in per cent its coverage, for levels whose whole 90 % bootstrap interval is off.
    """
    size = len(forecast.log_p)
    draws = np.random.default_rng(seed).integers(0, size, size=(BOOTSTRAPS, size))
    wrong = {}
    for level, inside in forecast.inside.items():
        low, high = np.quantile(inside[draws].mean(axis=1), [0.05, 0.95])
        if low > level / 100 + tolerance or high < level / 100 - tolerance:
            wrong[level] = float(inside.mean())
    return wrong
