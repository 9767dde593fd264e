"""What setting would make pictures visible: proposed from the data, and tried on them first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from zoo_bridge.cutouts.images import BadCutoutError, Image32, read_fits, read_picture, unpack
from zoo_bridge.cutouts.preprocess import Preprocessing, preprocess

# A proposal is made if it lets so many of a sample be seen.
ENOUGH = 0.9
# What a galaxy's light becomes, 0 to 1: tried in this order.
TARGETS = (0.6, 0.8, 0.4)
# Whites of ten, twelve and fourteen bits.
DEPTHS = (1023, 4095, 16_383)
# The linear part's share of the scale, as astropy has it.
FRACTION = 0.1


def advise(files: Sequence[bytes], frames: Sequence[Preprocessing]) -> str:
    """The settings that would show what is in some cutouts.

    Parameters
    ----------
    files : sequence of bytes
        A sample of the survey.
    frames : sequence of Preprocessing
        The settings as they are: the network's, and those of other pictures that are shown.

    Returns
    -------
    str
        Such as ``cutouts.lupton_stretch = 0.012``; empty if none is known that would, or it is not
        the network's own picture that is at fault.
    """
    preprocessing = frames[0]
    if _share_visible(files, preprocessing) >= ENOUGH:
        return ""
    for changes in _candidates(files, preprocessing):
        changed = [replace(frame, **changes) for frame in frames]
        if all(_share_visible(files, frame) >= ENOUGH for frame in changed):
            told = (f"cutouts.{name} = {_toml(value)}" for name, value in changes.items())
            return " and ".join(told)
    return ""


def _toml(value: float | str) -> str:
    return f'"{value}"' if isinstance(value, str) else f"{value:g}"


def _share_visible(files: Sequence[bytes], preprocessing: Preprocessing) -> float:
    good = 0
    for data in files:
        try:
            preprocess(data, preprocessing)
            good += 1
        except BadCutoutError:
            continue
    return good / max(1, len(files))


def _candidates(files: Sequence[bytes], preprocessing: Preprocessing) -> Iterator[dict[str, Any]]:
    """What could be tried: changes of the settings."""
    pictures, images = [], []
    for data in files:
        try:
            plain = unpack(data)
            if plain[:6] == b"SIMPLE":
                images.append(read_fits(plain, preprocessing.bands, preprocessing.cube))
            else:
                pictures.append(read_picture(plain, 65_535))
        except BadCutoutError:
            continue
    if pictures:
        brightest = 65_535 * max(float(picture.max()) for picture in pictures)
        for white in DEPTHS:
            if brightest <= white:
                yield {"white_value": white}
                break
    if images and preprocessing.stretch == "lupton":
        yield from _lupton(images, preprocessing)
    elif images:
        for high in (99.8, 99.5, 99.0, 98.0):
            if high < preprocessing.high_percentile:
                yield {"high_percentile": high}
        if preprocessing.stretch == "linear":
            yield {"stretch": "asinh"}


def _lupton(images: Sequence[Image32], preprocessing: Preprocessing) -> Iterator[dict[str, Any]]:
    """Minimum and stretch in the pixels' own units: from the sky, and from what is brightest."""
    skies, lights = [], []
    for planes in images:
        intensity = planes.mean(axis=-1)
        intensity = intensity[np.isfinite(intensity)]
        if intensity.size:
            sky, light = np.quantile(intensity, [0.5, 0.995])
            skies.append(sky)
            lights.append(light)
    if not skies:
        return
    sky, light = float(np.median(skies)), float(np.median(lights))
    if not light > sky:
        return
    # A sky that is nearly nothing is nothing: a number less to set.
    minimum = 0.0 if abs(sky) < 0.02 * (light - sky) else float(f"{sky:.3g}")
    for target in TARGETS:
        # Where Lupton et al.'s curve has this value: their eq. 1, in astropy's form.
        softened = np.sinh(target * np.arcsinh(FRACTION * preprocessing.lupton_q) / FRACTION)
        stretch = float(f"{preprocessing.lupton_q * (light - minimum) / softened:.2g}")
        if stretch > 0:
            yield {"lupton_stretch": stretch, "lupton_minimum": minimum}
