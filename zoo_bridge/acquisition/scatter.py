"""How votes scatter about a logit: binomial, or wider, at every point of a grid.

Overdispersions are taken from a lattice, so that each is computed once; what is said of one between
them is Lagrange's cubic through the four about it.

Names carry shapes: N galaxies, G grid points, K = n + 1 counts, E overdispersions.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, log_expit, xlogy

from zoo_bridge.acquisition.grid import Grid, shares_about
from zoo_bridge.acquisition.information import rising
from zoo_bridge.acquisition.waves import Waves

Array = NDArray[np.floating[Any]]
Counts = NDArray[np.integer[Any]]
# The lattice's step in the logarithm, and its least overdispersion: less is a binomial to votes.
RATIO = 0.35
LEAST = 1e-5
KEPT_BYTES = 2**28


@dataclass(frozen=True)
class Scatter:
    """Votes about each point of a grid.

    Parameters
    ----------
    grid : Grid
        Its ``most`` is how many votes can be asked about.
    overdispersion : float
        e = 1 / (alpha + beta); 0 is the binomial. See `information.log_votes`.
    """

    grid: Grid
    overdispersion: float

    @cached_property
    def _rising(self) -> Array:
        """Sum of log(rho + i e), i < k, for k = 0 to ``most``: shape (most + 1, G)."""
        e, most = self.overdispersion, self.grid.most
        first_G = log_expit(self.grid.points)
        if e <= 0:
            exact: Array = np.arange(most + 1.0)[:, None] * first_G
            return exact
        rest = np.log(self.grid.rho[:, None] + e * np.arange(1, max(most, 1)))
        sums_GK = rising(first_G[:, None], rest)[:, : most + 1]
        return np.ascontiguousarray(sums_GK.T)

    @cached_property
    def _whole(self) -> Array:
        """Sum of log(1 + i e), i < n, for n = 0 to ``most``."""
        steps = np.log1p(self.overdispersion * np.arange(self.grid.most))
        return np.concatenate([[0.0], np.cumsum(steps)])

    def votes(self, n: int) -> NDArray[np.float32]:
        """p(k of n | logit), and in the last column its entropy in nats: shape (G, n + 2).

        Parameters
        ----------
        n : int
            Votes, no more than the grid is for.

        Returns
        -------
        ndarray of float32
        """
        k = np.arange(n + 1)
        choose_K = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1) - self._whole[n]
        # 1 - rho stands at the point on the other side of 0.
        p_KG = np.exp(self._rising[k] + self._rising[n - k, ::-1] + choose_K[:, None])
        entropy_G = -xlogy(p_KG, p_KG).sum(axis=0)
        return np.column_stack([p_KG.T, entropy_G]).astype(np.float32)

    def log_p(self, mass_NG: Array, k_N: Counts, n_N: Counts) -> Array:
        """The log-probability of counts: shape (N,), nats.

        In double precision, for counts that are next to impossible, too: there the shares of a
        point about it, of both signs, would tell nothing, and the positive ones alone tell it to
        three hundredths of it.

        Parameters
        ----------
        mass_NG : ndarray, shape (N, G)
            On the grid.
        k_N, n_N : ndarray of int, shape (N,)
            Votes for the answer, and votes in all, of each galaxy.

        Returns
        -------
        ndarray, shape (N,)
        """
        choose_N = gammaln(n_N + 1) - gammaln(k_N + 1) - gammaln(n_N - k_N + 1) - self._whole[n_N]
        like_NG = self._rising[k_N] + self._rising[n_N - k_N, ::-1]
        like_NG += choose_N[:, None]
        like_NG[mass_NG == 0] = -np.inf
        top_N = np.where(mass_NG > 0, like_NG, -np.inf).max(axis=1)
        np.exp(like_NG - top_N[:, None], out=like_NG)
        positive_NG = np.maximum(mass_NG, 0, dtype=np.float64)
        positive_N = np.einsum("ng,ng->n", like_NG, positive_NG) / positive_NG.sum(axis=1)
        p_N = np.einsum("ng,ng->n", like_NG, mass_NG, dtype=np.float64)
        log_p: Array = top_N + np.log(np.where(p_N > 0.3 * positive_N, p_N, positive_N))
        return log_p


class _Kept:
    """The tables used last, up to so many bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most, self._bytes, self._lock = most_bytes, 0, Lock()
        self._tables: OrderedDict[tuple[Any, ...], tuple[Any, int]] = OrderedDict()

    def get(self, key: tuple[Any, ...], make: Callable[[], Any], size: int) -> Any:
        """What is kept under a key, or is made now, and then takes so many bytes."""
        with self._lock:
            if key in self._tables:
                self._tables.move_to_end(key)
                return self._tables[key][0]
        made = make()
        with self._lock:
            if key not in self._tables:
                self._tables[key] = made, size
                self._bytes += size
            while self._bytes > self._most and len(self._tables) > 1:
                _, (_, freed) = self._tables.popitem(last=False)
                self._bytes -= freed
        return made


_KEPT = _Kept(KEPT_BYTES)


def kept(grid: Grid, overdispersion: float) -> Scatter:
    """A `Scatter`, kept for the next time."""
    size = 8 * (grid.most + 1) * len(grid.points)
    made: Scatter = _KEPT.get(
        (grid.most, overdispersion), lambda: Scatter(grid, overdispersion), size
    )
    return made


def votes(grid: Grid | Waves, overdispersion: float, n: int) -> NDArray[np.float32]:
    """`Scatter.votes`, kept likewise; of waves, their amplitudes in it, shape (2 W, n + 2)."""
    if isinstance(grid, Waves):
        waves, size = grid, 8 * (n + 2) * grid.count
        found: NDArray[np.float32] = _KEPT.get(
            ("waves", waves.most, overdispersion, n),
            lambda: waves.amplitudes(votes(waves.grid, overdispersion, n)),
            size,
        )
        return found
    size = 4 * (n + 2) * len(grid.points)
    made: NDArray[np.float32] = _KEPT.get(
        (grid.most, overdispersion, n), lambda: kept(grid, overdispersion).votes(n), size
    )
    return made


def lattice(low: float, high: float) -> NDArray[np.int64]:
    """The places on the lattice that are needed for overdispersions from low to high."""
    first = int(np.floor(np.log(max(low, LEAST)) / RATIO)) - 1
    last = int(np.floor(np.log(max(high, LEAST)) / RATIO)) + 2
    return np.arange(first, last + 1)


def at_lattice(place: int) -> float:
    """The overdispersion at a place."""
    return float(np.exp(RATIO * place))


def between(overdispersion_N: Array, places_E: NDArray[np.int64]) -> Array:
    """What each place counts for each overdispersion: shape (N, E), rows sum to one.

    Parameters
    ----------
    overdispersion_N : ndarray, shape (N,)
        Between the second and the last but one of the places.
    places_E : ndarray of int
        Places of the lattice, as `lattice` gives them.

    Returns
    -------
    ndarray, shape (N, E)
        Four entries of a row are not zero.
    """
    at_N = np.log(np.maximum(overdispersion_N, LEAST)) / RATIO
    left_N = np.clip(np.floor(at_N).astype(np.int64), places_E[1], places_E[-3])
    x_N = at_N - left_N
    share_NE = np.zeros((len(at_N), len(places_E)))
    about = np.arange(-1, 3)
    for each, share_N in zip(about, shares_about(x_N, about), strict=True):
        share_NE[np.arange(len(at_N)), left_N + each - places_E[0]] = share_N
    return share_NE
