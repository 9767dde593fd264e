"""Whether there is anything to see in a picture, for an eye and for a network.

Twenty black pictures are as good as none, and a volunteer who is shown them does not come back.
Galaxy Zoo's own pictures of SDSS (3,063 of them were measured) have a contrast of 0.24 or more,
and none of them has a white pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zoo_bridge.cutouts.images import BadCutoutError, Image32

# The brightest and the darkest pixels that count: a galaxy is small, a cosmic ray is smaller.
UPPER, LOWER = 0.995, 0.005
BLACK, WHITE = 2 / 255, 253 / 255
# More of a stretched image at the end of the scale is burnt out.
MOST_WHITE = 0.4
# Pictures that differ by less, root mean square, from 0 to 1, look the same.
ALIKE = 3 / 255
THUMB = 16
MOST_COMPARED = 2000


@dataclass(frozen=True)
class Look:
    """What an eye sees of a picture, 0 to 1 each.

    Parameters
    ----------
    contrast : float
        How far the brightest or the darkest half per cent of the pixels is from the middle one.
    middle : float
        Brightness of the middle pixel.
    black, white : float
        Share of the pixels that are; white, too, is a pixel with one colour at its end.
    """

    contrast: float
    middle: float
    black: float
    white: float

    @classmethod
    def of(cls, picture: Image32) -> Look:
        """Look at a picture of shape (height, width, channels), 0 to 1."""
        light = picture.mean(axis=-1)
        low, middle, high = np.quantile(light, [LOWER, 0.5, UPPER])
        contrast = float(max(high - middle, middle - low))
        black = float((light <= BLACK).mean())
        white = float((picture.max(axis=-1) >= WHITE).mean())
        return cls(contrast, float(middle), black, white)

    def require_visible(self, least_contrast: float, stretched: bool) -> None:
        """Raise `BadCutoutError` if there is nothing to see.

        Parameters
        ----------
        least_contrast : float
            Of a picture in which there is; 0 for whatever it is.
        stretched : bool
            By us: a picture that was made for the eye may have a white sky.

        Raises
        ------
        BadCutoutError
            too dark or too bright.
        """
        if least_contrast <= 0:
            return
        told = (
            f"contrast {self.contrast:.2g} of {least_contrast:g}, {self.black:.0%} black, "
            f"{self.white:.0%} white"
        )
        if self.contrast < least_contrast:
            raise BadCutoutError("too dark" if self.middle < 0.5 else "too bright", told)
        if stretched and self.white > MOST_WHITE:
            raise BadCutoutError("too bright", told)


def share_alike(pictures: Sequence[Image32]) -> float:
    """The share of pictures that look the same as one of them, at most; 0 to 1.

    Compared is what is shown, not what could be made of it: black pictures are alike, whatever
    noise there is in them.

    Parameters
    ----------
    pictures : sequence of ndarray, shape (height, width, channels), 0 to 1
        Of any size.
    """
    if len(pictures) < 2:
        return 0.0
    step = -(-len(pictures) // MOST_COMPARED)
    small_NP = np.stack([_thumb(picture) for picture in pictures[::step]])
    square_N = (small_NP**2).sum(axis=1)
    most = 0
    for place, row_P in enumerate(small_NP):
        away_N = square_N + square_N[place] - 2 * small_NP @ row_P
        most = max(most, int((away_N <= ALIKE**2 * small_NP.shape[1]).sum()))
    return most / len(small_NP)


def _thumb(picture: Image32) -> NDArray[np.float64]:
    """A coarse picture, grey: shape (THUMB * THUMB,)."""
    light = picture.mean(axis=-1, dtype=np.float64)
    places = [np.linspace(0, length, THUMB + 1).astype(int)[:-1] for length in light.shape]
    rows = np.add.reduceat(light, places[0], axis=0)
    sums = np.add.reduceat(rows, places[1], axis=1)
    counts = [np.diff([*place, length]) for place, length in zip(places, light.shape, strict=True)]
    return np.asarray(sums / np.outer(*counts)).ravel()
