"""Files appear whole or not at all."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pytest

from zoo_bridge.errors import InputError
from zoo_bridge.files import digest_value, join_gzipped, replacing, replacing_gzip, write_json
from zoo_bridge.tables import SURVEY, TableWriter, read_table, write_table


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "thing.json"
    write_json(path, {"old": 1})

    def fail(scratch: Path) -> None:
        scratch.write_text("half of the n")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError), replacing(path) as scratch:
        fail(scratch)
    assert '"old"' in path.read_text()
    assert [entry.name for entry in tmp_path.iterdir()] == ["thing.json"]


def test_equal_values_have_equal_digests() -> None:
    assert digest_value({"a": 1, "b": [2]}) == digest_value({"b": [2], "a": 1})
    assert digest_value({"a": 1}) != digest_value({"a": 2})


def test_gzipped_tables_with_one_header_become_one_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with replacing_gzip(tmp_path / f"{name}.gz") as file:
            file.write(f"n,x\n1,{name}\n".encode())
    paths = [tmp_path / "a.gz", tmp_path / "b.gz"]
    joined = join_gzipped(paths, tmp_path / "more", "all")
    assert gzip.decompress(joined.read_bytes()) == b"n,x\n1,a\n1,b\n"
    # Same content, same name.
    assert join_gzipped(paths, tmp_path / "more", "all") == joined


def test_a_table_written_in_parts_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path, part = tmp_path / "survey.parquet", pa.table({"object_id": ["o"], "uri": ["u"]})
    with TableWriter(path, SURVEY) as writer:
        writer.write(part)
        writer.write(part)
        assert not path.exists()
    assert read_table(path, SURVEY).num_rows == 2

    def fail(writer: TableWriter) -> None:
        writer.write(part)
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError), TableWriter(tmp_path / "other.parquet", SURVEY) as writer:
        fail(writer)
    assert [entry.name for entry in tmp_path.iterdir()] == ["survey.parquet"]


def test_tables_check_their_columns(tmp_path: Path) -> None:
    path = tmp_path / "survey.parquet"
    write_table(path, pa.table({"uri": ["u"], "object_id": ["o"], "ra": [1.5]}), SURVEY)
    assert read_table(path, SURVEY).column_names == ["object_id", "uri", "ra"]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="cannot be read"):
        read_table(path, SURVEY)
