"""The page that each run leaves: what it says, against what can be counted by another road."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from datetime import date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from zoo_bridge.service.reporting import facts
from zoo_bridge.service.reporting.writing import write_run_report

REPORTS = {"report": {"every_run": True}}


class Page(HTMLParser):
    """A page's headings, pictures, addresses and words."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.addresses: list[str] = []
        self.words = ""
        self._inside = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        found = dict(attrs)
        if tag == "img":
            self.pictures.append(found)
        self.addresses += [str(found[key]) for key in ("src", "href") if key in found]

    def handle_data(self, data: str) -> None:
        if self._inside == "h2" and data.strip():
            self.headings.append(data.strip())
        if self._inside != "style":
            self.words += data


def page_of(project: Any, run_id: str) -> Page:
    return Page(project.settings.work / "runs" / run_id / "report.html")


@pytest.fixture
def looped(make_after: Callable[..., Any]) -> Any:
    """A project after a first batch with votes, whose runs leave reports from now on."""
    project = make_after("aggregate")
    project.change(model={"epochs": 3, "min_labels": 20, "first_model": "any"}, **REPORTS)
    return project


def test_the_weekly_page_has_what_a_team_asks(looped: Any) -> None:
    run = looped.done("cycle")
    page = page_of(looped, run.run_id)
    for heading in (
        "What waits for you",
        "The five steps",
        "Votes",
        "The galaxies",
        "What it asks for",
        "How to undo it",
    ):
        assert heading in page.headings
    batch = looped.ledger.list_batches()[0].name
    assert f"zoo-bridge withdraw {batch}" in page.words
    assert f"{batch} waits for approval" in page.words
    assert "put in use: RMSE" in page.words
    # Fit to be mailed: nothing is fetched, every picture says what it shows.
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert page.pictures
    assert all(picture["alt"] for picture in page.pictures)
    assert (looped.settings.work / "runs" / run.run_id / "report.html").stat().st_size < 3e6
    # Each step has left its own, too.
    for part in looped.ledger.list_parts(run.run_id):
        assert page_of(looped, part.run_id).words


def test_votes_by_week_are_those_of_the_server(looped: Any) -> None:
    weeks: Counter[date] = Counter()
    for row in looped.box.state.all("SELECT * FROM classifications"):
        made = datetime.fromisoformat(str(row["created_at"]).replace("UTC", "+00:00").strip())
        weeks[made.date() - timedelta(days=made.weekday())] += 1
    labels = looped.ledger.newest("labels")
    mondays, counts, _ = facts.votes_by_week(labels)
    repeats = labels.facts["repeats"]["smooth-or-featured"]
    # A classification of which every vote is a repeat does not count.
    assert sum(weeks.values()) - repeats <= sum(counts) <= sum(weeks.values())
    assert set(mondays) == set(weeks)
    assert all(monday.weekday() == 0 for monday in mondays)


def test_the_picks_are_shown_in_their_order_with_what_they_are_like(looped: Any) -> None:
    looped.done("retrain")
    looped.done("score")
    run = looped.done("upload")
    page = page_of(looped, run.run_id)
    batch = looped.ledger.list_batches()[0]
    plan = pq.read_table(looped.settings.work / batch.path / "plan.parquet").to_pylist()
    picks = [row for row in plan if row["reason"] == "bald"]
    shown = re.findall(r"(ZB\d+): BALD ([\d.]+)", page.words)
    assert [name for name, _ in shown[:5]] == [row["object_id"] for row in picks[:5]]
    assert float(shown[0][1]) == pytest.approx(picks[0]["bald"], abs=6e-4)
    # What they are like, by another road: pandas over the files.
    scores = looped.ledger.newest("scores")
    parts = [pq.read_table(path).to_pandas() for path in scores.path.glob("part-*.parquet")]
    frame = parts[0][parts[0]["target"]]
    mine = frame[frame["object_id"].isin([row["object_id"] for row in picks])]
    said = re.search(
        r'Of the picks, (\d+)% would say "featured" on average; of the survey, (\d+)%', page.words
    )
    assert said is not None
    assert int(said[1]) == pytest.approx(100 * mine["mean"].mean(), abs=0.51)
    assert int(said[2]) == pytest.approx(100 * frame["mean"].mean(), abs=0.51)
    survey = pq.read_table(next(looped.settings.work.glob("survey/*/objects.parquet"))).to_pandas()
    of_picks = survey[survey["object_id"].isin(mine["object_id"])]["redshift"].median()
    assert f"redshift: {of_picks:.3g} and {survey['redshift'].median():.3g}" in page.words


