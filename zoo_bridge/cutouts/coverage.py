"""Which pixels of a cutout are sky that was seen: not the survey's edge, not a band that is absent.

What lies beyond a survey's edge is stored as no number, or as one number over and over: zero
mostly. A mean of it with what was seen, or a plane of it beside other bands, looks to a network
like a kind of galaxy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from zoo_bridge.cutouts.images import BadCutoutError, Image32

# Squares of one value are no sky: in a picture, too, noise shows in so many pixels.
SQUARE = 8
# The value beyond an edge is one of so many that are most frequent at a cutout's border.
CANDIDATES = 3
# A plane of which less is sky is no band of this cutout.
LEAST_SEEN = 0.02
# A border that is all of one value is the background of a drawn or masked galaxy, not an edge.
BACKGROUND = 0.95
# An edge is a line across the cutout, or two, and a sky that is dark has holes. So long an outline,
# in units of the side, is that of galaxies before a sky that was cut off at black.
LONGEST_EDGE = 5.0
# Of a value from 0 to 1 in a picture: what JPEG makes of one value.
PICTURE_NOISE = 3.5 / 255


def require_covered(planes: Image32, most_empty: float, most_missing: int, drawn: bool) -> Image32:
    """An image with its bands complete, or the reason why it cannot be.

    Parameters
    ----------
    planes : ndarray, shape (height, width, bands), float32
        As read from the file.
    most_empty : float
        Share of a band's pixels that may be without data.
    most_missing : int
        Bands that may be: they become the mean of the others.
    drawn : bool
        The image is a picture made for the eye: its values are from 0 to 1.

    Returns
    -------
    ndarray, shape (height, width, bands), float32
        All of it numbers: single pixels without data have their band's median.

    Raises
    ------
    BadCutoutError
        no data, blank, missing band or partial sky.
    """
    finite = np.isfinite(planes)
    whole = bool(finite.all())
    if not whole and not finite.any():
        raise BadCutoutError("no data", "no pixel is a number")
    shares = [
        1.0 if _is_flat(planes[..., band], finite[..., band], drawn) else share_empty(plane)
        for band, plane in enumerate(np.moveaxis(planes, -1, 0))
    ]
    missing = [band for band, share in enumerate(shares) if share > 1 - LEAST_SEEN]
    count = planes.shape[-1]
    if len(missing) == count:
        few = float(finite.mean()) < LEAST_SEEN
        reason, told = ("no data", "hardly a pixel is a number") if few else ("blank", "")
        raise BadCutoutError(reason, told or "all pixels have the same value")
    if len(missing) > most_missing:
        told = ", ".join(str(band + 1) for band in missing)
        raise BadCutoutError(
            "missing band", f"band {told} of {count}, from red to blue, holds no data"
        )
    seen = [band for band in range(count) if band not in missing]
    most = max(shares[band] for band in seen)
    if most > most_empty:
        raise BadCutoutError("partial sky", f"{most:.0%} of the cutout holds no data")
    if whole and not missing:
        return planes
    filled = planes.copy()
    for band in seen:
        good = finite[..., band]
        if not good.all():
            filled[..., band][~good] = np.median(filled[..., band][good])
    if missing:
        filled[..., missing] = filled[..., seen].mean(axis=-1, keepdims=True)
    return filled


def _is_flat(plane: Image32, finite: NDArray[np.bool_], drawn: bool) -> bool:
    """Whether all of a plane has one value."""
    values = plane[finite]
    if values.size == 0:
        return True
    if not drawn:
        return bool(values.min() == values.max())
    low, high = np.quantile(values, [0.005, 0.995])
    return bool(high - low < PICTURE_NOISE and values.max() - values.min() < 4 * PICTURE_NOISE)


def share_empty(plane: Image32) -> float:
    """Share of a plane's pixels that are no numbers, or squares of the value beyond an edge."""
    finite = np.isfinite(plane)
    empty = 1.0 - float(finite.mean())
    border = np.concatenate([plane[0], plane[-1], plane[:, 0], plane[:, -1]])
    border = border[np.isfinite(border)]
    values, counts = np.unique(border, return_counts=True)
    frequent = values[np.argsort(counts)[::-1][:CANDIDATES]]
    return empty + max((_share_beyond(plane, value) for value in frequent), default=0.0)


def _share_beyond(plane: Image32, value: float) -> float:
    """Share of a plane in squares of one value, if they lie as beyond an edge; else 0."""
    height, width = (length // SQUARE for length in plane.shape)
    inner = plane[: height * SQUARE, : width * SQUARE] == value
    squares = inner.reshape(height, SQUARE, width, SQUARE).all(axis=(1, 3))
    edge = np.concatenate([squares[0], squares[-1], squares[:, 0], squares[:, -1]])
    outline = np.count_nonzero(np.diff(squares, axis=0)) + np.count_nonzero(np.diff(squares))
    if edge.mean() > BACKGROUND or outline > LONGEST_EDGE * max(height, width):
        return 0.0
    return float(squares.mean())
