"""Catalogues as astronomers have them: what is read, what is left out, what is refused."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import MaskedColumn, QTable, Table
from astropy.time import Time

from zoo_bridge.cutouts.positions import in_degrees
from zoo_bridge.cutouts.store import Store
from zoo_bridge.cutouts.survey import Source, Survey, open_survey
from zoo_bridge.errors import InputError, SettingsError

IDS = ["1237648720693755918", "1237648720693755919"]
ROWS = f"objid,uri,ra,dec\n{IDS[0]},g0.fits,1.5,2.5\n{IDS[1]},g1.fits,1.6,2.6\n"


def survey_of(path: Path, ids: str = "object_id", *missing: str) -> Survey:
    source = Source(str(path), None, None, ids, "uri", missing)
    return open_survey(Store(), source, path.parent / "survey")


def rows_of(survey: Survey) -> list[dict[str, Any]]:
    return pl.read_parquet(survey.path).to_dicts()


@pytest.mark.parametrize(
    "text",
    [
        ROWS,
        "#Table1\n" + ROWS,
        "# made for\n# us, by hand\n\n" + ROWS,
        ROWS.replace(",", "\t"),
        "\ufeff" + ROWS.replace(",", ";"),
        ROWS.replace(",", "|").replace("\n", "\r\n"),
        "# " + ROWS.replace(",", "   "),
        ROWS.replace(",", "  "),
        # As VizieR gives it: comments, units and a rule around the header.
        "#\n# VizieR\n" + ROWS.replace("dec\n", "dec\n,,deg,deg\n--,--,--,--\n").replace(",", "\t"),
        "objid,uri,ra,dec\n,,[deg],[deg]\n" + ROWS.split("\n", 1)[1],
        "# , , deg, deg\n" + ROWS,
    ],
)  # fmt: skip
def test_tables_of_text_as_people_write_them(text: str, tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text(text, encoding="utf-8", newline="")
    survey = survey_of(path, "objid")
    assert [row["object_id"] for row in rows_of(survey)] == IDS
    assert [row["uri"] for row in rows_of(survey)] == [f"{tmp_path}/g{n}.fits" for n in (0, 1)]
    assert [row["ra"] for row in rows_of(survey)] == [1.5, 1.6]
    assert survey.rejects.num_rows == 0
    if "deg" in text:
        assert survey.meanings["ra"] == {"unit": "deg"}


def test_a_table_in_utf_16(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_bytes(ROWS.replace(",", "\t").encode("utf-16"))
    assert [row["object_id"] for row in rows_of(survey_of(path, "objid"))] == IDS


def test_numbers_of_a_text_table_and_what_stands_for_none(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text(
        "object_id,uri,visits,mag,flag,plate,note\n"
        "0001,a,7,N/A,1,0266,x\n0002,b,-99,nan,0,0267,N/A\n0003,c,,18.5,,0268,\n0004,d,3,-99.0,1,,z\n"
    )
    rows = rows_of(survey_of(path, "object_id", "-99"))
    assert [row["object_id"] for row in rows] == ["0001", "0002", "0003", "0004"]
    assert [row["visits"] for row in rows] == [7, None, None, 3]
    assert [row["mag"] for row in rows] == [None, None, 18.5, None]
    assert [row["plate"] for row in rows] == ["0266", "0267", "0268", None]
    assert [row["note"] for row in rows] == ["x", "N/A", None, "z"]
    # Not declared, it is a number.
    assert [row["visits"] for row in rows_of(survey_of(path))] == [7, -99, None, 3]
    table = Table({"object_id": ["a", "b"], "uri": ["a", "b"], "z": [0.5, -99.0], "n": [-99, 1]})
    table.write(tmp_path / "c.fits")
    rows = rows_of(survey_of(tmp_path / "c.fits", "object_id", "-99"))
    assert [(row["z"], row["n"]) for row in rows] == [(0.5, None), (None, 1)]


@pytest.mark.parametrize(
    ("ids", "kept"),
    [
        (["12345.0", "12346.0", ""], ["12345", "12346"]),
        (["12345", "12346", "12347"], ["12345", "12346", "12347"]),
        (["1e5", "a3f", "77"], ["1e5", "77", "a3f"]),
        (["12e4", "3501", "77"], ["12e4", "3501", "77"]),
        (["12.5", "12.50", "13.0"], ["12.5", "12.50", "13.0"]),
        (["18446744073709551615", "7", "007"], ["007", "18446744073709551615", "7"]),
    ],
)
def test_whole_numbers_stay_whole_and_names_stay_names(
    ids: list[str], kept: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "c.csv"
    path.write_text("object_id,uri\n" + "".join(f"{each},u{n}\n" for n, each in enumerate(ids)))
    survey = survey_of(path)
    assert [row["object_id"] for row in rows_of(survey)] == kept
    assert survey.rejects.num_rows == len(ids) - len(kept)


BIG = 1237648720693755918


@pytest.mark.parametrize("kind", ["parquet", "fits", "csv", "csv %g", "float32"])
def test_ids_that_lost_digits_are_refused_with_the_columns_name(kind: str, tmp_path: Path) -> None:
    values = [float(BIG), float(BIG + 1), np.nan, 12345.0]
    uris = ["a", "b", "c", "d"]
    path = tmp_path / "c"
    if kind == "parquet":
        pq.write_table(pa.table({"objid": pa.array(values, from_pandas=True), "uri": uris}), path)
    elif kind == "fits":
        Table({"objid": values, "uri": uris}).write(path, format="fits")
    elif kind == "float32":
        single = np.array([2**25 + 1, 3], "f4")
        Table({"objid": single, "uri": ["a", "b"]}).write(path, format="fits")
    else:
        form = "{:g}" if "%g" in kind else "{}"
        lines = (f"{form.format(value)},{uri}" for value, uri in zip(values, uris, strict=True))
        path.write_text("objid,uri\n" + "\n".join(lines))
    with pytest.raises(SettingsError, match=r"column objid .* lost digits") as caught:
        survey_of(path, "objid")
    assert "Int64" in caught.value.hint


def test_whole_floats_are_whole_and_unsigned_ids_are_all_there(tmp_path: Path) -> None:
    table = {"object_id": [12345.0, np.nan, 2.0**53], "uri": ["a", "b", "c"]}
    Table(table).write(tmp_path / "f.fits")
    survey = survey_of(tmp_path / "f.fits")
    assert [row["object_id"] for row in rows_of(survey)] == ["12345", "9007199254740992"]
    assert survey.rejects["reason"].to_pylist() == ["no object id"]
    whole = np.array([2**63 + 5, 7], "u8")
    Table({"object_id": whole, "uri": ["a", "b"]}).write(tmp_path / "u.fits")
    pq.write_table(pa.table({"object_id": whole, "uri": ["a", "b"]}), tmp_path / "u.parquet")
    for name in ("u.fits", "u.parquet"):
        ids = [row["object_id"] for row in rows_of(survey_of(tmp_path / name))]
        assert ids == ["7", str(2**63 + 5)]


def test_odd_columns_cost_only_themselves(tmp_path: Path) -> None:
    path = tmp_path / "c.fits"
    QTable(
        {
            "object_id": ["G1", "G2"],
            "uri": ["a", "b"],
            "position": SkyCoord([1, 2] * u.deg, [3, 4] * u.deg),
            "seen": Time(["2026-01-01", "2026-01-02"]),
            "flux": [[1.0, 2.0], [3.0, 4.0]] * u.Jy,
            "wave": np.array([1 + 2j, 3j]),
            "mag": MaskedColumn([1.5, 2.5], mask=[False, True]),
            "count": np.array([2**63 + 1, 1], "u8"),
        }
    ).write(path)
    survey = survey_of(path)
    first, second = rows_of(survey)
    assert (first["mag"], second["mag"]) == (1.5, None)
    assert first["count"] == 2**63 + 1
    assert (first["position.ra"], first["position.dec"]) == pytest.approx((1, 3))
    assert set(survey.left_out) == {"seen", "flux", "wave"}
    assert "arrays" in survey.left_out["flux"]
    nested = pa.table(
        {"object_id": ["a"], "uri": ["b"], "bands": [["g", "r"]], "blob": [b"\x00"], "z": [0.5]}
    )
    pq.write_table(nested, tmp_path / "n.parquet")
    survey = survey_of(tmp_path / "n.parquet")
    assert set(survey.left_out) == {"bands", "blob"}
    assert rows_of(survey)[0]["z"] == 0.5


def test_a_column_of_arrays_of_any_length(tmp_path: Path) -> None:
    columns = [
        fits.Column("object_id", "4A", array=np.array(["G1", "G2"])),
        fits.Column("uri", "4A", array=np.array(["a", "b"])),
        fits.Column("ages", "PE()", array=np.array([[1.0], [2.0, 3.0]], dtype=object)),
        fits.Column("ok", "L", array=np.array([True, False])),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "c.fits")
    survey = survey_of(tmp_path / "c.fits")
    assert set(survey.left_out) == {"ages"}
    assert [row["ok"] for row in rows_of(survey)] == [True, False]


def test_one_byte_that_is_no_text(tmp_path: Path) -> None:
    columns = [
        fits.Column("object_id", "8A", array=np.array([b"G1", b"G\xfc"])),
        fits.Column("uri", "8A", array=np.array([b"g0", b"g1"])),
        fits.Column("who", "8A", array=np.array([b"M\xfcller", b"x"])),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "c.fits")
    (tmp_path / "c.csv").write_bytes(b"object_id,uri,who\nG1,g0,M\xfcller\nG\xfc,g1,x\n")
    broken = pa.array([b"M\xfcller", b"x"], pa.binary()).view(pa.string())
    table = {"object_id": ["G1", "G3"], "uri": ["g0", "g1"], "who": broken}
    pq.write_table(pa.table(table), tmp_path / "c.parquet")
    for name in ("c.fits", "c.csv", "c.parquet"):
        survey = survey_of(tmp_path / name)
        assert rows_of(survey)[0]["object_id"] == "G1"
        assert set(survey.left_out) == {"who"}, name
        if name != "c.parquet":
            assert survey.rejects["reason"].to_pylist() == ["bytes that are no UTF-8"]


@pytest.mark.slow
def test_a_column_without_values_in_its_first_half_million_rows(tmp_path: Path) -> None:
    n = 500_002
    visits = np.full(n, -99, "i4")
    visits[-1] = 7
    columns = [
        fits.Column("object_id", "8A", array=np.char.add("G", np.arange(n).astype("U6"))),
        fits.Column("uri", "2A", array=np.full(n, b"g")),
        fits.Column("visits", "J", array=visits, null=-99),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "c.fits")
    survey = survey_of(tmp_path / "c.fits")
    assert len(survey) == n
    seen = pl.read_parquet(survey.path)["visits"]
    assert (seen.null_count(), seen.drop_nulls().to_list()) == (n - 1, [7])


@pytest.mark.parametrize(
    "pack",
    [gzip.compress, bz2.compress, lzma.compress, lambda d: pa.compress(d, "zstd", asbytes=True)],
)
def test_packed_catalogues(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    out = io.BytesIO()
    Table({"object_id": ["G1"], "uri": ["a"]}).write(out, format="votable")
    for name, data in (("c.csv", b"object_id,uri\nG1,a\n"), ("c.xml", out.getvalue())):
        (tmp_path / name).write_bytes(pack(data))
        assert [row["object_id"] for row in rows_of(survey_of(tmp_path / name))] == ["G1"]
    (tmp_path / "d.csv").write_bytes(pack(b"object_id,uri\nG1,a\n" * 500)[:-9])
    with pytest.raises(InputError, match="cannot be read"):
        survey_of(tmp_path / "d.csv")


def test_a_table_in_astropys_own_csv(tmp_path: Path) -> None:
    table = QTable({"object_id": ["G1", "G2"], "uri": ["a", "b"], "ra": [1, 2] * u.rad})
    table.write(tmp_path / "c.ecsv")
    survey = survey_of(tmp_path / "c.ecsv")
    assert [row["ra"] for row in rows_of(survey)] == [1.0, 2.0]
    assert survey.meanings["ra"]["unit"] == "rad"


def test_a_column_that_is_not_there_is_told_beside_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("#Table1\nobjid;uri;ra\n1;a;2\n")
    with pytest.raises(SettingsError, match="no column 'object_id'") as caught:
        survey_of(tmp_path / "c.csv")
    assert "objid, uri, ra" in caught.value.hint


def angles(values: list[Any], unit: str = "", longitude: bool = True) -> list[float]:
    name = "ra" if longitude else "dec"
    return list(in_degrees(pl.Series(name, values), {"unit": unit} if unit else {}, longitude))


def test_positions_become_degrees_whatever_they_are_in() -> None:
    # The Crab's, as SkyCoord reads it.
    crab = SkyCoord("05h34m31.94s +22d00m52.2s")
    ra, dec = crab.ra.deg, crab.dec.deg
    for values, unit in (
        ([ra], ""),
        ([np.radians(ra)], "rad"),
        ([ra / 15], "hourangle"),
        ([ra / 15], "h"),
        ([str(ra)], ""),
        ([str(ra)], "deg"),
        (["05:34:31.94"], ""),
        (["05 34 31.94"], '"h:m:s"'),
        (["5h34m31.94s"], ""),
        (["83d37m59.1s"], "deg"),
    ):
        assert angles(values, unit)[0] == pytest.approx(ra, abs=1e-4), (values, unit)
    for values, unit in (
        ([dec], "deg"),
        ([np.radians(dec)], "rad"),
        ([dec * 60], "arcmin"),
        (["+22:00:52.2"], ""),
        (["22d00m52.2s"], ""),
    ):
        assert angles(values, unit, False)[0] == pytest.approx(dec, abs=1e-4), (values, unit)
    assert np.isnan(angles(["05:34:31.94", None, ""])[1:]).all()
    assert np.isnan(angles([1.5, None])[1])


@pytest.mark.parametrize(
    ("values", "unit", "longitude"),
    [
        (["somewhere"], "", True),
        ([400.0], "", True),
        ([91.0], "deg", False),
        ([2.0], "rad", False),
        ([1.0], "Jy", True),
        (["12:99:00"], "", True),
    ],
)
def test_what_is_no_position_is_refused_with_the_columns_name(
    values: list[Any], unit: str, longitude: bool
) -> None:
    with pytest.raises(SettingsError, match="column ra" if longitude else "column dec"):
        angles(values, unit, longitude)


def ids_of(path: Path, text: str, *missing: str) -> list[str]:
    path.write_text(text)
    return [row["object_id"] for row in rows_of(survey_of(path, "object_id", *missing))]


def test_texts_that_only_look_like_numbers_stay_texts(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text(
        "object_id,uri,brick,inf,big\n1,a,303240_2499,inf,18446744073709551615\n2,b,303241_10,inf,1\n"
    )
    first, second = rows_of(survey_of(path))
    assert (first["brick"], second["brick"]) == ("303240_2499", "303241_10")
    assert first["inf"] == "inf"
    assert (first["big"], second["big"]) == (18446744073709551615, 1)


def test_ids_may_begin_with_a_hash_and_names_may_look_like_powers(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    assert ids_of(path, "object_id,uri\n#12,a\n#13,b\n") == ["#12", "#13"]
    assert ids_of(path, "object_id,uri\n# a comment\n12e4,a\n3501,b\n") == ["12e4", "3501"]


def test_marks_for_no_value_are_no_ids(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    assert ids_of(path, "object_id,uri\n12.0,a\nN/A,b\n-,c\n") == ["12"]
    assert ids_of(path, "object_id,uri\n-99,a\n-99,b\n7,c\n8,-99\n", "-99") == ["7"]
    # Among names they are names.
    assert ids_of(path, "object_id,uri\nnone,a\nG1,b\n") == ["G1", "none"]
    path.write_text("object_id,uri\n1.23764872069e+18,a\nN/A,b\n")
    with pytest.raises(SettingsError, match="lost digits"):
        survey_of(path)


def test_declared_values_in_columns_of_any_number(tmp_path: Path) -> None:
    table = Table({"object_id": ["a", "b"], "uri": ["a", "b"], "m": np.array([-99.9, 1], "f4")})
    table.write(tmp_path / "c.fits")
    rows = rows_of(survey_of(tmp_path / "c.fits", "object_id", "-99.9", "1e20"))
    assert [row["m"] for row in rows] == [None, 1.0]


def test_a_table_of_irsa(tmp_path: Path) -> None:
    table = Table({"object_id": ["G1", "G2"], "uri": ["a", "b"], "z": [0.5, 0.25]})
    table.write(tmp_path / "c.tbl", format="ascii.ipac")
    assert [row["z"] for row in rows_of(survey_of(tmp_path / "c.tbl"))] == [0.5, 0.25]


def test_empty_tables_ragged_rows_and_columns_by_another_case(tmp_path: Path) -> None:
    empty = Table({"object_id": np.array([], "S4"), "uri": np.array([], "S4")})
    empty.write(tmp_path / "e.fits")
    assert len(survey_of(tmp_path / "e.fits")) == 0
    path = tmp_path / "c.csv"
    assert ids_of(path, "object_id,uri,z\nG1,a\nG2,b,0.5\n") == ["G1", "G2"]
    path.write_text("object_id,link,URI,z\nG1,a,x,1\n")
    source = Source(str(path), None, None, "object_id", "link")
    survey = open_survey(Store(), source, tmp_path / "survey")
    assert rows_of(survey) == [{"object_id": "G1", "uri": f"{tmp_path}/a", "z": 1}]
    assert survey.rejects.num_rows == 0


def test_the_table_that_has_the_columns(tmp_path: Path) -> None:
    first = fits.BinTableHDU.from_columns([fits.Column("x", "J", array=np.arange(2))])
    ids = fits.Column("object_id", "2A", array=np.array(["G1", "G2"]))
    second = fits.BinTableHDU.from_columns(
        [ids, fits.Column("uri", "1A", array=np.array(["a", "b"]))]
    )
    fits.HDUList([fits.PrimaryHDU(), first, second]).writeto(tmp_path / "c.fits")
    assert len(survey_of(tmp_path / "c.fits")) == 2
