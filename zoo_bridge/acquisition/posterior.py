"""The posterior over networks: what all of them together say volunteers would answer.

A network with dropout is many networks: each mask m of its features h gives the logit
z = b + sum_i w_i h_i m_i / (1 - p). What they say of an answer's logit is laid on a grid, on which
p(k | z) is a matrix, and everything else follows from it: see `logits` for what is laid, `grid` for
how, `scatter` for the matrix.

Names carry shapes: N galaxies, G grid points, K = n + 1 counts.

References
----------
Gal & Ghahramani 2016, arXiv:1506.02142; Houlsby et al. 2011, arXiv:1112.5745 (BALD).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from zoo_bridge.acquisition import information, scatter
from zoo_bridge.acquisition.grid import Grid
from zoo_bridge.acquisition.logits import Dropped, Logits
from zoo_bridge.acquisition.threads import in_pieces, one_a_product
from zoo_bridge.acquisition.waves import Terms, Waves

Array = NDArray[np.floating[Any]]
Counts = NDArray[np.integer[Any]]
# Galaxies whose mass is multiplied at once.
ROWS = 8192
BLOCK = 64
# Galaxies whose terms one thread has at once.
SUMMED_AT_ONCE = 128


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
        The share of galaxies that the networks know nothing of, the same for all answers of a
        question: any way for volunteers to share the answers out is as likely.
    """

    sure: float
    unsure: float
    surprise: float = 0.0

    def overdispersion(self, mean_N: Array) -> Array:
        """Of each galaxy, by its expected fraction: shape (N,)."""
        doubt_N = 4 * mean_N * (1 - mean_N)
        return np.exp(np.log(self.sure) + doubt_N * np.log(self.unsure / self.sure))


@dataclass(frozen=True)
class Part:
    """Galaxies on one grid: their places among N, and the mass on each point, shape (P, G).

    Or in place of a grid the waves, and in place of the mass their means, shape (P, 2 W).
    """

    places: NDArray[np.int64]
    grid: Grid | Waves
    mass: Array


