"""From image bytes to the array that the network sees, and to the picture that volunteers see.

One path serves training, scoring, evaluation and previews; its settings are part of every model.
"""

from __future__ import annotations

import gzip
import io
import math
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo_bridge.cutouts.plain_fits import read_plain

# What these warn of is found out and rejected below. Filters are the process's: they are set once,
# here, since catch_warnings in one thread changes them under another.
warnings.filterwarnings("ignore", message="File may have been truncated")
warnings.filterwarnings("ignore", message="(?s).*Header size is not multiple")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

Image32 = NDArray[np.float32]
# 4096 x 4096: a cutout is smaller, and a bomb is not unpacked.
MAX_PIXELS = 2**24
PREVIEW_LIMIT = 1_000_000
SIZE_LIMIT = 512 * 2**20


class BadCutoutError(Exception):
    """A cutout that cannot be used: ``reason`` from a short list, ``detail`` in words."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


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

    @property
    def channels(self) -> int:
        """Planes of the array."""
        return 1 if self.colour == "grey" else 3

    def as_dict(self) -> dict[str, Any]:
        """The settings, for a model's record."""
        return {**asdict(self), "bands": list(self.bands)}


def preprocess(data: bytes, how: Preprocessing) -> Image32:
    """Bytes to the network's input.

    Parameters
    ----------
    data : bytes
        A FITS, JPEG or PNG file; FITS may be gzipped.
    how : Preprocessing
        The settings.

    Returns
    -------
    ndarray, shape (size, size, channels), float32
        Between 0 and 1.

    Raises
    ------
    BadCutoutError
        If the file is not an image that can be used.
    """
    return _resize(_shown(data, how), how.size)


def preview(data: bytes, how: Preprocessing, size: int, kind: str = "jpeg") -> bytes:
    """Bytes to a picture for volunteers, stretched and cropped as the network sees it.

    Parameters
    ----------
    data : bytes
        The cutout's file.
    how : Preprocessing
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
        If the file cannot be used, or all of the picture is one value.
    """
    shown = _resize(_shown(data, how), size)
    pixels = np.rint(255 * shown).astype(np.uint8)
    if pixels.min() == pixels.max():
        raise BadCutoutError("blank", "the preview is all one value")
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


def _shown(data: bytes, how: Preprocessing) -> Image32:
    """The image at its own size, stretched to 0..1: shape (height, width, channels)."""
    if not data:
        raise BadCutoutError("empty", "the file has no bytes")
    if data[:2] == b"\x1f\x8b":
        data = _gunzip(data)
    if data[:6] == b"SIMPLE":
        planes = _crop(_read_fits(data, how.bands), how.crop)
        if how.stretch == "lupton":
            planes = _bands(_lupton(_three(planes), how), how)
        else:
            planes = _stretch(_bands(planes, how), how)
    else:
        # JPEG and PNG are already made for the eye.
        planes = _bands(_crop(_read_picture(data), how.crop), how)
    if not np.isfinite(planes).all():
        raise BadCutoutError("no data", "the stretch gives pixels that are not numbers")
    if float(planes.min()) == float(planes.max()):
        raise BadCutoutError("blank", "all pixels have the same value")
    return planes


