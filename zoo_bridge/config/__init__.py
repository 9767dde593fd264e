"""The settings: one TOML file, checked before anything is done.

An unknown key, a wrong type or an impossible value is a `SettingsError` that names the key, the
line and what would be right. Secrets never stand in the file: see `secret`.
"""

from zoo_bridge.config.reading import load, parse, with_cluster
from zoo_bridge.config.secrets import secret
from zoo_bridge.config.settings import DEFAULT_PATH, Settings
from zoo_bridge.config.tables import JOBS, Question

__all__ = [
    "DEFAULT_PATH",
    "JOBS",
    "Question",
    "Settings",
    "load",
    "parse",
    "secret",
    "with_cluster",
]
