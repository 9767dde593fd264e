"""What can be seen, by an eye and by a network: in any units, at the survey's edge, without a band.

Inputs are made here; that real pictures pass is tested on those at hand.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits
from astropy.visualization import make_lupton_rgb
from PIL import Image

from zoo_bridge.cutouts.advice import advise
from zoo_bridge.cutouts.preprocess import BadCutoutError, Preprocessing, preprocess, preview
from zoo_bridge.cutouts.visible import Look, share_alike

HOW = Preprocessing(size=64, colour="rgb")
LUPTON = replace(HOW, stretch="lupton")


def light(seed: int, side: int = 64) -> np.ndarray:
    """A galaxy of flux 100 on noise of 1."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-side // 2 : side // 2, -side // 2 : side // 2]
    blob = 100 * np.exp(-np.hypot(x, y / rng.uniform(0.4, 1)) / rng.uniform(3, 8))
    return (blob + rng.normal(0, 1, (side, side))).astype("f4")


def cube(seed: int, factor: float = 1.0, sky: float = 0.0) -> np.ndarray:
    return (factor * (np.array([0.3, 0.7, 1.0])[:, None, None] * light(seed) + sky)).astype("f4")


def as_fits(values: np.ndarray, **cards: str) -> bytes:
    unit = fits.PrimaryHDU(values)
    unit.header.update(cards)
    out = io.BytesIO()
    unit.writeto(out)
    return out.getvalue()


def as_picture(values: np.ndarray, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(values).save(out, kind, **({"quality": 85} if kind == "JPEG" else {}))
    return out.getvalue()


def reason_of(data: bytes, preprocessing: Preprocessing) -> str:
    try:
        preprocess(data, preprocessing)
    except BadCutoutError as error:
        return error.reason
    return ""


@pytest.mark.parametrize("factor", [1e-3, 1e-6, 1e-9, 1e-12])
def test_luptons_colours_in_other_units_are_too_dark_and_a_stretch_is_proposed(
    factor: float,
) -> None:
    files = [as_fits(cube(seed, factor)) for seed in range(6)]
    for data in files:
        assert reason_of(data, LUPTON) in ("too dark", "blank")
        with pytest.raises(BadCutoutError):
            preview(data, LUPTON, 200)
    told = advise(files, [LUPTON])
    values = dict(part.removeprefix("cutouts.").split(" = ") for part in told.split(" and "))
    changed = replace(LUPTON, **{name: float(value) for name, value in values.items()})
    # As the field's own function draws it with the values proposed: the galaxy's middle is bright,
    # the sky is not.
    stretch, least = changed.lupton_stretch, changed.lupton_minimum
    drawn = make_lupton_rgb(*cube(0, factor)[::-1], minimum=least, stretch=stretch, Q=8)
    assert drawn[30:34, 30:34].mean() > 100
    assert np.median(drawn) < 60
    for data in files:
        assert reason_of(data, changed) == ""
        assert Look.of(preprocess(data, changed)).contrast > 0.3


def test_a_sky_that_was_not_taken_off_is_too_bright_and_a_minimum_is_proposed() -> None:
    files = [as_fits(cube(seed, sky=1000)) for seed in range(6)]
    assert {reason_of(data, LUPTON) for data in files} == {"too bright"}
    told = advise(files, [LUPTON])
    assert "lupton_minimum = 1e+03" in told or "lupton_minimum = 1000" in told
    # Noise far beyond the stretch burns out, too.
    assert reason_of(as_fits(cube(0, 1e5)), LUPTON) == "too bright"


def test_twelve_bits_in_a_picture_of_sixteen() -> None:
    pictures = [
        as_picture(np.clip(30 * light(seed) + 200, 0, 4095).astype(np.uint16)) for seed in range(5)
    ]
    assert {reason_of(data, HOW) for data in pictures} == {"too dark"}
    assert advise(pictures, [HOW]) == "cutouts.white_value = 4095"
    seen = preprocess(pictures[0], replace(HOW, white_value=4095.0))
    assert seen.max() > 0.6


def test_one_bright_pixel_leaves_nothing_to_see() -> None:
    values = cube(1)
    values[:, 5, 5] = 1e6
    preprocessing = replace(HOW, stretch="linear", high_percentile=100.0)
    assert reason_of(as_fits(values), preprocessing) == "too dark"
    assert advise([as_fits(values)] * 3, [preprocessing]) == "cutouts.high_percentile = 99.8"
    assert advise([as_picture(np.full((64, 64, 3), 7, np.uint8))], [HOW]) == ""


def test_what_cannot_be_seen_can_be_let_pass() -> None:
    data = as_fits(cube(0, 1e-3))
    assert reason_of(data, replace(LUPTON, min_contrast=0.0)) == ""


def test_pictures_are_compared_as_they_are_shown() -> None:
    rng = np.random.default_rng(0)
    black = [np.abs(rng.normal(0, 0.004, (50, 50, 3))).astype("f4") for _ in range(20)]
    assert share_alike(black) == 1.0
    galaxies = [preprocess(as_fits(cube(seed)), HOW) for seed in range(20)]
    assert share_alike(galaxies) < 0.3
    assert share_alike([*galaxies[:5], *[galaxies[0]] * 15]) == pytest.approx(0.8)
    # Small galaxies in a large cutout differ in its middle.
    fields = [np.random.default_rng(n).normal(0, 1, (424, 424)) for n in range(12)]
    for number, field in enumerate(fields):
        field[196:228, 196:228] += light(number, 32) / 4
    small = [preview(as_fits(field.astype("f4")), HOW, 424) for field in fields]
    opened = [np.asarray(Image.open(io.BytesIO(each)), "f4") / 255 for each in small]
    assert share_alike(opened) < 0.5
    assert share_alike([]) == share_alike(galaxies[:1]) == 0.0


EDGES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "a strip": lambda y, x: x < 0.44,
    "three quarters": lambda y, x: (x < 0.5) | (y < 0.5),
    "a corner": lambda y, x: (x < 0.67) & (y > 0.33),
    "aslant": lambda y, x: x + 0.3 * y < 0.55,
    "a gap": lambda y, x: np.abs(x - 0.6) < 0.18,
}


