"""Whether there is anything to see in a picture, for an eye and for a network.

Twenty black pictures are as good as none, and a volunteer who is shown them does not come back.
Galaxy Zoo's own pictures of SDSS (3,063 of them were measured) have a contrast of 0.24 or more,
and none of them has a white pixel.
"""

from __future__ import annotations

from collections.abc import Iterable
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
BLOCK = 256


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
            too dark, too bright or too faint.
        """
        if least_contrast <= 0:
            return
        told = (
            f"contrast {self.contrast:.3g} of {least_contrast:g}, {self.black:.0%} black, "
            f"{self.white:.0%} white"
        )
        if self.contrast < least_contrast:
            dark, bright = self.middle < 0.25, self.middle > 0.75
            reason = "too dark" if dark else "too bright" if bright else "too faint"
            raise BadCutoutError(reason, told)
        if stretched and self.white > MOST_WHITE:
            raise BadCutoutError("too bright", told)


def share_alike(pictures: Iterable[Image32]) -> float:
    """The share of pictures that look the same as one of them, at most; 0 to 1.

    Compared is what is shown, not what could be made of it: black pictures are alike, whatever
    noise there is in them. A picture is one whole and its middle, where a small galaxy is.

    Parameters
    ----------
    pictures : iterable of ndarray, shape (height, width, channels), 0 to 1
        Of any size; none is kept.
    """
    thumbs = [(_thumb(picture), _thumb(_middle(picture))) for picture in pictures]
    if len(thumbs) < 2:
        return 0.0
    some = thumbs[:: -(-len(thumbs) // MOST_COMPARED)]
    views = [np.stack(view) for view in zip(*some, strict=True)]
    most = 0
    for start in range(0, len(some), BLOCK):
        same = np.ones((len(some[start : start + BLOCK]), len(some)), bool)
        for view_NP in views:
            part_MP = view_NP[start : start + BLOCK]
            away_MN = (part_MP**2).sum(axis=1)[:, None] + (view_NP**2).sum(axis=1)
            away_MN -= 2 * part_MP @ view_NP.T
            same &= away_MN <= ALIKE**2 * view_NP.shape[1]
        most = max(most, int(same.sum(axis=1).max()))
    return most / len(some)


def _middle(picture: Image32) -> Image32:
    """A quarter of each side, around the centre, or as much as makes a thumb."""
    height, width = picture.shape[:2]
    rows, columns = (min(length, max(THUMB, length // 4)) for length in (height, width))
    top, left = (height - rows) // 2, (width - columns) // 2
    return picture[top : top + rows, left : left + columns]


def _thumb(picture: Image32) -> NDArray[np.float64]:
    """A coarse picture, grey: shape (THUMB * THUMB,)."""
    light = picture.mean(axis=-1, dtype=np.float64)
    places = [np.arange(THUMB + 1) * length // THUMB for length in light.shape]
    rows = np.add.reduceat(light, places[0][:-1], axis=0)
    sums = np.add.reduceat(rows, places[1][:-1], axis=1)
    return np.asarray(sums / np.maximum(np.outer(*map(np.diff, places)), 1)).ravel()


# Pictures of which so many look the same show something else than galaxies.
MOST_ALIKE, FEWEST_TO_COMPARE = 0.5, 5
