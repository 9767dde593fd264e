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
# Galaxies whose mass is multiplied at once, and that one thread prepares at once: what stays in a
# processor's shared cache, and in a core's own. The first is a multiple of the second.
ROWS = 8192
PIECE = 512
THREADS = 4
# How fine the grid is against the width of the likelihood, 2 / sqrt(n) in the logit; and the least
# spread of a normal, in steps of it. The product of the two has then a spread s of 0.86 steps, and
# the trapezoidal rule is wrong by 2 exp(-2 pi^2 s^2): a millionth.
FINENESS = 0.35
NARROWEST = 0.9
COARSEST = 0.15
# Beyond, a logit says no more than that all volunteers agree: to a millionth, for n of them.
FAR = 14.0


def narrowest(n: int) -> float:
    """The least spread that `normal_mixture` can treat, for n volunteers."""
    return NARROWEST * _step(n)


def normal_mixture(
    mean_N: Array,
    spread_N: Array,
    n: int,
    overdispersion: float,
    places: NDArray[np.int64],
    p_NK: Array,
    information_N: Array,
) -> None:
    """The posterior of k, and the mutual information, for normally distributed logits.

    Of some galaxies of many: at theirs of the N places the results are written.

    Parameters
    ----------
    mean_N, spread_N : ndarray, shape (N,)
        Mean and standard deviation of each galaxy's logit.
    n : int
        Volunteers.
    overdispersion : float
        See `information.log_votes`.
    places : ndarray of int
        Whose; none of them narrower than `narrowest`.
    p_NK : ndarray, shape (N, n + 1)
        Becomes the posterior predictive distribution of k.
    information_N : ndarray, shape (N,)
        Becomes the mutual information, in nats; see `information.mixture`.

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
    mass_RG = np.empty((min(ROWS, len(places)), len(grid_G)), np.float32)

    def fill(first: int) -> None:
        some, at = places[first : first + PIECE], first % ROWS
        _mass(mean_N[some], spread_N[some], grid_G, mass_RG[at : at + len(some)])

    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(places), ROWS):
            some = places[start : start + ROWS]
            list(pool.map(fill, range(start, start + len(some), PIECE)))
            # By all threads of the library together: several products at once get in each other's
            # way.
            told = mass_RG[: len(some)] @ table
            # The rule is exact but at the ends, where all that it can miss is how much mass there
            # is.
            told /= told[:, :-1].sum(axis=1, keepdims=True)
            p_NK[some] = told[:, :-1]
            whole = np.log(np.maximum(told[:, :-1], 1e-30))
            whole *= told[:, :-1]
            information_N[some] = np.maximum(-whole.sum(axis=1) - told[:, -1], 0.0)


def _step(n: int) -> float:
    return float(min(FINENESS * 2 / np.sqrt(n), COARSEST))


def _grid(n: int) -> Array:
    far = FAR + np.log(n)
    count = int(np.ceil(2 * far / _step(n))) + 1
    return (np.arange(count) - (count - 1) / 2) * _step(n)


def _mass(mean_N: Array, spread_N: Array, grid_G: Array, out_NG: NDArray[np.float32]) -> None:
    """What each galaxy puts on each point, up to a factor; the ends take all that lies beyond."""
    step = grid_G[1] - grid_G[0]
    narrow_N = 1 / spread_N
    np.subtract(grid_G.astype(np.float32), mean_N.astype(np.float32)[:, None], out=out_NG)
    out_NG *= narrow_N.astype(np.float32)[:, None]
    np.square(out_NG, out=out_NG)
    out_NG *= np.float32(-0.5)
    np.exp(out_NG, out=out_NG)
    unit_N = step * narrow_N / np.sqrt(2 * np.pi)
    out_NG[:, 0] = ndtr((grid_G[0] + step / 2 - mean_N) * narrow_N) / unit_N
    out_NG[:, -1] = ndtr(-(grid_G[-1] - step / 2 - mean_N) * narrow_N) / unit_N
