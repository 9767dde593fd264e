"""An invented survey: galaxies of many kinds, as a telescope would record them.

Light profiles are astropy's Sérsic models, seen through a Moffat PSF, with photon and sky noise.
How well volunteers can see a feature follows from how well it is resolved and how bright it is, so
the network has something to learn that is neither trivial nor given away by the catalogue.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.convolution import Moffat2DKernel
from astropy.io import fits
from astropy.modeling.models import Sersic2D
from astropy.wcs import WCS
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import irfft2, next_fast_len, rfft2

Array = NDArray[np.floating[Any]]
SIDE = 96
PIXEL_ARCSEC = 0.262
SKY_SIGMA = 1.0
KINDS = {
    "elliptical": 0.32,
    "disc": 0.20,
    "spiral": 0.15,
    "barred spiral": 0.11,
    "edge-on": 0.10,
    "merger": 0.06,
    "artifact": 0.06,
}


@dataclass(frozen=True)
class Galaxy:
    """One object of the invented survey, and what volunteers would say of it.

    ``smooth``, ``featured`` and ``artifact`` are the chances of each answer to the first question,
    ``bar`` that of a bar once "featured" was said.
    """

    object_id: str
    kind: str
    ra: float
    dec: float
    redshift: float
    magnitude: float
    radius: float
    smooth: float
    featured: float
    artifact: float
    bar: float


def invent(count: int, seed: int) -> list[Galaxy]:
    """Draw the objects of a survey.

    Parameters
    ----------
    count : int
        Galaxies to invent.
    seed : int
        The same seed gives the same survey.

    Returns
    -------
    list of Galaxy
    """
    rng = np.random.default_rng(seed)
    kinds = rng.choice(list(KINDS), size=count, p=list(KINDS.values()))
    return [_invent_one(index, str(kind), rng) for index, kind in enumerate(kinds)]


def _invent_one(index: int, kind: str, rng: np.random.Generator) -> Galaxy:
    redshift = float(np.clip(rng.gamma(3.0, 0.022), 0.01, 0.2))
    size_kpc = rng.lognormal(np.log(3.2), 0.35)
    radius = float(np.clip(size_kpc / (redshift * 4.28e3) * 206.265 / PIXEL_ARCSEC, 4.0, 15.0))
    magnitude = float(np.clip(15.2 + 4.0 * np.log10(redshift / 0.03) + rng.normal(0, 0.7), 13, 18))
    # A feature is visible when it spans several PSFs and stands well above the noise.
    seen = 1 / (1 + np.exp(-(radius - 6.5) / 2.0)) / (1 + np.exp(magnitude - 17.2))
    scatter = float(rng.normal(0, 0.04))
    featured = {
        "elliptical": 0.06,
        "disc": 0.16 + 0.12 * seen,
        "spiral": 0.25 + 0.68 * seen,
        "barred spiral": 0.25 + 0.68 * seen,
        "edge-on": 0.25 + 0.60 * seen,
        "merger": 0.12 + 0.74 * seen,
        "artifact": 0.08,
    }[kind]
    artifact = 0.80 if kind == "artifact" else 0.02
    featured = float(np.clip(featured + scatter, 0.02, 0.96 - artifact))
    return Galaxy(
        object_id=f"ZB{index:06d}",
        kind=kind,
        ra=float(rng.uniform(150, 210)),
        dec=float(rng.uniform(-5, 35)),
        redshift=redshift,
        magnitude=magnitude,
        radius=radius,
        smooth=1 - featured - artifact,
        featured=featured,
        artifact=artifact,
        bar=float(0.15 + 0.7 * seen) if kind == "barred spiral" else 0.08,
    )


def render(galaxy: Galaxy, seed: int) -> Array:
    """The object's cutout.

    Parameters
    ----------
    galaxy : Galaxy
        What to draw.
    seed : int
        For orientation, arms and noise; combined with the object id.

    Returns
    -------
    ndarray, shape (SIDE, SIDE), float32
        Counts above the sky, in units in which the sky's noise is 1.
    """
    rng = np.random.default_rng([seed, int(galaxy.object_id[2:])])
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    centre = (SIDE - 1) / 2 + rng.uniform(-1.5, 1.5, size=2)
    light = _DRAW[galaxy.kind](galaxy, x, y, centre, rng)
    light *= 10 ** (-0.4 * (galaxy.magnitude - 16.5)) * 9000 / max(light.sum(), 1e-9)
    psf = Moffat2DKernel(gamma=rng.uniform(1.7, 2.3), alpha=3.0, x_size=25, y_size=25).array
    seen = np.clip(_blurred(light, psf / psf.sum()), 0, None)
    noisy = seen + rng.normal(size=seen.shape) * np.sqrt(SKY_SIGMA**2 + seen / 10)
    return noisy.astype(np.float32)


def _blurred(light: Array, psf: Array) -> Array:
    """Their convolution, of the size of the first. (scipy.signal takes seconds to load.)"""
    height, width = (
        next_fast_len(a + b - 1, True) for a, b in zip(light.shape, psf.shape, strict=True)
    )
    both = rfft2(light, (height, width)) * rfft2(psf, (height, width))
    whole = irfft2(both, (height, width))
    top, left = ((size - 1) // 2 for size in psf.shape)
    return whole[top : top + light.shape[0], left : left + light.shape[1]]


def _sersic(
    x: Array, y: Array, centre: Array, radius: float, n: float, axis: float, angle: float
) -> Array:
    model = Sersic2D(
        amplitude=1.0,
        r_eff=radius,
        n=n,
        x_0=centre[0],
        y_0=centre[1],
        ellip=1 - axis,
        theta=angle,
    )
    light: Array = np.nan_to_num(model(x, y))
    return light


def _draw_elliptical(g: Galaxy, x: Array, y: Array, c: Array, rng: np.random.Generator) -> Array:
    return _sersic(x, y, c, g.radius, rng.uniform(3, 5), rng.uniform(0.6, 1), rng.uniform(0, 3.1))


def _draw_disc(g: Galaxy, x: Array, y: Array, c: Array, rng: np.random.Generator) -> Array:
    angle, axis = rng.uniform(0, 3.1), rng.uniform(0.4, 0.95)
    bulge = _sersic(x, y, c, g.radius * 0.25, 3, 0.5 + axis / 2, angle)
    return _sersic(x, y, c, g.radius * 1.2, 1, axis, angle) + 2.0 * bulge


def _draw_edge_on(g: Galaxy, x: Array, y: Array, c: Array, rng: np.random.Generator) -> Array:
    angle, axis = rng.uniform(0, 3.1), rng.uniform(0.1, 0.2)
    light = _sersic(x, y, c, g.radius * 1.7, 1, axis, angle)
    light += 1.2 * _sersic(x, y, c, g.radius * 0.4, 2, 0.7, angle)
    across = -(x - c[0]) * np.sin(angle) + (y - c[1]) * np.cos(angle)
    dust = np.exp(-0.5 * (across / 0.9) ** 2) * rng.uniform(0.2, 0.6)
    return light * (1 - dust)


def _draw_spiral(g: Galaxy, x: Array, y: Array, c: Array, rng: np.random.Generator) -> Array:
    return _arms(g, x, y, c, rng, bar=0.0)


def _draw_barred(g: Galaxy, x: Array, y: Array, c: Array, rng: np.random.Generator) -> Array:
    return _arms(g, x, y, c, rng, bar=rng.uniform(2.0, 3.5))


def _arms(g: Galaxy, x: Array, y: Array, c: Array, rng: np.random.Generator, bar: float) -> Array:
    """A disc with logarithmic spiral arms, a bulge, star-forming knots and perhaps a bar."""
    angle, axis = rng.uniform(0, 3.1), rng.uniform(0.55, 1.0)
    along = (x - c[0]) * np.cos(angle) + (y - c[1]) * np.sin(angle)
    across = (-(x - c[0]) * np.sin(angle) + (y - c[1]) * np.cos(angle)) / axis
    r, phi = np.hypot(along, across) + 1e-6, np.arctan2(across, along)
    pitch = np.deg2rad(rng.uniform(14, 30)) * rng.choice([-1, 1])
    wave = np.cos(rng.choice([2, 2, 2, 3, 4]) * (phi - np.log(r / g.radius) / np.tan(pitch)))
    strength = rng.uniform(0.35, 0.75) / (1 + np.exp(-(r - 0.35 * g.radius) / 1.2))
    disc = _sersic(x, y, c, g.radius * 1.4, 1, axis, angle)
    light = disc * (1 + strength * wave) ** 2
    for _ in range(rng.integers(4, 10)):
        spot = rng.choice(SIDE * SIDE, p=(light / light.sum()).ravel())
        row, column = divmod(int(spot), SIDE)
        light += 0.6 * disc[row, column] * np.exp(-0.5 * ((x - column) ** 2 + (y - row) ** 2))
    light += 1.5 * _sersic(x, y, c, g.radius * 0.2, 2, 0.9, angle)
    if bar:
        long, short = 0.9 * g.radius, 0.16 * g.radius
        light += bar * np.exp(-((along / long) ** 4) - (across * axis / short) ** 2)
    return light


def _draw_merger(g: Galaxy, x: Array, y: Array, c: Array, rng: np.random.Generator) -> Array:
    angle = rng.uniform(0, 2 * np.pi)
    apart = g.radius * rng.uniform(0.9, 1.8) * np.array([np.cos(angle), np.sin(angle)])
    light = _sersic(x, y, c - apart / 2, g.radius * 0.7, 2, rng.uniform(0.5, 1), angle)
    other = _sersic(x, y, c + apart / 2, g.radius * 0.55, 2, rng.uniform(0.5, 1), angle + 1)
    light = light + rng.uniform(0.5, 1.0) * other
    r = np.hypot(x - c[0], y - c[1])
    phi = np.arctan2(y - c[1], x - c[0])
    ridge = 1.1 * g.radius * (1 + 0.35 * np.mod(phi - angle, 2 * np.pi))
    fade = np.exp(-np.mod(phi - angle, 2 * np.pi) / 2)
    return light + 0.5 * fade * np.exp(-0.5 * ((r - ridge) / 1.8) ** 2)


def _draw_artifact(g: Galaxy, x: Array, y: Array, c: Array, rng: np.random.Generator) -> Array:
    """A saturated star with diffraction spikes, or a satellite's trail."""
    angle = rng.uniform(0, np.pi)
    along = (x - c[0]) * np.cos(angle) + (y - c[1]) * np.sin(angle)
    across = -(x - c[0]) * np.sin(angle) + (y - c[1]) * np.cos(angle)
    if rng.uniform() < 0.4:
        return np.exp(-0.5 * (across / 1.2) ** 2)
    star = 30 * np.exp(-0.5 * (along**2 + across**2) / 2.5**2)
    spikes = np.exp(-np.abs(across) / 0.8 - np.abs(along) / 22)
    return star + spikes + np.exp(-np.abs(along) / 0.8 - np.abs(across) / 22)


