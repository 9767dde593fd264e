"""Reading the settings file: what is wrong with it, in which line, and what would be right."""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ValidationError,
)

from zoo_bridge.config.no_effect import without_effect
from zoo_bridge.config.old_places import keep_up
from zoo_bridge.config.settings import DEFAULT_PATH, Settings
from zoo_bridge.errors import SettingsError


def load(path: str | Path) -> Settings:
    """Read and check a settings file.

    Parameters
    ----------
    path : str or Path
        The TOML file.

    Returns
    -------
    Settings

    Raises
    ------
    SettingsError
        If the file is absent, is not TOML, or a value in it cannot be.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SettingsError(
            f"There is no settings file {path}.",
            "Write one with: zoo-bridge init, or name another with --config.",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"The settings file {path} cannot be read: {error}.",
            "It must be a text file in UTF-8 that this user may read.",
        ) from None
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(
            f"{path} is not TOML: {error}.", "See https://toml.io for the form of such a file."
        ) from None
    return parse(values, path, text)


def parse(values: dict[str, Any], path: Path = DEFAULT_PATH, text: str = "") -> Settings:
    """Check settings that were read from somewhere.

    Parameters
    ----------
    values : dict
        The tables and keys.
    path : Path
        Where they came from; relative paths in them start at its folder.
    text : str
        The file's text, to tell line numbers from.

    Returns
    -------
    Settings

    Raises
    ------
    SettingsError
        If a value cannot be.
    """

    def where(*location: str) -> str:
        line = _line_of([*location], text)
        return f"{path}:{line}" if line else str(path)

    values, warnings = keep_up(values, where)
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise _explain(error, path, text) from None
    settings._path = path.resolve()
    idle = (f"{where(*told.split()[0].split('.'))}: {told}" for told in without_effect(settings))
    settings._warnings = (*warnings, *idle)
    return settings


def with_cluster(settings: Settings, address: str) -> Settings:
    """The same settings with another ``score.cluster``.

    Parameters
    ----------
    settings : Settings
        Of a project.
    address : str
        A Dask scheduler's, such as ``tcp://host:8786``.

    Returns
    -------
    Settings

    Raises
    ------
    SettingsError
        If it is no address.
    """
    values = settings.model_dump(mode="json")
    values["score"]["cluster"] = address
    return parse(values, settings.path)


def _explain(error: ValidationError, path: Path, text: str) -> SettingsError:
    """One validation error, in an administrator's words; how many more there are."""
    first = error.errors()[0]
    location = [part for part in first["loc"] if not isinstance(part, int)]
    key = ".".join(str(part) for part in location)
    line = _line_of([str(part) for part in location], text)
    where = f"{path}:{line}" if line else str(path)
    more = len(error.errors()) - 1
    more_text = f" ({more} more after this one.)" if more else ""
    if first["type"] == "extra_forbidden":
        known = _known_keys([str(part) for part in location[:-1]])
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        guess = f"Did you mean {close[0]}? " if close else ""
        return SettingsError(
            f"{where}: {key} is not a setting.{more_text}",
            f"{guess}Known here: {', '.join(known)}.",
        )
    if first["type"] == "missing":
        return SettingsError(
            f"{where}: {key} is needed and missing.{more_text}",
            "See deploy/zoo_bridge.example.toml, or write a commented file with: zoo-bridge init.",
        )
    message = first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    shown = f" (it is {given!r})" if isinstance(given, str | int | float | bool) else ""
    return SettingsError(
        f"{where}: {key or 'the settings'}: {message}{shown}.{more_text}",
        f"Correct {key or 'it'} and run: zoo-bridge check.",
    )


def _known_keys(location: list[str]) -> list[str]:
    model: Any = Settings
    for part in location:
        field = model.model_fields.get(part)
        annotation = field.annotation if field else None
        model = next(
            (
                kind
                for kind in (annotation, *getattr(annotation, "__args__", ()))
                if isinstance(kind, type) and issubclass(kind, BaseModel)
            ),
            None,
        )
        if model is None:
            return []
    return sorted(model.model_fields)


def _line_of(location: list[str], text: str) -> int:
    """The line of a key, or of its table; 0 when it cannot be told."""
    table, found = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[+\s*([^\]]+?)\s*\]+", line)
        if header:
            table = header.group(1)
            if table == ".".join(location):
                return number
            if location and table == location[0]:
                found = found or number
        key = re.match(r"\s*([A-Za-z0-9_\-\"]+)\s*=", line)
        if key and [*filter(None, [table]), key.group(1).strip('"')] == location[:2]:
            return number
    return found
