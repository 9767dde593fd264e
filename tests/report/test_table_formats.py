"""Tables in the formats of the field, as astropy and others read them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units
from astropy.io import fits
from astropy.table import Table

from zoo_bridge.errors import InputError, SettingsError
from zoo_bridge.report.table_formats import About, write

ABOUT = About(
    {"MODEL": "paper-7"},
    {
        "name": {"description": "What it is called"},
        "ra": {"description": "Right ascension", "unit": "deg"},
        "flux": {"unit": "no such unit"},
        "votes": {"description": "How many,\nin all: Σ"},
    },
)


def reader(*batches: dict[str, list[Any]]) -> pa.RecordBatchReader:
    schema = pa.schema(
        {
            "name": pa.string(),
            "ra": pa.float64(),
            "flux": pa.float32(),
            "target": pa.bool_(),
            "votes": pa.int64(),
            "byte": pa.uint8(),
            "word": pa.uint16(),
            "seen": pa.timestamp("us"),
            "tags": pa.list_(pa.string()),
        }
    )
    made = [pa.RecordBatch.from_pydict(batch, schema) for batch in batches]
    return pa.RecordBatchReader.from_batches(schema, made)


FIRST: dict[str, list[Any]] = {
    "name": ["a", "a longer one"],
    "ra": [10.5, None],
    "flux": [1.5, -2.5],
    "target": [True, False],
    "votes": [1, 2**40],
    "byte": [0, 255],
    "word": [0, 65535],
    "seen": [datetime(2026, 1, 2, 3, 4, 5), None],
    "tags": [["x"], []],
}
SECOND: dict[str, list[Any]] = {
    "name": [None],
    "ra": [0.0],
    "flux": [None],
    "target": [True],
    "votes": [None],
    "byte": [7],
    "word": [8],
    "seen": [None],
    "tags": [None],
}


@pytest.mark.parametrize("ending", ["fits", "vot"])
def test_astropy_reads_what_was_written(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows.{ending}"
    assert write(reader(FIRST, SECOND), path, ABOUT) == 3
    table = Table.read(path)
    # A list has no place in such a table.
    assert table.colnames == [name for name in FIRST if name != "tags"]
    assert [str(each) for each in table["name"].filled("")] == ["a", "a longer one", ""]
    assert np.array(table["ra"].filled(np.nan)).tolist() == pytest.approx(
        [10.5, np.nan, 0.0], nan_ok=True
    )
    assert table["ra"].unit == units.deg
    assert table["flux"].dtype.itemsize == 4
    assert table["target"].dtype.kind == "b"
    assert list(table["target"]) == [True, False, True]
    # A column of whole numbers in which one is missing.
    assert np.array(table["votes"].filled(np.nan)).tolist() == pytest.approx(
        [1, 2**40, np.nan], nan_ok=True
    )
    assert list(table["byte"]) == [0, 255, 7]
    assert list(table["word"]) == [0, 65535, 8]
    assert str(table["seen"][0]).startswith("2026-01-02 03:04:05")
    if ending == "vot":
        assert table["name"].description == "What it is called"


def test_a_fits_table_keeps_the_standard_and_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "rows.fits"
    path.write_text("what was there before")
    write(reader(*[FIRST] * 500), path, ABOUT)
    with fits.open(path) as made:
        made.verify("exception")
        header = made[1].header
        assert header["NAXIS2"] == 1000
        assert header["TFORM1"] == "12A"
        assert header["TCOMM1"] == "What it is called"
        assert header["TCOMM5"] == "How many, in all: ?"
        assert header["TUNIT2"] == "deg"
        assert header["MODEL"] == "paper-7"
        assert list(made[1].data["votes"]) == [1, 2**40] * 500
    assert path.stat().st_size % 2880 == 0
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ending", ["csv", "parquet", "fits", "vot"])
def test_no_rows_are_a_table_too(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows.{ending}"
    assert write(reader(), path, ABOUT) == 0
    names = [name for name in FIRST if name != "tags"]
    if ending in ("fits", "vot"):
        assert Table.read(path).colnames == names
    else:
        read = pl.read_csv if ending == "csv" else pl.read_parquet
        assert read(path).columns[:8] == names  # type: ignore[operator]


def test_parquet_carries_units_and_descriptions(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write(reader(FIRST), path, ABOUT)
    schema = pq.read_schema(path)
    assert schema.metadata[b"model"] == b"paper-7"
    assert schema.field("ra").metadata[b"unit"] == b"deg"


def test_what_fits_cannot_hold_and_unknown_endings_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ASCII only, and 'Sombréro' is not"):
        write(reader(FIRST | {"name": ["b", "Sombréro"]}), tmp_path / "rows.fits", ABOUT)
    odd = pa.table({"größe": [1.0]}).to_reader()
    with pytest.raises(InputError, match="ASCII only, and 'größe' is not"):
        write(odd, tmp_path / "rows.fits", ABOUT)
    with pytest.raises(SettingsError, match="no ending that names a format"):
        write(reader(), tmp_path / "rows.doc", ABOUT)
    assert list(tmp_path.iterdir()) == []
