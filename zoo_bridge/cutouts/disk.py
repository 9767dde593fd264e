"""Cutouts on a disk of this machine."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from zoo_bridge.cutouts.faults import require_small
from zoo_bridge.cutouts.images import BadCutoutError
from zoo_bridge.cutouts.packed import is_hidden
from zoo_bridge.errors import StorageError


def read_file(uri: str, path: str) -> bytes | None:
    """A file's bytes; None if there is no such file; raises as `Store.read` does."""
    try:
        require_small(Path(path).stat().st_size)
        return Path(path).read_bytes()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EIO, errno.EMFILE, errno.ESTALE):
            raise StorageError(f"{uri} cannot be read: {error.strerror}.") from None
        raise BadCutoutError("unreadable", str(error)) from None


def _part_of(file: IO[bytes], start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(size)


def read_parts(uri: str, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes | None]:
    """Parts of one file, each by its first byte and how many; None if there is no such file."""
    try:
        with Path(path).open("rb") as file:
            return [_part_of(file, start, size) for start, size in ranges]
    except FileNotFoundError:
        return [None] * len(ranges)
    except OSError as error:
        raise StorageError(f"{uri} cannot be read: {error.strerror}.") from None


def walk_files(top: Path) -> Iterator[Path]:
    """Every file in a folder and below, in order; or the one that is named."""
    for path in [top] if top.is_file() else sorted(top.rglob("*")):
        if not is_hidden(path.relative_to(top).as_posix()) and path.is_file():
            yield path


def matching_files(key: str) -> list[Path]:
    """The file of a name, those in a folder, or those that match a name with ``*``."""
    one = Path(key)
    paths = [one] if one.is_file() else []
    if key.endswith("/") or one.is_dir():
        paths = [path for path in one.iterdir() if path.is_file()] if one.is_dir() else []
    elif "*" in one.name:
        paths = [path for path in one.parent.glob(one.name) if path.is_file()]
    return [path for path in sorted(paths) if path.name[0] not in "._"]
