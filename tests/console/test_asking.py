"""What pages ask of catalogues: nothing else can be read, nothing hangs, and counts are right."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import duckdb
import numpy as np
import polars as pl
import pytest

from tests.console.conftest import Client, put_batch
from zoo_bridge.config import load
from zoo_bridge.console import asking
from zoo_bridge.console.asking import BARS, Asked
from zoo_bridge.errors import SettingsError
from zoo_bridge.ledger import Ledger
from zoo_bridge.report.moc import coverage_of
from zoo_bridge.steps.scoring import catalogue

QUESTION = "smooth-or-featured"


@pytest.fixture
def scored(make_after: Callable[..., Any]) -> Any:
    return make_after("score")


def of(project: Any) -> tuple[Any, Any]:
    return project.settings, project.ledger.newest("scores")


def frame_of(project: Any) -> pl.DataFrame:
    """The target rows, read as files."""
    _, scores = of(project)
    rows = pl.concat([pl.read_parquet(path) for path in sorted(scores.path.glob("part-*"))])
    return rows.filter(pl.col("target"))


def test_rows_and_bars_are_those_of_the_files(scored: Any) -> None:
    frame = frame_of(scored)
    asked = Asked("bald > 0.05 AND mean < 0.7", "uncertain", 3, 5)
    found, spread = asking.ask_catalogue(*of(scored), QUESTION, asked, "mean")
    chosen = frame.filter((pl.col("bald") > 0.05) & (pl.col("mean") < 0.7))
    width = (pl.col("hi") - pl.col("lo")).cast(pl.Float32)
    ordered = chosen.sort([width, "object_id"], descending=[True, False])
    assert found.total == len(chosen)
    assert [row["object_id"] for row in found.rows] == ordered["object_id"][3:8].to_list()
    counts, _ = np.histogram(chosen["mean"].to_numpy(), bins=BARS, range=(0, 1))
    assert spread is not None
    assert sum(spread.counts) == len(chosen)
    # On an edge of a bar single precision decides.
    assert np.abs(np.cumsum(spread.counts) - np.cumsum(counts)).max() <= 1


def test_the_surveys_columns_can_be_asked_for(scored: Any) -> None:
    asked = Asked("magnitude < 99", "magnitude asc", 0, 1000)
    found, spread = asking.ask_catalogue(*of(scored), QUESTION, asked, "redshift")
    names = [row["object_id"] for row in found.rows]
    values = asking.survey_rows(*of(scored), names, ["magnitude"])
    magnitudes = [values[name]["magnitude"] for name in names]
    assert magnitudes == sorted(magnitudes)
    assert found.total == len(frame_of(scored))
    assert spread is not None
    assert sum(spread.counts) == found.total


@pytest.mark.parametrize(
    "where",
    [
        "EXISTS (SELECT * FROM read_text('/etc/hostname'))",
        "(SELECT count(*) FROM read_csv('/etc/passwd')) > 0",
        "object_id IN (SELECT file FROM glob('/etc/*'))",
        "object_id IN (SELECT * FROM '/etc/passwd')",
        "getenv('HOME') IS NOT NULL",
        "true; COPY (SELECT 1) TO '/tmp/zoo-bridge-was-here.csv'",
        "true); DROP VIEW scores; SELECT (true",
        "true; SET memory_limit = '99GB'",
        "true) UNION ALL SELECT * FROM scores WHERE (true",
        "mean >",
        "no_such_column = 1",
    ],
)
def test_a_condition_reads_nothing_else_and_does_nothing(scored: Any, where: str) -> None:
    with pytest.raises(SettingsError, match="cannot be asked"):
        asking.ask_catalogue(*of(scored), QUESTION, Asked(where), "mean")
    gallery = asking.Gallery(("x", 0), frame_of(scored).with_row_index("rank"))
    with pytest.raises(SettingsError, match="cannot be asked"):
        asking.ask_gallery(gallery, Asked(where, "informative"))
    with (
        pytest.raises(SettingsError, match="cannot be asked"),
        catalogue.query(of(scored)[1].path, None, where, confined=True) as reader,
    ):
        reader.read_all()
    assert not Path("/tmp/zoo-bridge-was-here.csv").exists()
    found, _ = asking.ask_catalogue(*of(scored), QUESTION, Asked(), "mean")
    assert found.total == len(frame_of(scored))


def test_orders_and_columns_are_those_that_there_are(scored: Any) -> None:
    for sort in ("random()", "bald; DROP VIEW scores", 'uri" desc, (SELECT 1) asc', "nothing asc"):
        with pytest.raises(SettingsError, match="no order"):
            asking.ask_catalogue(*of(scored), QUESTION, Asked(sort=sort), "mean")
    with pytest.raises(SettingsError, match="no column"):
        asking.ask_catalogue(*of(scored), QUESTION, Asked(), 'mean" + (SELECT 1) + "mean')


def test_what_takes_long_is_stopped_though_it_asks_again() -> None:
    began = time.monotonic()
    with duckdb.connect() as db, catalogue.limited(db, 0.3):
        for _ in range(2):
            with pytest.raises(duckdb.InterruptException):
                db.execute("SELECT count(*) FROM range(100000000000) r(i) WHERE i % 7 = 3")
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    "where",
    [
        "length(repeat(object_id, 250000000)) > 0",
        "len(list_sort(range(30000000))) > 0",
        "levenshtein(repeat('a', 60000), repeat('b', 60000)) > 0",
        "EXISTS (SELECT 1)",
        "sum(bald) > 0",
        "row_number() OVER () > 1",
        "COLUMNS(*) > 1",
        "bald > 0" + " AND bald > 0" * 400,
    ],
)
def test_no_condition_takes_much_memory_or_time(where: str) -> None:
    began = time.monotonic()
    with pytest.raises(SettingsError, match="cannot be asked"):
        catalogue.require_condition(where)
    assert time.monotonic() - began < 30


def test_what_people_ask_for_can_be_asked(scored: Any) -> None:
    frame = frame_of(scored)
    middle = (frame["mean"] - 0.5).abs() < 0.2
    ones = frame["object_id"].str.ends_with("1")
    for where, chosen in (
        ("abs(mean - 0.5) < 0.2 OR bald >= 0.1", middle | (frame["bald"] >= 0.1)),
        (
            "object_id LIKE '%1' AND NOT mean BETWEEN 0.4 AND 0.6",
            ones & ~frame["mean"].is_between(0.4, 0.6),
        ),
        ("CAST(n_expected AS DOUBLE) * mean > 3 -- votes", frame["n_expected"] * frame["mean"] > 3),
        ("object_id IN ('x', 'y')", frame["object_id"].is_in(["x", "y"])),
    ):
        found, _ = asking.ask_catalogue(*of(scored), QUESTION, Asked(where), "mean")
        assert found.total == int(chosen.sum()), where


def test_a_page_says_what_is_wrong_with_a_condition(
    scored: Any, open_console: Callable[..., Client]
) -> None:
    console = open_console(scored)
    answer = console.get("/w/1/catalogue?where=" + quote("nothing > 1"))
    assert answer.status_code == 400
    assert "nothing" in answer.text
    assert "Its columns are" in answer.text
    name = put_batch(scored, ["A", "B"])
    answer = console.get(f"/w/1/batches/{name}?where=" + quote("mean >"))
    assert answer.status_code == 400


def test_files_hold_what_was_asked_for(
    scored: Any, open_console: Callable[..., Client], tmp_path: Path
) -> None:
    console = open_console(scored)
    where = quote("mean < 0.5")
    frame = frame_of(scored).filter(pl.col("mean") < 0.5)
    for kind, read in (("csv", pl.read_csv), ("parquet", pl.read_parquet)):
        path = tmp_path / f"got.{kind}"
        answer = console.get(f"/w/1/catalogue/scores.{kind}?where={where}&sort=no")
        path.write_bytes(answer.content)
        got = read(path)
        assert sorted(got["object_id"]) == sorted(frame["object_id"])
        assert got["mean"].is_sorted()
        assert "magnitude" in got.columns
    assert console.get(f"/w/1/catalogue/scores.exe?where={where}").status_code == 404
    evil = quote("EXISTS (SELECT * FROM read_text('/etc/hostname'))")
    assert console.get(f"/w/1/catalogue/scores.csv?where={evil}").status_code == 400


def test_the_moc_is_the_sky_of_the_survey(scored: Any, open_console: Callable[..., Client]) -> None:
    from io import BytesIO

    from astropy import units
    from mocpy import MOC

    answer = open_console(scored).get("/w/1/catalogue/moc.fits")
    from astropy.io import fits

    with fits.open(BytesIO(answer.content)) as hdus:
        hdus.verify("exception")
        assert hdus[1].header["ORDERING"] in ("NUNIQ", "RANGE")
    path = scored.settings.work / "moc.fits"
    path.write_bytes(answer.content)
    moc = MOC.load(path, "fits")
    survey = next((scored.settings.work / "survey").glob("*/objects.parquet"))
    looks = pl.read_parquet(survey)
    inside = moc.contains_lonlat(
        looks["ra"].to_numpy() * units.deg, looks["dec"].to_numpy() * units.deg
    )
    assert inside.all()
    # Cells of order 10 have (60° / 1024)² or so: no more sky than objects have cells.
    cell = 4 * np.pi / (12 * 4**10)
    assert moc.sky_fraction * 4 * np.pi <= len(looks) * cell * 1.0001
    # On the other side of the sky there is nothing.
    away = (looks["ra"].to_numpy() + 180) % 360
    none = moc.contains_lonlat(away * units.deg, -looks["dec"].to_numpy() * units.deg)
    assert not none.any()


def test_positions_that_are_none_are_left_out_of_a_moc() -> None:
    data = coverage_of(np.array([10.0, np.nan]), np.array([20.0, 5.0]))
    assert data.startswith(b"SIMPLE")


def test_objects_are_found_by_position(scored: Any, open_console: Callable[..., Client]) -> None:
    from astropy.coordinates import SkyCoord

    console = open_console(scored)
    survey = next((scored.settings.work / "survey").glob("*/objects.parquet"))
    row = pl.read_parquet(survey).row(5, named=True)
    at = SkyCoord(row["ra"], row["dec"], unit="deg")
    for text in (
        f"{row['ra']} {row['dec']}",
        at.to_string("hmsdms"),
        at.to_string("hmsdms", sep=":"),
    ):
        page = console.get("/w/1/catalogue?near=" + quote(text)).text
        assert f"id={row['object_id']}" in page.split("Take it away")[0], text
    assert console.get("/w/1/catalogue?near=somewhere").status_code == 400


def test_nothing_breaks_where_there_is_nothing_yet(
    project: Any, open_console: Callable[..., Client]
) -> None:
    console = open_console(project)
    console.log_in()
    for path in ("", "batches", "models", "asks", "catalogue", "runs", "audit", "running"):
        assert console.get(f"/w/1/{path}").status_code == 200, path
    for path in (
        "galaxy?id=nothing", "catalogue/moc.fits", "catalogue/scores.csv", "catalogue/lend",
        "figures/weeks.png", "figures/asks.png", "galaxy/picture?id=x", "acts/nothing",
    ):  # fmt: skip
        assert console.get(f"/w/1/{path}").status_code == 404, path
    for path in ("batches/nothing", "models/nothing", "runs/nothing", "runs/nothing/report"):
        answer = console.get(f"/w/1/{path}")
        assert (answer.status_code, "There is no" in answer.text) == (400, True), path


def second_of(project: Any, workflow: int) -> Any:
    """Another workflow of a project, in a settings file of its own."""
    path = project.settings.path.with_name(f"other-{workflow}.toml")
    text = project.settings.path.read_text()
    path.write_text(text.replace("workflow = 1", f"workflow = {workflow}"))
    settings = load(path)
    return SimpleNamespace(settings=settings, ledger=Ledger.of(settings))


def test_several_workflows_have_a_page_that_lists_them(
    project: Any, open_console: Callable[..., Client]
) -> None:
    console = open_console(project, second_of(project, 2))
    page = console.get("/").text
    assert 'href="/w/1/"' in page
    assert 'href="/w/2/"' in page
    assert "workflow 2" in console.get("/w/2/").text
    same = open_console(project, second_of(project, 1))
    assert 'href="/w/1-1/"' in same.get("/").text
    assert same.get("/w/1-2/").status_code == 200
    assert same.get("/w/1/").status_code == 404


def test_answers_for_programs_are_what_the_page_has(scored: Any) -> None:
    found, _ = asking.ask_catalogue(*of(scored), QUESTION, Asked(limit=3), "bald")
    assert json.dumps(found.rows, default=str)
    assert [row["bald"] for row in found.rows] == sorted(
        (row["bald"] for row in found.rows), reverse=True
    )
