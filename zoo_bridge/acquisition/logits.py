"""What networks with dropout say of logits, laid on a grid: by all masks at once, or by some.

A logit that is linear in the features is a sum of independent terms. The few largest are
enumerated, each kept or dropped, and the sum of the many small ones is treated as normal; so a head
that leans on a handful of features is treated as well as one that spreads over all. Answers that
share a softmax are not linear in the features: they are sampled, by balanced masks that are the
same for every galaxy, so that sample t is one network, whose answers add up to one.

Names carry shapes: N galaxies, D features, C combinations of the largest terms, T masks, L logits,
A answers, G grid points.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zoo_bridge.acquisition.grid import Grid, lay_normals, lay_samples
from zoo_bridge.acquisition.threads import in_pieces

Array = NDArray[np.floating[Any]]
# Mass on a grid, shape (P, G), and the expected fraction, shape (P,), of some galaxies.
Laid = tuple[Array, Array]
# How many of a galaxy's largest terms are enumerated: as many as it needs.
ENUMERATED = (5, 8, 10)
# The rest is as good as normal if the first terms of its Edgeworth series, at the width that it has
# for votes, are no more than this share of its density's peak.
NOT_NORMAL = 0.03
# Galaxies whose samples one thread has at once: they fill its cache sooner than normals do.
SAMPLED_AT_ONCE = 32
LANES = 16


class Logits(Protocol):
    """What one network says of the answers of a question, for N galaxies."""

    @property
    def answers(self) -> int:
        """A: of a question with two, one is spoken of, and the other is its opposite."""

    def __len__(self) -> int: ...

    def lay(self, grid: Grid, places: NDArray[np.int64]) -> list[Laid]:
        """The mass and the mean of each answer, for the galaxies at some places."""


@dataclass(frozen=True)
class Normal:
    """One normally distributed logit.

    Parameters
    ----------
    mean_N, spread_N : ndarray, shape (N,)
        Its mean, which may be infinite, and its standard deviation.
    """

    mean_N: Array
    spread_N: Array
    answers: int = 2

    def __len__(self) -> int:
        return len(self.mean_N)

    def lay(self, grid: Grid, places: NDArray[np.int64]) -> list[Laid]:
        """See `Logits`."""

        def some(piece: NDArray[np.int64]) -> Array:
            at = places[piece]
            return lay_normals(grid, self.mean_N[at, None], self.spread_N[at], np.ones(1))

        return [_with_mean(grid, in_pieces(len(places), some))]


@dataclass(frozen=True)
class Dropped:
    """The logit of a linear layer behind dropout, over all its masks.

    Parameters
    ----------
    mean_N : ndarray, shape (N,)
        The logit without dropout.
    term_ND : ndarray, shape (N, D)
        What each feature adds to it, w_i h_i.
    rate : float
        p, the share of features that is dropped.
    """

    mean_N: Array
    term_ND: Array
    rate: float
    answers: int = 2

    def __len__(self) -> int:
        return len(self.mean_N)

    def lay(self, grid: Grid, places: NDArray[np.int64]) -> list[Laid]:
        """See `Logits`."""
        return [_with_mean(grid, in_pieces(len(places), lambda at: self._some(grid, places[at])))]

    def _some(self, grid: Grid, places: NDArray[np.int64]) -> Array:
        term_ND = np.asarray(self.term_ND[places], dtype=np.float64)
        most = min(ENUMERATED[-1], term_ND.shape[1])
        largest = np.argpartition(-np.abs(term_ND), range(most), axis=1)[:, :most]
        rows = np.arange(len(places))[:, None]
        term_NE = term_ND[rows, largest]
        term_ND[rows, largest] = 0.0
        mass_NG = np.empty((len(places), len(grid.points)), np.float32)
        left_N = np.ones(len(places), dtype=bool)
        for count in ENUMERATED:
            rest_ND = np.concatenate([term_NE[:, count:], term_ND], axis=1)
            variance_N = self.rate / (1 - self.rate) * np.square(rest_ND).sum(axis=1)
            fits_N = (count >= most) | (self._not_normal(rest_ND, variance_N, grid) < NOT_NORMAL)
            at = np.flatnonzero(left_N & fits_N)
            if len(at):
                center_NC, share_C = self._combinations(term_NE[at, :count])
                center_NC += self.mean_N[places[at], None]
                mass_NG[at] = lay_normals(grid, center_NC, np.sqrt(variance_N[at]), share_C)
            left_N &= ~fits_N
        return mass_NG

    def _not_normal(self, rest_ND: Array, variance_N: Array, grid: Grid) -> Array:
        """How far from normal a sum of terms is, as votes see it: shape (N,).

        By its third and fourth cumulants: the likelihood of the votes blurs it by 2 / sqrt(n), and
        the Hermite polynomials of both orders are 1.38 and 3 times the density's peak at most.
        Where a rate makes the fourth vanish, as 0.21 does, few terms are not yet normal: it counts
        as what it is at one half.
        """
        odds = self.rate / (1 - self.rate)
        square_ND = np.square(rest_ND)
        fourth = odds * (1 + odds) ** 2 * (1 - 6 * self.rate * (1 - self.rate))
        fourth_N = max(abs(fourth), 2 * odds**2) * np.square(square_ND).sum(axis=1)
        third = odds * (1 + odds) * (1 - 2 * self.rate)
        third_N = np.abs(third * (square_ND * rest_ND).sum(axis=1))
        seen_N = variance_N + 4 / max(grid.most, 1)
        return 1.38 / 6 * third_N / seen_N**1.5 + 3 / 24 * fourth_N / seen_N**2

    def _combinations(self, term_NE: Array) -> tuple[Array, Array]:
        """What each combination of kept terms adds, (N, C), and how likely it is, (C,)."""
        odds = self.rate / (1 - self.rate)
        kept_CE = np.array(list(product([0, 1], repeat=term_NE.shape[1])))
        share_C = np.prod(np.where(kept_CE, 1 - self.rate, self.rate), axis=1)
        return np.einsum("ne,ce->nc", term_NE, np.where(kept_CE, odds, -1.0)), share_C


@dataclass(frozen=True)
class Sampled:
    """Logits of a linear layer under masks.

    Parameters
    ----------
    features_ND : ndarray, shape (N, D)
        Features of each galaxy, before dropout.
    weight_DL : ndarray, shape (D, L)
        Of the layer.
    bias_L : ndarray, shape (L,)
        The last layer's bias, of each of L answers.
    mask_TD : ndarray, shape (T, D)
        Masks of `acquisition.masks`: what each feature is multiplied by, in each of T networks.
    softmax : bool
        Whether the L logits share a softmax, and L is A; or there is one, of the one of two
        answers.
    """

    features_ND: Array
    weight_DL: Array
    bias_L: Array
    mask_TD: NDArray[np.float32]
    softmax: bool

    @property
    def answers(self) -> int:
        """See `Logits`."""
        return len(self.bias_L) if self.softmax else 2

    def __len__(self) -> int:
        return len(self.features_ND)

    def lay(self, grid: Grid, places: NDArray[np.int64]) -> list[Laid]:
        """See `Logits`."""

        def some(piece: NDArray[np.int64]) -> list[Array]:
            z_ATN = self._logits(places[piece])
            logit_ATN = _against_others(z_ATN) if self.softmax else z_ATN
            return [lay_samples(grid, logit_TN)[: len(piece)] for logit_TN in logit_ATN]

        pieces = in_pieces(len(places), some, SAMPLED_AT_ONCE)
        spoken = self.answers if self.softmax else 1
        laid = [_with_mean(grid, [piece[answer] for piece in pieces]) for answer in range(spoken)]
        if not self.softmax:
            return laid
        # The last rounding taken out.
        whole_N = np.sum([mean_N for _, mean_N in laid], axis=0)
        return [(mass_NG, mean_N / whole_N) for mass_NG, mean_N in laid]

    def _logits(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """Of some galaxies, and of as many without features as fill them up: shape (L, T, N).

        Always as many columns: what has another shape is rounded otherwise, and a galaxy's numbers
        are not to depend on its company.
        """
        h_DN = np.zeros((self.features_ND.shape[1], SAMPLED_AT_ONCE), np.float32)
        h_DN[:, : len(places)] = self.features_ND[places].T
        half = len(self.mask_TD) // 2
        mirrored = _mirrored(self.mask_TD)
        z_LTN = np.empty((len(self.bias_L), len(self.mask_TD), SAMPLED_AT_ONCE), np.float32)
        for z_TN, weight_D, bias in zip(z_LTN, self.weight_DL.T, self.bias_L, strict=True):
            term_DN = weight_D.astype(np.float32)[:, None] * h_DN
            if not mirrored:
                _product(self.mask_TD, term_DN, z_TN)
                z_TN += np.float32(bias)
                continue
            # Where one network keeps a feature the other drops it: together they are twice the
            # mean.
            _product(self.mask_TD[:half], term_DN, z_TN[:half])
            z_TN[:half] += np.float32(bias)
            twice_N = 2 * (term_DN.sum(axis=0, dtype=np.float64) + bias)
            np.subtract(twice_N.astype(np.float32), z_TN[:half], out=z_TN[half:])
        return z_LTN


def _product(mask_TD: Array, term_DN: Array, out_TN: Array) -> None:
    """The product of both, a few columns at a time.

    Processors take as many numbers at once, and some round those of the next turn otherwise.
    """
    for first in range(0, term_DN.shape[1], LANES):
        some = slice(first, first + LANES)
        out_TN[:, some] = mask_TD @ np.ascontiguousarray(term_DN[:, some])


def _mirrored(mask_TD: NDArray[np.float32]) -> bool:
    """Whether the second half of the masks drops what the first one keeps, by halves."""
    half = len(mask_TD) // 2
    first, second = mask_TD[:half][:8], mask_TD[half:][:8]
    return len(mask_TD) == 2 * half > 0 and bool(np.all(first + second == 2))


def _against_others(z_ATN: NDArray[np.float32]) -> Array:
    """Of a softmax, whose logits are overwritten: each answer's against all others."""
    top_TN = z_ATN[0].copy()
    for z_TN in z_ATN[1:]:
        np.maximum(top_TN, z_TN, out=top_TN)
    z_ATN -= top_TN
    e_ATN = np.exp(z_ATN, out=z_ATN)
    # Sums of positive numbers over all answers but one: exact even where one rules. Not by cumsum,
    # which takes many times as long along such an axis.
    others_ATN = np.empty_like(e_ATN)
    others_ATN[0] = 0
    for answer in range(1, len(e_ATN)):
        np.add(others_ATN[answer - 1], e_ATN[answer - 1], out=others_ATN[answer])
    after_TN = e_ATN[-1].copy()
    for answer in range(len(e_ATN) - 2, -1, -1):
        others_ATN[answer] += after_TN
        after_TN += e_ATN[answer]
    with np.errstate(divide="ignore", over="ignore"):
        e_ATN /= others_ATN
        return np.log(e_ATN, out=e_ATN)


def _with_mean(grid: Grid, pieces: list[Array]) -> Laid:
    mass_NG = (
        np.concatenate(pieces) if pieces else np.empty((0, len(grid.points)), dtype=np.float32)
    )
    # Not a product, whose rounding would depend on how many galaxies there are.
    mean_N = (mass_NG * grid.rho).sum(axis=1) / mass_NG.sum(axis=1, dtype=np.float64)
    return mass_NG, mean_N


def normal(mean_N: Array, spread_N: Array | float) -> Normal:
    """A normally distributed logit.

    Parameters
    ----------
    mean_N : ndarray, shape (N,)
        Mean of the logit of each galaxy.
    spread_N : ndarray, shape (N,), or float
        Its standard deviation; 0 for one network.

    Returns
    -------
    Normal
    """
    mean = np.asarray(mean_N, dtype=np.float64)
    return Normal(mean, np.broadcast_to(np.asarray(spread_N, dtype=np.float64), mean.shape))
