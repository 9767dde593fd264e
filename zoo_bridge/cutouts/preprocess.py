"""From image bytes to the array that the network sees, and to the picture that volunteers see.

One path serves training, scoring, evaluation and previews; its settings are part of every model.
"""

from __future__ import annotations

import gzip
import io
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# What these warn of is found out and rejected below. Filters are the process's: they are set once,
# here, since catch_warnings in one thread changes them under another.
warnings.filterwarnings("ignore", message="File may have been truncated")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

Image32 = NDArray[np.float32]
MAX_PIXELS = 64_000_000
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
    stretch : str
        ``asinh`` or ``linear``, for images that are not already made for the eye.
    asinh_a : float
        Where the asinh stretch turns from linear to logarithmic, as a share of the range.
    low_percentile, high_percentile : float
        Pixel values that become 0 and 1.
    crop : float
        Share of the side that is kept, around the centre.
    """

    size: int = 128
    colour: str = "grey"
    stretch: str = "asinh"
    asinh_a: float = 0.1
    low_percentile: float = 1.0
    high_percentile: float = 99.8
    crop: float = 1.0

    @property
    def channels(self) -> int:
        """Planes of the array."""
        return 1 if self.colour == "grey" else 3

    def as_dict(self) -> dict[str, Any]:
        """The settings, for a model's record."""
        return asdict(self)


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


def preview(data: bytes, how: Preprocessing, size: int) -> bytes:
    """Bytes to a JPEG for volunteers, stretched and cropped as the network sees it.

    Parameters
    ----------
    data : bytes
        The cutout's file.
    how : Preprocessing
        The same settings as for the network.
    size : int
        The picture's side in pixels; small cutouts are enlarged.

    Returns
    -------
    bytes
        A JPEG below one megabyte.

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
    for quality in (92, 80, 60, 40):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
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
        planes = _crop(_read_fits(data), how.crop)
        planes = _stretch(_bands(planes, how), how)
    else:
        # JPEG and PNG are already made for the eye.
        planes = _bands(_crop(_read_picture(data), how.crop), how)
    if float(planes.min()) == float(planes.max()):
        raise BadCutoutError("blank", "all pixels have the same value")
    return planes


def _gunzip(data: bytes) -> bytes:
    try:
        with gzip.open(io.BytesIO(data)) as file:
            out = file.read(SIZE_LIMIT + 1)
    except (OSError, EOFError) as error:
        raise BadCutoutError("truncated", f"the gzip stream is broken: {error}") from None
    if len(out) > SIZE_LIMIT:
        raise BadCutoutError("too large", "the file unpacks to more than 512 MiB")
    return out


def _read_fits(data: bytes) -> Image32:
    """The first image of a FITS file: shape (height, width, bands)."""
    from astropy.io import fits

    try:
        with fits.open(io.BytesIO(data), memmap=False) as units:
            image = next(
                (unit for unit in units if unit.is_image and unit.header.get("NAXIS", 0) >= 2),
                None,
            )
            if image is None:
                raise BadCutoutError("no image", "no part of the FITS file holds an image")
            shape = image.shape
            if int(np.prod(shape)) > MAX_PIXELS:
                raise BadCutoutError("too large", f"the image is {shape}")
            values = np.asarray(image.data, dtype=np.float32)
    except BadCutoutError:
        raise
    except Exception as error:
        # astropy raises nearly anything on a broken file; whatever it is, this cutout is out.
        raise BadCutoutError("truncated", f"the FITS file is broken: {error}") from None
    if values.ndim == 2:
        values = values[None]
    if values.ndim != 3 or min(values.shape[1:]) < 8 or values.shape[0] > 16:
        raise BadCutoutError("wrong shape", f"the image is {values.shape}")
    finite = np.isfinite(values)
    if finite.mean() < 0.5:
        raise BadCutoutError("no data", "more than half of the pixels are not numbers")
    if not finite.all():
        values = np.where(finite, values, np.median(values[finite])).astype(np.float32)
    # Bands go from blue to red in FITS cubes; pictures begin with red.
    return np.moveaxis(values, 0, -1)[..., ::-1]


def _read_picture(data: bytes) -> Image32:
    if data.lstrip()[:1] == b"<":
        raise BadCutoutError("not an image", "it is an HTML or XML page")
    try:
        image = Image.open(io.BytesIO(data))
        if image.width * image.height > MAX_PIXELS:
            raise BadCutoutError("too large", f"the image is {image.width} x {image.height}")
        rgb = image.convert("RGB")
    except BadCutoutError:
        raise
    except Exception as error:
        # Pillow raises nearly anything on a broken file.
        known = data[:3] == b"\xff\xd8\xff" or data[:8] == b"\x89PNG\r\n\x1a\n"
        reason = "truncated" if known else "not an image"
        raise BadCutoutError(reason, str(error).split("<")[0].strip()) from None
    if min(rgb.size) < 8:
        raise BadCutoutError("wrong shape", f"the image is {rgb.width} x {rgb.height}")
    return np.asarray(rgb, dtype=np.float32) / np.float32(255)


def _crop(image: Image32, share: float) -> Image32:
    height, width = image.shape[:2]
    side = max(8, round(share * min(height, width)))
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def _bands(image: Image32, how: Preprocessing) -> Image32:
    """Grey is the mean of the bands; in colour the first band is red, the last one blue."""
    if how.colour == "grey":
        return image.mean(axis=-1, keepdims=True)
    if image.shape[-1] == 1:
        return np.repeat(image, 3, axis=-1)
    if image.shape[-1] == 3:
        return image
    return image[..., [0, image.shape[-1] // 2, -1]]


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
