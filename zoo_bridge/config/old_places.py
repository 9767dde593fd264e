"""Settings that have gone or moved: taken for one more release, with a warning.

So that an upgrade does not stop a loop that nobody looks at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# What has gone, and why.
GONE = {
    ("upload", "subjects_per_call"): (
        "Zooniverse creates one subject a call; how many calls go out side by side is "
        "upload.connections"
    ),
}
# What stands in another table now.
MOVED = {
    ("pull", "timeout_seconds"): ("project", "timeout_seconds"),
    ("score", "fetch_threads"): ("survey", "fetch_threads"),
}


def keep_up(
    values: dict[str, Any], where: Callable[[str, str], str]
) -> tuple[dict[str, Any], list[str]]:
    """Put what has moved where it belongs, and leave out what has gone.

    Parameters
    ----------
    values : dict
        Tables and keys as they were read.
    where : callable
        The file, and the line of a key of a table where that can be told.

    Returns
    -------
    tuple of dict, list of str
        The settings of this version, and a warning for each key that is not one.
    """
    warnings = []
    for (section, key), instead in GONE.items():
        if _has(values, section, key):
            values = _without(values, section, key)
            warnings.append(
                f"{where(section, key)}: {section}.{key} has no effect any more and will be "
                f"refused by the next release: {instead}."
            )
    for (section, key), (table, name) in MOVED.items():
        if not _has(values, section, key):
            continue
        value, place = values[section][key], where(section, key)
        values = _without(values, section, key)
        there = values.get(table, {})
        if not isinstance(there, dict):
            # What is wrong with that is told when it is checked.
            continue
        told = f"{place}: {section}.{key} is {table}.{name} now, and will be refused by the next"
        if name in there:
            warnings.append(f"{told} release; {table}.{name} stands there, too, and counts.")
        else:
            values = {**values, table: {**there, name: value}}
            warnings.append(f"{told} release.")
    return values, warnings


def _has(values: dict[str, Any], section: str, key: str) -> bool:
    table = values.get(section)
    return isinstance(table, dict) and key in table


def _without(values: dict[str, Any], section: str, key: str) -> dict[str, Any]:
    kept = {name: value for name, value in values[section].items() if name != key}
    return {**values, section: kept}
