"""From several sides: galaxies have no up, and what sees them does not quite know that.

A network that learned from turned cutouts still sees another galaxy when one is turned; an encoder
that learned on everyday pictures all the more. The mean of what is seen from each side is closer to
the truth than one of them. It takes as many times the time.

References
----------
Dieleman, Willett & Dambre 2015, arXiv:1503.07077: predictions averaged over turned galaxies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]


def sides(images: Array, views: int) -> Iterator[Array]:
    """Images as they are, and from other sides.

    Parameters
    ----------
    images : ndarray, shape (N, size, size, channels)
        Square ones.
    views : int
        1, as they are; 4, by quarter turns; 8, each of these mirrored as well.

    Yields
    ------
    ndarray, shape (N, size, size, channels)
        The images themselves come first.
    """
    for turns in range(min(views, 4)):
        turned = np.rot90(images, turns, axes=(1, 2))
        yield turned
        if views == 8:
            yield turned[:, :, ::-1]


def seen(see: Callable[[Array], Array], images: Array, views: int) -> Array:
    """Mean of what is seen from so many sides.

    Parameters
    ----------
    see : callable
        From images to features, shape (N, D).
    images : ndarray, shape (N, size, size, channels)
        Square ones.
    views : int
        See `sides`.

    Returns
    -------
    ndarray, shape (N, D)
        With one view, just what ``see`` gives.
    """
    if views == 1:
        return see(images)
    total: Array = np.sum([see(side) for side in sides(images, views)], axis=0)
    return total / np.float32(views)
