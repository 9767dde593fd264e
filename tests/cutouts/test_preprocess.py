"""From bytes to arrays: what is right, and what is set aside under which reason."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from PIL import Image

from zoo_bridge.cutouts.preprocess import BadCutoutError, Preprocessing, preprocess, preview
from zoo_bridge.sandbox.survey import invent, render, to_fits, to_jpeg

HOW = Preprocessing(size=64)
GALAXY = invent(1, 0)[0]
COUNTS = render(GALAXY, 0)


def fits_bytes(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    fits.PrimaryHDU(values).writeto(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("make", [lambda: to_fits(GALAXY, COUNTS), lambda: to_jpeg(COUNTS)])
def test_fits_and_jpeg_become_arrays_between_0_and_1(make) -> None:  # type: ignore[no-untyped-def]
    array = preprocess(make(), HOW)
    assert array.shape == (64, 64, 1)
    assert array.dtype == np.float32
    assert array.min() >= 0
    assert array.max() <= 1
    assert array.std() > 0.05
    # The galaxy is in the middle.
    assert array[24:40, 24:40].mean() > array[:8].mean()


def test_gzipped_fits_is_fits() -> None:
    data = to_fits(GALAXY, COUNTS)
    np.testing.assert_array_equal(preprocess(gzip.compress(data), HOW), preprocess(data, HOW))


def test_bands_become_grey_or_colours_with_red_first() -> None:
    cube = np.stack([COUNTS, COUNTS * 0.5, COUNTS * 0.1]).astype(">f4")
    grey = preprocess(fits_bytes(cube), HOW)
    np.testing.assert_allclose(grey, preprocess(fits_bytes(cube.mean(axis=0)), HOW), atol=1e-5)
    colour = preprocess(fits_bytes(cube), Preprocessing(size=64, colour="rgb"))
    assert colour.shape == (64, 64, 3)
    # The first FITS band is the bluest, and so the last channel.
    assert colour[..., 2].mean() > colour[..., 0].mean()


def test_a_few_bad_pixels_are_filled() -> None:
    values = COUNTS.copy()
    values[0, :5] = np.nan
    assert np.isfinite(preprocess(fits_bytes(values), HOW)).all()


def picture(mode: str, size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, 7).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>no such galaxy</html>", "not an image"),
        (b"\x00\x01\x02 something", "not an image"),
        (to_jpeg(COUNTS)[:900], "truncated"),
        (to_fits(GALAXY, COUNTS)[:9000], "truncated"),
        (gzip.compress(to_fits(GALAXY, COUNTS))[:-200], "truncated"),
        (fits_bytes(np.full((64, 64), np.nan, "f4")), "no data"),
        (fits_bytes(np.zeros((64, 64), "f4")), "blank"),
        (fits_bytes(np.zeros(64, "f4")), "no image"),
        (fits_bytes(np.zeros((4, 4), "f4")), "wrong shape"),
        (picture("L", (4, 4)), "wrong shape"),
    ],
)
def test_what_cannot_be_used_has_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadCutoutError) as caught:
        preprocess(data, HOW)
    assert caught.value.reason == reason
    with pytest.raises(BadCutoutError):
        preview(data, HOW, 200)


def test_previews_are_small_jpegs_of_the_asked_size() -> None:
    data = preview(to_fits(GALAXY, COUNTS), HOW, 424)
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.size) == ("JPEG", (424, 424))
    assert len(data) < 1_000_000


def test_real_cutouts_are_read(data: Path) -> None:
    files = sorted((data / "fits").glob("*.fits"))
    files += sorted((data / "galaxies" / "images").glob("*.jpg"))[:10]
    assert len(files) >= 20
    for path in files:
        for colour in ("grey", "rgb"):
            array = preprocess(path.read_bytes(), Preprocessing(size=64, colour=colour))
            assert array.std() > 0.02, path
