"""Who does something, and through what: noted with every act that somebody may ask about."""

from __future__ import annotations

import getpass
import os
import socket

# Set for its runs by whatever starts them; a person at a command line sets nothing.
VARIABLE = "ZOO_BRIDGE_THROUGH"
COMMAND_LINE, SCHEDULE = "command line", "schedule"


def who() -> str:
    """The account of this machine that runs this process, as ``name@host``."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"


def through() -> str:
    """What this process was started by: `COMMAND_LINE` unless the environment says otherwise."""
    return os.environ.get(VARIABLE) or COMMAND_LINE
