"""Threads: our own over pieces of galaxies, and one for each product of matrices."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import local
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

# Galaxies that one thread has at once: their working arrays stay near a core.
PIECE = 64
THREADS = 2


_own = local()


def work_alone() -> None:
    """From now on this thread does its pieces itself: others beside it do theirs."""
    _own.alone = True


@cache
def one_a_product() -> None:
    """From now on a product of matrices is computed by the thread that asks for it.

    The products here are small, and asked for by several threads at once: the library's own
    threads would spend twenty times as long on waiting for each other. It holds for NumPy's
    products in this process, to the end: to switch back and forth costs more than it gains.
    """
    threadpool_limits(limits=1, user_api="blas")


def pieces(places: NDArray[np.int64], size: int = PIECE) -> list[NDArray[np.int64]]:
    """Places, some at a time."""
    return [places[start : start + size] for start in range(0, len(places), size)]


def in_pieces(
    size: int, work: Callable[[NDArray[np.int64]], Any], at_once: int = PIECE
) -> list[Any]:
    """What a function makes of some galaxies at a time, on several threads, in order.

    Parameters
    ----------
    size : int
        Galaxies in all, N.
    work : callable
        Takes the places of some.
    at_once : int
        How many one thread takes.

    Returns
    -------
    list
        One for each piece.
    """
    some = pieces(np.arange(size), at_once)
    if len(some) < 2 or getattr(_own, "alone", False):
        return [work(piece) for piece in some]
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, some))
