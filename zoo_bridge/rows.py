"""CSV exports of any size, a few megabytes at a time, with every row accounted for.

Threads inflate and parse ahead while the last piece is worked on, so that memory stays flat and
both cores are busy. A piece that is clean goes through pyarrow's reader. One that is not (a NUL
byte, text that is not UTF-8, a line break inside a value, a row of the wrong length, quotes that do
not pair up) is read line by line: what can be read is kept, the rest set aside with its place.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import queue
import re
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
from isal import igzip, isal_zlib

from zoo_bridge.errors import InputError

PIECE_BYTES = 8 * 2**20
# A value with more line breaks than this is a quote that was never closed.
MOST_LINES = 50
# So is a row that is longer than this.
MOST_ROW_BYTES = 2**20
BROKEN_GZIP: Any = (EOFError, zlib.error, gzip.BadGzipFile, isal_zlib.error)
T = TypeVar("T")
_NUMBER = re.compile(r"\s*\d+\s*")


class Hash(Protocol):
    """What `hashlib` makes."""

    def update(self, data: bytes, /) -> None:
        """Take more."""


@dataclass(frozen=True)
class Reject:
    """A row that cannot be read: its line in the file, why, and how it begins."""

    line: int
    reason: str
    detail: str


@dataclass
class Piece:
    """Whole rows of an export.

    Parameters
    ----------
    table : pyarrow.Table
        The wanted columns, all of them text.
    lines : sequence of int
        The line in the file, from 1, that each row of ``table`` begins on.
    rejects : list of Reject
        Rows that are not in ``table``.
    mended : int
        Rows in ``table`` with NUL bytes or broken UTF-8 in columns that are not wanted.
    open_end : bool
        This is the end of the file, and no line break follows: the last row may be cut short.
    """

    table: pa.Table
    lines: Sequence[int]
    rejects: list[Reject] = field(default_factory=list)
    mended: int = 0
    open_end: bool = False


def read_rows(
    path: Path,
    columns: Sequence[str],
    what: str,
    tick: Callable[[int], None] = lambda size: None,
    digest: Hash | None = None,
    piece_bytes: int = PIECE_BYTES,
    required: Sequence[str] = (),
) -> Iterable[Piece]:
    """Read a CSV export, gzipped or not.

    Parameters
    ----------
    path : Path
        The file.
    columns : sequence of str
        The columns that are wanted, in any order; they must be there.
    what : str
        What the file should be, such as ``classifications``, for error messages.
    tick : callable
        Called with the number of bytes of the file (as it is on disk) just read.
    digest : hash object, optional
        Is fed the content (inflated), to the end of the file.
    piece_bytes : int
        About how much is worked on at a time.
    required : sequence of str
        More columns that must be there, though they are not wanted.

    Returns
    -------
    iterable of Piece
        To be gone through once.

    Raises
    ------
    InputError
        If the file cannot be read, is not such an export, or its gzip stream is cut.
    """
    chunks = Ahead(_chunks(path, piece_bytes, tick, digest), 2)
    return Ahead(_pieces(path, chunks, columns, required, what, piece_bytes), 1)


def _pieces(
    path: Path,
    chunks: Ahead[bytes],
    columns: Sequence[str],
    required: Sequence[str],
    what: str,
    piece_bytes: int,
) -> Iterator[Piece]:
    with contextlib.closing(chunks):
        rest, number, names = b"", 1, None
        for chunk in chunks:
            text = rest + chunk
            if names is None:
                if b"\n" not in text and len(text) < MOST_ROW_BYTES:
                    rest = text
                    continue
                header, text = _header(text)
                names = _check_header(path, header, [*columns, *required], what)
                number += 1
            # Most often every line is a row, and the last line break ends one.
            cut = text.rfind(b"\n") + 1
            table = _read_clean(text[:cut], names, columns) if cut else None
            if table is not None:
                yield Piece(table, range(number, number + table.num_rows))
                number, rest = number + table.num_rows, text[cut:]
                continue
            cut = _whole_rows(text)
            if cut == 0 and len(text) < max(2 * piece_bytes, MOST_ROW_BYTES):
                rest = text
                continue
            # No row ends here by its quotes: one was never closed. The lines will tell.
            cut = cut or text.rfind(b"\n") + 1
            if cut:
                yield _read_lines(text[:cut], number, names, columns)
            number, rest = number + text.count(b"\n", 0, cut), text[cut:]
        if names is None:
            header, rest = _header(rest)
            names = _check_header(path, header, [*columns, *required], what)
        if rest:
            piece = _read_lines(rest, number, names, columns)
            piece.open_end = not rest.endswith(b"\n")
            yield piece


def _chunks(
    path: Path, size: int, tick: Callable[[int], None], digest: Hash | None
) -> Iterator[bytes]:
    """The inflated content of a file."""
    try:
        with path.open("rb") as raw:
            gzipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            file: Any = igzip.IGzipFile(fileobj=raw, mode="rb") if gzipped else raw
            before = 0
            while chunk := file.read(size):
                if digest is not None:
                    digest.update(chunk)
                place = raw.tell()
                tick(place - before)
                before = place
                yield chunk
    except BROKEN_GZIP as error:
        raise InputError(
            f"{path} is cut short or damaged: {error}.",
            "Download it anew; nothing of it was used.",
        ) from None
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror or error}.", "Is the name right?"
        ) from None


class Ahead(Generic[T]):
    """An iterator that a thread runs ahead, by at most `depth` items.

    Inflating and parsing leave Python's lock alone, so that threads keep both cores busy.
    """

    def __init__(self, items: Iterator[T], depth: int) -> None:
        self._items = items
        self._queue: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        try:
            while (item := self._queue.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item[0]
        finally:
            self.close()

    def close(self) -> None:
        """Let the thread end, whether or not everything was read."""
        self._stopped.set()
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._queue.get(timeout=0.01)

    def _run(self) -> None:
        try:
            for item in self._items:
                self._queue.put((item,))
                if self._stopped.is_set():
                    break
            end: BaseException | None = None
        except BaseException as error:
            end = error
        with contextlib.suppress(BaseException):
            self._items.close()  # type: ignore[attr-defined]
        self._queue.put(end)


def _header(text: bytes) -> tuple[list[str], bytes]:
    """The header's cells, and what follows it."""
    line, _, rest = text.partition(b"\n")
    decoded = line.decode("utf-8-sig", errors="replace").rstrip("\r")
    try:
        return next(csv.reader([decoded]), []), rest
    except csv.Error:
        return [decoded], rest