def _gunzip(data: bytes) -> bytes:
    try:
        with gzip.open(io.BytesIO(data)) as file:
            out = file.read(SIZE_LIMIT + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise BadCutoutError("truncated", f"the gzip stream is broken: {error}") from None
    if len(out) > SIZE_LIMIT:
        raise BadCutoutError("too large", "the file unpacks to more than 512 MiB")
    return out


def _read_fits(data: bytes, bands: tuple[int | str, ...]) -> Image32:
    """An image of a FITS file: shape (height, width, bands), red first."""
    values = read_plain(data) if len(data) <= 8 * MAX_PIXELS else None
    # A plain file's one image may have to be asked for by name, or be one of several.
    if values is None or (bands and (values.ndim == 2 or any(isinstance(b, str) for b in bands))):
        values = _read_any_fits(data, bands)
    elif bands:
        values = _chosen(list(values), bands)
    if values.ndim == 2:
        values = values[None]
    if values.ndim != 3 or min(values.shape[1:]) < 8 or values.shape[0] > 16:
        raise BadCutoutError("wrong shape", f"the image is {values.shape}")
    if values.size > MAX_PIXELS:
        raise BadCutoutError("too large", f"the image is {values.shape}")
    finite = np.isfinite(values)
    if finite.mean() < 0.5:
        raise BadCutoutError("no data", "more than half of the pixels are not numbers")
    if not finite.all():
        values = np.where(finite, values, np.median(values[finite])).astype(np.float32)
    planes = np.moveaxis(values, 0, -1)
    # Bands go from blue to red in FITS cubes; pictures begin with red.
    return planes if bands else planes[..., ::-1]


def _read_any_fits(data: bytes, bands: tuple[int | str, ...]) -> Image32:
    from astropy.io import fits

    try:
        with fits.open(io.BytesIO(data), memmap=False) as units:
            images = [unit for unit in units if unit.is_image and unit.header.get("NAXIS", 0) >= 2]
            if not images:
                raise BadCutoutError("no image", "no part of the FITS file holds an image")
            named = any(isinstance(band, str) for band in bands)
            if not bands or (len(images[0].shape) > 2 and not named):
                values = _pixels(images[0])
                return _chosen(list(values), bands) if bands else values
            names = [unit.name for unit in images]
            return _chosen([_Later(unit) for unit in images], bands, names)
    except BadCutoutError:
        raise
    except Exception as error:
        # astropy raises nearly anything on a broken file; whatever it is, this cutout is out.
        raise BadCutoutError("truncated", f"the FITS file is broken: {error}") from None


@dataclass(frozen=True)
class _Later:
    """An image that is read, and unpacked, only if it is wanted."""

    unit: Any

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Image32:
        return _pixels(self.unit)


def _pixels(unit: Any) -> Image32:
    if math.prod(unit.shape) > MAX_PIXELS:
        raise BadCutoutError("too large", f"the image is {unit.shape}")
    return np.asarray(unit.data, dtype=np.float32)


def _chosen(planes: list[Any], bands: tuple[int | str, ...], names: Sequence[str] = ()) -> Image32:
    """The planes that are asked for, in that order: shape (bands, height, width)."""
    found = []
    for band in bands:
        place = band
        if isinstance(band, str):
            upper = [name.upper() for name in names]
            place = upper.index(band.upper()) if band.upper() in upper else len(planes)
        if not isinstance(place, int) or place >= len(planes):
            has = ", ".join(filter(None, names)) or f"{len(planes)}"
            raise BadCutoutError("no image", f"there is no band {band!r}; the file has {has}")
        found.append(np.asarray(planes[place], dtype=np.float32))
    if len({plane.shape for plane in found}) > 1 or found[0].ndim != 2:
        raise BadCutoutError("wrong shape", f"the bands are {[plane.shape for plane in found]}")
    return np.stack(found)


def _read_picture(data: bytes) -> Image32:
    if data.lstrip()[:1] == b"<":
        raise BadCutoutError("not an image", "it is an HTML or XML page")
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
        if image.width * image.height > MAX_PIXELS:
            raise BadCutoutError("too large", f"the image is {image.width} x {image.height}")
        # Sixteen bits: Pillow's own conversion would cut them off at 255.
        deep = np.asarray(image, np.float32) if image.mode.startswith("I") else None
        rgb = image.convert("RGB")
    except BadCutoutError:
        raise
    except Image.DecompressionBombError as error:
        raise BadCutoutError("too large", str(error).split(",")[0]) from None
    except Exception as error:
        # Pillow raises nearly anything on a broken file.
        known = data[:3] == b"\xff\xd8\xff" or data[:8] == b"\x89PNG\r\n\x1a\n"
        reason = "truncated" if known else "not an image"
        raise BadCutoutError(reason, str(error).split("<")[0].strip()) from None
    if min(rgb.size) < 8:
        raise BadCutoutError("wrong shape", f"the image is {rgb.width} x {rgb.height}")
    if deep is not None:
        return np.repeat(deep[..., None], 3, axis=-1) / np.float32(65_535)
    return np.asarray(rgb, dtype=np.float32) / np.float32(255)


def _crop(image: Image32, share: float) -> Image32:
    height, width = image.shape[:2]
    side = max(8, round(share * min(height, width)))
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def _bands(image: Image32, how: Preprocessing) -> Image32:
    """Grey is the mean of the bands; in colour the first band is red, the last one blue."""
    return image.mean(axis=-1, keepdims=True) if how.colour == "grey" else _three(image)


def _three(image: Image32) -> Image32:
    """Red, green and blue of any number of bands."""
    if image.shape[-1] == 3:
        return image
    return image[..., [0, image.shape[-1] // 2, -1]]


def _lupton(image: Image32, how: Preprocessing) -> Image32:
    """Colours that do not depend on brightness: Lupton et al. 2004, PASP 116, 133."""
    from astropy.visualization import make_lupton_rgb

    shown = make_lupton_rgb(
        *np.moveaxis(image, -1, 0),
        minimum=how.lupton_minimum,
        stretch=how.lupton_stretch,
        Q=how.lupton_q,
        output_dtype=np.float64,
    )
    return np.asarray(shown, dtype=np.float32)


def _stretch(image: Image32, how: Preprocessing) -> Image32:
    from astropy.visualization import (
        AsinhStretch,
        AsymmetricPercentileInterval,
        LinearStretch,
    )

    interval = AsymmetricPercentileInterval(how.low_percentile, how.high_percentile)
    stretch = AsinhStretch(how.asinh_a) if how.stretch == "asinh" else LinearStretch()
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
