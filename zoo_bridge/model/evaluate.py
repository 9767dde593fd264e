"""How good a model is on galaxies that it never saw, and whether it may replace the one in use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Counts = NDArray[np.integer[Any]]
BOOTSTRAPS = 1000


@dataclass(frozen=True)
class Predictions:
    """What a model says of held-out galaxies, one question.

    ``log_p`` is the log-probability of the votes that came, ``mean`` the expected fraction,
    ``inside`` whether k fell into the 50, 80 and 90 % credible intervals; all of shape (N,).
    """

    log_p: Array
    mean: Array
    inside: dict[int, NDArray[np.bool_]]


def summarise(predictions: Predictions, k: Counts, n: Counts, seed: int) -> dict[str, float]:
    """Metrics over held-out galaxies.

    Parameters
    ----------
    predictions : Predictions
        The model's.
    k, n : ndarray of int, shape (N,)
        The votes.
    seed : int
        Of the bootstrap.

    Returns
    -------
    dict
        galaxies, log_likelihood (nats a galaxy), rmse and bias of the vote fraction, each with the
        5 % and 95 % points of a bootstrap over galaxies (``_lo``, ``_hi``), coverage_50, _80, _90.
    """
    error = predictions.mean - k / n
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(k), size=(BOOTSTRAPS, len(k)))
    values = {
        "log_likelihood": predictions.log_p[draws].mean(axis=1),
        "rmse": np.sqrt((error[draws] ** 2).mean(axis=1)),
        "bias": error[draws].mean(axis=1),
    }
    metrics: dict[str, float] = {
        "galaxies": len(k),
        "log_likelihood": float(predictions.log_p.mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        "bias": float(error.mean()),
    }
    for name, spread in values.items():
        metrics[f"{name}_lo"], metrics[f"{name}_hi"] = map(float, np.quantile(spread, [0.05, 0.95]))
    for level, inside in predictions.inside.items():
        metrics[f"coverage_{level}"] = float(inside.mean())
    return metrics


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
