"""Catalogues as astronomers have them, each read by the field's own reader into a Parquet file.

CSV with comments, units and any of the usual separators; Parquet; FITS tables and VOTables; ECSV;
each packed or not. Types come from the table. A column that no table of ours can hold (arrays,
complex numbers, bytes that are no text) costs nothing but itself: it is left out and named.
"""

from __future__ import annotations

import codecs
import csv
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from zoo_bridge.cutouts import packed
from zoo_bridge.cutouts.images import UNPACK_ERRORS, open_packed
from zoo_bridge.cutouts.store import Entry, Store

SLICE = 500_000
# Lines among which a header is looked for, and separators in the order in which they are tried.
HEAD_LINES = 500
HEAD_BYTES = 2**20
SEPARATORS = (",", "\t", ";", "|", " ")
# What a line of units has for texts.
NO_UNIT = ("", "none", "unitless", "text", "string", "str", "char", "char(*)")
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# What stands in place of a byte that is no UTF-8.
BROKEN = "\N{REPLACEMENT CHARACTER}"
READ_ERRORS = (
    pl.exceptions.PolarsError,
    pa.ArrowException,
    ValueError,
    csv.Error,
    *UNPACK_ERRORS,
)


@dataclass
class Read:
    """A catalogue's file as Parquet.

    Parameters
    ----------
    path : Path
        The Parquet file.
    texts : bool
        All of its columns are texts, of which some may be numbers.
    left_out : dict
        Columns that are not in it, or not to be used, and why.
    """

    path: Path
    texts: bool = False
    left_out: dict[str, str] = field(default_factory=dict)


def read_catalogue(store: Store, entry: Entry, scratch: Path, ids: str, uris: str) -> Read:
    """Read one file of a catalogue.

    Parameters
    ----------
    store : Store
        Where it is.
    entry : Entry
        The catalogue's file.
    scratch : Path
        Beginning of the names of files that may be written.
    ids, uris : str
        The columns that are needed.

    Returns
    -------
    Read

    Raises
    ------
    READ_ERRORS
        Whatever the reader says of a file that is none of these.
    """
    path = scratch.with_suffix(".parquet")
    if entry.uri.endswith(".parquet") and (shard := _read_shard(store, entry, path, uris)):
        return shard
    got = store.copy_to(entry.uri, scratch.with_suffix(".got"))
    head = _head(got)
    with got.open("rb") as file:
        unpacked = open_packed(file, head)
        if unpacked is not None:
            got = scratch.with_suffix(".unpacked")
            with unpacked as source, got.open("wb") as target:
                shutil.copyfileobj(source, target, 2**20)
            head = _head(got)
    if head[:4] == b"PAR1":
        return Read(got, left_out=_odd_columns(pq.read_schema(got), (ids, uris)))
    if head[:6] == b"SIMPLE":
        return _convert(got, path, "fits", (ids, uris))
    if b"<VOTABLE" in head:
        return _convert(got, path, "votable", (ids, uris))
    if head.removeprefix(codecs.BOM_UTF8).startswith(b"# %ECSV"):
        return _convert(got, path, "ascii.ecsv", (ids, uris))
    if head[:1] in (b"|", b"\\"):
        # The tables of IRSA; what only looks like one is a text with bars.
        with suppress(ValueError):
            return _convert(got, path, "ascii.ipac", (ids, uris))
    return _read_text(got, path, (ids, uris))


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1000)


# Parquet


def _odd_columns(schema: pa.Schema, needed: Sequence[str]) -> dict[str, str]:
    """Columns that hold no single number, text or time."""
    odd = {}
    for column in schema:
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        bad = pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        if (bad or pa.types.is_float16(kind)) and column.name not in needed:
            odd[column.name] = f"it holds {column.type}"
    return odd


