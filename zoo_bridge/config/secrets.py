"""Secrets: from the environment or files, never from the settings."""

from __future__ import annotations

import os
from pathlib import Path

from zoo_bridge.errors import SettingsError


def secret(name: str) -> str | None:
    """A secret from the environment: ``NAME``, or the content of the file ``NAME_FILE``.

    Parameters
    ----------
    name : str
        Such as ``PANOPTES_PASSWORD``.

    Returns
    -------
    str or None
    """
    if value := os.environ.get(name):
        return value
    if file := os.environ.get(f"{name}_FILE"):
        try:
            return Path(file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SettingsError(
                f"{name}_FILE names {file}, which cannot be read: {error.strerror}.",
                f"Set {name}, or let {name}_FILE name a file that this user may read.",
            ) from None
    return None
