"""Files that appear whole or not at all, and digests that name what is in them."""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

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


@contextlib.contextmanager
def replacing_gzip(path: Path) -> Iterator[gzip.GzipFile]:
    """A gzip file that appears at `path` when the block ends well; same content, same bytes."""
    with (
        replacing(path) as scratch,
        scratch.open("wb") as raw,
        gzip.GzipFile("", fileobj=raw, mode="wb", mtime=0) as packed,
    ):
        yield packed


@contextlib.contextmanager
def replacing_csv(path: Path, header: Sequence[str]) -> Iterator[Any]:
    """The writer of a gzipped CSV file that appears at `path` when the block ends well."""
    with (
        replacing_gzip(path) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="") as text,
    ):
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        yield writer


def name_by_digest(path: Path, name: str) -> Path:
    """Call a gzipped CSV file after its content, ``<name>-<digest>.csv.gz``, in its folder."""
    return path.replace(path.with_name(f"{name}-{digest_file(path)}.csv.gz"))


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


def join_gzipped(paths: Sequence[Path], folder: Path, name: str) -> Path:
    """Gzipped CSV files with one header as one file, ``<name>-<digest>.csv.gz``.

    Parameters
    ----------
    paths : sequence of Path
        The files; they stay.
    folder : Path
        Where the new one is put.
    name : str
        How it begins.

    Returns
    -------
    Path
        The new file.
    """
    scratch = folder / f".{name}.part"
    with replacing_gzip(scratch) as out:
        for number, path in enumerate(paths):
            with gzip.open(path, "rb") as part:
                header = part.readline()
                if number == 0:
                    out.write(header)
                shutil.copyfileobj(part, out, 2**20)
    return name_by_digest(scratch, name)