def _read_shard(store: Store, entry: Entry, path: Path, uris: str) -> Read | None:
    """The columns of a Parquet file that holds cutouts, without them; None if it holds none."""
    uri, version = entry.uri, entry.digest
    if uri.startswith(("http://", "https://")):
        return None
    file = store.open(uri)
    if file.read(4) != b"PAR1":
        return None
    with pq.ParquetFile(file) as shard:
        held = packed.bytes_column(shard.schema_arrow)
        if held is None or uris in shard.schema_arrow.names:
            return None
        rest = [name for name in shard.schema_arrow.names if name != held]
        schema = pa.schema([shard.schema_arrow.field(name) for name in rest])
        row = 0
        with pq.ParquetWriter(path, schema.append(pa.field(uris, pa.string()))) as writer:
            for batch in shard.iter_batches(columns=rest):
                places = [f"{uri}#{row + number}@{version}" for number in range(len(batch))]
                row += len(batch)
                writer.write_batch(batch.append_column(uris, pa.array(places, pa.string())))
    return Read(path, left_out=_odd_columns(schema, (uris,)))


# FITS, VOTable, ECSV


def _convert(source: Path, target: Path, kind: str, needed: Sequence[str]) -> Read:
    """A table that astropy reads, written as Parquet some rows at a time."""
    table = _read_astropy(source, kind, needed)
    columns: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for name in table.colnames:
        for part, column in _parts(name, table[name]):
            try:
                columns[part] = _Column(column, part in needed)
            except (TypeError, ValueError) as error:
                left_out[part] = str(error)
    fields = [pa.field(name, each.type, metadata=each.facts) for name, each in columns.items()]
    schema = pa.schema(fields)
    with pq.ParquetWriter(target, schema) as writer:
        for start in range(0, max(1, len(table)), SLICE):
            arrays = [each.read(start) for each in columns.values()]
            writer.write_table(pa.table(arrays, schema=schema))
    return Read(target, left_out=left_out)


def _unit_with(source: Path, needed: Sequence[str]) -> int | None:
    """The first table of a FITS file that has the columns; None for astropy's choice."""
    from astropy.io import fits

    try:
        with fits.open(source, memmap=True) as units:
            for place, unit in enumerate(units):
                columns = getattr(unit, "columns", None)
                if columns is not None and set(needed) <= set(columns.names):
                    return place
    except Exception:
        # Whoever reads it next says what is wrong with it.
        return None
    return None


def _read_astropy(source: Path, kind: str, needed: Sequence[str]) -> Any:
    from astropy.io import fits
    from astropy.table import Table

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        more: dict[str, Any] = {}
        if kind == "fits":
            more = {"memmap": True, "hdu": _unit_with(source, needed)}
        try:
            return Table.read(source, format=kind, **more)
        except Exception as error:
            if kind != "fits":
                # astropy raises nearly anything on a broken file.
                raise ValueError(str(error)) from None
        # Columns that belong together in astropy, such as coordinates of a frame of its own, as
        # they stand in the file.
        try:
            with fits.open(source, memmap=True) as units:
                kinds = (fits.BinTableHDU, fits.TableHDU)
                tables = [unit for unit in units if isinstance(unit, kinds)]
                place = more["hdu"]
                return Table((tables[0] if place is None else units[place]).data)
        except Exception as error:
            raise ValueError(f"astropy reads no table in it: {error}") from None


def _parts(name: str, column: Any) -> Iterator[tuple[str, Any]]:
    """A column, or both of sky coordinates in degrees."""
    from astropy.coordinates import SkyCoord
    from astropy.table import Column

    if isinstance(column, SkyCoord):
        place = column.icrs
        yield f"{name}.ra", Column(place.ra.deg, unit="deg")
        yield f"{name}.dec", Column(place.dec.deg, unit="deg")
    else:
        yield name, column


