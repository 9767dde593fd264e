"""Processes that hold locks: how they sign, and whether they live."""

from __future__ import annotations

import os
import socket
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path


def now() -> str:
    """The time in UTC as sortable ISO text, which every database keeps alike."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def in_seconds(seconds: float) -> str:
    """The time so long from now, or ago, in the same form."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="microseconds")


def this_owner() -> str:
    """How this thread signs its locks and its runs."""
    return f"{socket.gethostname()}:{os.getpid()}:{threading.get_ident()}"


def process_of(owner: str) -> str:
    """The process that a signature is of, whichever of its threads signed: ``host:process``."""
    return owner.rpartition(":")[0]


def named(owner: str) -> str:
    """A lock's owner, for a message."""
    host, process, _ = owner.split(":")
    return f"process {process} on {host}"


def is_held(owner: str, expires_at: str) -> bool:
    """Whether a lock has not run out, and its owner may live."""
    return expires_at > now() and not is_dead(owner)


def is_dead(owner: str) -> bool:
    """Whether a lock's owner was a process of this host that is no more."""
    host, pid, _ = owner.split(":")
    if host != socket.gethostname():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        # It lives, and is another account's.
        return False
    return _is_zombie(int(pid))


def _is_zombie(pid: int) -> bool:
    """Whether a process has ended and its parent has not asked how, which some never do."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        # No Linux, or gone by now.
        return False
    return stat.rpartition(")")[2].split()[:1] == ["Z"]
