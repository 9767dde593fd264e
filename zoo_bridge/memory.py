"""Memory that is kept: what a step of a network frees, the next one takes again.

By default glibc gives large blocks back to the system as they are freed, and takes them anew at the
next step, each page of them filled with zeros. On virtual machines that is up to half of a
training's time. Elsewhere than with glibc nothing here does anything.

References
----------
mallopt(3); "Memory Allocation Tunables" in the manual of the GNU C library (2.35 and later).
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

# From malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
LIMITS = {M_MMAP_THRESHOLD: 2**30, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 2**28}
VARIABLE = "GLIBC_TUNABLES"
HUGE_PAGES = "glibc.malloc.hugetlb"
KERNEL_SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")
FIRST_WITH_HUGE_PAGES = (2, 35)
# What trains or reads a survey in this process.
HEAVY_JOBS = ("retrain", "score", "cycle")


def keep_freed() -> bool:
    """Have this process keep what it frees, from now on; whether it will.

    Before TensorFlow loads: what its threads hold already stays as it is.
    """
    if _glibc() is None:
        return False
    with suppress(OSError, AttributeError):
        set_limit = ctypes.CDLL(None).mallopt
        return all(set_limit(name, value) == 1 for name, value in LIMITS.items())
    return False


def with_huge_pages(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that is to use pages of 2 MiB for what it allocates.

    Parameters
    ----------
    environ : mapping
        The environment that it would have. What it says of huge pages already stays.

    Returns
    -------
    dict
        The same where huge pages cannot be had so.
    """
    told = environ.get(VARIABLE, "")
    version = _glibc()
    if version is None or version < FIRST_WITH_HUGE_PAGES or HUGE_PAGES in told or not _offered():
        return dict(environ)
    return {**environ, VARIABLE: ":".join(filter(None, [told, f"{HUGE_PAGES}=1"]))}


def begin_again(arguments: Sequence[str]) -> None:
    """Start this program once more with huge pages, if it is to train or to score.

    glibc reads its tunables at a process's start alone. The process keeps its number.

    Parameters
    ----------
    arguments : sequence of str
        Of the command, without its name: such as ``run retrain``.
    """
    command, heavy = arguments[:1], not set(HEAVY_JOBS).isdisjoint(arguments)
    environ = with_huge_pages(os.environ)
    wanted = command == ["demo"] or (command == ["run"] and heavy)
    if not wanted or environ == dict(os.environ):
        return
    # If it cannot be started again, it goes on as it is.
    with suppress(OSError):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environ)


def _glibc() -> tuple[int, int] | None:
    """Its version, if this process runs on it."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        major, minor = version.split(".")[:2]
        return (int(major), int(minor)) if name == "glibc" else None
    except (ValueError, OSError, AttributeError):
        return None


def _offered() -> bool:
    """Whether the kernel gives huge pages to whoever asks."""
    try:
        return "[never]" not in KERNEL_SWITCH.read_text(encoding="ascii")
    except OSError:
        return False
