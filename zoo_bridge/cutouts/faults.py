"""What goes wrong with cutouts: one that cannot be had, or a server that does not answer."""

from __future__ import annotations

import threading

from zoo_bridge.cutouts.images import SIZE_LIMIT, BadCutoutError

# So many objects may fail by themselves, one after the other or in all: more than this share of
# what was asked for is no matter of single ones.
MOST_SINGLE, MOST_SINGLE_SHARE = 10, 0.2


class SingleFaults:
    """Whether what failed, after its retries, is one of many, or many are: then it is the server.

    Counted are answers: where there is none, nothing can be read at all.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._well = self._badly = self._in_a_row = 0

    def went_well(self) -> None:
        """An object was read."""
        with self._lock:
            self._well += 1
            self._in_a_row = 0

    def is_one(self) -> bool:
        """Note one that failed; whether it stands alone."""
        with self._lock:
            self._badly += 1
            self._in_a_row += 1
            total = self._well + self._badly
            many = self._badly > MOST_SINGLE and self._badly > MOST_SINGLE_SHARE * total
            return not many and self._in_a_row <= MOST_SINGLE


def require_small(size: int) -> None:
    """Raise `BadCutoutError` for a file of so many bytes that it cannot be a cutout."""
    if size > SIZE_LIMIT:
        raise BadCutoutError("too large", f"it has {size / 2**20:.0f} MiB")
