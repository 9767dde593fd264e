"""What a disk says, in an administrator's words: full, read-only, not ours to write to.

Every library says it otherwise, and in the middle of something: an `OSError` with a number, one
that has the number in its text alone, an error of its own that came of one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from zoo_bridge.errors import StorageError

# What SQLite needs beside its file.
LEAST_BYTES = 2**16
FULL, READ_ONLY, DENIED, BROKEN = "full", "read-only", "denied", "broken"
_NUMBERS = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EFBIG: FULL,
    errno.EROFS: READ_ONLY,
    errno.EACCES: DENIED,
    errno.EPERM: DENIED,
    errno.EIO: BROKEN,
    errno.ESTALE: BROKEN,
}
_WORDS = {
    # numpy tells only that fewer bytes were written than it wanted.
    FULL: r"no space left|disk is full|disk full|disk quota exceeded|file too large"
    r"|items requested but only|requested and \d+ written",
    READ_ONLY: r"read-?only file ?system|readonly database",
    DENIED: r"permission denied|operation not permitted|unable to open database file",
    BROKEN: r"disk i/o error|input/output error|stale file handle",
}
_PATTERNS = {kind: re.compile(words, re.IGNORECASE) for kind, words in _WORDS.items()}
_TOLD = {
    FULL: (
        "There is no space left to write {what}.",
        "Free some space on that disk (or raise the quota, or ulimit -f), then run the same "
        "command again: what was done is kept.",
    ),
    READ_ONLY: (
        "{what} cannot be written: it is on a read-only file system.",
        "Mount it for writing, or name another folder (work_dir, ledger) in the settings.",
    ),
    DENIED: (
        "{what} cannot be written or read: this user may not.",
        "Give this user the right to it, or name another folder (work_dir, ledger) in the "
        "settings.",
    ),
    BROKEN: (
        "The disk under {what} does not work: {why}.",
        "See the machine's own log; a network disk may have gone away. Run it again afterwards.",
    ),
}


def kind_of(error: BaseException) -> str:
    """What a disk said, in an error or in what it came of; empty if it was no disk."""
    for each in _chain(error):
        if isinstance(each, OSError) and each.errno in _NUMBERS:
            return _NUMBERS[each.errno]
        text = str(each)
        # Of a server's words, "permission denied" is about an account.
        if isinstance(each, ConnectionError) or "password" in text:
            continue
        for kind, pattern in _PATTERNS.items():
            if pattern.search(text):
                return kind
    return ""


def explain(error: BaseException, what: str, where: Path | None = None) -> StorageError | None:
    """An error as a disk's, or None if it is something else.

    Parameters
    ----------
    error : exception
        Whatever was raised.
    what : str
        What was being written, if the error does not name it.
    where : Path, optional
        On which disk: some libraries say of a full one only that something went wrong.

    Returns
    -------
    StorageError or None
    """
    kind = kind_of(error)
    if not kind:
        return None
    if any(type(each).__module__.startswith("psycopg") for each in _chain(error)):
        # Not this machine's disk.
        what, where = "the ledger's database, on its server", None
    elif kind == BROKEN and where is not None and _is_full(where):
        kind = FULL
    elif kind == READ_ONLY and where is not None and not _is_read_only(where):
        # SQLite says the same of a file that is somebody else's.
        kind = DENIED
    named = next(
        (
            os.fspath(each.filename)
            for each in _chain(error)
            if isinstance(each, OSError) and each.filename
        ),
        what,
    )
    message, hint = _TOLD[kind]
    why = (str(error).splitlines() or ["?"])[0].rstrip(".")
    name = named.decode() if isinstance(named, bytes) else str(named)
    told = message.format(what=name, why=why)
    return StorageError(told[0].upper() + told[1:], hint)


def _is_full(where: Path) -> bool:
    """Whether the disk that a file is on, or is to be on, has no space left."""
    for path in (where, *where.parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(path).free < LEAST_BYTES
    return False


def _is_read_only(where: Path) -> bool:
    """Whether the file system of a file, or of what is to hold it, is one."""
    for path in (where, *where.parents):
        with contextlib.suppress(OSError):
            return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    return False


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came of."""
    each: BaseException | None = error
    seen: set[int] = set()
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__
