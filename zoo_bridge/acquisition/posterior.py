"""The posterior over networks: what all of them together say volunteers would answer.

A network with dropout is many networks: each mask m of its features h gives the logit
z = b + sum_i w_i h_i m_i / (1 - p). The sum of the many small terms is treated as normal; the few
largest are enumerated, each kept or dropped, so that a head that leans on a handful of features is
treated as well as one that spreads over all. Masks drawn from a seed are the other way: the same
masks for every galaxy, so that sample t is one network.

Names carry shapes: N galaxies, D features, C combinations of the largest terms, T masks, J nodes.

References
----------
Gal & Ghahramani 2016, arXiv:1506.02142. The trapezoidal rule: Trefethen & Weideman 2014,
SIAM Review 56, 385.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo_bridge.acquisition import grid, information

Array = NDArray[np.floating[Any]]
Counts = NDArray[np.integer[Any]]

NODES = 64
MOST_NODES = 4096
REACH = 6.0
# Enough for the networks of this package: see tests/benchmarks/bench_model.py.
ENUMERATED = 5
MOST_UNBINNED = 128
BINS = 256
FEWEST_ON_GRID = 1000
MOST_ON_GRID = 500


@dataclass(frozen=True)
class Calibration:
    """How far votes fall from what the networks say, as learned on galaxies that were kept aside.

    It widens error bars and leaves the information alone: see `calibration`.

    Parameters
    ----------
    sure, unsure : float
        Overdispersion 1 / (alpha + beta) of the votes about a prediction of 0 or 1, and of 0.5;
        between them its logarithm goes with 4 rho (1 - rho).
    surprise : float
        The share of galaxies that the networks know nothing of: any count is as likely.
    """

    sure: float
    unsure: float
    surprise: float = 0.0

    def overdispersion(self, mean_N: Array) -> Array:
        """Of each galaxy, by its expected fraction: shape (N,)."""
        doubt_N = 4 * mean_N * (1 - mean_N)
        return np.exp(np.log(self.sure) + doubt_N * np.log(self.unsure / self.sure))


@dataclass(frozen=True)
class Logit:
    """One answer's logit under all dropout masks of a network.

    Parameters
    ----------
    mean_N, spread_N : ndarray, shape (N,)
        Of the part that is treated as normal.
    offset_NC : ndarray, shape (N, C)
        What the combinations of the largest terms add.
    share_C : ndarray, shape (C,)
        How likely each combination is.
    """

    mean_N: Array
    spread_N: Array
    offset_NC: Array
    share_C: Array

    @cached_property
    def total_N(self) -> Array:
        """Standard deviation of the logit, all terms together."""
        total: Array = np.sqrt(self.spread_N**2 + self.offset_NC**2 @ self.share_C)
        return total

    def at(self, places: Any) -> Logit:
        """The same of some galaxies."""
        return Logit(
            self.mean_N[places], self.spread_N[places], self.offset_NC[places], self.share_C
        )

    def nodes(self, count: int) -> tuple[Array, Array]:
        """Quadrature nodes over six standard deviations to either side, and their weights.

        The trapezoidal rule: on such smooth, quickly falling integrands it beats Gauss-Hermite,
        whose nodes lie too far apart for the narrow binomials of many votes.

        Parameters
        ----------
        count : int
            J.

        Returns
        -------
        logit_NJ, weight_NJ : ndarray, shape (N, J)
        """
        x_J = np.linspace(-REACH, REACH, count)
        logit_NJ = self.mean_N[:, None] + self.total_N[:, None] * x_J
        if len(self.share_C) == 1:
            weight_NJ = np.broadcast_to(np.exp(-(x_J**2) / 2), logit_NJ.shape)
        else:
            # In units of the whole spread. What is left of it must be seen by the nodes.
            unit_N = np.where(self.total_N > 0, self.total_N, 1.0)
            rest_N = np.maximum(self.spread_N / unit_N, 0.85 * (x_J[1] - x_J[0]))
            weight_NJ, part_NJ = np.zeros_like(logit_NJ), np.empty_like(logit_NJ)
            for offset_N, share in zip(self.offset_NC.T, self.share_C, strict=True):
                # In place: fresh memory would cost more than the exponentials.
                np.subtract(x_J, (offset_N / unit_N)[:, None], out=part_NJ)
                part_NJ /= rest_N[:, None]
                np.square(part_NJ, out=part_NJ)
                part_NJ *= -0.5
                np.exp(part_NJ, out=part_NJ)
                part_NJ *= share
                weight_NJ += part_NJ
        return logit_NJ, weight_NJ / weight_NJ.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class Masks:
    """One answer's logit under sampled masks: shape (N, T), column t the same network for all."""

    logit_NT: Array

    @cached_property
    def total_N(self) -> Array:
        """Standard deviation of the logit over masks."""
        return self.logit_NT.std(axis=1)

    def at(self, places: Any) -> Masks:
        """The same of some galaxies."""
        return Masks(self.logit_NT[places])

    def nodes(self, count: int) -> tuple[Array, Array]:
        """The samples themselves, or where they are many their histogram (each shared by two bins).

        Parameters
        ----------
        count : int
            At least so many bins.

        Returns
        -------
        logit_NJ, weight_NJ : ndarray, shape (N, J)
        """
        galaxies, networks = self.logit_NT.shape
        if networks <= MOST_UNBINNED:
            return self.logit_NT, np.full(self.logit_NT.shape, 1 / networks)
        bins = max(BINS, count)
        low, high = self.logit_NT.min(axis=1), self.logit_NT.max(axis=1)
        logit_NJ = np.linspace(low, high, bins, axis=1)
        step = np.where(high > low, (high - low) / (bins - 1), 1.0)
        place = (self.logit_NT - low[:, None]) / step[:, None]
        left = np.minimum(place.astype(np.int64), bins - 2)
        right_share = place - left
        row = np.arange(galaxies)[:, None] * bins
        weight = np.bincount((row + left).ravel(), (1 - right_share).ravel(), galaxies * bins)
        weight += np.bincount((row + left + 1).ravel(), right_share.ravel(), galaxies * bins)
        return logit_NJ, weight.reshape(galaxies, bins) / networks


