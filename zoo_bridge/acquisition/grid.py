"""Logits laid on a grid, on which p(k | logit) is a matrix.

What networks say of a galaxy's logit, a normal, a mixture of normals or some thousand samples, is
laid on a grid that is the same for all galaxies: the mass on each of its points. All that is asked
about votes is then a product of matrices, whatever the networks were.

Names carry shapes: N galaxies, G grid points, C normals or points of a galaxy, T samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr

from zoo_bridge.acquisition.threads import pieces

Array = NDArray[np.floating[Any]]
# How fine the grid is against the width of the likelihood of n votes, 2 / sqrt(n) in the logit.
FINENESS = 0.175
COARSEST = 0.075
# Normals take every second point, and none of them is narrower than this many such steps. The
# product with the likelihood has then a spread s of 0.86 steps, and the trapezoidal rule is wrong
# by 2 exp(-2 pi^2 s^2): a millionth. (Trefethen & Weideman 2014, SIAM Review 56, 385.)
NARROWEST = 0.9
# Beyond, a logit says no more than that all volunteers agree: to a millionth, for n of them.
FAR = 16.0
# Samples that hardly differ: the first so many lie within so many steps.
RANGE_OF, RANGE_STEPS = 64, 6
# Narrower normals than those become points: Gauss-Hermite nodes and weights.
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(5)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
# A point is shared by the six grid points about it, as Lagrange's polynomial of degree five has it.
_ABOUT = np.arange(-2, 4)


@dataclass(frozen=True)
class Grid:
    """Evenly spaced logits, symmetric about 0, fine enough for so many votes.

    Parameters
    ----------
    most : int
        Votes; for fewer the grid is finer than it need be.
    """

    most: int

    @cached_property
    def step(self) -> float:
        """Between two points."""
        return float(min(FINENESS * 2 / np.sqrt(max(self.most, 1)), COARSEST))

    @cached_property
    def points(self) -> Array:
        """Shape (G,), G odd."""
        half = int(np.ceil((FAR + np.log(max(self.most, 1))) / self.step / 2)) * 2
        points: Array = np.arange(-half, half + 1) * self.step
        return points

    @cached_property
    def rho(self) -> Array:
        """The chance that one volunteer gives the answer, at each point: shape (G,)."""
        rho: Array = expit(self.points)
        return rho

    @property
    def narrowest(self) -> float:
        """The least spread of a normal that is not treated as points."""
        return NARROWEST * 2 * self.step


def shares_about(x: Array, about: NDArray[np.int64]) -> list[Array]:
    """What each of some whole numbers counts for a point between two of them.

    Parameters
    ----------
    x : ndarray
        Points, such as 0.3 for one between 0 and 1.
    about : ndarray of int
        The whole numbers, such as -1, 0, 1 and 2.

    Returns
    -------
    list of ndarray, of the shape of ``x``
        Values of Lagrange's polynomials, one for each number: they sum to 1, and may be negative.
    """
    return [
        np.prod([(x - other) / (each - other) for other in about if other != each], axis=0)
        for each in about
    ]


def lay_points(grid: Grid, point_NC: Array, share_C: Array) -> NDArray[np.float32]:
    """The mass of points, each shared by the grid points about it.

    Parameters
    ----------
    grid : Grid
        The points that the mass is laid on.
    point_NC : ndarray, shape (N, C)
        Logits; may be infinite.
    share_C : ndarray, shape (C,)
        Their weights, which sum to one.

    Returns
    -------
    ndarray, shape (N, G)
        Products with what is smooth on the grid are exact to some millionths; single entries may
        be negative.
    """
    last = len(grid.points) - 1
    place_NC = np.clip((point_NC - grid.points[0]) / grid.step, 0, last)
    left_NC = np.clip(np.floor(place_NC).astype(np.int64), 2, last - 3)
    beyond_NC = place_NC - left_NC
    row = np.arange(len(point_NC))[:, None] * (last + 1)
    size = len(point_NC) * (last + 1)
    mass = np.zeros(size)
    for about, share_NC in zip(_ABOUT, shares_about(beyond_NC, _ABOUT), strict=True):
        share_NC *= share_C
        mass += np.bincount((row + left_NC + about).ravel(), share_NC.ravel(), size)
    return mass.reshape(len(point_NC), -1).astype(np.float32)


def lay_samples(grid: Grid, logit_TN: Array) -> NDArray[np.float32]:
    """The mass of many samples of equal weight.

    Each goes to the grid point next to it. What that widens them by, a uniform distribution of one
    step, is taken out again in the mean. Samples that hardly differ are as good as a normal
    of their mean and spread.

    Parameters
    ----------
    grid : Grid
        The points that the mass is laid on.
    logit_TN : ndarray, shape (T, N)
        Logits; may be infinite.

    Returns
    -------
    ndarray, shape (N, G)
    """
    samples, count = logit_TN.shape
    size = len(grid.points)
    place_TN = logit_TN * (1 / grid.step)
    np.clip(place_TN, -(size // 2), size // 2, out=place_TN)
    np.rint(place_TN, out=place_TN)
    # Of all galaxies in a row; so few whole numbers are exact in single precision.
    place_TN += (np.arange(count) * size + size // 2).astype(place_TN.dtype)
    tally = np.bincount(place_TN.astype(np.int64).ravel(), minlength=count * size)
    mass_NG = tally.reshape(count, size).astype(np.float32)
    mass_NG /= samples
    # At the ends, where nothing changes any more, the correction sums to nothing, too.
    flow_NG = np.diff(mass_NG, axis=1)
    flow_NG /= 24
    mass_NG[:, :-1] -= flow_NG
    mass_NG[:, 1:] += flow_NG
    some_SN = logit_TN[:RANGE_OF]
    # Infinite ones differ by no number, which is not less.
    with np.errstate(invalid="ignore"):
        same_N = some_SN.max(axis=0) - some_SN.min(axis=0) < RANGE_STEPS * grid.step
    if same_N.any():
        same_TN = logit_TN[:, same_N].astype(np.float64)
        mean_N, spread_N = same_TN.mean(axis=0), same_TN.std(axis=0)
        mass_NG[same_N] = lay_normals(grid, mean_N[:, None], spread_N, np.ones(1))
    return mass_NG


def lay_normals(
    grid: Grid, center_NC: Array, spread_N: Array, share_C: Array
) -> NDArray[np.float32]:
    """The mass of mixtures of normals.

    Parameters
    ----------
    grid : Grid
        The points that the mass is laid on.
    center_NC : ndarray, shape (N, C)
        Of the normals of each galaxy.
    spread_N : ndarray, shape (N,)
        Their standard deviation, one a galaxy; may be 0.
    share_C : ndarray, shape (C,)
        Their weights, which sum to one.

    Returns
    -------
    ndarray, shape (N, G)
    """
    mass_NG = np.zeros((len(spread_N), len(grid.points)), np.float32)
    wide_N = spread_N >= grid.narrowest
    for places in pieces(np.flatnonzero(wide_N)):
        mass_NG[places, ::2] = _wide(grid, center_NC[places], spread_N[places], share_C)
    narrow = np.flatnonzero(~wide_N & (spread_N > 0))
    for places in pieces(narrow):
        nodes = (center_NC[places, :, None] + spread_N[places, None, None] * _NODES).reshape(
            len(places), -1
        )
        mass_NG[places] = lay_points(grid, nodes, (share_C[:, None] * _WEIGHTS).ravel())
    for places in pieces(np.flatnonzero(spread_N == 0)):
        mass_NG[places] = lay_points(grid, center_NC[places], share_C)
    return mass_NG


def _wide(grid: Grid, center_NC: Array, spread_N: Array, share_C: Array) -> NDArray[np.float32]:
    """Of normals that every second point sees; the ends take all that lies beyond."""
    some_G, step = grid.points[::2], 2 * grid.step
    # In units of the spread times the root of two.
    narrow_N = 1 / (np.sqrt(2) * spread_N)
    x_NG = (some_G * narrow_N[:, None]).astype(np.float32)
    center_CN = (center_NC * narrow_N[:, None]).T.astype(np.float32)
    mass_NG, part_NG = np.zeros_like(x_NG), np.empty_like(x_NG)
    for each_N, share in zip(center_CN, share_C.astype(np.float32), strict=True):
        # In place: fresh memory would cost more than the exponentials.
        np.subtract(x_NG, each_N[:, None], out=part_NG)
        np.square(part_NG, out=part_NG)
        np.negative(part_NG, out=part_NG)
        np.exp(part_NG, out=part_NG)
        part_NG *= share
        mass_NG += part_NG
    mass_NG *= (step * narrow_N / np.sqrt(np.pi)).astype(np.float32)[:, None]
    for column, sign in ((0, 1), (-1, -1)):
        edge = some_G[column] + sign * step / 2
        near = np.min(sign * center_NC, axis=1) - 7 * spread_N < sign * edge
        outside = sign * (edge - center_NC[near]) / spread_N[near, None]
        mass_NG[near, column] = ndtr(outside) @ share_C
    # The rule is exact but at the ends, where all that it can miss is how much mass there is.
    mass_NG /= mass_NG.sum(axis=1, keepdims=True)
    return mass_NG