def _check_header(path: Path, header: list[str], columns: Sequence[str], what: str) -> list[str]:
    if not header:
        raise _wrong_file(path, what, "it is empty")
    missing = [name for name in columns if name not in header]
    if missing:
        raise _wrong_file(path, what, f"it lacks the column {', '.join(missing)}")
    return header


def _wrong_file(path: Path, what: str, why: str) -> InputError:
    return InputError(
        f"{path} is not a {what} export: {why}.",
        "Download it anew from the project's Data Exports page, and do not save it from a "
        "spreadsheet.",
    )


def _whole_rows(text: bytes) -> int:
    """Where the last row ends whose quotes are all closed; 0 if there is none."""
    odd = text.count(b'"') % 2
    end = len(text)
    while (place := text.rfind(b"\n", 0, end)) >= 0:
        odd ^= text.count(b'"', place, end) % 2
        if not odd:
            return place + 1
        end = place
    return 0


def _read_clean(raw: bytes, names: list[str], columns: Sequence[str]) -> pa.Table | None:
    """The rows if there is nothing odd about them: one line each, all of one length, UTF-8."""
    last_line = raw.rfind(b"\n", 0, len(raw) - 1) + 1
    if raw.count(b'"', last_line) % 2 or raw.find(b"\0") >= 0:
        return None
    places = [names.index(name) for name in columns]
    keys = [str(place) for place in range(len(names))]
    wanted = [keys[place] for place in places]
    try:
        offsets = pa.py_buffer(b"\0\0\0\0" + len(raw).to_bytes(4, "little"))
        buffers = [None, offsets, pa.py_buffer(raw)]
        pa.Array.from_buffers(pa.string(), 1, buffers).validate(full=True)
        table = pa_csv.read_csv(
            pa.BufferReader(raw),
            # One chunk: what follows works on whole columns, and other threads have work enough.
            pa_csv.ReadOptions(use_threads=False, block_size=len(raw) + 1, column_names=keys),
            pa_csv.ParseOptions(newlines_in_values=False),
            pa_csv.ConvertOptions(
                include_columns=wanted,
                column_types=dict.fromkeys(wanted, pa.string()),
                strings_can_be_null=False,
                check_utf8=False,
            ),
        )
    except pa.ArrowInvalid:
        return None
    # Much faster than bytes.count, and without Python's lock.
    if table.num_rows != np.count_nonzero(np.frombuffer(raw, np.uint8) == ord("\n")):
        return None
    return table.rename_columns(list(columns))