@dataclass(frozen=True)
class Posterior:
    """What networks say of one answer of one question, for N galaxies.

    Parameters
    ----------
    networks : sequence of Logit or Masks
        One for each network of an ensemble; all count the same.
    overdispersion : float
        With which the networks were trained: 1 / (alpha + beta), 0 if by a binomial likelihood.
    calibration : Calibration, optional
        For error bars. Without one they are the networks' own.
    """

    networks: Sequence[Logit | Masks]
    overdispersion: float = 0.0
    calibration: Calibration | None = None

    def __len__(self) -> int:
        return len(self.networks[0].total_N)

    def at(self, places: Any) -> Posterior:
        """The same of some galaxies."""
        return replace(self, networks=[each.at(places) for each in self.networks])

    def calibrated(self, calibration: Calibration | None) -> Posterior:
        """The same networks with another calibration."""
        return replace(self, calibration=calibration)

    def information(self, n: int) -> Array:
        """The mutual information (BALD) between n votes and the networks: shape (N,), in nats."""
        return self._networks_say(n)[1]

    def counts(self, n: int) -> Array:
        """p(k of n volunteers give the answer), calibrated: shape (N, n + 1)."""
        p_NK = np.empty((len(self), n + 1))
        for places, nodes in self._node_groups(n):
            p_NK[places] = information.predictive(*nodes, n, self._scatter(places))
        return self._surprised(p_NK)

    def both(self, n: int) -> tuple[Array, Array]:
        """`counts` and `information`, for less than the two of them alone."""
        if self.calibration is None:
            return self._networks_say(n)
        p_NK, information_N = np.empty((len(self), n + 1)), np.empty(len(self))
        for places, nodes in self._node_groups(n):
            information_N[places] = information.mutual_information(*nodes, n, self.overdispersion)
            p_NK[places] = information.predictive(*nodes, n, self._scatter(places))
        return self._surprised(p_NK), information_N

    def _networks_say(self, n: int) -> tuple[Array, Array]:
        """Counts and information without calibration."""
        p_NK, information_N = np.empty((len(self), n + 1)), np.empty(len(self))
        wide = self._wide(n)
        one, places = self.networks[0], np.flatnonzero(wide)
        if isinstance(one, Logit) and len(places):
            out = places, p_NK, information_N
            grid.normal_mixture(one.mean_N, one.spread_N, n, self.overdispersion, *out)
        rest = np.flatnonzero(~wide)
        some = self.at(rest)
        for places, nodes in some._node_groups(n):
            told = information.mixture(*nodes, n, self.overdispersion)
            p_NK[rest[places]], information_N[rest[places]] = told
        return p_NK, information_N

    def _wide(self, n: int) -> NDArray[np.bool_]:
        """Galaxies that `grid.normal_mixture` can treat: one network, one normal, not too narrow.

        The rest of them, and few galaxies, are not worth a grid.
        """
        one = self.networks[0]
        plain = len(self.networks) == 1 and isinstance(one, Logit) and len(one.share_C) == 1
        if not plain or len(self) < FEWEST_ON_GRID or n > MOST_ON_GRID:
            return np.zeros(len(self), dtype=bool)
        return one.total_N >= grid.narrowest(n)

    def _scatter(self, places: Any) -> float | Array:
        if self.calibration is None:
            return self.overdispersion
        return self.calibration.overdispersion(self._networks_mean[places])

    def _surprised(self, p_NK: Array) -> Array:
        if self.calibration is None:
            return p_NK
        surprise = self.calibration.surprise
        return (1 - surprise) * p_NK + surprise / p_NK.shape[1]

    @cached_property
    def mean(self) -> Array:
        """The expected share of volunteers who give the answer, calibrated: shape (N,)."""
        surprise = self.calibration.surprise if self.calibration else 0.0
        return (1 - surprise) * self._networks_mean + surprise / 2

    @cached_property
    def _networks_mean(self) -> Array:
        out = np.empty(len(self))
        for places, nodes in self._node_groups(1):
            out[places] = information.mean_fraction(*nodes)
        return out

    def nodes(self, count: int = NODES) -> tuple[Array, Array]:
        """Logits and weights of all networks together: shape (N, J)."""
        parts = [each.nodes(count) for each in self.networks]
        logit_NJ = np.concatenate([logit for logit, _ in parts], axis=1)
        weight_NJ = np.concatenate([weight for _, weight in parts], axis=1) / len(parts)
        return logit_NJ, weight_NJ

    def forecast(self, k: Counts, n: Counts, levels: Sequence[int]) -> Forecast:
        """What was said of votes that came.

        Parameters
        ----------
        k, n : ndarray of int, shape (N,)
            The votes.
        levels : sequence of int
            Sizes of credible intervals, per cent.

        Returns
        -------
        Forecast
        """
        log_p, mode_error = np.empty(len(k)), np.empty(len(k), np.int64)
        inside: dict[int, Array] = {level: np.empty(len(k)) for level in levels}
        near_NW = np.empty((len(k), len(WITHIN)))
        for votes in np.unique(n):
            at = np.flatnonzero(n == votes)
            p_NK = self.at(at).counts(int(votes))
            log_p[at] = np.log(np.maximum(p_NK[np.arange(len(at)), k[at]], 1e-300))
            for level in levels:
                inside[level][at] = information.inside(p_NK, k[at], level / 100)
            mode = p_NK.argmax(axis=1)
            mode_error[at] = np.abs(k[at] - mode)
            distance_NK = np.abs(np.arange(votes + 1) - mode[:, None])
            for place, within in enumerate(WITHIN):
                near_NW[at, place] = np.sum(p_NK * (distance_NK <= within), axis=1)
        return Forecast(log_p, self.mean, inside, mode_error, near_NW)

    def _node_groups(self, n: int) -> Iterator[tuple[NDArray[np.int64], tuple[Array, Array]]]:
        """Galaxies, and their nodes for n votes."""
        for places, count in self._groups(n):
            yield places, (self.at(places) if len(places) < len(self) else self).nodes(count)

    def _groups(self, n: int) -> list[tuple[NDArray[np.int64], int]]:
        """Galaxies by the number of nodes that they need: each galaxy's depends on it alone.

        Nodes must lie closer than the likelihood of n votes is wide, 2 / sqrt(n) in the logit.
        """
        widest_N = np.max([each.total_N for each in self.networks], axis=0)
        needed_N = 5 * widest_N * np.sqrt(n)
        doublings_N = np.ceil(np.log2(np.maximum(needed_N / NODES, 1))).astype(int)
        return [
            (np.flatnonzero(doublings_N == each), min(NODES * 2**each, MOST_NODES))
            for each in np.unique(doublings_N).tolist()
        ]


