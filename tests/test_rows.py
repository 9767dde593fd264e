"""CSV files of any size and in any state: every row is kept, or set aside with its line."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo_bridge.errors import InputError
from zoo_bridge.rows import read_rows

HEADER = "classification_id,name,data"


def write(path: Path, *rows: str, end: str = "\n") -> Path:
    path.write_bytes((HEADER + "\n" + "\n".join(rows) + end).encode())
    return path


def read(path: Path, columns: tuple[str, ...] = ("classification_id", "data"), **how: Any) -> Any:
    """(line, cells) of rows that were kept, and (line, reason) of the others."""
    kept, aside = [], []
    for piece in read_rows(path, columns, "test", **how):
        cells = zip(*(column.to_pylist() for column in piece.table.columns), strict=True)
        kept += list(zip(piece.lines, cells, strict=True))
        aside += [(reject.line, reject.reason) for reject in piece.rejects]
    return kept, aside


def test_clean_rows_with_their_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "1,x,one", '2,y,"t,w""o"', "3,,")
    assert read(path) == ([(2, ("1", "one")), (3, ("2", 't,w"o')), (4, ("3", ""))], [])


def test_a_byte_order_mark_windows_lines_and_an_unnamed_column(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbf,classification_id,data\r\n0,1,one\r\n1,2,two\r\n")
    assert read(path) == ([(2, ("1", "one")), (3, ("2", "two"))], [])


def test_rows_of_several_lines_and_blank_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", '1,"two\nlines",one', "", "2,y,two")
    assert read(path) == ([(2, ("1", "one")), (5, ("2", "two"))], [])


def test_damage_costs_one_row_and_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [
        b"1,x,one",
        b"2,x",
        b"3,x,th\xffree",
        b"4,\xff\xfe,four",
        b"5,x,fi\0ve",
        b'6,x,"never closed',
        b"7,x,seven",
        b'8,x,"clo"sed badly',
        b"9,x,nine,and more",
        b"10,x,ten",
    ]
    path.write_bytes(HEADER.encode() + b"\n" + b"\n".join(rows) + b"\n")
    kept, aside = read(path)
    assert [cells[0] for _, cells in kept] == ["1", "4", "7", "10"]
    assert aside == [
        (3, "cut short"),
        (4, "invalid UTF-8"),
        (6, "NUL byte"),
        (7, "broken quotes"),
        (9, "broken quotes"),
        (10, "cut short"),
    ]
    assert sum(piece.mended for piece in read_rows(path, ("data",), "test")) == 1


@pytest.mark.parametrize(("size", "length"), [(16, 1), (64, 1), (1000, 1), (2**18, 40_000)])
def test_a_quote_that_is_never_closed_costs_one_row_wherever_it_stands(
    tmp_path: Path, size: int, length: int
) -> None:
    for place in (0, 50, 99):
        rows = [f'{n},x,"{"value" * length} {n}"' for n in range(100)]
        rows[place] = f'{place},x,"value'
        kept, aside = read(write(tmp_path / "a.csv", *rows), piece_bytes=size)
        assert len(kept) == 99
        assert aside == [(place + 2, "broken quotes")]


def test_the_end_of_a_file_without_a_line_break_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "1,x,one", "2,x,tw", end="")
    *_, last = read_rows(path, ("data",), "test")
    assert last.open_end
    assert [cells for _, cells in read(path)[0]] == [("1", "one"), ("2", "tw")]
    assert not any(piece.open_end for piece in read_rows(write(path, "1,x,one"), ("data",), "test"))


def test_gzip_digest_and_progress(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.csv", *(f"{n},x,{n}" for n in range(1000)))
    packed = tmp_path / "a.csv.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    digest, ticks = hashlib.sha256(), []
    assert read(packed, digest=digest, tick=ticks.append, piece_bytes=256) == read(plain)
    assert digest.digest() == hashlib.sha256(plain.read_bytes()).digest()
    assert sum(ticks) == packed.stat().st_size
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(InputError, match="cut short or damaged"):
        read(packed)


def test_another_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "subjects.csv"
    path.write_text("subject_id,metadata\n1,{}\n")
    with pytest.raises(InputError, match=r"subjects.csv is not a test export: it lacks .*data"):
        read(path)
    path.write_text("")
    with pytest.raises(InputError, match="is not a test export: it is empty"):
        read(path)
    # Line ends that nobody has used for long.
    path.write_bytes(HEADER.encode() + b"\r1,x,one\r")
    with pytest.raises(InputError, match="is not a test export"):
        read(path)
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "absent.csv")
    with pytest.raises(InputError, match="lacks the column more"):
        read(write(path, "1,x,one"), required=("more",))


def test_reading_may_stop_at_any_piece(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", *(f"{n},x,{n}" for n in range(1000)))
    for piece in read_rows(path, ("data",), "test", piece_bytes=64):
        assert piece.lines[0] == 2
        break


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=8)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS), max_size=20), st.integers(1, 200), st.booleans())
def test_whatever_a_csv_writer_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    cells: list[tuple[str, str]],
    size: int,
    quoted: bool,
) -> None:
    text = io.StringIO(newline="")
    how = csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
    writer = csv.writer(text, lineterminator="\n", quoting=how)
    writer.writerow(HEADER.split(","))
    writer.writerows([str(n), name, data] for n, (name, data) in enumerate(cells))
    path = tmp_path_factory.mktemp("rows") / "a.csv"
    path.write_bytes(text.getvalue().encode())
    kept, aside = read(path, ("classification_id", "name", "data"), piece_bytes=size)
    assert [row for _, row in kept] == [(str(n), *pair) for n, pair in enumerate(cells)]
    assert aside == []
