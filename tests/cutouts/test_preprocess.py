"""From bytes to arrays: what is right, and what is set aside under which reason."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from PIL import Image

from zoo_bridge.cutouts.plain_fits import read_plain
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


def extensions(*planes: np.ndarray, names: str = "gri", packed: bool = False) -> bytes:
    unit = fits.CompImageHDU if packed else fits.ImageHDU
    units = [unit(plane, name=name) for plane, name in zip(planes, names, strict=True)]
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), *units]).writeto(buffer)
    return buffer.getvalue()


def test_bands_are_chosen_by_place_and_by_name_wherever_they_are() -> None:
    planes = [COUNTS, COUNTS * 0.5 + 3, COUNTS[::-1]]
    cube = np.stack(planes).astype("f4")

    def seen(data: bytes, *bands: int | str, colour: str = "rgb") -> np.ndarray:
        return preprocess(data, Preprocessing(size=64, colour=colour, bands=bands))

    whole = preprocess(fits_bytes(cube), Preprocessing(size=64, colour="rgb"))
    np.testing.assert_array_equal(seen(fits_bytes(cube), 2, 1, 0), whole)
    split = extensions(*cube)
    np.testing.assert_array_equal(seen(split, "i", "R", "g"), whole)
    np.testing.assert_array_equal(seen(split, 2, 1, 0), whole)
    np.testing.assert_array_equal(seen(gzip.compress(split), "i", 1, "g"), whole)
    np.testing.assert_allclose(seen(extensions(*cube, packed=True), "i", "r", "g"), whole, atol=0.1)
    one = seen(fits_bytes(cube), 2, colour="grey")
    np.testing.assert_array_equal(one, preprocess(fits_bytes(cube[2]), HOW))
    # What is not asked for need not fit, nor be readable.
    odd = extensions(COUNTS, np.zeros((3, 3), "f4"), COUNTS)
    np.testing.assert_array_equal(seen(odd, "i", "g", "g")[..., 0], seen(odd, 0, 0, 2)[..., 0])
    for data, bands, reason in (
        (fits_bytes(cube), (3,), "no image"),
        (fits_bytes(COUNTS), (1,), "no image"),
        (split, ("z",), "no image"),
        (fits_bytes(cube), ("g",), "no image"),
        (odd, ("g", "r"), "wrong shape"),
    ):
        with pytest.raises(BadCutoutError) as caught:
            seen(data, *bands)
        assert caught.value.reason == reason, bands


def test_luptons_colours_do_not_depend_on_brightness() -> None:
    y, x = np.mgrid[-32:32, -32:32]
    star = 60 * np.exp(-(x**2 + y**2) / 200)
    cube = np.stack([0.25 * star, 0.5 * star, star]).astype("f4")
    preprocessing = Preprocessing(size=64, colour="rgb", stretch="lupton", lupton_stretch=20)
    shown = preprocess(fits_bytes(cube), preprocessing)
    assert shown.shape == (64, 64, 3)
    assert 0 <= shown.min() < shown.max() <= 1
    bright, faint = shown[32, 32], shown[32, 50]
    assert bright[0] > 1.5 * faint[0]
    # The last plane is the reddest; colour is the same at either brightness.
    np.testing.assert_allclose(bright / bright[0], [1, 0.5, 0.25], atol=0.02)
    np.testing.assert_allclose(faint / faint[0], [1, 0.5, 0.25], atol=0.02)
    grey = preprocess(fits_bytes(cube), Preprocessing(size=64, stretch="lupton", lupton_stretch=20))
    np.testing.assert_allclose(grey[..., 0], shown.mean(axis=-1), atol=1e-5)
    # Fluxes have units here: twice as much is brighter, which percentiles do not see.
    twice = preprocess(fits_bytes(2 * cube), preprocessing)
    assert twice.mean() > shown.mean()
    assert preprocess(fits_bytes(star.astype("f4")), preprocessing).std() > 0.05
    with pytest.raises(BadCutoutError, match="blank"):
        preprocess(fits_bytes(-1 - cube), preprocessing)


def test_a_few_bad_pixels_are_filled() -> None:
    values = COUNTS.copy()
    values[0, :5] = np.nan
    assert np.isfinite(preprocess(fits_bytes(values), HOW)).all()


def picture(mode: str, size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, 7).save(buffer, "PNG")
    return buffer.getvalue()


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF] * 8) + data[middle + 8 :]


def header_of(side: int) -> bytes:
    cards = ("SIMPLE  =                    T", "BITPIX  =                   -8")
    cards += (f"NAXIS   = {2:20d}", f"NAXIS1  = {side:20d}", f"NAXIS2  = {side:20d}", "END")
    text = "".join(f"{card:<80}" for card in cards).replace("-8", " 8")
    return text.ljust(2880).encode() + bytes(2880)


def other_format(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(400, dtype=np.uint8).reshape(20, 20)).save(buffer, kind)
    return buffer.getvalue()


def test_a_picture_of_sixteen_bits_keeps_them() -> None:
    ramp = np.linspace(0, 65_535, 64 * 64).reshape(64, 64)
    buffer = io.BytesIO()
    Image.fromarray(ramp.astype(np.uint16)).save(buffer, "PNG")
    seen = preprocess(buffer.getvalue(), HOW)
    np.testing.assert_allclose(seen[..., 0], ramp / 65_535, atol=1e-3)


def test_pixels_beyond_all_numbers_are_none() -> None:
    wild = np.where(np.arange(4096).reshape(64, 64) % 3, 3e38, -3e38).astype("f4")
    with pytest.raises(BadCutoutError):
        preprocess(fits_bytes(wild), Preprocessing(size=64, stretch="lupton"))


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
        (picture("1", (20_000, 20_000)), "too large"),
        (flipped(gzip.compress(to_fits(GALAXY, COUNTS))), "truncated"),
        (header_of(4_294_967_296), "truncated"),
        (header_of(3_037_000_500), "truncated"),
        (fits_bytes(np.zeros((5000, 5000), "i1")), "too large"),
        (gzip.compress(fits_bytes(np.zeros((5000, 5000), "i1"))), "too large"),
        (other_format("TIFF"), "not an image"),
        (other_format("GIF"), "not an image"),
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


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_a_picture_that_does_not_shrink_well_is_below_a_megabyte_all_the_same(kind: str) -> None:
    noise = np.random.default_rng(0).random((3, 1024, 1024)).astype("f4")
    preprocessing = Preprocessing(size=64, colour="rgb", stretch="linear")
    data = preview(fits_bytes(noise), preprocessing, 1024, kind)
    image = Image.open(io.BytesIO(data))
    assert image.format == kind.upper()
    assert 100_000 < len(data) < 1_000_000


def test_real_cutouts_are_read(data: Path) -> None:
    files = sorted((data / "fits").glob("*.fits"))
    files += sorted((data / "galaxies" / "images").glob("*.jpg"))[:10]
    assert len(files) >= 20
    for path in files:
        for colour in ("grey", "rgb"):
            array = preprocess(path.read_bytes(), Preprocessing(size=64, colour=colour))
            assert array.std() > 0.02, path


@pytest.mark.parametrize("kind", ["u1", "i2", "i4", "i8", "f4", "f8"])
@pytest.mark.parametrize("shape", [(20, 30), (3, 16, 17)])
def test_plain_fits_is_read_as_astropy_reads_it(kind: str, shape: tuple[int, ...]) -> None:
    values = (100 * np.random.default_rng(0).normal(size=shape) + 50).astype(kind)
    unit = fits.PrimaryHDU(values)
    unit.header["COMMENT"] = "a comment"
    unit.header["OBJECT"] = ("M 31", "= 5 / not a number")
    unit.header["HIERARCH a long one"] = 3
    buffer = io.BytesIO()
    unit.writeto(buffer)
    read = read_plain(buffer.getvalue())
    assert read is not None
    np.testing.assert_array_equal(read, values.astype(np.float32))
    # All of the data must be there; what comes after them does not matter.
    end = values.nbytes + len(unit.header.tostring())
    assert read_plain(buffer.getvalue()[: end - 1]) is None
    assert read_plain(buffer.getvalue()[:end]) is not None


def test_what_is_not_plain_is_left_to_astropy() -> None:
    values = np.arange(400, dtype=np.float32).reshape(20, 20)
    scaled = fits.PrimaryHDU(values.astype(np.int16))
    scaled.header["BSCALE"], scaled.header["BZERO"] = 2.0, 10.0
    second = fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(values)])
    packed = fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(values)])
    for made, exact in ((fits.HDUList([scaled]), False), (second, True), (packed, False)):
        buffer = io.BytesIO()
        made.writeto(buffer)
        assert read_plain(buffer.getvalue()) is None
        got = preprocess(buffer.getvalue(), Preprocessing(size=20, stretch="linear"))
        plain = preprocess(fits_bytes(values), Preprocessing(size=20, stretch="linear"))
        np.testing.assert_allclose(got, plain, atol=0.0 if exact else 0.02)
    assert read_plain(b"SIMPLE" + b" " * 74 + b"END") is None


def test_real_fits_are_read_plain_as_by_astropy(data: Path) -> None:
    read = {path: read_plain(path.read_bytes()) for path in (data / "fits").glob("*.fits")}
    plain = {path: values for path, values in read.items() if values is not None}
    assert plain
    for path, values in plain.items():
        np.testing.assert_array_equal(values, fits.getdata(path).astype(np.float32))
