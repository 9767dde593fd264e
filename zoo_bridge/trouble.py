"""What the world around us says, in an administrator's words: disks, servers, memory.

A disk is full, read-only, not ours to write to. Every library says it otherwise, and in the middle
of something: an `OSError` with a number, one that has the number in its text alone, an error of
its own that came of one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

from zoo_bridge.errors import InputError, SettingsError, StorageError, ZooBridgeError
from zoo_bridge.redact import redact

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


def explain_any(
    error: BaseException, what: str, where: Path | None = None
) -> ZooBridgeError | None:
    """An error as one of what is around us, or None where the fault can only be our own.

    Parameters
    ----------
    error, what, where
        As for `explain`.

    Returns
    -------
    ZooBridgeError or None
    """
    if isinstance(error, ZooBridgeError):
        return error
    if (disk := explain(error, what, where)) is not None:
        return disk
    for each in _causes(error):
        kinds = {_name_of(kind) for kind in type(each).__mro__}
        why = redact((str(each).splitlines() or [type(each).__name__])[0].rstrip("."))
        if kinds & MEMORY:
            return StorageError(
                f"There is not enough memory: {why or 'none is left'}.",
                "End what else runs on this machine, or lower score.batch_size and score.workers.",
            )
        if kinds & {"sqlalchemy.OperationalError", "sqlalchemy.InterfaceError"} and not re.search(
            "no such (table|column)", why
        ):
            return StorageError(
                f"The ledger's database cannot be used: {why}.",
                "Is its server up, and is ledger in the settings the right address?",
            )
        if "file is not a database" in why:
            return StorageError(
                f"The ledger is no database: {why}.",
                "Correct ledger in the settings, or put a copy of it back (zoo-bridge ledger "
                "backup makes them).",
            )
        if kinds & SETTINGS:
            return SettingsError(
                f"{type(each).__name__}: {why}.",
                "Check the AWS profile and credentials, and the addresses in the settings.",
            )
        if kinds & SERVERS and not kinds & OURS:
            return StorageError(
                f"A server does not answer as it should: {why}.",
                "Can this machine reach it? Run the same command again; what was done is kept.",
            )
        if isinstance(each, ModuleNotFoundError) and not str(each.name).startswith("zoo_bridge"):
            return SettingsError(
                f"The library {each.name} is not installed.",
                "Install zoo_bridge with the extra that has it; see the README.",
            )
        if isinstance(each, FileNotFoundError | IsADirectoryError | NotADirectoryError):
            return InputError(
                f"{each.filename or what}: {(each.strerror or str(each)).lower()}.",
                "Was it moved or deleted? Correct the path, or run the step that writes it again.",
            )
        if kinds & FILES and re.search("(?i)parquet|magic bytes|no files found", why):
            return InputError(
                f"A table cannot be read: {why}.",
                "Run the step that writes it again, with --force.",
            )
        if isinstance(each, OSError) and each.errno == errno.EMFILE:
            return StorageError(
                "Too many files are open at once.",
                "Raise the limit (ulimit -n), or lower score.workers and survey.fetch_threads.",
            )
    return None


MEMORY = {
    "builtins.MemoryError",
    "duckdb.OutOfMemoryException",
    "_duckdb.OutOfMemoryException",
    "pyarrow.ArrowMemoryError",
}
# Errors of connections, by the library that raises them.
SERVERS = {
    "requests.RequestException",
    "urllib3.HTTPError",
    "botocore.BotoCoreError",
    "botocore.ClientError",
    "builtins.ConnectionError",
    "builtins.TimeoutError",
    "socket.gaierror",
}
# Of theirs, what says that we asked for something that cannot be.
OURS = {"botocore.ParamValidationError"}
SETTINGS = {
    "botocore.NoCredentialsError",
    "botocore.PartialCredentialsError",
    "botocore.ProfileNotFound",
    "requests.InvalidURL",
    "requests.InvalidSchema",
    "requests.MissingSchema",
}
FILES = {
    "pyarrow.ArrowException",
    "polars.PolarsError",
    "duckdb.Error",
    "_duckdb.Error",
}


def _name_of(kind: type) -> str:
    """A class as library and name."""
    return f"{kind.__module__.partition('.')[0]}.{kind.__name__}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it was raised from: not what was merely being handled then."""
    each: BaseException | None = error
    while each is not None:
        yield each
        each = each.__cause__


def unexpected(error: BaseException, what: str) -> ZooBridgeError:
    """The last line of defence: two lines for people, and a file with all that there is to know.

    Parameters
    ----------
    error : exception
        Whatever was raised.
    what : str
        What was being done.

    Returns
    -------
    ZooBridgeError
        As `explain_any`, or one that names the file.
    """
    known = explain_any(error, what)
    if known is not None:
        return known
    told = "".join(traceback.format_exception(error))
    text = f"{sys.version}\n{' '.join(sys.argv)}\n\n{told}"
    where = "its traceback, which could not be written"
    with (
        contextlib.suppress(OSError),
        tempfile.NamedTemporaryFile(
            "w", prefix="zoo-bridge-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file,
    ):
        file.write(redact(text))
        where = file.name
    first = (str(error).splitlines() or [""])[0]
    return ZooBridgeError(
        f"{what} failed unexpectedly: {type(error).__name__}: {first}".rstrip(": "),
        f"This is a fault of zoo_bridge; please report it with {where}.",
    )


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
