"""Figures of pages, drawn once: the same that stand in reports."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

# Bytes of figures and thumbnails that are kept.
MOST_BYTES = 128 * 2**20


class Drawn:
    """Pictures by what they show; whoever asks for one that is being drawn waits for it."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, bytes] = OrderedDict()
        self._size = 0
        self._guard = threading.Lock()
        # The library that draws is not made for several threads.
        self._drawing = threading.Lock()

    def get(self, key: Hashable, draw: Callable[[], bytes], alone: bool = True) -> bytes:
        """A picture.

        Parameters
        ----------
        key : hashable
            The same for the same picture.
        draw : callable
            Gives it, if it is not kept.
        alone : bool
            One at a time: figures are, thumbnails need not be.

        Returns
        -------
        bytes
        """
        found = self._find(key)
        if found is not None:
            return found
        if not alone:
            return self._keep(key, draw())
        with self._drawing:
            found = self._find(key)
            return found if found is not None else self._keep(key, draw())

    def _find(self, key: Hashable) -> bytes | None:
        with self._guard:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            return None

    def _keep(self, key: Hashable, picture: bytes) -> bytes:
        with self._guard:
            if key not in self._kept:
                self._kept[key] = picture
                self._size += len(picture)
            while self._size > MOST_BYTES:
                _, gone = self._kept.popitem(last=False)
                self._size -= len(gone)
        return picture
