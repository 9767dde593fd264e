"""From image bytes to the array that the network sees, and to the picture that volunteers see.

One path serves training, scoring, evaluation and previews; its settings are part of every model.
"""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from PIL import Image

from zoo_bridge.cutouts.coverage import require_covered
from zoo_bridge.cutouts.images import (
    BAND_FIRST,
    SIZE_LIMIT,
    BadCutoutError,
    Image32,
    read_fits,
    read_picture,
    unpack,
)
from zoo_bridge.cutouts.visible import Look

__all__ = ["SIZE_LIMIT", "BadCutoutError", "Image32", "Preprocessing", "preprocess", "preview"]

PREVIEW_LIMIT = 1_000_000
# Of the arrays that this makes: another number, and none that is kept is taken for one of them.
FORM = 2
# They say which cutouts are used, and change nothing in those that are.
LIMITS = ("max_empty_share", "max_missing_bands", "min_contrast")
# Keys that came after the first models: these know their defaults and nothing else.
LATER = ("cube", "white_value")
# Keys that act with some stretches alone.
STRETCHES = {
    "asinh_a": ("asinh",),
    "low_percentile": ("asinh", "linear"),
    "high_percentile": ("asinh", "linear"),
    "lupton_minimum": ("lupton",),
    "lupton_stretch": ("lupton",),
    "lupton_q": ("lupton",),
}


@dataclass(frozen=True)
class Preprocessing:
    """How bytes become an array. See ``[cutouts]`` in the settings.

    Parameters
    ----------
    size : int
        Side of the array.
    colour : str
        ``grey``, the mean of the bands, or ``rgb``.
    bands : tuple of int or str
        Which planes of a FITS file, red first: places in a cube or among the file's images, from 0,
        or names of extensions. Empty for all planes of the first image, of which the last is red.
    stretch : str
        For FITS, which is not already made for the eye: ``asinh``, ``linear`` or ``lupton``.
    asinh_a : float
        Where the asinh stretch turns from linear to logarithmic, as a share of the range.
    low_percentile, high_percentile : float
        Pixel values that become 0 and 1 with asinh and linear.
    lupton_minimum, lupton_stretch, lupton_q : float
        Of the colour-preserving stretch: black, the range of the linear part, in the pixels' units,
        and its softening.
    crop : float
        Share of the side that is kept, around the centre.
    cube : str
        The order of a FITS cube's axes, as numpy has them: ``band, y, x`` or ``y, x, band``. A
        header that says which axes lie in the sky goes before it.
    white_value : float
        Of pictures of sixteen bits: the value that is white.
    max_empty_share : float
        Share of a cutout's pixels that may be without data.
    max_missing_bands : int
        Bands that may be; the mean of the others takes their place.
    min_contrast : float
        What is below cannot be seen: see `visible.Look`.
    """

    size: int = 128
    colour: str = "grey"
    bands: tuple[int | str, ...] = ()
    stretch: str = "asinh"
    asinh_a: float = 0.1
    low_percentile: float = 1.0
    high_percentile: float = 99.8
    lupton_minimum: float = 0.0
    lupton_stretch: float = 5.0
    lupton_q: float = 8.0
    crop: float = 1.0
    cube: str = BAND_FIRST
    white_value: float = 65_535.0
    max_empty_share: float = 0.2
    max_missing_bands: int = 0
    min_contrast: float = 0.1

    @property
    def channels(self) -> int:
        """Planes of the array."""
        return 1 if self.colour == "grey" else 3

    def as_dict(self) -> dict[str, Any]:
        """What acts on the pixels, for a model's record.

        A key that does nothing with this stretch stands with its default, and a later one only
        where it differs from it.
        """
        default = {each.name: each.default for each in fields(self)}
        values = {**asdict(self), "bands": list(self.bands)}
        values |= {
            name: default[name]
            for name, stretches in STRETCHES.items()
            if self.stretch not in stretches
        }
        return {
            name: value
            for name, value in values.items()
            if name not in LIMITS and not (name in LATER and value == default[name])
        }


def preprocess(data: bytes, preprocessing: Preprocessing) -> Image32:
    """Bytes to the network's input.

    Parameters
    ----------
    data : bytes
        A FITS, JPEG or PNG file, packed by gzip, bzip2, xz or zstandard, or not.
    preprocessing : Preprocessing
        Which bands, which stretch, crop and size.

    Returns
    -------
    ndarray, shape (size, size, channels), float32
        Between 0 and 1.

    Raises
    ------
    BadCutoutError
        If the file is not an image that can be used, or there is nothing to see in it.
    """
    shown, stretched = _shown(data, preprocessing)
    array = _resize(shown, preprocessing.size)
    # As it is kept, and so as the network sees it.
    seen = array.astype(np.float16).astype(np.float32)
    Look.of(seen).require_visible(preprocessing.min_contrast, stretched)
    return array


