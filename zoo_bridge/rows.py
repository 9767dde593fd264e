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
import itertools
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
# No export has such a line; a few kilobytes of gzip may hold one that fills any memory.
MOST_LINE_BYTES = 64 * 2**20
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
    missing : list of str
        Optional columns that the file has not; they are empty in ``table``.
    """

    table: pa.Table
    lines: Sequence[int]
    rejects: list[Reject] = field(default_factory=list)
    mended: int = 0
    open_end: bool = False
    missing: list[str] = field(default_factory=list)


def read_rows(
    path: Path,
    columns: Sequence[str],
    what: str,
    tick: Callable[[int], None] = lambda size: None,
    digest: Hash | None = None,
    piece_bytes: int = PIECE_BYTES,
    required: Sequence[str] = (),
    optional: Sequence[str] = (),
    soft: Sequence[str] = (),
) -> Iterable[Piece]:
    """Read a CSV export, gzipped or not.

    Parameters
    ----------
    path : Path
        The CSV file, gzipped or not.
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
    optional : sequence of str
        More columns that are wanted, and empty where the file has not got them.
    soft : sequence of str
        Of these, columns in which damage costs no row.

    Returns
    -------
    iterable of Piece
        To be gone through once.

    Raises
    ------
    InputError
        If the file cannot be read, is not such an export, or is cut in the middle of a row or of
        its gzip stream.
    """
    chunks = Ahead(_chunks(path, piece_bytes, tick, digest), 2)
    wanted = _Wanted(path, what, tuple(columns), tuple(required), tuple(optional), tuple(soft))
    return Ahead(_pieces(wanted, chunks, piece_bytes), 1)


@dataclass(frozen=True)
class _Wanted:
    """What is read of a file: see `read_rows`."""

    path: Path
    what: str
    columns: tuple[str, ...]
    required: tuple[str, ...]
    optional: tuple[str, ...]
    soft: tuple[str, ...]

    def check(self, header: list[str]) -> list[str]:
        """A header that has all that must be there."""
        return _check_header(self.path, header, [*self.columns, *self.required], self.what)

    def there(self, names: list[str]) -> list[str]:
        """What is wanted and can be had."""
        return [*self.columns, *(name for name in self.optional if name in names)]

    def complete(self, piece: Piece, names: list[str]) -> Piece:
        """A piece with the columns that the file has not, empty."""
        piece.missing = [name for name in self.optional if name not in names]
        empty = pa.repeat(pa.scalar(""), piece.table.num_rows)
        for name in piece.missing:
            piece.table = piece.table.append_column(name, empty)
        return piece


def _pieces(wanted: _Wanted, chunks: Ahead[bytes], piece_bytes: int) -> Iterator[Piece]:
    with contextlib.closing(chunks):
        rest, number = b"", 1
        names: list[str] | None = None
        there: list[str] = []
        for chunk in chunks:
            text = rest + chunk
            if len(rest) > MOST_LINE_BYTES:
                raise InputError(
                    f"{wanted.path} has a line of more than {MOST_LINE_BYTES // 2**20} MiB, "
                    f"beginning on line {number}: it is no {wanted.what} export, or damaged.",
                    "Download it anew; nothing of it was used.",
                )
            if names is None:
                if b"\n" not in text and len(text) < MOST_ROW_BYTES:
                    rest = text
                    continue
                refuse_other_kinds(wanted.path, text, wanted.what)
                header, text = _header(text)
                names = wanted.check(header)
                there = wanted.there(names)
                number += 1
            # Most often every line is a row, and the last line break ends one.
            cut = text.rfind(b"\n") + 1
            table = _read_clean(text[:cut], names, there) if cut else None
            if table is not None:
                piece = Piece(table, range(number, number + table.num_rows))
                yield wanted.complete(piece, names)
                number, rest = number + table.num_rows, text[cut:]
                continue
            cut = _whole_rows(text)
            if cut == 0 and len(text) < max(2 * piece_bytes, MOST_ROW_BYTES):
                rest = text
                continue
            # No row ends here by its quotes: one was never closed. The lines will tell.
            cut = cut or text.rfind(b"\n") + 1
            if cut:
                piece = _read_odd(text[:cut], number, names, there, wanted.soft)
                yield wanted.complete(piece, names)
            number, rest = number + text.count(b"\n", 0, cut), text[cut:]
        if names is None:
            refuse_other_kinds(wanted.path, rest, wanted.what)
            header, rest = _header(rest)
            names = wanted.check(header)
            there = wanted.there(names)
        if rest.strip():
            piece = _read_odd(rest, number, names, there, wanted.soft)
            piece.open_end = not rest.endswith(b"\n")
            if piece.open_end:
                _check_end(wanted, piece)
            yield wanted.complete(piece, names)


def _check_end(wanted: _Wanted, piece: Piece) -> None:
    """See that a file whose last line has no end does not end in the middle of a row."""
    last = piece.rejects[-1] if piece.rejects else None
    if last is None or (piece.lines and piece.lines[-1] > last.line):
        return
    if last.reason not in ("cut short", "broken quotes"):
        return
    try:
        raise EOFError(f"it ends in the middle of the row that begins on line {last.line}")
    except EOFError as error:
        # As a gzip stream that is cut.
        raise InputError(
            f"{wanted.path} is cut short: {error}.", "Download it anew; nothing of it was used."
        ) from None


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


# What a file begins with that is something else, and what to do about it.
OTHER_KINDS = (
    (b"PAR1", "a Parquet file", "Give the CSV file as Zooniverse made it."),
    (b"BZh", "packed with bzip2", "Unpack it first, or pack it with gzip."),
    (b"\xfd7zXZ", "packed with xz", "Unpack it first, or pack it with gzip."),
    (b"\x28\xb5\x2f\xfd", "packed with zstd", "Unpack it first, or pack it with gzip."),
    (b"7z\xbc\xaf", "packed with 7-Zip", "Unpack it first, or pack it with gzip."),
    (b"\xff\xfe", "text in UTF-16, as spreadsheets save it", "Save it as CSV in UTF-8."),
    (b"\xfe\xff", "text in UTF-16, as spreadsheets save it", "Save it as CSV in UTF-8."),
    (b"\xd0\xcf\x11\xe0", "an Excel file (.xls)", "Give the CSV file as Zooniverse made it."),
    (b"SQLite format 3", "an SQLite database", "Export its table as CSV with a header."),
    (b"PGDMP", "a dump of a PostgreSQL database", "Export its table as CSV with a header."),
    (b"%PDF", "a PDF file", "Give the CSV file as Zooniverse made it."),
    (b"{", "JSON", "Give the CSV file as Zooniverse made it."),
    (b"[", "JSON", "Give the CSV file as Zooniverse made it."),
)
DUMPS = (b"-- ", b"--\n", b"/*!", b"insert into", b"create table", b"copy ", b"set ", b"begin;")
PAGES = (
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"<?xml", "an answer in XML, such as a store gives when a link has ended"),
    (b"<error", "an error of the store that the file was to come from"),
    (b"<", "a page, and no table"),
)


def refuse_other_kinds(path: Path, text: bytes, what: str) -> None:
    """See by its first bytes that a file is no known thing other than CSV.

    Parameters
    ----------
    path : Path
        Its name, for the message.
    text : bytes
        How it begins.
    what : str
        What it should be.

    Raises
    ------
    InputError
        Saying what it is, and what to do.
    """
    start = text.removeprefix(b"\xef\xbb\xbf").lstrip()
    anew = "Download it anew: a link to an export is good for a few minutes only."
    if text.startswith(b"PK\x03\x04"):
        if b"[Content_Types].xml" in text[:4000] or b"xl/" in text[:4000]:
            raise _not_csv(path, what, "an Excel file (.xlsx)", "Save it as CSV in UTF-8.")
        raise _not_csv(path, what, "a zip archive", "Unpack it first, or pack it with gzip.")
    for begin, kind, advice in OTHER_KINDS:
        if text.startswith(begin) or (len(begin) == 1 and start.startswith(begin)):
            raise _not_csv(path, what, kind, advice)
    small = start[:200].lower()
    for begin, kind in PAGES:
        if small.startswith(begin):
            raise _not_csv(path, what, kind, anew)
    if small.startswith(DUMPS):
        advice = "Export its table as CSV with a header."
        raise _not_csv(path, what, "commands of a database (a dump)", advice)


def _not_csv(path: Path, what: str, kind: str, advice: str) -> InputError:
    return InputError(f"{path} is not a {what} export: it is {kind}.", advice)


def _check_header(path: Path, header: list[str], columns: Sequence[str], what: str) -> list[str]:
    """A header that has all that must be there; else what is wrong with it."""
    if not header or header == [""]:
        raise InputError(
            f"{path} is not a {what} export: it is empty.", "Download it anew from Zooniverse."
        )
    missing = [name for name in columns if name not in header]
    if not missing:
        return header
    line = header[0] if len(header) == 1 else ""
    for mark, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if line.count(mark) >= 2:
            raise InputError(
                f"{path} is not a {what} export as Zooniverse makes it: {name} stand between its "
                "columns, where commas should.",
                "Save it with commas, in UTF-8, or give the file that was downloaded.",
            )
    if any(_NUMBER.fullmatch(cell) for cell in header):
        raise InputError(
            f"{path} is not a {what} export: it has no header, its first line is a row already.",
            f"Put the line of column names back: it should have {', '.join(columns[:4])} …",
        )
    lacks = f"it lacks the column{'s' if missing[1:] else ''} {', '.join(missing)}"
    if len(missing) * 2 < len(columns):
        raise InputError(
            f"{path} is not a whole {what} export: {lacks}.",
            "Perhaps somebody took that out before it was shared: ask for the whole file.",
        )
    shown = ", ".join(header[:6]) + (" …" if len(header) > 6 else "")
    raise InputError(
        f"{path} is not a {what} export: {lacks}; it has {shown}.",
        f"Is it another file? A {what} export is on the project's Data Exports page.",
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


def _read_odd(
    raw: bytes, number: int, names: list[str], columns: Sequence[str], soft: Sequence[str]
) -> Piece:
    """The rows of a piece that has something odd about it somewhere.

    Only odd rows are read line by line: those of several lines, with a NUL, or with broken UTF-8.
    """
    # A quote that was never closed turns the rest inside out: only lines tell where rows end.
    if not raw.endswith(b"\n") or raw.count(b'"') % 2:
        return _read_lines(raw, number, names, columns, soft)
    data = np.frombuffer(raw, np.uint8)
    newlines = np.flatnonzero(data == ord("\n"))
    outside = np.searchsorted(np.flatnonzero(data == ord('"')), newlines) % 2 == 0
    ends = newlines[outside] + 1
    starts = np.concatenate([[0], ends[:-1]])
    first_lines = np.searchsorted(newlines, starts)
    odd = np.diff(np.append(first_lines, len(newlines))) > 1
    odd[np.searchsorted(ends, np.flatnonzero(data == 0), "right")] = True
    for row in np.unique(np.searchsorted(ends, np.flatnonzero(data > 127), "right")):
        odd[row] |= _is_no_utf8(raw[starts[row] : ends[row]])
    # Runs of rows that are odd, or that are not.
    cuts = np.concatenate([[0], np.flatnonzero(np.diff(odd)) + 1, [len(odd)]])
    runs = [(raw[starts[a] : ends[b - 1]], a, b) for a, b in itertools.pairwise(cuts)]
    clean = b"".join(part for part, a, _ in runs if not odd[a])
    table = _read_clean(clean, names, columns) if clean else None
    if clean and table is None:
        return _read_lines(raw, number, names, columns, soft)
    pieces = [
        _read_lines(part, number + int(first_lines[a]), names, columns, soft)
        for part, a, _ in runs
        if odd[a]
    ]
    if table is not None:
        pieces.append(Piece(table, (first_lines[~odd] + number).tolist()))
    lines = np.array([line for piece in pieces for line in piece.lines], dtype=np.int64)
    order = np.argsort(lines, kind="stable")
    return Piece(
        pa.concat_tables([piece.table for piece in pieces]).take(order).combine_chunks(),
        lines[order].tolist(),
        [reject for piece in pieces for reject in piece.rejects],
        sum(piece.mended for piece in pieces),
    )


def _is_no_utf8(row: bytes) -> bool:
    try:
        row.decode()
    except UnicodeDecodeError:
        return True
    return False


def _read_lines(
    raw: bytes, number: int, names: list[str], columns: Sequence[str], soft: Sequence[str]
) -> Piece:
    """The rows of a piece, one by one."""
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
        reason = reason or _damage(wanted, columns, soft)
        if reason:
            begin = lines[line][:60].decode("utf-8", errors="replace").replace("\0", "\\0")
            name, _, detail = reason.partition(": ")
            rejects.append(Reject(number + line, name, f"{detail or name}; it begins {begin!r}"))
            continue
        mended += any("\0" in cell or _is_broken(cell) for cell in cells)
        kept.append([_readable(cell) for cell in wanted] if soft else wanted)
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


def _readable(cell: str) -> str:
    """A cell that can be kept as a text, whatever is damaged in it."""
    return cell.encode("utf-8", "replace").decode() if _is_broken(cell) else cell


def _damage(cells: list[str], columns: Sequence[str], soft: Sequence[str]) -> str:
    """What is wrong with the text of a row's wanted cells; nothing: an empty text."""
    for name, cell in zip(columns, cells, strict=True):
        if name in soft:
            continue
        if "\0" in cell:
            return f"NUL byte: in {name}"
        if _is_broken(cell):
            return f"invalid UTF-8: in {name}"
    return ""


def _is_broken(cell: str) -> bool:
    return not cell.isascii() and any("\udc80" <= letter <= "\udcff" for letter in cell)
