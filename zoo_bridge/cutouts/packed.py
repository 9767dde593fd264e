"""Cutouts packed into few large files, read by range.

A hundred million small objects are slow to list, dear to copy and a burden to any file system. In
a shard a cutout's URI says where it lies: ``s3://bucket/shard.tar#OFFSET+LENGTH``, bytes of an
uncompressed tar; or ``s3://bucket/shard.parquet#ROW``, a row of a Parquet file with a column of
bytes. ``@VERSION`` after either changes when the shard does, so that what was made of the old bytes
is not taken for the new. A reader of such files that knows nothing of zoo_bridge still finds plain
tar and Parquet.
"""

from __future__ import annotations

import re
import tarfile
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

PLACE = re.compile(
    r"(?P<file>.*(?P<kind>\.tar|\.parquet))#(?P<start>\d+)(\+(?P<length>\d+))?(@(?P<version>\w+))?$"
)
# The same for DuckDB: the file, and where in it.
SQL_PATTERN = r"^(.*\.(?:tar|parquet))#(\d+)(?:\+\d+)?(?:@\w+)?$"
KEPT_GROUPS = 2


@dataclass(frozen=True)
class Place:
    """Where a packed cutout lies: bytes of a file, or, without a length, a row of one."""

    file: str
    start: int
    length: int | None
    version: str = ""


def place_of(uri: str) -> Place | None:
    """Where a URI says that a cutout is packed; None if it names a file of its own."""
    found = PLACE.match(uri) if "#" in uri else None
    if found is None or (found["length"] is None) != (found["kind"] == ".parquet"):
        return None
    length = found["length"]
    size = None if length is None else int(length)
    return Place(found["file"], int(found["start"]), size, found["version"] or "")


def tar_members(uri: str, file: IO[bytes], version: str) -> Iterator[tuple[str, str]]:
    """The name and the URI of each file in a tar.

    Raises
    ------
    tarfile.TarError
        If it is no tar, or a compressed one, or breaks off.
    """
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            if member.isfile() and not is_hidden(member.name):
                yield member.name, f"{uri}#{member.offset_data}+{member.size}@{version}"
            # The list that tarfile keeps would grow with the shard.
            tar.members = []  # type: ignore[attr-defined]


def is_hidden(name: str) -> bool:
    """Whether a name below a folder, or in a tar, is hidden, or one of macOS's own."""
    parts = name.split("/")
    return any(part == "__MACOSX" or part[:1] == "." for part in parts if part not in (".", ".."))


def bytes_column(schema: pa.Schema) -> str | None:
    """The column of a Parquet file that holds files: bytes, or a struct with ``bytes``."""
    for field in schema:
        if _is_bytes(field.type):
            return str(field.name)
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            return str(field.name)
    return None


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


class RowReader:
    """Reads rows of one Parquet file; the row groups read last are kept.

    Parameters
    ----------
    file : file object
        An open file that can seek, of Parquet.
    """

    def __init__(self, file: Any) -> None:
        self._file = pq.ParquetFile(file)
        self._column = bytes_column(self._file.schema_arrow)
        if self._column is None:
            raise pa.ArrowInvalid("no column of it holds bytes")
        facts = self._file.metadata
        self._starts = [0]
        for group in range(facts.num_row_groups):
            self._starts.append(self._starts[-1] + facts.row_group(group).num_rows)
        self._kept: OrderedDict[int, pa.ChunkedArray] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, row: int) -> bytes | None:
        """A row's bytes; None if there is no such row or it has none."""
        if row >= self._starts[-1]:
            return None
        group = bisect_right(self._starts, row) - 1
        with self._lock:
            if group not in self._kept:
                table = self._file.read_row_group(group, columns=[self._column])
                self._kept[group] = table.column(0)
                while len(self._kept) > KEPT_GROUPS:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(group)
            value = self._kept[group][row - self._starts[group]].as_py()
        return value.get("bytes") if isinstance(value, dict) else value
