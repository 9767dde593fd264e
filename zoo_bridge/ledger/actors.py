"""Who does something, and through what: noted with every act that somebody may ask about."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# Set for its runs by whatever starts them; a person at a command line sets nothing.
VARIABLE, WHO_VARIABLE = "ZOO_BRIDGE_THROUGH", "ZOO_BRIDGE_WHO"
COMMAND_LINE, SCHEDULE, CONSOLE = "command line", "schedule", "console"

# In a process that acts for several people at once.
_acting: ContextVar[tuple[str, str] | None] = ContextVar("acting", default=None)


@contextmanager
def acting(person: str, means: str) -> Iterator[None]:
    """Let what this thread does within the block be somebody's.

    Parameters
    ----------
    person : str
        As ``name@address``.
    means : str
        Through what, such as `CONSOLE`.
    """
    token = _acting.set((person, means))
    try:
        yield
    finally:
        _acting.reset(token)


def who() -> str:
    """Whoever this is done for, as ``name@address``: by default the account of this machine."""
    if (found := _acting.get()) is not None:
        return found[0]
    if person := os.environ.get(WHO_VARIABLE):
        return person
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"


def signed(login: str) -> str:
    """Who does something on Zooniverse: the log-in, and the person who used it, if known."""
    named = _acting.get() is not None or WHO_VARIABLE in os.environ
    return f"{who()} as {login}" if named else login


def through() -> str:
    """What this process was started by: `COMMAND_LINE` unless the environment says otherwise."""
    if (found := _acting.get()) is not None:
        return found[1]
    return os.environ.get(VARIABLE) or COMMAND_LINE
