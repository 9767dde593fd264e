"""The server's cache of what it shows: why reads can be five minutes behind.

Panoptes keeps an object as it was last shown, by its number, the whole second of its `updated_at`
and the kind of answer. So a change within the same second as the one before it is not seen, nor
one that leaves `updated_at` alone, until the entry ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from zoo_bridge.sandbox.state import State

SECONDS = 300.0


class Cache:
    """What was shown lately, on the sandbox's clock.

    Parameters
    ----------
    state : State
        The sandbox, whose clock tells how old an answer is.
    """

    def __init__(self, state: State) -> None:
        self.state = state
        self._lock = threading.Lock()
        self._kept: dict[tuple[Any, ...], tuple[float, dict[str, Any]]] = {}

    def get(
        self, kind: str, row: dict[str, Any], context: str, make: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """A row as it is shown: as it was shown last, if that is not too long ago."""
        key = (kind, row["id"], row["updated_at"][:19], context)
        now = self.state.time()
        with self._lock:
            until, shown = self._kept.get(key, (0.0, {}))
            if until > now:
                return shown
        made = make()
        with self._lock:
            self._kept[key] = (now + SECONDS, made)
        return made

    def forget(self, kind: str) -> None:
        """Forget what was shown of a kind, after a person changed it on the server itself."""
        with self._lock:
            self._kept = {key: kept for key, kept in self._kept.items() if key[0] != kind}
