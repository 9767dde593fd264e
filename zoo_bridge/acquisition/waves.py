"""Sums of many dropped terms, by their characteristic function: for millions of galaxies.

p(k | z) is a smooth function of the logit z: the likelihood of n votes is 2 / sqrt(n) wide. So it
is a sum of few waves, ``p(k | z) = sum_m c_km exp(i m w z)``, and its mean over all masks is
``sum_m c_km E[exp(i m w z)]``. A logit behind dropout is a sum of independent terms, whose
characteristic function is a product: each of the largest terms is enumerated by one factor, and all
the small ones together enter by their first cumulants. Nothing is laid on a grid, and a term more
costs one factor more, not twice as much.

Names carry shapes: N galaxies, D features, E enumerated terms, W waves.

References
----------
Lukacs 1970, Characteristic Functions, 2nd edition. Hoeffding 1963, J. Am. Stat. Assoc. 58, 13 (how
far a sum of bounded terms goes).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import next_fast_len, rfft
from scipy.special import ndtr

from zoo_bridge.acquisition.grid import Grid

Array = NDArray[np.floating[Any]]
ENUMERATED = 10
# Beyond the grid, where nobody's logits are, functions of the logit lead back to where they began:
# over so many units, as an integrated normal of so many standard deviations to either side.
BRIDGE, BRIDGE_SIGMAS = 9.0, 5.6
# Waves shorter than this share of the likelihood's width have amplitudes of less than a millionth.
SHORTEST = 6.2
# What of a logit may lie beyond the grid.
LOST = 1e-7


@dataclass(frozen=True)
class Terms:
    """Logits behind dropout, for N galaxies.

    Parameters
    ----------
    mean : ndarray, shape (N,)
        The logit without dropout.
    largest : ndarray, shape (N, E)
        Its largest terms, which are enumerated.
    squares : ndarray, shape (N,)
        The sum of the squares of all terms.
    powers : tuple of ndarray, shape (N,)
        Sums of the second, third and fourth powers of all terms but the largest.
    rate : float
        p, the share of features that is dropped.
    """

    mean: Array
    largest: Array
    squares: Array
    powers: tuple[Array, Array, Array]
    rate: float

    @classmethod
    def of(cls, mean_N: Array, term_ND: Array, rate: float) -> Terms:
        """Of all terms, shape (N, D)."""
        term_ND = np.array(term_ND, dtype=np.float64)
        few = min(ENUMERATED, term_ND.shape[1])
        at_NE = np.argpartition(-np.abs(term_ND).astype(np.float32), few - 1, axis=1)[:, :few]
        largest_NE = np.take_along_axis(term_ND, at_NE, axis=1)
        np.put_along_axis(term_ND, at_NE, 0.0, axis=1)
        square_ND = np.square(term_ND)
        second_N = square_ND.sum(axis=1)
        third_N = (square_ND * term_ND).sum(axis=1)
        fourth_N = np.square(square_ND, out=square_ND).sum(axis=1)
        squares_N = second_N + np.square(largest_NE).sum(axis=1)
        return cls(mean_N, largest_NE, squares_N, (second_N, third_N, fourth_N), rate)

    @property
    def cumulants(self) -> tuple[Array, Array, Array]:
        """The second, third and fourth of the sum of all terms but the largest."""
        p, odds = self.rate, self.rate / (1 - self.rate)
        second, third, fourth = self.powers
        return (
            odds * second,
            -odds * (1 - odds) * third,
            odds * (1 + odds) ** 2 * (1 - 6 * p * (1 - p)) * fourth,
        )


@dataclass(frozen=True)
class Waves:
    """Waves that make up every function of the logit that so many votes ask for.

    Parameters
    ----------
    most : int
        Votes.
    """

    most: int

    @cached_property
    def grid(self) -> Grid:
        """Where such functions are computed."""
        return Grid(self.most)

    @cached_property
    def points(self) -> Array:
        """Of the grid."""
        return self.grid.points

    @cached_property
    def _length(self) -> int:
        """Points of one period: the grid, and the way back."""
        return int(next_fast_len(len(self.points) + int(np.ceil(BRIDGE / self.grid.step)), True))

    @property
    def frequency(self) -> float:
        """w, of the longest wave."""
        return float(2 * np.pi / (self._length * self.grid.step))

    @cached_property
    def count(self) -> int:
        """W, the constant among them."""
        width = min(2 / np.sqrt(max(self.most, 1)), 0.6)
        wanted = int(np.ceil(SHORTEST / width / self.frequency)) + 1
        return min(wanted, self._length // 2)

    def amplitudes(self, values_GK: Array) -> NDArray[np.float32]:
        """Of functions of the logit, at the grid's points: shape (2 W, K).

        What `sums` gives, times these, are the functions' means.
        """
        missing = self._length - len(values_GK)
        at = (np.arange(1, missing + 1) / (missing + 1) - 0.5) * 2 * BRIDGE_SIGMAS
        back_B = ndtr(at)[:, None]
        bridge_BK = (1 - back_B) * values_GK[-1] + back_B * values_GK[0]
        c_WK = rfft(np.concatenate([values_GK, bridge_BK]).astype(np.float64), axis=0)
        c_WK = c_WK[: self.count] / self._length
        # The first point is not at 0.
        turn_W = np.arange(self.count) * self.frequency * self.points[0]
        c_WK *= np.exp(-1j * turn_W)[:, None]
        c_WK[1:] *= 2
        return np.concatenate([c_WK.real, -c_WK.imag]).astype(np.float32)

    @cached_property
    def rho(self) -> NDArray[np.float32]:
        """The amplitudes of the chance that one volunteer gives the answer: shape (2 W,)."""
        rho: NDArray[np.float32] = self.amplitudes(self.grid.rho[:, None])[:, 0]
        return rho

    def hold(self, terms: Terms) -> NDArray[np.bool_]:
        """Whose logits lie on the grid: shape (N,)."""
        # Each term has two values, which lie t / (1 - p) apart.
        range_N = np.sqrt(terms.squares) / (1 - terms.rate)
        farthest_N = np.sqrt(-np.log(LOST) / 2) * range_N
        held_N: NDArray[np.bool_] = np.abs(terms.mean) + farthest_N < self.points[-1]
        return held_N

    def sums(self, terms: Terms) -> NDArray[np.float32]:
        """E[cos(m w z)] and E[sin(m w z)] of logits behind dropout: shape (N, 2 W)."""
        rate, mean_N, term_NE = terms.rate, terms.mean, terms.largest
        second, third, fourth = terms.cumulants
        odds = rate / (1 - rate)
        # Kept, a term adds odds times itself; dropped, it takes itself away. About their middle:
        middle_N = mean_N + (odds - 1) / 2 * term_NE.sum(axis=1)
        half_NE = (odds + 1) / 2 * term_NE
        w_W = np.arange(self.count) * self.frequency
        out_NW = np.empty((len(mean_N), 2 * self.count), np.float32)
        real_NW, imaginary_NW = out_NW[:, : self.count], out_NW[:, self.count :]
        turning = _Turning(len(mean_N), self.count, self.frequency / (2 * np.pi))
        angle_NW = turning.angles(middle_N)
        if rate != 0.5:
            angle_NW -= np.multiply.outer(third, w_W**3 / 6).astype(np.float32)
        np.cos(angle_NW, out=real_NW)
        np.sin(angle_NW, out=imaginary_NW)
        size_NW = np.multiply.outer(second, -(w_W**2) / 2)
        # It may be above 0, which holds for long waves alone.
        size_NW += np.multiply.outer(np.minimum(fourth, 0), w_W**4 / 24)
        size_NW = np.exp(size_NW, dtype=np.float32, casting="same_kind")
        # In place: fresh memory would cost more than the cosines.
        for half_N in half_NE.T:
            angle_NW = turning.angles(half_N)
            if rate == 0.5:
                size_NW *= np.cos(angle_NW, out=angle_NW)
                continue
            cos_NW = np.cos(angle_NW)
            sin_NW = np.sin(angle_NW, out=angle_NW)
            sin_NW *= np.float32(1 - 2 * rate)
            turned_NW = real_NW * cos_NW - imaginary_NW * sin_NW
            imaginary_NW *= cos_NW
            imaginary_NW += real_NW * sin_NW
            real_NW[:] = turned_NW
        real_NW *= size_NW
        imaginary_NW *= size_NW
        return out_NW


class _Turning:
    """Angles m w z, m = 0 to W - 1, less their whole turns: exact to single precision.

    Parameters
    ----------
    size, count : int
        N and W.
    turns : float
        w in turns.
    """

    def __init__(self, size: int, count: int, turns: float) -> None:
        self.turns = turns
        self.m_W = np.arange(count, dtype=np.float32)
        # So many bits that products with m lose none.
        self.fineness = 2.0 ** (23 - int(np.ceil(np.log2(max(count, 2)))))
        self.angle_NW = np.empty((size, count), np.float32)
        self.spare_NW = np.empty_like(self.angle_NW)

    def angles(self, z_N: Array) -> NDArray[np.float32]:
        """Of a logit or a term: shape (N, W), to be read before the next is asked for."""
        turn_N = z_N * self.turns
        turn_N -= np.rint(turn_N)
        coarse_N = np.rint(turn_N * self.fineness) / self.fineness
        x_NW, spare_NW = self.angle_NW, self.spare_NW
        np.multiply(coarse_N.astype(np.float32)[:, None], self.m_W, out=x_NW)
        x_NW -= np.rint(x_NW, out=spare_NW)
        np.multiply((turn_N - coarse_N).astype(np.float32)[:, None], self.m_W, out=spare_NW)
        x_NW += spare_NW
        x_NW *= np.float32(2 * np.pi)
        return x_NW
