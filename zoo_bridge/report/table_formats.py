"""Tables in the formats of the field, written as their rows come, with units and descriptions.

Only a VOTable needs its rows in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from zoo_bridge.errors import InputError, SettingsError
from zoo_bridge.files import replacing

FORMATS = {
    ".csv": "csv",
    ".parquet": "parquet",
    ".fits": "fits",
    ".fit": "fits",
    ".vot": "votable",
    ".votable": "votable",
    ".xml": "votable",
}
# What FITS has a type for: the others are written as wider ones.
WIDER = {
    pa.int8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.float64(),
    pa.float16(): pa.float32(),
}


@dataclass(frozen=True)
class About:
    """What a file says of itself.

    Parameters
    ----------
    facts : mapping
        Keywords and values: of at most eight letters, since FITS has them.
    meanings : mapping
        By column: its ``description`` and ``unit``, as far as there are any.
    """

    facts: Mapping[str, str]
    meanings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def format_of(out: Path) -> str:
    """The format that a file's name asks for.

    Raises
    ------
    SettingsError
        If it asks for none.
    """
    kind = FORMATS.get(out.suffix.lower())
    if kind is None:
        raise SettingsError(
            f"{out} has no ending that names a format.", f"Known endings: {', '.join(FORMATS)}."
        )
    return kind


def write(reader: pa.RecordBatchReader, out: Path, about: About) -> int:
    """Write rows to a file, whole or not at all.

    Parameters
    ----------
    reader : pyarrow.RecordBatchReader
        Rows, read as they come.
    out : Path
        A file whose name ends in one of `FORMATS`.
    about : About
        What it says of itself.

    Returns
    -------
    int
        How many rows there were.

    Raises
    ------
    SettingsError
        If the file's name ends otherwise.
    InputError
        If a text cannot stand in a FITS table.
    """
    kind = format_of(out)
    with replacing(out) as scratch:
        if kind == "fits":
            return _write_fits(reader, scratch, about)
        if kind == "votable":
            return _write_votable(reader, scratch, about)
        if kind == "csv":
            return _write_csv(reader, scratch)
        return _write_parquet(reader, scratch, about)


def _write_csv(reader: pa.RecordBatchReader, path: Path) -> int:
    import pyarrow.csv

    schema = _plain_schema(reader.schema)
    with pyarrow.csv.CSVWriter(path, schema) as writer:
        return _copy(_plain_batches(reader, schema), writer)


def _write_parquet(reader: pa.RecordBatchReader, path: Path, about: About) -> int:
    import pyarrow.parquet as pq

    fields = [each.with_metadata(about.meanings.get(each.name)) for each in reader.schema]
    schema = pa.schema(fields, {name.lower(): value for name, value in about.facts.items()})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        return _copy((batch.cast(schema) for batch in reader), writer)


def _copy(batches: Iterable[pa.RecordBatch], writer: Any) -> int:
    count = 0
    for batch in batches:
        writer.write_batch(batch)
        count += batch.num_rows
    return count


def _plain_schema(schema: pa.Schema) -> pa.Schema:
    """The columns that tables of astronomy have: numbers, truth values and text."""
    return pa.schema([(each.name, _plain(each.type)) for each in schema if _is_flat(each.type)])


def _is_flat(kind: pa.DataType) -> bool:
    return not (pa.types.is_nested(kind) or pa.types.is_binary(kind))


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_boolean(kind):
        return kind
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return WIDER.get(kind, kind)
    return pa.float64() if pa.types.is_decimal(kind) else pa.string()


def _plain_batches(reader: pa.RecordBatchReader, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for batch in reader:
        columns = [batch.column(each.name).cast(each.type) for each in schema]
        yield pa.record_batch(columns, schema)


def _table(columns: Mapping[str, NDArray[Any]], about: About) -> Any:
    """An astropy table with units, descriptions and keywords."""
    from astropy.table import Column, Table
    from astropy.units import UnitsError

    table = Table(meta=dict(about.facts))
    for name, values in columns.items():
        meaning = about.meanings.get(name, {})
        table[name] = Column(values, description=meaning.get("description"))
        # A unit that astropy does not know is no reason to write nothing.
        with suppress(UnitsError, ValueError):
            table[name].unit = meaning.get("unit")
    return table


def _write_votable(reader: pa.RecordBatchReader, path: Path, about: About) -> int:
    schema = _plain_schema(reader.schema)
    rows = pa.Table.from_batches(_plain_batches(reader, schema), schema)
    columns = {}
    for name in rows.column_names:
        found = rows[name]
        if pa.types.is_boolean(found.type) and found.null_count:
            found = found.cast(pa.string())
        text = pa.types.is_string(found.type)
        columns[name] = found.fill_null("").to_numpy().astype(str) if text else found.to_numpy()
    _table(columns, about).write(path, format="votable", overwrite=True)
    return int(rows.num_rows)


def _write_fits(reader: pa.RecordBatchReader, path: Path, about: About) -> int:
    """Write a binary table in two passes: its header says how long its texts are, and itself."""
    from astropy.io import fits

    schema = _plain_schema(reader.schema)
    _check_ascii(pa.array(schema.names, pa.string()), "give the column another name")
    longest, empty, count = dict.fromkeys(schema.names, 1), set(), 0
    with TemporaryDirectory(prefix=".rows-", dir=path.parent) as folder:
        spooled = Path(folder) / "rows.arrow"
        with pa.OSFile(str(spooled), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            for batch in _plain_batches(reader, schema):
                for each in schema:
                    found = batch.column(each.name)
                    if found.null_count:
                        empty.add(each.name)
                    if pa.types.is_string(each.type):
                        _check_ascii(found, "leave the object out with --where")
                        length = pc.max(pc.binary_length(found)).as_py() or 0
                        longest[each.name] = max(longest[each.name], length)
                count += batch.num_rows
                writer.write_batch(batch)
        types = {each.name: _numpy(each, longest, empty) for each in schema}
        table = _table({name: np.empty(0, kind) for name, kind in types.items()}, about)
        header = fits.table_to_hdu(table).header
        header["NAXIS2"] = count
        for number, name in enumerate(table.colnames, 1):
            if text := table[name].description:
                # Which TOPCAT and others read.
                printable = text.encode("ascii", "replace").decode()
                header[f"TCOMM{number}"] = " ".join(printable.split())
        dtype = np.dtype([(name, np.dtype(kind).newbyteorder(">")) for name, kind in types.items()])
        path.unlink(missing_ok=True)
        with (
            fits.StreamingHDU(path, header) as unit,
            pa.OSFile(str(spooled)) as file,
            pa.ipc.open_file(file) as rows,
        ):
            for number in range(rows.num_record_batches):
                unit.write(_packed(rows.get_batch(number), dtype))
    return count


def _check_ascii(texts: pa.Array, remedy: str) -> None:
    wrong = texts.filter(pc.invert(pc.string_is_ascii(texts)))
    if len(wrong):
        raise InputError(
            f"A FITS table holds ASCII only, and {wrong[0].as_py()!r} is not.",
            f"Write a .vot or .parquet file, or {remedy}.",
        )


def _numpy(each: pa.Field, longest: Mapping[str, int], empty: set[str]) -> Any:
    if pa.types.is_string(each.type):
        return f"S{longest[each.name]}"
    if pa.types.is_integer(each.type) and each.name in empty:
        # What is missing is not a number.
        return "f8"
    return each.type.to_pandas_dtype()


def _packed(batch: pa.RecordBatch, dtype: np.dtype[Any]) -> Any:
    """Rows as FITS has them: big-endian, texts filled up, truth values as letters."""
    rows = np.zeros(batch.num_rows, dtype)
    for name in dtype.names or ():
        found = batch.column(name)
        if pa.types.is_boolean(found.type):
            letters = pc.if_else(found, ord("T"), ord("F")).fill_null(0)
            rows[name].view("u1")[:] = letters.to_numpy(zero_copy_only=False)
        elif pa.types.is_string(found.type):
            rows[name] = found.cast(pa.binary()).fill_null(b"").to_numpy(zero_copy_only=False)
        else:
            rows[name] = found.to_numpy(zero_copy_only=False)
    return rows.view("u1")
