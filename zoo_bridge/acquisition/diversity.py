"""Batches without near-duplicates: the galaxies of highest information are often alike.

Three ways, each an option; plain top-k is the default. PowerBALD draws without replacement, with
probabilities that go with a power of the information; spreading over the network's features takes
the galaxy that is informative and unlike those taken before; spreading over the sky leaves out what
lies next to one that was taken.

References
----------
Kirsch et al. 2021, arXiv:2106.12059 (PowerBALD). Zhdanov 2019, arXiv:1901.05954 (diverse batches
out of a pool of the most informative). Gonzalez 1985, Theoret. Comput. Sci. 38, 293 (farthest
first).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

# Uniform numbers have so many bits: thirteen hexadecimal digits of a SHA-256.
DIGITS, BITS = 13, 52
LEAST = 1e-12


def uniform_of(object_id: str, seed: int, purpose: str) -> float:
    """A number between 0 and 1 that belongs to an object, which SQL can compute, too."""
    digest = hashlib.sha256(f"{purpose}:{seed}:{object_id}".encode()).hexdigest()
    return (int(digest[:DIGITS], 16) + 0.5) / 2**BITS


def power_keys(
    object_ids: Sequence[str], information: Sequence[float], power: float, seed: int
) -> Array:
    """What PowerBALD sorts by: the top k of these are a draw of k without replacement.

    power * log I + g, with g a Gumbel variate that belongs to the object and the seed.

    Parameters
    ----------
    object_ids : sequence of str
        Ids of the N objects, from which their chance is drawn.
    information : sequence of float
        I, in nats.
    power : float
        Large: nearly the top k. Near 0: at random.
    seed : int
        Of the draw.

    Returns
    -------
    ndarray, shape (N,)
    """
    uniform = np.array([uniform_of(name, seed, "power") for name in object_ids])
    return power * np.log(np.maximum(information, LEAST)) - np.log(-np.log(uniform))


def spread(features_ND: Array, information_N: Array, count: int) -> list[int]:
    """Galaxies that are informative and unlike each other, the most informative one first.

    Each is the one of largest information times squared distance, in standardised features, to the
    nearest of those before it.

    Parameters
    ----------
    features_ND : ndarray, shape (N, D)
        Of a pool of galaxies.
    information_N : ndarray, shape (N,)
        Mutual information of each object, in nats.
    count : int
        How many objects to choose.

    Returns
    -------
    list of int
        Places in the pool.
    """
    count = min(count, len(information_N))
    if count <= 0:
        return []
    deviation_D = features_ND.std(axis=0)
    known = deviation_D > 0
    x_ND = (features_ND[:, known] - features_ND[:, known].mean(axis=0)) / deviation_D[known]
    weight_N = np.asarray(information_N, dtype=np.float64)
    chosen = [int(np.argmax(weight_N))]
    nearest_N = np.full(len(weight_N), np.inf)
    while len(chosen) < count:
        nearest_N = np.minimum(nearest_N, ((x_ND - x_ND[chosen[-1]]) ** 2).sum(axis=1))
        # The tiny term orders copies of what is taken already, by their information.
        gain_N = weight_N * (nearest_N + 1e-9)
        gain_N[chosen] = -np.inf
        chosen.append(int(np.argmax(gain_N)))
    return chosen


def directions(ra_N: Array, dec_N: Array) -> Array:
    """Unit vectors of positions in degrees: shape (N, 3)."""
    ra, dec = np.radians(ra_N), np.radians(dec_N)
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


class Apart:
    """Keeps track of which positions lie next to one that was taken.

    Parameters
    ----------
    ra_N, dec_N : ndarray, shape (N,)
        In degrees; nan for an object without a position, which is next to nothing.
    arcsec : float
        What is nearer is too near.
    """

    def __init__(self, ra_N: Array, dec_N: Array, arcsec: float) -> None:
        self._direction_N3 = directions(ra_N, dec_N)
        # Of the chord, squared: exact for small angles, where a cosine is not.
        self._least = (2 * np.sin(np.radians(arcsec / 3600) / 2)) ** 2
        self._taken: list[int] = []

    def take(self, place: int) -> bool:
        """Take an object unless one next to it was; whether it was taken."""
        if self._taken:
            away = self._direction_N3[self._taken] - self._direction_N3[place]
            if np.any((away**2).sum(axis=1) < self._least):
                return False
        self._taken.append(place)
        return True
