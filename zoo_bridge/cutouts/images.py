"""From a file's bytes to its planes of pixels: FITS, JPEG and PNG, packed or not.

Whatever is wrong with a file is a `BadCutoutError` with a reason from a short list.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import math
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from zoo_bridge.cutouts.plain_fits import SKY_AXES, read_plain

# What these warn of is found out and rejected below. Filters are the process's: they are set once,
# here, since catch_warnings in one thread changes them under another.
warnings.filterwarnings("ignore", message="File may have been truncated")
warnings.filterwarnings("ignore", message="(?s).*Header size is not multiple")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

Image32 = NDArray[np.float32]
# 4096 x 4096: a cutout is smaller, and a bomb is not unpacked.
MAX_PIXELS = 2**24
MAX_BANDS = 16
SIZE_LIMIT = 512 * 2**20
BAND_FIRST, BAND_LAST = "band, y, x", "y, x, band"


class BadCutoutError(Exception):
    """A cutout that cannot be used: ``reason`` from a short list, ``detail`` in words."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def open_packed(data: bytes | IO[bytes], head: bytes) -> IO[bytes] | None:
    """What is packed by gzip, bzip2, xz or zstandard as a file of what was packed.

    Parameters
    ----------
    data : bytes or file
        The packed bytes.
    head : bytes
        The first of them, six at least, which tell by what.

    Returns
    -------
    file or None
        None if it is packed by none of them.
    """
    for magic, unpack in _UNPACK.items():
        if head.startswith(magic):
            return unpack(io.BytesIO(data) if isinstance(data, bytes) else data)
    return None


def _zstandard(file: IO[bytes]) -> Any:
    return pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")


_UNPACK: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"\x28\xb5\x2f\xfd": _zstandard,
}
UNPACK_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException)


def unpack(data: bytes) -> bytes:
    """A file's bytes, unpacked if they are packed.

    Raises
    ------
    BadCutoutError
        If they break off, or are more than half a gigabyte.
    """
    try:
        packed = open_packed(data, data[:6])
        if packed is None:
            return data
        with packed as file:
            out = bytes(file.read(SIZE_LIMIT + 1))
    except UNPACK_ERRORS as error:
        raise BadCutoutError("truncated", f"the packed file is broken: {error}") from None
    if len(out) > SIZE_LIMIT:
        raise BadCutoutError("too large", "the file unpacks to more than 512 MiB")
    return out


def read_fits(data: bytes, bands: tuple[int | str, ...], cube: str) -> Image32:
    """An image of a FITS file: shape (height, width, bands), red first.

    Parameters
    ----------
    data : bytes
        The file, not packed.
    bands : tuple of int or str
        Which planes; empty for all of the first image, of which the last is red.
    cube : str
        The order of the axes where a header does not tell which of them lie in the sky.
    """
    # Where bands may come last, the header is asked first, which astropy reads.
    plain = cube == BAND_FIRST and len(data) <= 8 * MAX_PIXELS
    values = read_plain(data) if plain else None
    if values is not None:
        values = _band_first(values, cube)
    # A plain file's one image may have to be asked for by name, or be one of several.
    if values is None or (bands and (values.ndim == 2 or any(isinstance(b, str) for b in bands))):
        values = _read_any_fits(data, bands, cube)
    elif bands:
        values = _chosen(list(values), bands)
    if values.ndim == 2:
        values = values[None]
    _check_shape(values)
    planes = np.moveaxis(values, 0, -1)
    # Bands go from blue to red in FITS cubes; pictures begin with red.
    return planes if bands else planes[..., ::-1]


def _check_shape(values: Image32) -> None:
    if values.ndim != 3 or min(values.shape[1:]) < 8 or values.shape[0] > MAX_BANDS:
        told = f"the image is {values.shape}"
        if values.ndim == 3 and values.shape[-1] <= MAX_BANDS < values.shape[0]:
            told += f'; if its bands come last, set cutouts.cube = "{BAND_LAST}"'
        raise BadCutoutError("wrong shape", told)
    if values.size > MAX_PIXELS:
        raise BadCutoutError("too large", f"the image is {values.shape}")


def _band_first(values: Image32, cube: str, axes: Sequence[str] = ()) -> Image32:
    """An image without axes of length one (STOKES, FREQ), its bands, if any, before y and x.

    ``axes`` are what a header calls them, in numpy's order.
    """
    kept = [place for place, length in enumerate(values.shape) if length != 1]
    values = values.reshape([values.shape[place] for place in kept])
    if values.ndim != 3:
        return values
    sky = [axes[place].upper().startswith(SKY_AXES) for place in kept] if axes else []
    if sum(sky) == 2:
        return np.moveaxis(values, sky.index(False), 0)
    return np.moveaxis(values, -1, 0) if cube == BAND_LAST else values


def _read_any_fits(data: bytes, bands: tuple[int | str, ...], cube: str) -> Image32:
    from astropy.io import fits

    try:
        with fits.open(io.BytesIO(data), memmap=False) as units:
            images = [unit for unit in units if unit.is_image and unit.header.get("NAXIS", 0) >= 2]
            if not images:
                raise BadCutoutError("no image", "no part of the FITS file holds an image")
            named = any(isinstance(band, str) for band in bands)
            is_cube = sum(length != 1 for length in images[0].shape) > 2
            if not bands or (is_cube and not named):
                values = _pixels(images[0], cube)
                return _chosen(list(values), bands) if bands else values
            names = [unit.name for unit in images]
            return _chosen([_Later(unit, cube) for unit in images], bands, names)
    except BadCutoutError:
        raise
    except Exception as error:
        # astropy raises nearly anything on a broken file; whatever it is, this cutout is out.
        raise BadCutoutError("truncated", f"the FITS file is broken: {error}") from None


@dataclass(frozen=True)
class _Later:
    """An image that is read, and unpacked, only if it is wanted."""

    unit: Any
    cube: str

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Image32:
        return _pixels(self.unit, self.cube)


def _pixels(unit: Any, cube: str) -> Image32:
    if math.prod(unit.shape) > MAX_PIXELS:
        raise BadCutoutError("too large", f"the image is {unit.shape}")
    count = len(unit.shape)
    axes = [str(unit.header.get(f"CTYPE{number}", "")) for number in range(count, 0, -1)]
    return _band_first(np.asarray(unit.data, dtype=np.float32), cube, axes)


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


def read_picture(data: bytes, white: float) -> Image32:
    """A JPEG or PNG: shape (height, width, 3), 0 to 1.

    Parameters
    ----------
    data : bytes
        The file's bytes, unpacked.
    white : float
        Of sixteen bits: the value that is white.
    """
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
        return np.repeat(np.clip(deep[..., None] / np.float32(white), 0, 1), 3, axis=-1)
    shown = np.asarray(rgb, dtype=np.float32) / np.float32(255)
    if _is_deep_png(data):
        # In colour Pillow keeps the upper eight of sixteen bits.
        shown = np.clip(shown * np.float32(65_535 / white), 0, 1)
    return shown


def _is_deep_png(data: bytes) -> bool:
    return data[:8] == b"\x89PNG\r\n\x1a\n" and data[24:25] == b"\x10"
