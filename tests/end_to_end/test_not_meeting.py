"""Settings, labels, survey and workflow that do not speak of the same things: it is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.commands import run_command

MakeProject = Callable[..., Any]
DAY = 24 * 3600.0
SLUG = "sandbox/galaxies"


def check(project: Any) -> dict[str, dict[str, Any]]:
    """The lines of ``zoo-bridge check``."""
    ended = run_command("check", "--json", config=project.settings.path)
    return {line["what"]: line for line in json.loads(ended.stdout)}


@pytest.fixture
def foreign(make_project: MakeProject) -> Any:
    """A project whose subjects others uploaded, with the object id under a key of their own."""
    project = make_project({"galaxies": 80}, upload={"per_run": 58})
    project.done("upload")
    project.show()
    with project.box.state.write() as db:
        db.execute(
            "UPDATE subjects SET metadata = json_object('objid', "
            "json_extract(metadata, '$.\"#zoo_bridge_id\"'), 'field', 'GAMA-09')"
        )
    with project.ledger.engine.begin() as connection:
        for table in ("objects", "batches", "events"):
            connection.exec_driver_sql(f"DELETE FROM {table}")
    project.done("pull")
    return project


def test_labels_that_do_not_meet_the_survey_are_not_uploaded_again(foreign: Any) -> None:
    run = foreign.done("aggregate")
    assert "0 of 58 labelled objects are in the survey (0%)" in run.warnings[0]
    assert "'objid' names objects of the survey (58 of 58 subjects)" in run.warnings[0]
    assert "votes.object_id_keys" in run.warnings[0]
    line = check(foreign)["subjects"]
    assert line["ok"] is False
    assert line["exit_code"] == 3
    assert "'objid'" in line["hint"]
    before = foreign.box.state.one("SELECT count(*) AS n FROM subjects")
    run = foreign.run("upload")
    assert (run.exit_code, run.outcome) == (3, "refused")
    assert "0 of 58 labelled objects" in run.message
    assert "'objid'" in run.hint
    assert foreign.box.state.one("SELECT count(*) AS n FROM subjects") == before
    # Done as proposed, they meet.
    keys = '["#zoo_bridge_id", "!objid", "objid"]'
    foreign.edit('from_version = "1.1"', f'from_version = "1.1"\nobject_id_keys = {keys}')
    run = foreign.done("aggregate")
    assert run.warnings == []
    assert run.counts["survey"]["found"] == 58
    line = check(foreign)["subjects"]
    assert line["ok"] is True
    assert "58 of 58 labelled objects are in the survey (100%)" in line["text"]
    assert foreign.done("upload").counts["linked"] > 0


def test_before_there_are_labels_the_subjects_that_are_shown_tell(foreign: Any) -> None:
    run = foreign.run("upload")
    assert run.exit_code == 3
    assert "0 of 58 objects that the workflow shows are in the survey" in run.message
    assert "'objid'" in run.hint


def test_a_share_below_which_nothing_is_uploaded_is_a_setting(foreign: Any) -> None:
    foreign.done("aggregate")
    foreign.edit("per_run = 58", "per_run = 20\nmin_survey_share = 0.0")
    assert foreign.done("upload").counts["created"] > 0


def test_subjects_that_carry_nothing_of_use(foreign: Any) -> None:
    with foreign.box.state.write() as db:
        db.execute("UPDATE subjects SET metadata = json_object('field', 'GAMA-09')")
    foreign.box.state.advance(2 * DAY)
    foreign.done("pull")
    (warning,) = foreign.done("aggregate").warnings
    assert "carry field (58); none of these holds ids of the survey" in warning


def test_a_survey_that_cannot_be_read_keeps_no_vote_from_being_counted(foreign: Any) -> None:
    foreign.edit("/catalogue.csv", "/none.csv")
    run = foreign.done("aggregate")
    assert run.counts["votes"] > 0
    assert run.counts["survey"] is None


# an answer that was edited in the project builder


@pytest.fixture
def edited(make_project: MakeProject) -> Any:
    """A project whose second answer was edited after votes came."""
    project = make_project({"galaxies": 40}, upload={"per_run": 30})
    project.done("upload")
    project.show()
    project.done("pull")
    project.done("aggregate")
    rename(project, "Features, disk or arms")
    return project


def rename(project: Any, label: str) -> None:
    """A new version of the workflow, in which the second answer is called otherwise."""
    state = project.box.state
    row = state.one("SELECT * FROM workflow_versions ORDER BY major DESC, minor DESC")
    strings = {**json.loads(row["strings"]), "T0.answers.1.label": label}
    state.add_version(1, row["major"], row["minor"] + 1, json.loads(row["tasks"]), strings)
    state.advance(2 * DAY)


def test_an_edited_answer_is_fetched_and_not_counted(edited: Any) -> None:
    labels, digest = edited.ledger.newest("labels").name, edited.ledger.newest("labels").digest
    run = edited.done("pull")
    (warning,) = run.warnings
    assert "'features, disk or arms'" in warning
    assert edited.ledger.newest("exports").run_id == run.run_id
    run = edited.run("aggregate")
    assert run.exit_code == 2
    assert "smooth-or-featured: the answer 'features, disk or arms'" in run.message
    assert "It was 'features or disk' before" in run.hint
    assert "the labels of featured in question.answers" in run.hint
    assert edited.ledger.newest("labels").name == labels
    # Once the settings know it, all votes count: the old under the old label.
    edited.edit('["Features or Disk"]', '["Features or Disk", "Features, disk or arms"]')
    assert edited.done("pull").warnings == []
    edited.done("aggregate")
    assert edited.ledger.newest("labels").digest == digest


def test_a_label_that_only_old_versions_have_is_no_difference(edited: Any) -> None:
    rename(edited, "Features or Disk")
    assert edited.done("pull").warnings == []
    assert edited.done("aggregate").outcome == "unchanged"


def test_a_range_that_does_not_reach_the_present_is_not_held_against_it(edited: Any) -> None:
    edited.edit('from_version = "1.1"', 'from_version = "9.1"')
    assert edited.done("pull").warnings == []


def test_a_task_that_was_taken_out_is_fetched_and_not_counted(edited: Any) -> None:
    state = edited.box.state
    row = state.one("SELECT * FROM workflow_versions ORDER BY major DESC, minor DESC")
    tasks = json.loads(row["tasks"])
    tasks["T7"] = tasks.pop("T0")
    state.add_version(1, row["major"] + 1, 1, tasks, json.loads(row["strings"]))
    state.advance(2 * DAY)
    (warning,) = edited.done("pull").warnings
    assert "has no task T0; it has T1, T7" in warning
    run = edited.run("aggregate")
    assert (run.exit_code, "has no task T0" in run.message) == (2, True)


def test_files_on_disk_tell_of_the_newest_version_in_them(edited: Any) -> None:
    edited.done("pull")
    files = edited.ledger.newest("exports").facts["files"]
    work = edited.settings.work
    run = edited.run(
        "aggregate",
        exports=(work / files["classifications"],),
        workflows=work / files["workflows"],
    )
    assert run.exit_code == 2
    assert "'features, disk or arms'" in run.message
    # Without a workflows export nobody can tell.
    assert edited.done("aggregate", exports=(work / files["classifications"],)).counts["votes"]
