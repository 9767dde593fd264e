"""Going on as long as a server gets better, and giving up in the end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from zoo_bridge.errors import OutcomeUnknownError, SwitchedOffError, ZooniverseError

T = TypeVar("T")
log = logging.getLogger(__name__)
LONGEST_PAUSE = 60.0


def is_trouble(error: ZooniverseError) -> bool:
    """Whether an error is the server's trouble, which passes, and not its answer."""
    if isinstance(error, SwitchedOffError):
        return False
    return isinstance(error, OutcomeUnknownError) or error.status == 0 or error.status >= 500


class Patience:
    """How long a run goes on without getting any further.

    Parameters
    ----------
    seconds : float
        Without progress; then it is over.
    pause : float
        Seconds before the second attempt; doubled each time that nothing got better.
    """

    def __init__(self, seconds: float, pause: float) -> None:
        self.seconds = seconds
        self.pause = pause
        self._next = pause
        self._since = time.monotonic()

    def progress(self) -> None:
        """Something was done that had not been done before."""
        self._next = self.pause
        self._since = time.monotonic()

    @property
    def left(self) -> float:
        """Seconds until it is over."""
        return max(0.0, self._since + self.seconds - time.monotonic())

    def wait(self) -> bool:
        """Wait a little, longer each time; False when it is over."""
        if not self.left:
            return False
        time.sleep(min(self._next, self.left))
        self._next = min(2 * self._next, LONGEST_PAUSE)
        return True

    def on(self, call: Callable[[], T]) -> T:
        """Do what may be done twice until the server answers.

        Raises
        ------
        ZooniverseError
            The server's answer, or its trouble when patience is over.
        """
        while True:
            try:
                return call()
            except ZooniverseError as error:
                if not is_trouble(error):
                    raise
                log.warning("%s", error.message)
                if not self.wait():
                    raise