@pytest.mark.parametrize("where", EDGES)
@pytest.mark.parametrize("beyond", [np.nan, 0.0, -99.0, np.inf])
def test_a_cutout_over_the_edge_is_partial_sky(where: str, beyond: float) -> None:
    y, x = np.mgrid[:128, :128] / 128
    values = np.stack([light(seed, 128) for seed in (1, 2, 3)])
    values[:, EDGES[where](y, x)] = beyond
    assert reason_of(as_fits(values), HOW) == "partial sky"
    assert reason_of(as_fits(values[0]), replace(HOW, colour="grey")) == "partial sky"
    assert reason_of(as_fits(values), replace(HOW, max_empty_share=1.0)) == ""


@pytest.mark.parametrize("where", EDGES)
def test_pictures_over_the_edge_are_partial_sky(where: str) -> None:
    y, x = np.mgrid[:256, :256] / 256
    values = np.clip(light(4, 256) * 2 + 20, 0, 255).astype(np.uint8)
    values[EDGES[where](y, x)] = 0
    for kind in ("PNG", "JPEG"):
        assert reason_of(as_picture(values, kind), HOW) == "partial sky", kind


def test_what_lies_beyond_an_edge_is_filled_and_sets_no_black_point() -> None:
    for beyond in (0.0, -999.0, np.nan):
        values = light(3, 128) + 300
        whole = preprocess(as_fits(values), HOW)
        values[:, :20] = beyond
        seen = preprocess(as_fits(values), HOW)
        np.testing.assert_allclose(seen[:, 14:], whole[:, 14:], atol=0.06)
        assert seen[:, :9].std() < 0.02


@pytest.mark.parametrize("level", [1, 2, 3, 5])
def test_a_sky_cut_off_at_black_is_no_edge(level: float) -> None:
    """A galaxy, and a companion that reaches the border, before a black sky."""
    field = light(8, 256) + np.roll(light(9, 256), (100, 20), (0, 1))
    drawn = np.clip(4 * (field - level), 0, 255).astype(np.uint8)
    for kind in ("PNG", "JPEG"):
        assert reason_of(as_picture(drawn, kind), HOW) == "", kind
    assert reason_of(as_fits(np.clip(field - level, 0, None)), HOW) == ""
    y, x = np.mgrid[-128:128, -128:128]
    edge_on = np.clip(200 * np.exp(-np.abs(x) / 60 - np.abs(y) / 5), 0, 255).astype(np.uint8)
    assert reason_of(as_picture(edge_on), HOW) == ""


def test_a_background_that_is_one_value_is_no_edge() -> None:
    y, x = np.mgrid[-64:64, -64:64]
    masked = np.where(np.hypot(x, y) < 30, light(5, 128), 0.0).astype("f4")
    assert reason_of(as_fits(masked), HOW) == ""
    # Counts of few photons: most of the sky is zero, here and there.
    rng = np.random.default_rng(0)
    photons = rng.poisson(0.1 + 0.02 * np.clip(light(6, 128), 0, None)).astype("i2")
    assert reason_of(as_fits(photons), replace(HOW, high_percentile=99.99)) == ""
    # A little of the edge is nothing to lose a galaxy for.
    corner = light(7, 128)
    corner[:30, :30] = np.nan
    assert np.isfinite(preprocess(as_fits(corner), HOW)).all()


@pytest.mark.parametrize("nothing", [np.nan, 0.0, 5.0])
def test_a_missing_band_is_never_a_plane_of_one_value(nothing: float) -> None:
    values = cube(1)
    values[0] = nothing
    for colour in ("rgb", "grey"):
        preprocessing = replace(HOW, colour=colour)
        assert reason_of(as_fits(values), preprocessing) == "missing band"
        # What is not asked for may be missing.
        assert reason_of(as_fits(values), replace(preprocessing, bands=(2, 1, 1))) == ""
    allowed = preprocess(as_fits(values), replace(HOW, max_missing_bands=1))
    others = preprocess(as_fits(values[1:]), replace(HOW, bands=(1, 0, 1)))
    assert allowed[..., 2].std() > 0.05
    np.testing.assert_allclose(allowed[..., 2], allowed[..., :2].mean(axis=-1), atol=0.1)
    assert others.shape == allowed.shape
    values[1] = nothing
    assert reason_of(as_fits(values), replace(HOW, max_missing_bands=1)) == "missing band"
    assert reason_of(as_fits(np.full((3, 64, 64), np.nan, "f4")), HOW) == "no data"


