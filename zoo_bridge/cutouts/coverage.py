"""Which pixels of a cutout are sky that was seen: not the survey's edge, not a band that is absent.

What lies beyond a survey's edge is stored as no number, or as one number over and over: zero
mostly. A mean of it with what was seen, or a plane of it beside other bands, looks to a network
like a kind of galaxy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from zoo_bridge.cutouts.images import BadCutoutError, Image32

# Squares of one value are no sky: in a picture, too, noise shows in so many pixels. In a small one
# they have half of this side.
SQUARE, SMALL = 8, 64
# The value beyond an edge is one of so many that fill squares at a cutout's border.
CANDIDATES = 3
# Of a picture, less in such squares is a dark sky, and black there anyway.
LEAST_DRAWN = 0.02
# A plane of which less is sky is no band of this cutout.
LEAST_SEEN = 0.02
# A corner of which more has the value beyond an edge lies beyond it.
MOST_IN_CORNER = 0.5
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
    seen_NB = np.isfinite(planes)
    if not seen_NB.any():
        raise BadCutoutError("no data", "no pixel is a number")
    count = planes.shape[-1]
    # A grey picture has the same plane three times.
    alike = (
        drawn
        and count > 1
        and all(np.array_equal(planes[..., 0], planes[..., band]) for band in range(1, count))
    )
    missing, shares = [], [0.0] * count
    for band in range(1 if alike else count):
        plane = planes[..., band]
        beyond = beyond_edge(plane, LEAST_DRAWN if drawn else 0.0)
        if beyond is not None:
            seen_NB[..., band] &= ~beyond
        shares[band] = 1.0 - float(seen_NB[..., band].mean())
        if shares[band] > 1 - LEAST_SEEN or _is_flat(plane, seen_NB[..., band], drawn):
            missing.append(band)
    if alike:
        missing = list(range(count)) if missing else []
        shares = [shares[0]] * count
        seen_NB = np.repeat(seen_NB[..., :1], count, axis=-1)
    if len(missing) == count:
        few = float(seen_NB.mean()) < LEAST_SEEN
        reason, told = ("no data", "hardly a pixel is a number") if few else ("blank", "")
        raise BadCutoutError(reason, told or "all pixels have the same value")
    if len(missing) > most_missing:
        told = ", ".join(str(band + 1) for band in missing)
        raise BadCutoutError(
            "missing band", f"band {told} of {count}, from red to blue, holds no data"
        )
    kept = [band for band in range(count) if band not in missing]
    most = max(shares[band] for band in kept)
    if most > most_empty:
        raise BadCutoutError("partial sky", f"{most:.0%} of the cutout holds no data")
    if not most and not missing:
        return planes
    filled = planes.copy()
    for band in kept:
        good = seen_NB[..., band]
        if not good.all():
            filled[..., band][~good] = np.median(filled[..., band][good])
    if missing:
        filled[..., missing] = filled[..., kept].mean(axis=-1, keepdims=True)
    return filled


def _is_flat(plane: Image32, seen: NDArray[np.bool_], drawn: bool) -> bool:
    """Whether all of a plane that was seen has one value."""
    values = plane if seen.all() else plane[seen]
    spread = float(values.max()) - float(values.min())
    if not drawn:
        return spread == 0
    if spread >= 4 * PICTURE_NOISE:
        return False
    low, high = np.quantile(values, [0.005, 0.995])
    return bool(high - low < PICTURE_NOISE)


def beyond_edge(plane: Image32, least: float = 0.0) -> NDArray[np.bool_] | None:
    """The pixels of a plane that have the value beyond an edge; None if there is no edge.

    Less than ``least`` of the plane in squares of one value is none.

    Where there is one, squares of one value lie at the border, and one corner at least is sky: a
    background of one value, of a drawn or masked galaxy, has all four.
    """
    side = SQUARE if min(plane.shape) >= SMALL else SQUARE // 2
    height, width = (length // side for length in plane.shape)
    inner = plane[: height * side, : width * side]
    cut = inner.reshape(height, side, width, side)
    border = [cut[0], cut[-1], cut[:, :, 0], cut[:, :, -1]]
    found = []
    for strip, axes in zip(border, ((0, 2), (0, 2), (1, 2), (1, 2)), strict=True):
        low, high = strip.min(axis=axes), strip.max(axis=axes)
        found.append(low[low == high])
    values, counts = np.unique(np.concatenate(found), return_counts=True)
    best: NDArray[np.bool_] | None = None
    for value in values[np.argsort(counts)[::-1][:CANDIDATES]]:
        same = plane == value
        squares = same[: height * side, : width * side].reshape(height, side, width, side)
        squares = squares.all(axis=(1, 3))
        if squares.mean() < least or not _is_edge(same, squares, side):
            continue
        # With the pixels of that value in the squares through which the edge goes.
        grown = np.pad(squares, 1)
        near = grown[:-2, 1:-1] | grown[2:, 1:-1] | grown[1:-1, :-2] | grown[1:-1, 2:] | squares
        wide = np.zeros(plane.shape, bool)
        wide[: height * side, : width * side] = near.repeat(side, 0).repeat(side, 1)
        wide[height * side :], wide[:, width * side :] = True, True
        beyond = same & wide
        if best is None or beyond.sum() > best.sum():
            best = beyond
    return best


def _is_edge(same: NDArray[np.bool_], squares: NDArray[np.bool_], side: int) -> bool:
    """Whether squares of one value lie as beyond an edge."""
    two = 2 * side
    corners = (same[:two, :two], same[:two, -two:], same[-two:, :two], same[-two:, -two:])
    if all(corner.mean() > MOST_IN_CORNER for corner in corners):
        return False
    outline = np.count_nonzero(np.diff(squares, axis=0)) + np.count_nonzero(np.diff(squares))
    return bool(outline <= LONGEST_EDGE * max(squares.shape))