# The paper's "within d votes" coverage.
WITHIN = (0, 1, 2, 3, 5, 8, 12)


@dataclass(frozen=True)
class Forecast:
    """What a posterior said of N galaxies whose votes are known, one question.

    Parameters
    ----------
    log_p : ndarray, shape (N,)
        Log-probability of the votes that came, nats.
    mean : ndarray, shape (N,)
        Expected fraction.
    inside : dict
        By level in per cent: how much of the observed count lies in the central interval, (N,).
    mode_error : ndarray of int, shape (N,)
        Votes between the most likely count and the observed one.
    near_NW : ndarray, shape (N, W)
        Predicted probability that they differ by no more than each of `WITHIN`.
    """

    log_p: Array
    mean: Array
    inside: dict[int, Array]
    mode_error: NDArray[np.int64]
    near_NW: Array


def normal(mean_N: Array, spread_N: Array | float) -> Logit:
    """A normally distributed logit.

    Parameters
    ----------
    mean_N : ndarray, shape (N,)
        Its mean.
    spread_N : ndarray, shape (N,), or float
        Its standard deviation; 0 for one network.

    Returns
    -------
    Logit
    """
    mean = np.asarray(mean_N, dtype=np.float64)
    spread = np.broadcast_to(np.asarray(spread_N, dtype=np.float64), mean.shape)
    return Logit(mean, spread, np.zeros((len(mean), 1)), np.ones(1))