def _read_lines(raw: bytes, number: int, names: list[str], columns: Sequence[str]) -> Piece:
    """The rows of a piece that has something odd about it."""
    csv.field_size_limit(2**30)
    places = [names.index(name) for name in columns]
    first = names.index(columns[0])
    lines = raw.split(b"\n")
    if not lines[-1]:
        lines.pop()
    kept: list[list[str]] = []
    starts: list[int] = []
    rejects: list[Reject] = []
    mended = 0
    at = 0
    while at < len(lines):
        cells, used, reason = _take(lines, at, len(names), first)
        line, at = at, at + used
        if cells == [] and used == 1 and not reason:
            continue
        wanted = [cells[place] for place in places] if not reason else []
        reason = reason or _damage(wanted, columns)
        if reason:
            begin = lines[line][:60].decode("utf-8", errors="replace").replace("\0", "\\0")
            name, _, detail = reason.partition(": ")
            rejects.append(Reject(number + line, name, f"{detail or name}; it begins {begin!r}"))
            continue
        mended += any("\0" in cell or _is_broken(cell) for cell in cells)
        kept.append(wanted)
        starts.append(number + line)
    data = list(zip(*kept, strict=True)) if kept else [()] * len(columns)
    arrays = [pa.array(column, pa.string()) for column in data]
    return Piece(pa.table(arrays, names=list(columns)), starts, rejects, mended)


def _take(lines: list[bytes], at: int, width: int, first: int) -> tuple[list[str], int, str]:
    """The row that begins on a line: its cells, how many lines it has, and what is wrong with it.

    A row may go on over several lines, but not over one that is a whole row by itself: then a
    quote was not closed, and only the rows before that line are lost.
    """
    cells = _parse(lines[at])
    if cells is not None:
        if len(cells) in (0, width):
            return cells, 1, ""
        return [], 1, f"cut short: {len(cells)} cells in place of {width}"
    end = at + 1
    while end < len(lines) and end - at < MOST_LINES:
        alone = _parse(lines[end])
        if alone is not None and len(alone) == width and _NUMBER.fullmatch(alone[first]):
            break
        end += 1
        cells = _parse(b"\n".join(lines[at:end]))
        if cells is not None:
            if len(cells) == width:
                return cells, end - at, ""
            break
    # Whole rows may follow on the lines that were tried; only this one is given up.
    return [], 1, "broken quotes: the quotes of this row do not pair up"


def _parse(line: bytes) -> list[str] | None:
    """The cells of one row; None if its quotes do not pair up."""
    text = line.decode("utf-8", errors="surrogateescape").rstrip("\r")
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error:
        return None
    if not rows:
        return []
    return rows[0] if len(rows) == 1 else None


def _damage(cells: list[str], columns: Sequence[str]) -> str:
    """What is wrong with the text of a row's wanted cells; nothing: an empty text."""
    for name, cell in zip(columns, cells, strict=True):
        if "\0" in cell:
            return f"NUL byte: in {name}"
        if _is_broken(cell):
            return f"invalid UTF-8: in {name}"
    return ""


def _is_broken(cell: str) -> bool:
    return not cell.isascii() and any("\udc80" <= letter <= "\udcff" for letter in cell)