def test_numbers_stand_beside_those_of_the_last_run(looped: Any) -> None:
    before = looped.ledger.list_runs("aggregate")[0]
    looped.done("upload", force=True)
    looped.show()
    looped.done("pull")
    run = looped.done("aggregate")
    old, new = before.counts["votes"], run.counts["votes"]
    assert new > old
    rows = {
        name: cells for name, *cells in facts.changes(looped.ledger.find_run(run.run_id), before)
    }
    assert rows["votes"] == [f"{new:,}", f"{old:,}", f"{new - old:+,.4g}"]
    assert rows["questions: smooth-or-featured: n median"][2] == "="
    assert f"{new - old:+,.4g}" in page_of(looped, run.run_id).words


def test_a_failed_run_has_a_page_that_says_what_to_do(project: Any) -> None:
    project.change(**REPORTS)
    run = project.run("score")
    page = page_of(project, run.run_id)
    assert "Failed: There is no model to score with." in page.words
    assert f"zoo-bridge runs {run.run_id}" in page.words


def test_texts_of_people_and_files_are_text(looped: Any) -> None:
    run = looped.run("score")
    name = "<script>alert(1)</script>"
    looped.ledger.end_run(
        run.run_id, "failed", message=f"{name} of s3://k:sesame-open@b/x?sig=abcdef123"
    )
    write_run_report(looped.context, run.run_id)
    path = looped.settings.work / "runs" / run.run_id / "report.html"
    assert "<script>" not in path.read_text()
    assert name in Page(path).words
    assert "sesame-open" not in path.read_text()
    assert "abcdef123" not in path.read_text()


def test_no_run_fails_for_want_of_its_page(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project.change(upload={"per_run": 5}, **REPORTS)

    def broken(*_: Any) -> None:
        raise RuntimeError("no font")

    monkeypatch.setattr("zoo_bridge.service.reporting.writing.write_report", broken)
    run = project.done("upload")
    log = (project.settings.work / "runs" / run.run_id / "log.jsonl").read_text()
    assert "its report could not be written" in log
    assert "no font" in log


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (
            ["ra", "dec", "redshift", "magnitude"],
            {"redshift": "redshift", "magnitude": "magnitude"},
        ),
        (
            ["Z", "zErr", "petroMag_r", "petroRad_r", "petroRadErr_r"],
            {"Z": "redshift", "petroMag_r": "magnitude", "petroRad_r": "size"},
        ),
        (
            ["photo_z", "mag_r", "mag_r_err", "est_petro_th50"],
            {"photo_z": "redshift", "mag_r": "magnitude", "est_petro_th50": "size"},
        ),
        (["ra", "dec", "flag"], {}),
    ],
)
def test_columns_that_say_how_galaxies_look(
    columns: list[str], expected: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "objects.parquet"
    names = ["object_id", *columns]
    values = [["a"], *([[1.0]] * len(columns))]
    pq.write_table(pa.table(dict(zip(names, values, strict=True))), path)
    assert facts.look_columns(path) == expected


def test_one_run_is_shown_with_its_counts_its_log_and_its_page(
    looped: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from typer.testing import CliRunner

    from zoo_bridge.service.cli import app

    run = looped.done("cycle")
    config = ["--config", str(looped.settings.path)]
    shown = CliRunner().invoke(app, ["runs", run.run_id, *config]).output
    parts = looped.ledger.list_parts(run.run_id)
    assert [part.job for part in parts] == ["pull", "aggregate", "retrain", "score", "upload"]
    for part in parts:
        assert part.run_id in shown
    assert "through the command line" in shown
    assert "report.html" in shown
    part = CliRunner().invoke(app, ["runs", parts[-1].run_id, *config]).output
    assert f"part of {run.run_id}" in part
    assert "created: " in part
    assert "quota_left" in part
    # The beginning of its name is enough, if only one begins so.
    assert CliRunner().invoke(app, ["runs", run.run_id[:-2], *config]).output == shown
    ended = CliRunner().invoke(app, ["runs", "2", *config])
    assert "several begin so" in str(ended.exception)


def test_a_traceback_stays_in_the_log(project: Any) -> None:
    from typer.testing import CliRunner

    from zoo_bridge.service.cli import app

    run = project.run("score")
    shown = (
        CliRunner().invoke(app, ["runs", run.run_id, "--config", str(project.settings.path)]).output
    )
    assert "There is no model to score with." in shown
    assert "(traceback in the file)" in shown
    assert "Traceback (most recent" not in shown