def dropped(mean_N: Array, term_ND: Array, rate: float, enumerated: int = ENUMERATED) -> Logit:
    """The logit of a linear layer behind dropout.

    Parameters
    ----------
    mean_N : ndarray, shape (N,)
        The logit without dropout.
    term_ND : ndarray, shape (N, D)
        What each feature adds to it, w_i h_i.
    rate : float
        p, the share of features that is dropped.
    enumerated : int
        So many of each galaxy's largest terms are not treated as normal; 0 leaves a normal logit.

    Returns
    -------
    Logit
    """
    square_ND = np.asarray(term_ND, dtype=np.float64) ** 2
    odds = rate / (1 - rate)
    enumerated = min(enumerated, square_ND.shape[1])
    if not enumerated:
        return normal(mean_N, np.sqrt(odds * square_ND.sum(axis=1)))
    largest = np.argpartition(-square_ND, enumerated - 1, axis=1)[:, :enumerated]
    rows = np.arange(len(square_ND))[:, None]
    term_NE = np.asarray(term_ND, dtype=np.float64)[rows, largest]
    square_ND[rows, largest] = 0.0
    kept_CE = np.array(list(product([0, 1], repeat=enumerated)))
    share_C = np.prod(np.where(kept_CE, 1 - rate, rate), axis=1)
    offset_NC = term_NE @ np.where(kept_CE, odds, -1.0).T
    spread_N = np.sqrt(odds * square_ND.sum(axis=1))
    return Logit(np.asarray(mean_N, dtype=np.float64), spread_N, offset_NC, share_C)
