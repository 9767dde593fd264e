"""Exports that Zooniverse has stopped making: the file's own age, warnings that grow, an end."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest

MakeProject = Callable[..., Any]
DAY = 24 * 3600.0
HASTY = {"wait_minutes": 0.002, "poll_seconds": 0.05}


@pytest.fixture
def voted(make_project: MakeProject) -> Any:
    """A project with votes, pulled once."""
    project = make_project({"galaxies": 14}, upload={"per_run": 10}, pull=HASTY)
    project.done("upload")
    project.show()
    project.change(pull={**HASTY, "wait_minutes": 1})
    project.done("pull")
    project.change(pull=HASTY)
    return project


def ages(run: Any) -> list[float]:
    """The days in the warnings of a run, by export."""
    found = [re.search(r"export is ([\d.]+) days old", text) for text in run.warnings]
    return [float(match.group(1)) for match in found if match]


def test_twenty_nights_of_stuck(voted: Any) -> None:
    voted.box.state.switch("exports", False)
    runs = []
    for _ in range(20):
        voted.box.state.advance(DAY)
        runs.append(voted.run("pull"))
    warned, failed = runs[:13], runs[13:]
    assert {run.exit_code for run in warned} == {0}
    # The description was touched each night by our own asking; the file's age grows.
    assert [ages(run) for run in warned] == [[night, night, night] for night in range(1, 14)]
    assert "its state is creating" in warned[0].warnings[0]
    assert {(run.exit_code, run.outcome) for run in failed} == {(1, "stale")}
    assert "classifications export is 14.0 days old" in failed[0].message
    assert "classifications export is 20.0 days old" in failed[-1].message
    assert "incremental" in failed[0].hint
    # In the ledger, too, and told apart from what failed otherwise.
    rows = list(reversed(voted.ledger.list_runs("pull")))
    assert [row.outcome for row in rows[-7:]] == ["stale"] * 7
    assert [len(row.warnings) for row in rows[-20:-7]] == [3] * 13
    voted.fault(method="GET", path="/projects", what="html", times=None)
    assert voted.run("pull").outcome == "failed"


def test_an_export_that_failed_is_said_to_have_failed(voted: Any) -> None:
    voted.box.state.advance(3 * DAY)
    turns = itertools.count(1)
    describe = voted.box.exports.describe

    def fail(*asked: Any) -> Any:
        with voted.box.state.write() as db:
            change = "UPDATE exports SET state = 'failed', updated_at = ?"
            # Later than what was read a moment ago: the server looks at whole seconds.
            db.execute(change, (voted.box.state.stamp(voted.box.state.time() + 3 * next(turns)),))
        return describe(*asked)

    # We ask, and it fails while we wait.
    voted.box.exports.request = fail
    voted.change(pull={**HASTY, "wait_minutes": 0.5})
    run = voted.done("pull")
    assert "Zooniverse says that making a new one failed" in run.warnings[0]


def freeze_exports(project: Any) -> None:
    """Let every export be made anew each day, from what there was until now."""
    exports = project.box.exports
    rows = project.box.state.all("SELECT * FROM exports")
    kept = {
        row["file"]: (
            project.box.state.folder / "exports" / row["file"].rpartition("/")[2]
        ).read_bytes()
        for row in rows
    }

    def write(row: dict[str, Any]) -> None:
        path = project.box.state.folder / "exports" / row["file"].rpartition("/")[2]
        path.write_bytes(kept[row["file"]])
        exports.media.written(row["file"], row["ready_at"])

    exports._write = write


@pytest.fixture
def ends_early(voted: Any) -> Any:
    """Its exports are new each day, and end where they ended at first."""
    freeze_exports(voted)
    voted.change(pull={**HASTY, "wait_minutes": 1})
    return voted


def add_votes(project: Any, number: int) -> None:
    """Classifications that the API gives and the frozen export has not."""
    row = project.box.state.one("SELECT * FROM classifications ORDER BY id DESC LIMIT 1")
    stamp = project.box.state.stamp()
    for place in range(1, number + 1):
        project.box.state.insert(
            "classifications",
            **{**row, "id": row["id"] + place, "created_at": stamp},
        )


def test_an_idle_project_stays_quiet(ends_early: Any) -> None:
    add_votes(ends_early, 3)
    for _ in range(20):
        ends_early.box.state.advance(DAY)
        run = ends_early.done("pull")
        assert run.warnings == []


def test_a_new_file_that_leaves_votes_out_is_suspect(ends_early: Any) -> None:
    end = ends_early.box.state.time()
    ends_early.box.state.advance(2 * DAY)
    add_votes(ends_early, 40)
    outcomes = []
    for _ in range(15):
        ends_early.box.state.advance(DAY)
        run = ends_early.run("pull")
        outcomes.append((run.outcome, len(run.warnings)))
        if run.warnings:
            assert "Zooniverse has later votes" in run.warnings[0]
            days = (ends_early.box.state.time() - end) / DAY
            told = float(re.search(r", ([\d.]+) days ago", run.warnings[0]).group(1))
            assert days - 0.2 < told < days + 7.2
    assert outcomes[0] == ("unchanged", 1)
    assert outcomes[-1] == ("stale", 0)
    # Votes of the last two hours may not have been visible yet when the file was written.
    assert [outcome for outcome, _ in outcomes] == sorted(
        (outcome for outcome, _ in outcomes), reverse=True
    )


def test_incremental_pulls_go_on_whatever_the_age(voted: Any) -> None:
    voted.box.state.switch("exports", False)
    voted.box.state.advance(30 * DAY)
    voted.change(pull={**HASTY, "mode": "incremental"})
    run = voted.done("pull")
    assert run.warnings == []
