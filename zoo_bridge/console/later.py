"""What takes longer than anybody waits for a page: it is done one by one, and shown when it is."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

log = logging.getLogger("zoo_bridge.console")
AGAIN_SECONDS = 60.0


def _tried(key: Hashable, find: Callable[[], Any]) -> Any:
    try:
        return find()
    except Exception as error:
        log.warning("%s could not be found out: %s", key, error)
        return None


class Later:
    """Things to be found out, by what they are of; one at a time."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[float, Future[Any]]] = {}
        self._guard = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="console-later")

    def get(self, key: Hashable, find: Callable[[], Any]) -> tuple[bool, Any]:
        """What is known of something by now; it is found out if nobody asked before.

        Parameters
        ----------
        key : hashable
            The same for the same thing.
        find : callable
            Finds it out.

        Returns
        -------
        tuple of bool, value
            Whether it was found out, or could not be; and what it is, or None.
        """
        with self._guard:
            began, future = self._known.get(key, (0.0, None))
            # What could not be found out may be there by now.
            again = time.monotonic() - began > AGAIN_SECONDS
            if future is None or (again and future.done() and future.result() is None):
                future = self._pool.submit(_tried, key, find)
                self._known[key] = time.monotonic(), future
        return (True, future.result()) if future.done() else (False, None)

    def close(self) -> None:
        """Do no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)
