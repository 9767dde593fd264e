"""Calls that change one object side by side: of those that overlap one wins, the others are 409.

On the real server two calls overlap while their transactions do, some tens of milliseconds. Here a
call takes at least `WINDOW_SECONDS`, so that tests can hit it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from zoo_bridge.sandbox.auth import ApiError

WINDOW_SECONDS = 0.02


class Overlaps:
    """The objects that are being changed, and how often each was."""

    def __init__(self) -> None:
        self.seconds = WINDOW_SECONDS
        self._lock = threading.Lock()
        self._changes: dict[tuple[str, int], int] = {}

    def begin(self, kind: str, ident: int) -> int:
        """What a call that starts now must find unchanged at its end."""
        with self._lock:
            return self._changes.get((kind, ident), 0)

    @contextmanager
    def changing(self, kind: str, ident: int, name: str) -> Iterator[None]:
        """One call's change: refused if another was made since it began.

        Raises
        ------
        ApiError
            409, and nothing was changed.
        """
        before = self.begin(kind, ident)
        time.sleep(self.seconds)
        with self._lock:
            if self._changes.get((kind, ident), 0) != before:
                raise ApiError(409, f"Attempted to update a stale object: {name}.")
            self._changes[kind, ident] = before + 1
            yield
