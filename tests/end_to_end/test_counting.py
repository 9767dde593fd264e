"""What is not matched must not bend what is, and nothing counted is no success."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zoo_bridge.sandbox.volunteers import STRINGS, TASKS
from zoo_bridge.steps.inputs import read_labels

MakeProject = Callable[..., Any]
DAY = 24 * 3600.0


@pytest.fixture
def pulled(make_project: MakeProject) -> Any:
    project = make_project({"galaxies": 40}, upload={"per_run": 30})
    project.done("upload")
    project.show()
    project.done("pull")
    return project


def export_of(project: Any) -> Path:
    """The pulled votes."""
    files = project.ledger.newest("exports").facts["files"]
    path: Path = project.settings.work / files["classifications"]
    return path


def rewritten(project: Any, path: Path, before: str, after: str, most: int) -> Path:
    """The pulled votes, with a label changed in so many rows."""
    text = gzip.decompress(export_of(project).read_bytes()).decode()
    path.write_text(text.replace(before, after, most))
    return path


def test_answers_that_stand_for_nothing_have_a_limit(pulled: Any, tmp_path: Path) -> None:
    votes = pulled.done("aggregate").counts["votes"]
    labels = pulled.ledger.newest("labels").name
    few = max(1, int(0.01 * votes))
    path = rewritten(pulled, tmp_path / "few.csv", " Features or Disk", " Featured", few)
    run = pulled.done("aggregate", exports=(path,))
    assert run.counts["questions"]["smooth-or-featured"]["unmatched"] == few
    kept = pulled.ledger.newest("labels").name
    assert kept != labels
    path = rewritten(pulled, tmp_path / "many.csv", " Features or Disk", " Featured", -1)
    run = pulled.run("aggregate", exports=(path,))
    assert (run.exit_code, run.outcome) == (1, "failed")
    assert "answers stand for none of those in the settings: 'Featured' (" in run.message
    assert "add 'Featured' to" in run.hint
    assert pulled.ledger.newest("labels").name == kept
    assert not list((pulled.settings.work / "labels").glob(".scratch-*"))
    # What is proposed helps; so does a limit of one's own.
    pulled.edit('["Features or Disk"]', '["Features or Disk", "Featured"]')
    run = pulled.done("aggregate", exports=(path,))
    assert run.counts["votes"] == votes


def test_what_the_server_did_not_know_is_outside_the_limit(pulled: Any, tmp_path: Path) -> None:
    path = rewritten(pulled, tmp_path / "e.csv", " Features or Disk", "", -1)
    text = path.read_text()
    icon = "![features.png]"
    start = text.index(icon)
    label = text[start : text.index(")", start) + 1]
    path.write_text(text.replace(label, "unknown answer label"))
    run = pulled.done("aggregate", exports=(path,))
    fate = run.counts["questions"]["smooth-or-featured"]
    assert fate["unknown_label"] > 0
    assert fate["unmatched"] == 0


def test_a_question_without_a_vote_is_an_error_that_says_what_there_is(
    pulled: Any, tmp_path: Path
) -> None:
    pulled.edit('task = "T0"', 'task = "T7"')
    run = pulled.run("aggregate", exports=(export_of(pulled),))
    assert run.exit_code == 1
    assert "not one vote in" in run.message
    assert "Looked for was T7 of workflow 1; the rows hold answers to T0 (text) (" in run.message
    assert pulled.ledger.newest("labels") is None
    pulled.edit("workflow = 1", "workflow = 77")
    run = pulled.run("aggregate", exports=(export_of(pulled),))
    assert "it has rows of workflow 1 (" in run.message


def test_a_workflows_export_that_cannot_be_read_is_no_help(pulled: Any, tmp_path: Path) -> None:
    broken = tmp_path / "workflows.csv"
    broken.write_text('workflow_id,version,minor_version,tasks,strings\n"1,1,1,{},{}"\n')
    run = pulled.run("aggregate", exports=(export_of(pulled),), workflows=broken)
    assert run.exit_code == 1
    assert "1 of 1 rows of the workflows export workflows.csv cannot be read" in run.message


@pytest.mark.parametrize("mode", ["export", "incremental"])
def test_a_question_that_is_asked_in_two_workflows(make_project: MakeProject, mode: str) -> None:
    """A mobile version of a workflow: its votes are fetched and counted, too."""
    project = make_project({"galaxies": 40}, upload={"per_run": 30}, pull={"mode": mode})
    project.done("upload")
    project.show()
    state = project.box.state
    mobile = state.add_workflow(1, "Mobile", TASKS, STRINGS, 5)
    row = state.one("SELECT * FROM workflow_sets")
    state.insert("workflow_sets", **{**row, "workflow_id": mobile})
    project.box.volunteers.classify(mobile)
    project.done("pull")
    project.done("aggregate")
    one = read_labels(project.ledger.newest("labels"))
    source = f'target = "featured"\n[[question.source]]\n[[question.source]]\nworkflow = {mobile}'
    project.edit('target = "featured"', source)
    project.box.state.advance(2 * DAY)
    run = project.done("pull")
    assert len([line for line in run.counts if line.startswith("classifications")]) == (
        2 if mode == "export" else 0
    )
    project.done("aggregate")
    both = read_labels(project.ledger.newest("labels"))
    # Volunteers of the first see what they saw already as a second look, so N is between.
    assert set(one["n"]) == {12}
    assert both["n"].min() > 12
    assert both["n"].max() <= 17
    rows = state.one("SELECT count(*) AS n FROM classifications")["n"]
    counts = project.ledger.newest("labels").facts
    assert counts["rows"] == counts["used"] + sum(counts["dropped"].values())
    assert counts["dropped"].get("other workflow", 0) == 0
    assert counts["used"] + counts["dropped"].get("resent", 0) == rows


def test_a_workflow_that_is_not_the_projects_is_refused(pulled: Any) -> None:
    source = 'target = "featured"\n[[question.source]]\nworkflow = 99'
    pulled.edit('target = "featured"', source)
    run = pulled.run("pull")
    assert run.exit_code == 2
    assert "has no workflow 99, which a question names" in run.message


def test_a_workflow_that_nobody_has_classified_yet_stops_nothing(pulled: Any) -> None:
    mobile = pulled.box.state.add_workflow(1, "Mobile", TASKS, STRINGS, 5)
    source = f'target = "featured"\n[[question.source]]\n[[question.source]]\nworkflow = {mobile}'
    pulled.edit('target = "featured"', source)
    pulled.box.state.advance(2 * DAY)
    pulled.done("pull")
    assert pulled.done("aggregate").counts["votes"] > 0


def test_marks_and_grids_are_told(pulled: Any, tmp_path: Path) -> None:
    text = gzip.decompress(export_of(pulled).read_bytes()).decode()
    rows = list(csv.reader(text.splitlines()))
    place = rows[0].index("user_id")
    for row in rows[1:]:
        row[place] = row[place] or "NA"
    path = tmp_path / "na.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    before = pulled.done("aggregate").counts["votes"]
    run = pulled.done("aggregate", exports=(path,))
    assert run.counts["votes"] == before
    assert run.counts["marked"]["user_id"] > 0
    assert json.dumps(run.counts)


def test_a_workflow_without_an_export_is_read_from_its_first_vote(pulled: Any) -> None:
    """The other's export reaches further: what lies below it is fetched all the same."""
    state = pulled.box.state
    mobile = state.add_workflow(1, "Mobile", TASKS, STRINGS, 5)
    row = state.one("SELECT * FROM workflow_sets")
    state.insert("workflow_sets", **{**row, "workflow_id": mobile})
    pulled.box.volunteers.classify(mobile)
    # An export of the first workflow is newer than all votes on the other.
    greatest = state.one("SELECT max(id) AS id FROM classifications")["id"]
    with state.write() as db:
        db.execute("UPDATE classifications SET id = id + 10000 WHERE workflow_id = 1")
    state.advance(2 * DAY)
    pulled.done("pull", accept_shrunk=True)
    source = (
        f'target = "featured"\n[[question.source]]\n[[question.source]]\nworkflow = {mobile}'
        '\n[pull]\nmode = "incremental"'
    )
    text = pulled.settings.path.read_text()
    start = text.index("[pull]")
    end = text.index("\n[", start)
    pulled.settings.path.write_text(text[:start] + text[end + 1 :])
    pulled.edit('target = "featured"', source)
    # Before they are pulled nothing is counted without them.
    run = pulled.run("aggregate")
    assert run.exit_code == 1
    assert f"Votes of workflow {mobile} were not pulled yet" in run.message
    pulled.done("pull")
    run = pulled.done("aggregate")
    votes = state.one("SELECT count(*) AS n FROM classifications")["n"]
    assert greatest < 10000
    assert run.counts["used"] + run.counts["dropped"].get("resent", 0) == votes
    assert run.counts["dropped"].get("never completed", 0) == 0


def test_a_box_that_was_renamed_has_the_limit_too(pulled: Any, tmp_path: Path) -> None:
    text = gzip.decompress(export_of(pulled).read_bytes()).decode()
    rows = list(csv.reader(text.splitlines()))
    place = rows[0].index("annotations")
    for row in rows[1:]:
        row[place] = json.dumps([{"task": "T0", "value": ["Smooth", "Lens, renamed"]}])
    path = tmp_path / "boxes.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    pulled.edit('target = "featured"', 'target = "featured"\nmultiple = true')
    run = pulled.run("aggregate", exports=(path,))
    assert run.exit_code == 1
    assert "'Lens, renamed' (" in run.message
