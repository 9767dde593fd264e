"""What a ledger asks of a place that artifacts are kept at, beside ``work_dir``."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Protocol


class Shelf(Protocol):
    """See `zoo_bridge.steps.shelf.Shelf`, which is the only one."""

    def put(self, path: Path, leave: Collection[str] = ()) -> None:
        """Copy a file or folder of ``work_dir`` there, but for files of these names."""

    def bring(self, path: Path) -> bool:
        """Fetch one that is not here; whether it is here now."""

    def has(self, path: Path) -> bool:
        """Whether it is there, whole."""

    def names_below(self, folder: Path) -> list[Path]:
        """What is there, whole, directly in a folder."""

    def remove(self, path: Path) -> None:
        """Take it away."""
