"""Normal logits by the million: every galaxy's networks laid on one grid of logits.

On a grid that is the same for all galaxies, p(k | logit) is one matrix, and the posterior of many
galaxies is one product of matrices: the mass that each galaxy puts on the grid's points, times it.
What it gives is that of `information.mixture` to a few millionths.

Names carry shapes: N galaxies, G grid points, K = n + 1 counts.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, xlogy

from zoo_bridge.acquisition.information import log_votes

Array = NDArray[np.floating[Any]]
ROWS = 4096
THREADS = 4
# The trapezoidal rule on a normal of less spread than this many steps is no longer exact.
NARROWEST = 0.85
# How fine the grid is against the width of the likelihood, 2 / sqrt(n) in the logit.
FINENESS = 0.25
COARSEST = 0.15
# Beyond, a logit says no more than that all volunteers agree: to a millionth, for n of them.
FAR = 14.0


def narrowest(n: int) -> float:
    """The least spread that `normal_mixture` can treat, for n volunteers."""
    return NARROWEST * _step(n)


def normal_mixture(
    mean_N: Array, spread_N: Array, n: int, overdispersion: float = 0.0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The posterior of k, and the mutual information, for normally distributed logits.

    Parameters
    ----------
    mean_N, spread_N : ndarray, shape (N,)
        Mean and standard deviation of each galaxy's logit; none narrower than `narrowest`.
    n : int
        Volunteers.
    overdispersion : float
        See `information.log_votes`.

    Returns
    -------
    p_NK : ndarray of float32, shape (N, n + 1)
        The posterior predictive distribution of k.
    information_N : ndarray of float32, shape (N,)
        In nats; see `information.mixture`.

    References
    ----------
    Trefethen & Weideman 2014, SIAM Review 56, 385, for the trapezoidal rule.
    """
    grid_G = _grid(n)
    log_p_GK = log_votes(grid_G, n, overdispersion)
    p_GK = np.exp(log_p_GK)
    within_G = -xlogy(p_GK, p_GK).sum(axis=1)
    # One product gives the counts and, in the last column, the entropy that votes have anyway.
    table = np.column_stack([p_GK, within_G]).astype(np.float32)
    p_NK = np.empty((len(mean_N), n + 1), np.float32)
    information_N = np.empty(len(mean_N), np.float32)

    def part(start: int) -> None:
        rows = slice(start, start + ROWS)
        told = _mass(mean_N[rows], spread_N[rows], grid_G) @ table
        # The rule is exact but at the ends, where all that it can miss is how much mass there is.
        told /= told[:, :-1].sum(axis=1, keepdims=True)
        p_NK[rows] = told[:, :-1]
        whole = np.log(np.maximum(told[:, :-1], 1e-30))
        whole *= told[:, :-1]
        information_N[rows] = np.maximum(-whole.sum(axis=1) - told[:, -1], 0.0)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(part, range(0, len(mean_N), ROWS)))
    return p_NK, information_N


def _step(n: int) -> float:
    return float(min(FINENESS * 2 / np.sqrt(n), COARSEST))


def _grid(n: int) -> Array:
    far = FAR + np.log(n)
    count = int(np.ceil(2 * far / _step(n))) + 1
    return (np.arange(count) - (count - 1) / 2) * _step(n)


def _mass(mean_N: Array, spread_N: Array, grid_G: Array) -> NDArray[np.float32]:
    """What each galaxy puts on each point: shape (N, G); the ends take all that lies beyond."""
    step = grid_G[1] - grid_G[0]
    narrow = 1 / spread_N
    out = grid_G.astype(np.float32)[None, :] - mean_N.astype(np.float32)[:, None]
    out *= narrow.astype(np.float32)[:, None]
    np.square(out, out=out)
    out *= np.float32(-0.5)
    np.exp(out, out=out)
    out *= (step * narrow / np.sqrt(2 * np.pi)).astype(np.float32)[:, None]
    out[:, 0] = ndtr((grid_G[0] + step / 2 - mean_N) * narrow)
    out[:, -1] = ndtr(-(grid_G[-1] - step / 2 - mean_N) * narrow)
    return out
