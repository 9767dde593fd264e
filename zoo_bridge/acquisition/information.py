"""Votes given a logit, and what a distribution of votes says: intervals, and what they hold.

Votes scatter about a network's prediction as a binomial, or more: with an overdispersion
e = 1 / (alpha + beta) above 0 they follow the beta-binomial of mean rho. Names carry shapes:
N galaxies, K = n + 1 possible counts.

References
----------
Houlsby et al. 2011, arXiv:1112.5745; Walmsley et al. 2020, MNRAS 491, 1554, equations 6 to 9;
Walmsley et al. 2022, MNRAS 509, 3966 (Dirichlet-multinomial votes).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, gammaln, log_expit

Array = NDArray[np.floating[Any]]
LOWEST = -1e300


def log_votes(logit: Array, n: int, overdispersion: float | Array = 0.0) -> Array:
    """The log-probability of each count of votes under networks given by their logits.

    The beta-binomial in the form that stays exact as the overdispersion e goes to 0::

        log C(n, k) + sum_{i<k} log(rho + i e) + sum_{i<n-k} log(1 - rho + i e)
                    - sum_{i<n} log(1 + i e)

    Parameters
    ----------
    logit : ndarray, shape (...)
        Logits of rho, the chance that one volunteer gives the answer; may be infinite.
    n : int
        Volunteers who answer.
    overdispersion : float or ndarray
        e = 1 / (alpha + beta), of a shape that broadcasts with the logits'; a plain 0 is the
        binomial.

    Returns
    -------
    ndarray, shape (..., n + 1)
    """
    k = np.arange(n + 1)
    choose_K = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    z = np.asarray(logit, dtype=np.float64)[..., None]
    # A logit of minus infinity must give 0 for k = 0, not nan: hence a lowest logarithm.
    first_yes, first_no = np.maximum(log_expit(z), LOWEST), np.maximum(log_expit(-z), LOWEST)
    if np.ndim(overdispersion) == 0 and overdispersion <= 0:
        exact: Array = choose_K + k * first_yes + (n - k) * first_no
        return exact
    steps = np.asarray(overdispersion)[..., None] * np.arange(1, max(n, 1))
    yes = rising(first_yes, np.log(expit(z) + steps))
    no = rising(first_no, np.log(expit(-z) + steps))
    yes, no = yes[..., : n + 1], no[..., : n + 1]
    spread: Array = choose_K - np.log1p(steps).sum(axis=-1, keepdims=True) + yes + no[..., ::-1]
    return spread


def rising(first: Array, rest: Array) -> Array:
    """Sums of the first k logarithms, k = 0, 1, …, n.

    Parameters
    ----------
    first : ndarray, shape (..., 1)
        The first of them.
    rest : ndarray, shape (..., n - 1)
        The others, in order along the last axis.

    Returns
    -------
    ndarray, shape (..., n + 1)
        Of which the first is 0.
    """
    out = np.empty((*first.shape[:-1], rest.shape[-1] + 2))
    out[..., 0] = 0.0
    out[..., 1:2] = first
    out[..., 2:] = rest
    np.cumsum(out, axis=-1, out=out)
    return out


def interval(p_NK: Array, level: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The equal-tailed credible interval of k.

    Parameters
    ----------
    p_NK : ndarray, shape (N, K)
        Probabilities of each count.
    level : float
        Such as 0.9.

    Returns
    -------
    low, high : ndarray of int, shape (N,)
        Both ends belong to the interval.
    """
    tail = (1 - level) / 2
    below = np.cumsum(p_NK, axis=-1)
    return np.argmax(below >= tail, axis=-1), np.argmax(below >= 1 - tail - 1e-12, axis=-1)


def inside(p_NK: Array, k_N: NDArray[np.integer[Any]], level: float) -> Array:
    """How much of each observed count lies in the central interval: shape (N,), 0 to 1.

    Counts are whole numbers, so the interval between two counts of them covers more than its name
    says even when the forecast is perfect. Here the count k takes up the stretch F(k - 1) to F(k)
    of the cumulative distribution, and what is counted is the share of it that lies between the
    tails. Its mean over galaxies is the level itself for a calibrated forecast.

    References
    ----------
    Czado, Gneiting & Held 2009, Biometrics 65, 1254: the non-randomised probability integral
    transform.
    """
    tail = (1 - level) / 2
    rows = np.arange(len(k_N))
    p_N = p_NK[rows, k_N]
    top_N = np.cumsum(p_NK, axis=-1)[rows, k_N]
    overlap = np.minimum(top_N, 1 - tail) - np.maximum(top_N - p_N, tail)
    return np.where(p_N > 0, np.clip(overlap, 0, None) / np.maximum(p_N, 1e-300), 0.0)
