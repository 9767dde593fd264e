"""What takes longer than anybody waits for a page: it is done one by one, and shown when it is."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

log = logging.getLogger("zoo_bridge.console")


class Later:
    """Things to be found out, by what they are of; one at a time."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Future[Any]] = {}
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
            if key not in self._known:
                self._known[key] = self._pool.submit(find)
            future = self._known[key]
        if not future.done():
            return False, None
        if (error := future.exception()) is not None:
            log.warning("%s could not be found out: %s", key, error)
            return True, None
        return True, future.result()

    def close(self) -> None:
        """Do no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)
