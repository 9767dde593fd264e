"""Votes by two roads: whole exports, and what came since through the classifications API."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from zoo_bridge.config import load
from zoo_bridge.ledger import Ledger
from zoo_bridge.steps.batches import publish
from zoo_bridge.steps.inputs import read_labels

MakeProject = Callable[..., Any]
DAY = 24 * 3600.0


def labels(project: Any) -> pl.DataFrame:
    """What aggregating gives now."""
    run = project.done("aggregate")
    assert run.counts["rows"] == run.counts["used"] + sum(run.counts["dropped"].values())
    return read_labels(project.ledger.newest("labels"))


def by_road(project: Any, mode: str, votes: dict[str, Any] | None = None) -> pl.DataFrame:
    """The labels by a road, from nothing: in a folder and a ledger of their own."""
    folder = project.settings.path.parent.with_name(mode)
    settings = load(project.box.settings(folder, pull={"mode": mode}, votes=votes or {}))
    other = type(project)(project.box, settings, Ledger.of(settings))
    other.done("pull")
    found = labels(other)
    project.facts = other.ledger.newest("exports").facts
    other.ledger.close()
    return found


def rename_answers(box: Any) -> None:
    """A new version of the workflow: the first two answers change places."""
    row = box.state.one("SELECT * FROM workflow_versions ORDER BY major DESC, minor DESC")
    tasks, strings = json.loads(row["tasks"]), json.loads(row["strings"])
    answers = tasks["T0"]["answers"]
    answers[0], answers[1] = answers[1], answers[0]
    box.state.add_version(1, row["major"] + 1, row["minor"] + 1, tasks, strings)


def begin(project: Any) -> None:
    project.done("upload")
    newest = project.ledger.list_batches()[0].name
    publish.publish(project.context, newest)
    project.box.volunteers.classify(1, max_subjects=20)


@pytest.fixture
def voted(make_after: MakeProject) -> Any:
    """A project whose volunteers have begun, and have told twenty subjects."""
    return make_after(None, further=begin)


def test_both_roads_give_the_same_labels(voted: Any) -> None:
    # An export is made, then votes come, a new version with its answers in another order, more
    # votes, and some that were made before the launch.
    exported = voted.done("pull").counts["classifications"]
    voted.box.volunteers.classify(1, max_subjects=20)
    rename_answers(voted.box)
    voted.box.volunteers.classify(1)
    with voted.box.state.write() as db:
        db.execute(
            "UPDATE classifications SET metadata = json_set(metadata, '$.live_project',"
            " json('false')) WHERE id % 10 = 0 AND id > ?",
            (exported,),
        )
    rules = {"excluded_users": ["volunteer-0003", "nobody-of-this-name"]}
    since = by_road(voted, "incremental", rules)
    assert voted.facts["rows"]["classifications"] > 0
    assert voted.facts["rows"]["since"] > 0
    voted.box.state.advance(2 * DAY)
    whole = by_road(voted, "export", rules)
    assert whole.filter(pl.col("n") > 0)["subject_id"].n_unique() == 60
    assert since.equals(whole)
    assert voted.facts["rows"]["since"] == 0
    assert voted.facts["rows"]["since"] == 0


def test_without_any_export_everything_comes_through_the_api(voted: Any) -> None:
    since = by_road(voted, "incremental")
    assert voted.facts["files"] == {}
    assert since.equals(by_road(voted, "export"))


def test_only_what_is_new_is_read_and_nothing_that_comes_late_is_missed(voted: Any) -> None:
    state = voted.box.state
    late = state.one("SELECT * FROM classifications ORDER BY id DESC LIMIT 1 OFFSET 2")
    with state.write() as db:
        db.execute("DELETE FROM classifications WHERE id = ?", (late["id"],))
    voted.change(pull={"mode": "incremental"})
    first = voted.done("pull")
    total = state.one("SELECT COUNT(*) AS n FROM classifications")["n"]
    assert first.counts == {"since": total}
    again = voted.done("pull")
    assert again.outcome == "unchanged"
    # A classification becomes visible after ones with greater numbers.
    state.insert("classifications", **late)
    third = voted.done("pull")
    assert third.outcome == "done"
    assert total < third.counts["since"] < 2 * total
    voted.box.volunteers.classify(1)
    fourth = voted.done("pull")
    assert fourth.counts["since"] < 4 * total
    incremental = labels(voted)
    run = voted.done("aggregate", force=True)
    assert run.counts["dropped"]["classification twice"] > 0
    assert incremental.equals(by_road(voted, "export"))


def test_a_quiet_pull_and_a_lost_file_leave_every_vote_in_place(voted: Any) -> None:
    voted.change(pull={"mode": "incremental"})
    voted.done("pull")
    first = labels(voted)
    assert voted.done("pull").outcome == "unchanged"
    voted.done("aggregate", force=True)
    assert read_labels(voted.ledger.newest("labels")).equals(first)
    (file,) = (voted.settings.work / "exports").glob("since-*")
    file.unlink()
    assert "is gone" in voted.run("aggregate", force=True).message
    voted.done("pull")
    voted.done("aggregate", force=True)
    assert read_labels(voted.ledger.newest("labels")).equals(first)


def test_an_export_that_is_new_and_ends_early_costs_no_vote(voted: Any) -> None:
    voted.done("pull")
    voted.change(pull={"mode": "incremental"})
    voted.box.volunteers.classify(1)
    voted.done("pull")
    before = labels(voted)
    # Zooniverse says that the export is of today, and it ends where it ended last month.
    voted.box.state.advance(10 * DAY)
    with voted.box.state.write() as db:
        db.execute("UPDATE exports SET updated_at = ?", (voted.box.state.stamp(),))
    voted.done("pull")
    voted.done("aggregate", force=True)
    assert read_labels(voted.ledger.newest("labels")).equals(before)


def test_users_excluded_later_are_looked_up_first(voted: Any) -> None:
    voted.change(pull={"mode": "incremental"})
    voted.done("pull")
    everybody = labels(voted)
    name = voted.box.state.one(
        "SELECT user_name, COUNT(*) AS n FROM classifications WHERE user_id IS NOT NULL"
        " GROUP BY user_name ORDER BY n DESC"
    )["user_name"]
    rules = {"excluded_users": [name.upper()]}
    voted.change(pull={"mode": "incremental"}, votes=rules)
    run = voted.run("aggregate")
    assert run.exit_code == 1
    assert "excluded_users has changed since the last pull" in run.message
    voted.done("pull")
    fewer = labels(voted)
    assert fewer["n"].sum() < everybody["n"].sum()
    assert fewer.equals(by_road(voted, "export", rules))


def test_whatever_volunteers_type_stops_nothing(voted: Any) -> None:
    state = voted.box.state
    row = state.one("SELECT * FROM classifications ORDER BY id DESC")
    odd: list[Any] = [[{"task": "T9", "value": "7" * 5000}], None, [None], [{"task": "T0"}]]
    for number, value in enumerate(odd, 1):
        with state.write() as db:
            db.execute(
                "CREATE TEMP TABLE one AS SELECT * FROM classifications WHERE id = ?", (row["id"],)
            )
            db.execute("UPDATE one SET id = id + ?, annotations = ?", (number, json.dumps(value)))
            db.execute("INSERT INTO classifications SELECT * FROM one")
            db.execute("DROP TABLE one")
    voted.change(pull={"mode": "incremental"}, votes={"max_reject_share": 0.1})
    voted.done("pull")
    run = voted.done("aggregate")
    # Two of them say nothing, at the same millisecond: that is one submission.
    assert run.counts["dropped"] == {"bad JSON": 1, "resent": 1}
    assert run.counts["other_tasks"]["T9 (text)"] == 1


def test_many_small_pulls_become_one_file(voted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo_bridge.steps.pulling.since.MOST_PARTS", 1)
    voted.change(pull={"mode": "incremental"})
    voted.done("pull")
    voted.box.volunteers.classify(1, max_subjects=10)
    voted.done("pull")
    assert len(voted.ledger.newest("exports").facts["since"]) == 1
    assert labels(voted).equals(by_road(voted, "export"))


@pytest.mark.parametrize(
    "rule",
    [
        {"what": "empty", "status": 401},
        {"what": "html"},
        {"what": "status", "status": 502},
        {"what": "reset"},
        {"what": "cut"},
    ],
)
def test_trouble_in_the_middle_of_reading_loses_no_vote(voted: Any, rule: dict[str, Any]) -> None:
    voted.fault(path="/classifications/project", after=1, times=1, **rule)
    voted.fault(path="/api/subjects", times=1, **rule)
    assert by_road(voted, "incremental").equals(by_road(voted, "export"))
    fired = voted.box.state.all("SELECT fired FROM faults")
    assert [row["fired"] for row in fired] == [1, 1]


def test_an_export_that_shrank_is_not_used_unless_told(voted: Any) -> None:
    voted.done("pull")
    kept = voted.ledger.newest("exports")
    with voted.box.state.write() as db:
        db.execute("DELETE FROM classifications WHERE id > 200")
    voted.box.state.advance(2 * DAY)
    run = voted.run("pull")
    assert run.exit_code == 3
    assert "has 200 rows where the last had" in run.message
    assert "ends at 20" in run.message
    assert "--accept-shrunk" in run.hint
    assert voted.ledger.newest("exports").name == kept.name
    assert voted.done("aggregate").counts["rows"] == kept.facts["rows"]["classifications"]
    # The cycle stops there too: nothing is learned from half of the votes.
    assert voted.run("cycle").exit_code == 3
    accepted = voted.done("pull", accept_shrunk=True)
    assert accepted.counts["classifications"] == 200
    assert voted.done("pull").outcome == "unchanged"


def test_a_dry_run_fetches_nothing(voted: Any) -> None:
    for mode in ("export", "incremental"):
        voted.change(pull={"mode": mode})
        run = voted.done("pull", dry_run=True)
        assert run.outcome == "planned"
        assert "would fetch classifications of workflows/1" in run.message
    assert not (voted.settings.work / "exports").exists()


def give_up_halfway(project: Any, count: int) -> list[int]:
    """Classifications that volunteers began and never completed, as the API gives them."""
    row = project.box.state.one(
        "SELECT * FROM classifications WHERE user_id IS NOT NULL ORDER BY id LIMIT 1 OFFSET 40"
    )
    made = []
    for number in range(count):
        facts = {name: row[name] for name in row if name != "id"}
        facts |= {"user_id": 9000 + number, "user_name": f"hasty-{number}", "completed": 0}
        facts["created_at"] = project.box.state.stamp()
        made.append(project.box.state.insert("classifications", **facts))
    return made


def test_what_was_never_completed_is_dropped_as_soon_as_an_export_tells(voted: Any) -> None:
    """The API gives classifications that were begun and given up, without a mark."""
    voted.change(pull={"mode": "incremental"})
    voted.done("pull")
    give_up_halfway(voted, 3)
    voted.box.state.advance(DAY)
    voted.box.volunteers.classify(1, max_subjects=20)
    voted.done("pull")
    with_them = labels(voted)
    # An export is made, by anybody; it leaves them out. More votes come after it.
    voted.box.state.advance(DAY)
    other = by_road(voted, "export")
    voted.box.volunteers.classify(1)
    voted.done("pull")
    counts = voted.done("aggregate").counts
    assert counts["dropped"]["never completed"] == 3
    assert counts["rows"] == counts["used"] + sum(counts["dropped"].values())
    without = read_labels(voted.ledger.newest("labels"))
    # What both had, the export's way: three votes fewer, on one subject.
    first = with_them.group_by("subject_id").agg(pl.col("n").max())
    both = first.join(
        other.group_by("subject_id").agg(pl.col("n").max().alias("exported")), on="subject_id"
    )
    assert (both["n"] - both["exported"]).sum() == 3
    kept = without.join(other, on=["subject_id", "question", "answer"], suffix="_exported")
    assert (kept["n"] == kept["n_exported"]).all()


def test_an_export_that_cannot_be_made_is_said_to_have_no_file(voted: Any) -> None:
    """The server gives an address from the start, and says "creating" for weeks."""
    row = voted.box.state.one("SELECT * FROM workflow_versions")
    tasks = json.loads(row["tasks"])
    select = {"title": "Colour", "options": {"*": []}}
    tasks["T9"] = {"type": "dropdown", "selects": [select, select]}
    voted.box.state.add_version(1, 2, 2, tasks, json.loads(row["strings"]))
    vote = voted.box.state.one("SELECT * FROM classifications ORDER BY id DESC")
    answer = {"task": "T9", "taskType": "dropdown-simple", "value": {"selection": 0}}
    with voted.box.state.write() as db:
        db.execute(
            "UPDATE classifications SET annotations = ? WHERE id = ?",
            (json.dumps([answer]), vote["id"]),
        )
    voted.change(pull={"wait_minutes": 0.02})
    for _ in range(2):
        run = voted.run("pull")
        assert run.exit_code == 1
        assert "There is no classifications export" in run.message
        assert "there is no file yet" in run.message
        voted.box.state.advance(DAY)
    voted.change(pull={"mode": "incremental"})
    assert voted.done("pull").counts["since"] > 0
