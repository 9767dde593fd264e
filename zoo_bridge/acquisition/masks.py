"""Dropout masks: which features each of T networks keeps, the same for every galaxy.

Balanced masks are rows of an orthogonal array: every feature is kept by its share of the networks,
and every pair of features, with a rate of one half every triple, too, as often as it should be. So
the mean and the covariance of all logits over networks are exact, and what is left is the noise of
what is not linear in them.

Names carry shapes: T masks, D features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
# A rate that is no multiple of a quarter is met by a draw within a quarter.
BITS = 2


def balanced(networks: int, width: int, rate: float, seed: int) -> NDArray[np.float32]:
    """Balanced dropout masks.

    Parameters
    ----------
    networks : int
        T, a power of two; at least `fewest`.
    width : int
        Features of the network, D.
    rate : float
        The share of features that is dropped. With 1/2 the masks are balanced by threes, with
        1/4 and 3/4 by pairs, with others feature by feature and nearly by pairs.
    seed : int
        Of which columns of the Hadamard matrix the features take, and with which signs.

    Returns
    -------
    ndarray, shape (T, D)
        0 where a feature is dropped, 1 / (1 - rate) where it is kept. With a rate of one half the
        second half of the masks keeps what the first one drops.

    Raises
    ------
    ValueError
        If there are too few masks for so many features, or T is no power of two.

    References
    ----------
    Hedayat, Sloane & Stufken 1999, Orthogonal Arrays, theorem 7.5: a Hadamard matrix on top of its
    negative is an array of strength 3.
    """
    if networks & (networks - 1) or networks < fewest(width, rate):
        raise ValueError(f"{networks} masks are no power of two, or too few for {width} features")
    rng, half, bits = np.random.default_rng(seed), networks // 2, _bits(rate)
    column_DB = _columns(rng, half, width, bits)
    sign_DB = rng.integers(0, 2, column_DB.shape)
    row = np.arange(half)[:, None, None]
    high = (np.bitwise_count(row & column_DB) + sign_DB) % 2
    high = np.concatenate([high, 1 - high])
    level = (high * 2 ** np.arange(bits)).sum(axis=2)
    # Where the rate cuts through a level, a part of those at that level, drawn anew a feature.
    within = rng.permuted(np.tile(np.arange(networks), (width, 1)), axis=1).T
    rank = np.argsort(np.argsort(level * networks + within, axis=0), axis=0)
    dropped = round(networks * rate)
    keep = rank >= dropped
    return (keep * (networks / (networks - dropped))).astype(np.float32)


def drawn(networks: int, width: int, rate: float, seed: int) -> NDArray[np.float32]:
    """Masks in which every feature is dropped by itself, as dropout does: shape (T, D).

    Parameters
    ----------
    networks, width, rate, seed
        As for `balanced`, but for any T.

    Returns
    -------
    ndarray, shape (T, D)
        0 or 1 / (1 - rate).
    """
    keep = np.random.default_rng(seed).random((networks, width)) < 1 - rate
    return (keep / (1 - rate)).astype(np.float32)


def fewest(width: int, rate: float) -> int:
    """The least number of balanced masks for so many features."""
    # Two columns have a product, too; and to find free ones there must be some to spare.
    needed = width if _bits(rate) == 1 else 2 * 3 * width
    return int(2 * 2 ** np.ceil(np.log2(needed)))


def _columns(rng: np.random.Generator, half: int, width: int, bits: int) -> NDArray[np.int64]:
    """Which columns of the Hadamard matrix each feature takes: shape (D, bits).

    The product of two columns is a column, too: features share none of these either, or a pair of
    them would be dropped together more often than it should.
    """
    if bits == 1:
        return rng.choice(half, (width, 1), replace=False)
    taken: set[int] = set()
    columns = np.empty((width, bits), np.int64)
    for feature in range(width):
        # There is room: `fewest` leaves more than half of all columns free.
        while True:
            one, other = rng.choice(np.arange(1, half), bits, replace=False).tolist()
            products = {one, other, one ^ other}
            if not taken & products:
                break
        columns[feature] = one, other
        taken |= products
    return columns


def _bits(rate: float) -> int:
    """Columns that a feature takes: 1 for a half, 2 for all else."""
    return 1 if (2 * rate).is_integer() else BITS
