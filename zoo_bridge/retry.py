"""Trying again what may be done twice: one rule, for whoever talks to the world."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
E = TypeVar("E", bound=Exception)
log = logging.getLogger(__name__)

# Seconds to wait after an attempt that failed, by its number, from 1.
Pause = Callable[[int], float]


def doubling(first: float, most: float = float("inf")) -> Pause:
    """After the first attempt `first` seconds, then twice as long each time, up to `most`."""
    return lambda attempt: min(most, first * 2 ** (attempt - 1))


def growing(step: float) -> Pause:
    """After each attempt `step` seconds more than after the one before."""
    return lambda attempt: step * attempt


def jittered(pause: Pause) -> Pause:
    """Any time up to what another pause says, or all threads would come back at one moment."""
    return lambda attempt: random.uniform(0, pause(attempt))


def retry(
    call: Callable[[], T],
    attempts: int,
    pause: Pause,
    kinds: type[E] | tuple[type[E], ...],
    passes: Callable[[E], bool] = lambda error: True,
    what: str = "",
) -> T:
    """Do something until it succeeds, or has failed so often.

    Parameters
    ----------
    call : callable
        What may be done more than once.
    attempts : int
        How often at most, the first one included.
    pause : callable
        Seconds to wait after an attempt, by its number: `doubling`, `growing`.
    kinds : type of Exception, or tuple of them
        What may pass; anything else is raised at once.
    passes : callable
        Whether such an error passes indeed, by what it says.
    what : str
        For the log, such as ``GET /projects``; nothing is logged without it.

    Returns
    -------
    object
        Whatever `call` returns.

    Raises
    ------
    Exception
        The last error, or the first one that does not pass.
    """
    attempt = 1
    while True:
        try:
            return call()
        except kinds as error:
            if attempt >= attempts or not passes(error):
                raise
            if what:
                log.warning("%s failed (%s), trying again", what, getattr(error, "message", error))
        time.sleep(pause(attempt))
        attempt += 1