_DRAW: dict[str, Callable[..., Array]] = {
    "elliptical": _draw_elliptical,
    "disc": _draw_disc,
    "spiral": _draw_spiral,
    "barred spiral": _draw_barred,
    "edge-on": _draw_edge_on,
    "merger": _draw_merger,
    "artifact": _draw_artifact,
}


def to_fits(galaxy: Galaxy, counts: Array) -> bytes:
    """The cutout as a FITS file with a world coordinate system."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [galaxy.ra, galaxy.dec]
    wcs.wcs.crpix = [(SIDE + 1) / 2, (SIDE + 1) / 2]
    wcs.wcs.cdelt = [-PIXEL_ARCSEC / 3600, PIXEL_ARCSEC / 3600]
    header = wcs.to_header()
    header["OBJECT"] = galaxy.object_id
    header["FILTER"] = "r"
    buffer = io.BytesIO()
    fits.PrimaryHDU(counts, header).writeto(buffer)
    return buffer.getvalue()


def to_jpeg(counts: Array) -> bytes:
    """The cutout as a survey's web site would show it."""
    scaled = np.arcsinh(np.clip(counts, -1, None) / 3) / np.arcsinh(np.percentile(counts, 99.8) / 3)
    image = Image.fromarray((255 * np.clip(scaled, 0, 1)).astype(np.uint8))
    buffer = io.BytesIO()
    image.resize((2 * SIDE, 2 * SIDE), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write(folder: Path, count: int, seed: int, advance: Callable[[int], None]) -> None:
    """Render a survey to disk: ``cutouts/*.fits``, ``jpeg/*.jpg``, ``catalogue.csv``, truth.

    Parameters
    ----------
    folder : Path
        The folder that FITS files and the catalogue go to.
    count, seed : int
        Galaxies to invent, and from which seed: see `invent`.
    advance : callable
        Called with 1 after each object.
    """
    galaxies = invent(count, seed)
    for name in ("cutouts", "jpeg"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for galaxy in galaxies:
        counts = render(galaxy, seed)
        (folder / "cutouts" / f"{galaxy.object_id}.fits").write_bytes(to_fits(galaxy, counts))
        (folder / "jpeg" / f"{galaxy.object_id}.jpg").write_bytes(to_jpeg(counts))
        advance(1)
    with (folder / "catalogue.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["object_id", "key", "ra", "dec", "redshift", "magnitude"])
        for g in galaxies:
            place = [f"{value:.6f}" for value in (g.ra, g.dec, g.redshift, g.magnitude)]
            writer.writerow([g.object_id, f"cutouts/{g.object_id}.fits", *place])
    truth = {
        g.object_id: {"T0": [g.smooth, g.featured, g.artifact], "T1": [g.bar, 1 - g.bar]}
        for g in galaxies
    }
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "objects.json").write_text(json.dumps([asdict(g) for g in galaxies]))
