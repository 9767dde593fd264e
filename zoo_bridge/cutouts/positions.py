"""Positions in degrees, from whatever a catalogue has: degrees, radians, hours, or 10:20:30.4."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from zoo_bridge.cutouts.columns import MISSING
from zoo_bridge.errors import SettingsError

Degrees = NDArray[np.float64]
# As people write them.
PLAIN = {
    **dict.fromkeys(("deg", "degree", "degrees", "angle[deg]", "angle"), "deg"),
    **dict.fromkeys(("rad", "radian", "radians"), "rad"),
    **dict.fromkeys(("h", "hour", "hours", "hr", "hourangle"), "hourangle"),
}
NO_UNIT = ("", "-", "--", "null", "none", "unitless")
SEXAGESIMAL = ("h:m:s", "d:m:s", "hms", "dms")


def in_degrees(values: pl.Series, facts: Mapping[str, str], longitude: bool) -> Degrees:
    """A column of right ascensions or declinations in degrees.

    Parameters
    ----------
    values : polars.Series
        Numbers or texts; its name is the column's.
    facts : mapping
        ``unit`` of the column, where the catalogue gives one. Numbers without are degrees; texts
        with colons or spaces in them are hours for a right ascension, degrees for a declination.
    longitude : bool
        A right ascension, or a declination.

    Returns
    -------
    ndarray, shape (N,), float64
        nan where there is no value.

    Raises
    ------
    SettingsError
        If a value or the unit is no angle, or lies beyond the sky.
    """
    unit = facts.get("unit", "").strip().strip('"').rstrip(".")
    unit = unit.lower() if unit.lower() in PLAIN else unit
    numbers = values.cast(pl.Float64, strict=False)
    known = values.is_not_null()
    if values.dtype == pl.String:
        known &= ~values.str.strip_chars().str.to_lowercase().is_in(MISSING)
    if (numbers.is_not_null() | ~known).all():
        found = numbers.to_numpy().astype(np.float64) * _factor(values.name, unit, longitude)
    else:
        found = np.array(
            [_parse(values.name, text, unit, longitude) if good else np.nan
             for text, good in zip(values.cast(pl.String), known, strict=True)]
        )  # fmt: skip
    most = 360.0 if longitude else 90.0
    beyond = np.flatnonzero(np.abs(found) > most)
    if beyond.size:
        raise _no_angle(values.name, values[int(beyond[0])], unit, f"beyond {most:g} degrees")
    return found


def _factor(name: str, unit: str, longitude: bool) -> float:
    """Degrees in a unit."""
    import astropy.units as u

    if unit in NO_UNIT or unit in SEXAGESIMAL:
        return 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        known = u.Unit(PLAIN.get(unit, unit), parse_strict="silent")
    if isinstance(known, u.UnrecognizedUnit) or not known.is_equivalent(u.deg):
        raise SettingsError(
            f"The survey's column {name} is in {unit!r}, which is no unit of angles.",
            "Give the catalogue its positions in deg, rad or hourangle, or name other columns: "
            "survey.ra_column, survey.dec_column.",
        )
    return float(known.to(u.deg))


def _parse(name: str, text: str, unit: str, longitude: bool) -> float:
    """One angle as astropy reads it."""
    import astropy.units as u
    from astropy.coordinates import Angle

    default = u.hourangle if longitude else u.deg
    if PLAIN.get(unit, unit) in ("deg", "d:m:s", "dms"):
        default = u.deg
    try:
        return float(Angle(text.strip(), unit=default).to_value(u.deg))
    except Exception as error:
        # astropy's parser raises nearly anything.
        why = (str(error).splitlines() or ["?"])[0]
        raise _no_angle(name, text, unit, why) from None


def _no_angle(name: str, value: Any, unit: str, why: str) -> SettingsError:
    told = f" {unit}" if unit else ""
    return SettingsError(
        f"The survey's column {name} holds {value!r}{told}, which is no position: {why}.",
        "Correct survey.ra_column and survey.dec_column, or give the catalogue's columns their "
        "units (deg, rad, hourangle).",
    )