class _Column:
    """A column of astropy as one of Arrow, its type that of the table.

    Raises
    ------
    TypeError, ValueError
        Why Arrow's tables, or ours, cannot hold it.
    """

    def __init__(self, column: Any, needed: bool) -> None:
        self._column = column
        self._needed = needed
        if not hasattr(column, "dtype"):
            raise TypeError(f"it holds {type(column).__name__}")
        if column.ndim != 1:
            raise TypeError(f"it holds arrays of shape {column.shape[1:]}")
        kind, size = column.dtype.kind, column.dtype.itemsize
        if kind in "SUO":
            self.type = pa.string()
            self._see_texts()
        elif kind in "biufM" and size <= 8:
            dtype = column.dtype.newbyteorder("=")
            self.type = pa.float32() if dtype == np.float16 else pa.from_numpy_dtype(dtype)
        else:
            raise TypeError(f"it holds {column.dtype}")
        facts = {"unit": str(column.unit or ""), "description": str(column.description or "")}
        self.facts = {name: text for name, text in facts.items() if text}

    def _see_texts(self) -> None:
        """Texts in UTF-8; where rows need them, a broken one costs its row."""
        for start in range(0, len(self._column), SLICE):
            self._texts(self._column[start : start + SLICE])

    def read(self, start: int) -> pa.Array:
        """Some rows, from one on."""
        values = self._column[start : start + SLICE]
        if self.type == pa.string():
            return self._texts(values)
        plain = np.asarray(values).astype(values.dtype.newbyteorder("="))
        if plain.dtype == np.float16:
            plain = plain.astype(np.float32)
        return pa.array(plain, self.type, mask=_mask(values))

    def _texts(self, values: Any) -> pa.Array:
        mask = _mask(values)
        plain = np.asarray(values)
        if plain.dtype.kind == "S":
            found = pa.array(plain, pa.binary(), mask=mask)
            try:
                texts = found.cast(pa.string())
            except pa.ArrowInvalid:
                if not self._needed:
                    raise ValueError("it holds bytes that are no UTF-8") from None
                listed = found.to_pylist()
                texts = pa.array(
                    [each and each.decode("utf-8", "replace") for each in listed], pa.string()
                )
        else:
            wrong = (each for each in plain.flat if not isinstance(each, str | bytes | None))
            if plain.dtype.kind == "O" and (one := next(wrong, None)) is not None:
                raise TypeError(f"it holds {type(one).__name__}")
            texts = pa.array(plain, pa.string(), mask=mask)
        return pc.utf8_trim_whitespace(texts)


def _mask(values: Any) -> Any:
    mask = getattr(values, "mask", None)
    return None if mask is None or not np.any(mask) else np.asarray(mask)


# texts


@dataclass(frozen=True)
class Layout:
    """How a file of texts is laid out: separator, names, lines before the first row, units."""

    separator: str
    names: list[str]
    skip: int
    units: list[str]


def _read_text(source: Path, target: Path, needed: Sequence[str]) -> Read:
    """A CSV, or what is called one, as Parquet of texts: "000123" must not become 123."""
    head = _head(source)
    if head.startswith(UTF16):
        source = _recoded(source, target.with_suffix(".utf8"))
    layout = find_layout(_first_lines(source), needed)
    if layout.separator == " ":
        source, layout = _with_commas(source, target.with_suffix(".csv"), layout)
    names = layout.names
    scanned = pl.scan_csv(
        source,
        separator=layout.separator,
        has_header=False,
        skip_lines=layout.skip,
        schema=dict.fromkeys(names, pl.String),
        encoding="utf8-lossy",
        missing_columns="insert",
    )
    plain = target.with_suffix(".plain") if layout.units else target
    scanned.sink_parquet(plain)
    if layout.units:
        _add_units(plain, target, layout)
    return Read(target, texts=True)


def _add_units(source: Path, target: Path, layout: Layout) -> None:
    units = dict(zip(layout.names, layout.units, strict=True))
    with pq.ParquetFile(source) as file:
        fields = [
            each.with_metadata({"unit": units[each.name]} if units.get(each.name) else None)
            for each in file.schema_arrow
        ]
        schema = pa.schema(fields)
        with pq.ParquetWriter(target, schema) as writer:
            for batch in file.iter_batches():
                writer.write_table(pa.Table.from_batches([batch]).cast(schema))


def _first_lines(path: Path) -> list[str]:
    with path.open("rb") as file:
        text = file.read(HEAD_BYTES).decode("utf-8-sig", "replace")
    lines = text.split("\n")
    return [line.rstrip("\r") for line in lines[:HEAD_LINES]]


def _recoded(source: Path, target: Path) -> Path:
    with (
        source.open(encoding="utf-16", newline="") as file,
        target.open("w", encoding="utf-8", newline="") as out,
    ):
        shutil.copyfileobj(file, out, 2**20)
    return target