def test_a_few_pixels_are_filled_band_by_band() -> None:
    values = cube(1) + np.array([0, 50, 200])[:, None, None].astype("f4")
    holes = values.copy()
    holes[2, 10, 10] = np.nan
    preprocessing = replace(HOW, colour="grey", stretch="linear")
    np.testing.assert_allclose(
        preprocess(as_fits(holes), preprocessing),
        preprocess(as_fits(values), preprocessing),
        atol=0.05,
    )


def test_axes_of_length_one_are_none() -> None:
    plain = preprocess(as_fits(light(1)), HOW)
    for shape in ((1, 64, 64), (1, 1, 64, 64), (1, 1, 1, 64, 64)):
        data = as_fits(light(1).reshape(shape), CTYPE1="RA---SIN", CTYPE2="DEC--SIN")
        np.testing.assert_array_equal(preprocess(data, HOW), plain)
        np.testing.assert_array_equal(preprocess(data, replace(HOW, bands=(0,))), plain)
    three = as_fits(cube(2)[:, None])
    np.testing.assert_array_equal(preprocess(three, HOW), preprocess(as_fits(cube(2)), HOW))
    assert reason_of(as_fits(np.zeros((2, 3, 64, 64), "f4")), HOW) == "wrong shape"


def test_the_order_of_a_cubes_axes_is_declared() -> None:
    values = cube(3)
    last = np.ascontiguousarray(np.moveaxis(values, 0, -1))
    wanted = preprocess(as_fits(values), HOW)
    preprocessing = replace(HOW, cube="y, x, band")
    np.testing.assert_array_equal(preprocess(as_fits(last), preprocessing), wanted)
    np.testing.assert_array_equal(
        preprocess(as_fits(last), replace(preprocessing, bands=(2, 1, 0))),
        preprocess(as_fits(values), replace(HOW, bands=(2, 1, 0))),
    )
    with pytest.raises(BadCutoutError, match="y, x, band"):
        preprocess(as_fits(last), HOW)
    # A header that says where the sky is goes before the setting.
    sky = {"CTYPE1": "WAVE", "CTYPE2": "RA---TAN", "CTYPE3": "DEC--TAN"}
    np.testing.assert_array_equal(preprocess(as_fits(last, **sky), HOW), wanted)
    first = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CTYPE3": "WAVE"}
    np.testing.assert_array_equal(preprocess(as_fits(values, **first), preprocessing), wanted)


@pytest.mark.parametrize(
    "pack",
    [
        gzip.compress,
        bz2.compress,
        lzma.compress,
        lambda data: pa.compress(data, "zstd", asbytes=True),
    ],
    ids=["gzip", "bzip2", "xz", "zstandard"],
)
def test_packed_files_are_read(pack: Callable[[bytes], bytes]) -> None:
    for data in (as_fits(cube(1)), as_picture(np.clip(light(2), 0, 255).astype(np.uint8))):
        np.testing.assert_array_equal(preprocess(pack(data), HOW), preprocess(data, HOW))
        assert reason_of(pack(data)[:-9], HOW) == "truncated"
    # Several packed files in a row are one.
    bomb = pack(bytes(60 * 2**20)) * 10
    assert reason_of(bomb, HOW) == "too large"


def test_settings_that_are_not_about_pixels_are_no_part_of_a_model() -> None:
    plain = HOW.as_dict()
    assert {"cube", "white_value", "min_contrast", "max_empty_share"} & set(plain) == set()
    assert replace(HOW, min_contrast=0.2, max_missing_bands=1).as_dict() == plain
    assert replace(HOW, cube="y, x, band").as_dict() == {**plain, "cube": "y, x, band"}
    # Nor what only another stretch looks at.
    assert HOW.stretch == "asinh"
    assert replace(HOW, lupton_q=3.0, lupton_stretch=0.1, lupton_minimum=-1.0).as_dict() == plain
    assert replace(HOW, asinh_a=0.2).as_dict() == {**plain, "asinh_a": 0.2}
    lupton = replace(HOW, stretch="lupton")
    assert replace(lupton, asinh_a=0.2, low_percentile=3.0).as_dict() == lupton.as_dict()
    assert replace(lupton, lupton_q=3.0).as_dict() != lupton.as_dict()


@pytest.mark.slow
def test_real_galaxies_are_seen(data: Path) -> None:
    files = sorted((data / "galaxies" / "images").glob("*.jpg"))[::10]
    assert len(files) > 250
    faults = [reason_of(path.read_bytes(), HOW) for path in files]
    assert sum(map(bool, faults)) == 0, faults
    for path in sorted((data / "fits").glob("*.fits")):
        assert reason_of(path.read_bytes(), replace(HOW, colour="grey")) == "", path