def preview(data: bytes, preprocessing: Preprocessing, size: int, kind: str = "jpeg") -> bytes:
    """Bytes to a picture for volunteers, stretched and cropped as the network sees it.

    Parameters
    ----------
    data : bytes
        The cutout's file.
    preprocessing : Preprocessing
        The same settings as for the network.
    size : int
        The picture's side in pixels; small cutouts are enlarged.
    kind : str
        ``jpeg`` or ``png``.

    Returns
    -------
    bytes
        A picture below one megabyte; its quality, or of a PNG its size, is lowered as needed.

    Raises
    ------
    BadCutoutError
        If the file cannot be used, or there is nothing to see in the picture.
    """
    shown, stretched = _shown(data, preprocessing)
    pixels = np.rint(255 * _resize(shown, size)).astype(np.uint8)
    if pixels.min() == pixels.max():
        raise BadCutoutError("blank", "the preview is all one value")
    Look.of(pixels.astype(np.float32) / np.float32(255)).require_visible(
        preprocessing.min_contrast, stretched
    )
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    for quality, share in ((92, 1.0), (80, 0.85), (60, 0.7), (40, 0.5)):
        buffer = io.BytesIO()
        if kind == "jpeg":
            image.save(buffer, "JPEG", quality=quality)
        else:
            side = round(share * size)
            image.resize((side, side), Image.Resampling.BICUBIC).save(buffer, "PNG", optimize=True)
        if buffer.tell() < PREVIEW_LIMIT:
            return buffer.getvalue()
    raise BadCutoutError("too large", "the preview stays above one megabyte")


def _shown(data: bytes, preprocessing: Preprocessing) -> tuple[Image32, bool]:
    """The image at its own size, 0 to 1, and whether it was stretched by us.

    Its shape is (height, width, channels).
    """
    if not data:
        raise BadCutoutError("empty", "the file has no bytes")
    data = unpack(data)
    limits = preprocessing.max_empty_share, preprocessing.max_missing_bands
    is_fits = data[:6] == b"SIMPLE"
    if is_fits:
        planes = _crop(read_fits(data, preprocessing.bands, preprocessing.cube), preprocessing.crop)
        planes = require_covered(planes, *limits, drawn=False)
        if preprocessing.stretch == "lupton":
            planes = _bands(_lupton(_three(planes), preprocessing), preprocessing)
        else:
            planes = _stretch(_bands(planes, preprocessing), preprocessing)
    else:
        # JPEG and PNG are already made for the eye.
        planes = _crop(read_picture(data, preprocessing.white_value), preprocessing.crop)
        planes = _bands(require_covered(planes, *limits, drawn=True), preprocessing)
    if not np.isfinite(planes).all():
        raise BadCutoutError("no data", "the stretch gives pixels that are not numbers")
    if float(planes.min()) == float(planes.max()):
        raise BadCutoutError("blank", "all pixels have the same value")
    return planes, is_fits


def _crop(image: Image32, share: float) -> Image32:
    height, width = image.shape[:2]
    side = max(8, round(share * min(height, width)))
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def _bands(image: Image32, preprocessing: Preprocessing) -> Image32:
    """Grey is the mean of the bands; in colour the first band is red, the last one blue."""
    return image.mean(axis=-1, keepdims=True) if preprocessing.colour == "grey" else _three(image)


def _three(image: Image32) -> Image32:
    """Red, green and blue of any number of bands."""
    if image.shape[-1] == 3:
        return image
    return image[..., [0, image.shape[-1] // 2, -1]]


def _lupton(image: Image32, preprocessing: Preprocessing) -> Image32:
    """Colours that do not depend on brightness: Lupton et al. 2004, PASP 116, 133."""
    from astropy.visualization import make_lupton_rgb

    shown = make_lupton_rgb(
        *np.moveaxis(image, -1, 0),
        minimum=preprocessing.lupton_minimum,
        stretch=preprocessing.lupton_stretch,
        Q=preprocessing.lupton_q,
        output_dtype=np.float64,
    )
    return np.asarray(shown, dtype=np.float32)


def _stretch(image: Image32, preprocessing: Preprocessing) -> Image32:
    from astropy.visualization import (
        AsinhStretch,
        AsymmetricPercentileInterval,
        LinearStretch,
    )

    interval = AsymmetricPercentileInterval(
        preprocessing.low_percentile, preprocessing.high_percentile
    )
    stretch = (
        AsinhStretch(preprocessing.asinh_a) if preprocessing.stretch == "asinh" else LinearStretch()
    )
    low, high = interval.get_limits(image)
    if not high > low:
        raise BadCutoutError("blank", "nearly all pixels have the same value")
    scaled = np.clip((image - low) / (high - low), 0, 1)
    return np.asarray(stretch(scaled), dtype=np.float32)


def _resize(image: Image32, size: int) -> Image32:
    planes = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(image[..., channel])).resize(
                (size, size), Image.Resampling.BICUBIC
            )
        )
        for channel in range(image.shape[-1])
    ]
    return np.clip(np.stack(planes, axis=-1), 0, 1).astype(np.float32)
