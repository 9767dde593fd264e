"""Files appear whole or not at all."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pytest

from zoo_bridge.errors import InputError
from zoo_bridge.files import digest_value, open_text, replacing, write_json
from zoo_bridge.tables import SURVEY, read_table, write_table


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


def test_text_is_read_gzipped_or_not(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("\ufeffé,1\n".encode())
    with gzip.open(tmp_path / "b.csv", "wb") as file:
        file.write("é,1\n".encode())
    for name in ("a.csv", "b.csv"):
        with open_text(tmp_path / name) as file:
            assert file.read() == "é,1\n"
    with pytest.raises(InputError, match="cannot be read"):
        open_text(tmp_path / "absent.csv")


def test_tables_check_their_columns(tmp_path: Path) -> None:
    path = tmp_path / "survey.parquet"
    write_table(path, pa.table({"uri": ["u"], "object_id": ["o"], "ra": [1.5]}), SURVEY)
    assert read_table(path, SURVEY).column_names == ["object_id", "uri", "ra"]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="cannot be read"):
        read_table(path, SURVEY)