def _with_commas(source: Path, target: Path, layout: Layout) -> tuple[Path, Layout]:
    """Columns with any number of spaces between them, with one comma each."""
    with (
        source.open(encoding="utf-8-sig", errors="replace", newline="") as file,
        target.open("w", encoding="utf-8", newline="") as out,
    ):
        lines = (line.strip() + "\n" for line in islice(file, layout.skip, None))
        rows = csv.reader(lines, delimiter=" ", skipinitialspace=True)
        csv.writer(out).writerows(row for row in rows if row)
    return target, Layout(",", layout.names, 0, layout.units)


def find_layout(lines: Sequence[str], needed: Sequence[str]) -> Layout:
    """Find the header among a file's first lines, comments and units around it.

    The header is the line that names the columns that are needed; without one, the first line that
    is no comment.

    Parameters
    ----------
    lines : sequence of str
        The first lines.
    needed : sequence of str
        Columns that must be there.

    Returns
    -------
    Layout
    """
    found = _named(lines, needed, comments=False) or _named(lines, needed, comments=True)
    if found is None:
        plain = (n for n, line in enumerate(lines) if line.strip() and not line.startswith("#"))
        place = next(plain, 0)
        line = lines[place] if lines else ""
        separator = max(SEPARATORS, key=lambda each: (line.count(each), each != " "))
        found = place, separator
    place, separator = found
    names = _unique(_cells(lines[place] if lines else "", separator))
    skip, units = place + 1, [""] * len(names)
    # Where a row has a file's name.
    uri = names.index(needed[-1]) if needed[-1] in names else None
    if place and _are_units(cells := _cells(lines[place - 1], separator), len(names), uri):
        units = cells
    while skip < len(lines):
        cells = _cells(lines[skip], separator)
        is_units = _are_units(cells, len(names), uri)
        # An id may begin with a hash.
        is_row = len(cells) == len(names) and uri is not None and bool(cells[uri])
        if not is_units and (is_row or not lines[skip].startswith("#")):
            break
        if is_units and not all(_is_rule(cell) for cell in cells):
            units = cells
        skip += 1
    units = [each.strip("[]() ") for each in units]
    return Layout(separator, names, skip, units if any(map(_is_unit, units)) else [])


def _named(lines: Sequence[str], needed: Sequence[str], comments: bool) -> tuple[int, str] | None:
    """The line that names all of the columns, and what separates them."""
    for place, line in enumerate(lines):
        if line.startswith("#") == comments:
            for separator in SEPARATORS:
                if set(needed) <= set(_cells(line, separator)):
                    return place, separator
    return None


def _cells(line: str, separator: str) -> list[str]:
    line = line.lstrip("#").strip(" ") if line.startswith("#") else line
    if separator == " ":
        return next(csv.reader([line.strip()], delimiter=" ", skipinitialspace=True), [])
    return [cell.strip() for cell in next(csv.reader([line], delimiter=separator), [])]


def _unique(names: Sequence[str]) -> list[str]:
    """Names of columns, each once: a second of the same name, or one without, gets a number."""
    found: list[str] = []
    for number, name in enumerate(names, 1):
        name = name or f"column_{number}"
        found.append(f"{name}_{number}" if name in found else name)
    return found


def _are_units(cells: Sequence[str], count: int, uri: int | None) -> bool:
    """Whether a line says units, or is a rule below a header: no row of a catalogue is either."""
    if len(cells) != count or not any(cells):
        return False
    if uri is not None and cells[uri].lower() not in NO_UNIT and not _is_rule(cells[uri]):
        return False
    return all(not cell or _is_rule(cell) or _is_unit(cell) for cell in cells)


def _is_rule(cell: str) -> bool:
    return not cell.strip("-=+ ")


def _is_unit(cell: str) -> bool:
    """A unit: never a number, which any reader of units takes for one, too."""
    import astropy.units as u

    cell = cell.strip("[]() ")
    if cell.lower() in (*NO_UNIT, "degrees", "radians", "hms", "dms"):
        return bool(cell)
    if re.fullmatch(r'"?[hd]:m:s"?', cell):
        return True
    if re.fullmatch(r"[-+.\deE]+", cell):
        return False
    with warnings.catch_warnings(), suppress(ValueError, TypeError):
        warnings.simplefilter("ignore")
        u.Unit(cell)
        return True
    return False
