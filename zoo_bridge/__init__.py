"""zoo_bridge closes the loop between a Zooniverse project and a sky survey.

Votes become k-of-N labels, a Bayesian CNN learns from them and reads the whole survey, and the
galaxies that would teach it most go back to the volunteers.

From Python, `zoo_bridge.open` gives a project whose tables are pandas DataFrames.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zoo_bridge.version import __version__

if TYPE_CHECKING:
    from zoo_bridge.service.notebook import Project

__all__ = ["__version__", "open"]


def open(path: str | Path = "zoo_bridge.toml") -> Project:
    """Open a project, to look at it from Python or a notebook.

    Parameters
    ----------
    path : str or Path
        Its settings file.

    Returns
    -------
    Project
        With `labels`, `votes`, `scores`, `models`, `runs`, `batches` and `rejects` as pandas
        DataFrames, `cutout` and `posterior`. It only reads; close it, or use it in a ``with``.

    Raises
    ------
    SettingsError
        If the settings cannot be read, or the ledger cannot be opened.
    """
    from zoo_bridge.service.notebook import open_project

    return open_project(path)