@dataclass(frozen=True)
class Posterior:
    """What networks say of one answer of one question, for N galaxies.

    Parameters
    ----------
    parts : sequence of Part
        Together they hold every galaxy once.
    mean_N : ndarray, shape (N,)
        The expected share of volunteers who give the answer, as the networks have it.
    overdispersion : float
        With which the networks were trained: 1 / (alpha + beta), 0 if by a binomial likelihood.
    answers : int
        How many the question has.
    calibration : Calibration, optional
        For error bars. Without one they are the networks' own.
    """

    parts: Sequence[Part]
    mean_N: Array
    overdispersion: float = 0.0
    answers: int = 2
    calibration: Calibration | None = None

    @classmethod
    def of(
        cls,
        networks: Sequence[Logits],
        n: int | Counts,
        overdispersion: float = 0.0,
        calibration: Calibration | None = None,
    ) -> Posterior:
        """What networks say of an answer that is the only one they speak of; see `lay`."""
        (only,) = lay(networks, n, overdispersion)
        return replace(only, calibration=calibration)

    def __len__(self) -> int:
        return len(self.mean_N)

    def at(self, places: Any) -> Posterior:
        """The same of some galaxies, in the order of the places."""
        chosen = np.arange(len(self))[places]
        parts = []
        for part in self.parts:
            inside = np.full(len(self), -1)
            inside[part.places] = np.arange(len(part.places))
            here = np.flatnonzero(inside[chosen] >= 0)
            if len(here):
                parts.append(Part(here, part.grid, part.mass[inside[chosen[here]]]))
        return replace(self, parts=parts, mean_N=self.mean_N[chosen])

    def calibrated(self, calibration: Calibration | None) -> Posterior:
        """The same networks with another calibration."""
        return replace(self, calibration=calibration)

    @property
    def mean(self) -> Array:
        """The expected share of volunteers who give the answer, calibrated: shape (N,)."""
        surprise = self.calibration.surprise if self.calibration else 0.0
        mean: Array = (1 - surprise) * self.mean_N + surprise / self.answers
        return mean

    def information(self, n: int) -> Array:
        """The mutual information (BALD) between n votes and the networks: shape (N,), in nats."""
        return self._networks_say(n)[1]

    def counts(self, n: int) -> Array:
        """p(k of n volunteers give the answer), calibrated: shape (N, n + 1)."""
        if self.calibration is None:
            return self._networks_say(n)[0]
        surprise = self.calibration.surprise
        return (1 - surprise) * self._scattered(n) + surprise * flat(n, self.answers)

    def both(self, n: int) -> tuple[Array, Array]:
        """`counts` and `information`."""
        p_NK, information_N = self._networks_say(n)
        return (p_NK if self.calibration is None else self.counts(n)), information_N

    def _networks_say(self, n: int) -> tuple[Array, Array]:
        """Counts and information without calibration."""
        p_NK, information_N = np.empty((len(self), n + 1)), np.empty(len(self))
        for places, grid, mass_PG in self._rows(n):
            told = _product(mass_PG, scatter.votes(grid, self.overdispersion, n))
            p_PK = _distribution(told[:, :-1])
            p_NK[places] = p_PK
            whole_PK = np.log(np.maximum(p_PK, 1e-30))
            whole_PK *= p_PK
            information_N[places] = np.maximum(-whole_PK.sum(axis=1) - told[:, -1], 0)
        # Rounding, of a galaxy that nothing is to be learned of.
        return p_NK, np.minimum(information_N, np.log(n + 1))

    def _scattered(self, n: int) -> Array:
        """Counts by the calibration's overdispersion, which differs from galaxy to galaxy."""
        assert self.calibration is not None
        p_NK = np.empty((len(self), n + 1))
        e_N = self.calibration.overdispersion(self.mean_N)
        for places, grid, mass_PG in self._rows(n):
            e_P = e_N[places]
            levels = scatter.lattice(e_P.min(), e_P.max())
            share_PE = scatter.between(e_P, levels)
            p_PK = np.zeros((len(places), n + 1))
            for level, share_P in zip(levels, share_PE.T, strict=True):
                used = np.flatnonzero(share_P)
                table = scatter.votes(grid, scatter.at_lattice(level), n)[:, :-1]
                p_PK[used] += share_P[used, None] * _product(mass_PG[used], table)
            p_NK[places] = _distribution(p_PK)
        return p_NK

    def _rows(self, n: int) -> list[tuple[NDArray[np.int64], Grid | Waves, Array]]:
        """Galaxies some at a time, with their mass."""
        rows = []
        for part in self.parts:
            if n > part.grid.most:
                raise ValueError(f"this posterior was laid out for {part.grid.most} votes, not {n}")
            for start in range(0, len(part.places), ROWS):
                some = slice(start, start + ROWS)
                rows.append((part.places[some], part.grid, part.mass[some]))
        return rows

    def forecast(self, k: Counts, n: Counts, levels: Sequence[int]) -> Forecast:
        """What was said of votes that came.

        Parameters
        ----------
        k, n : ndarray of int, shape (N,)
            Votes for the answer, and votes in all, of each galaxy.
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
            if self.calibration is not None:
                log_p[at] = np.log(np.maximum(p_NK[np.arange(len(at)), k[at]], 1e-300))
            for level in levels:
                inside[level][at] = information.inside(p_NK, k[at], level / 100)
            mode = p_NK.argmax(axis=1)
            mode_error[at] = np.abs(k[at] - mode)
            distance_NK = np.abs(np.arange(votes + 1) - mode[:, None])
            for place, within in enumerate(WITHIN):
                near_NW[at, place] = np.sum(p_NK * (distance_NK <= within), axis=1)
        if self.calibration is None:
            # What single precision cannot tell: a calibration has its surprise.
            for part in self.parts:
                at = part.places
                assert isinstance(part.grid, Grid)
                like = scatter.kept(part.grid, self.overdispersion)
                log_p[at] = like.log_p(part.mass, k[at], n[at])
        return Forecast(log_p, self.mean, inside, mode_error, near_NW)


def lay(
    networks: Sequence[Logits], n: int | Counts, overdispersion: float = 0.0, many: bool = False
) -> list[Posterior]:
    """Lay out what networks say of every answer that they speak of.

    Parameters
    ----------
    networks : sequence of Logits
        Of an ensemble, in which all count the same, or one; of N galaxies.
    n : int, or ndarray of int, shape (N,)
        Votes that will be asked about: at most.
    overdispersion : float
        Of the votes, as the networks were trained: 1 / (alpha + beta), 0 for binomial votes.
    many : bool
        For millions of galaxies of which one asks `counts` and `information`: where it can be, by
        waves, which differs by some millionths and takes a fraction of the time. `forecast` and
        calibrations ask for the likelihood of votes that are next to impossible, too: only a grid
        tells that.

    Returns
    -------
    list of Posterior
        One an answer, not calibrated.
    """
    one_a_product()
    if many and isinstance(n, int) and all(isinstance(each, Dropped) for each in networks):
        dropped = [each for each in networks if isinstance(each, Dropped)]
        return [_by_waves(dropped, n, overdispersion)]
    size, answers = len(networks[0]), networks[0].answers
    spoken = 1 if answers == 2 else answers
    mean_AN = np.empty((spoken, size))
    parts: list[list[Part]] = [[] for _ in range(spoken)]
    for places, grid in _grids(n, size):
        laid = [network.lay(grid, places) for network in networks]
        for answer in range(spoken):
            masses = [each[answer][0] for each in laid]
            mass = masses[0] if len(masses) == 1 else np.mean(masses, axis=0)
            mean_AN[answer, places] = np.mean([each[answer][1] for each in laid], axis=0)
            parts[answer].append(Part(places, grid, mass))
    return [
        Posterior(part, mean_N, overdispersion, answers)
        for part, mean_N in zip(parts, mean_AN, strict=True)
    ]


def _by_waves(networks: Sequence[Dropped], n: int, overdispersion: float) -> Posterior:
    """By waves all galaxies that they hold, and the others by the grid."""
    waves = waves_of(n)

    def some(places: NDArray[np.int64]) -> tuple[Array, NDArray[np.bool_]]:
        terms = [
            Terms.of(each.mean_N[places], each.term_ND[places], each.rate) for each in networks
        ]
        held_P = np.all([waves.hold(each) for each in terms], axis=0)
        masses = [waves.sums(each) for each in terms]
        return masses[0] if len(masses) == 1 else np.mean(masses, axis=0), held_P

    pieces = in_pieces(len(networks[0]), some, SUMMED_AT_ONCE)
    mass = np.concatenate([np.empty((0, 2 * waves.count), np.float32), *(m for m, _ in pieces)])
    held_N = np.concatenate([np.empty(0, bool), *(held for _, held in pieces)])
    # Not a product, whose rounding would depend on how many galaxies there are.
    mean_N = np.clip((mass * waves.rho).sum(axis=1), 0, 1).astype(np.float64)
    if held_N.all():
        return Posterior([Part(np.arange(len(held_N)), waves, mass)], mean_N, overdispersion)
    places, others = np.flatnonzero(held_N), np.flatnonzero(~held_N)
    (far,) = lay([_some_of(network, others) for network in networks], n, overdispersion)
    mean_N[others] = far.mean_N
    parts = [Part(others[part.places], part.grid, part.mass) for part in far.parts]
    return Posterior([Part(places, waves, mass[places]), *parts], mean_N, overdispersion)


def _some_of(network: Dropped, places: NDArray[np.int64]) -> Dropped:
    """The logits of some galaxies."""
    return replace(network, mean_N=network.mean_N[places], term_ND=network.term_ND[places])


@lru_cache(maxsize=32)
def waves_of(n: int) -> Waves:
    """Of so many votes."""
    return Waves(n)


def _grids(n: int | Counts, size: int) -> list[tuple[NDArray[np.int64], Grid]]:
    """Which galaxies are laid on which grid: one for each power of two of votes."""
    if np.ndim(n) == 0:
        return [(np.arange(size), Grid(int(n)))]
    power_N = 2 ** np.ceil(np.log2(np.maximum(n, 1))).astype(np.int64)
    return [(np.flatnonzero(power_N == most), Grid(int(most))) for most in np.unique(power_N)]


def _product(mass_NG: Array, table_GK: Array) -> NDArray[np.float32]:
    """The product of two matrices, always by so many rows of the first, in double precision.

    A product of another shape is rounded otherwise, on some processors each row of one, too; and a
    galaxy's numbers are not to depend on its company. What is left of that is rounded away.
    """
    out = np.empty((len(mass_NG), table_GK.shape[1]), np.float32)
    some = np.zeros((BLOCK, mass_NG.shape[1]))
    table_GK = table_GK.astype(np.float64)
    for start in range(0, len(mass_NG), BLOCK):
        rows = mass_NG[start : start + BLOCK]
        some[: len(rows)] = rows
        out[start : start + BLOCK] = (some @ table_GK)[: len(rows)]
    return out


def _distribution(p_NK: Array) -> Array:
    """Without the last rounding: nothing below 0, sums of 1."""
    p_NK = np.maximum(p_NK, 0).astype(np.float64)
    p_NK /= p_NK.sum(axis=1, keepdims=True)
    return p_NK


def flat(n: int, answers: int) -> Array:
    """p(k of n volunteers give one of so many answers) if any shares are as likely: shape (n + 1,).

    The margin of a flat Dirichlet distribution: a beta-binomial of 1 and A - 1.
    """
    k = np.arange(n + 1)
    others = answers - 1
    log_p = gammaln(n - k + others) - gammaln(n - k + 1) - gammaln(n + answers) + gammaln(n + 1)
    p_K: Array = np.exp(log_p) * others
    return p_K


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
        Expected share of volunteers who give the answer.
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
