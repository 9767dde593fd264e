"""Files that appear whole or not at all, and digests that name what is in them."""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zoo_bridge.errors import InputError

DIGEST_LENGTH = 16


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A scratch path that becomes `path` when the block ends well, and vanishes otherwise.

    Parameters
    ----------
    path : Path
        The final name; its folder is made.

    Yields
    ------
    Path
        Where to write, in the same folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    scratch = Path(name)
    try:
        yield scratch
        with scratch.open("rb") as file:
            os.fsync(file.fileno())
        scratch.chmod(0o644)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, default=str) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def digest_file(path: Path) -> str:
    """The start of a file's SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:DIGEST_LENGTH]


def digest_value(value: Any) -> str:
    """The start of the SHA-256 of a value's JSON, keys sorted: equal values, equal digests."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]


def open_text(path: Path) -> io.TextIOWrapper:
    """Open a CSV, gzipped or not, as text; bytes that are not UTF-8 are kept visible.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    io.TextIOWrapper

    Raises
    ------
    InputError
        If there is no such file.
    """
    csv.field_size_limit(2**30)
    try:
        with path.open("rb") as probe:
            gzipped = probe.read(2) == b"\x1f\x8b"
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}.", "Is the name right?"
        ) from None
    raw: Any = gzip.open(path, "rb") if gzipped else path.open("rb")  # noqa: SIM115
    return io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline="")
