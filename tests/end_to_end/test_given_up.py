"""Batches that are given up: nothing that was paid for is lost, nothing in doubt is made twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import requests
import sqlalchemy as sa

from zoo_bridge.errors import BusyError, RefusedError, SettingsError
from zoo_bridge.steps.batches import publish
from zoo_bridge.steps.batches.abandon import abandon, release

MakeProject = Callable[..., Any]
SLUG = "sandbox/galaxies"
CREATE = {"method": "POST", "path": "/subjects"}


def state(project: Any, name: str) -> str:
    found = {row.name: row.state for row in project.ledger.list_batches()}
    return found[name]


def members(project: Any, set_id: str) -> set[int]:
    rows = project.box.state.all(
        "SELECT subject_id FROM set_subjects WHERE subject_set_id = ?", (int(set_id),)
    )
    return {row["subject_id"] for row in rows}


@pytest.fixture
def staged(make_project: MakeProject) -> Any:
    """A project of 14 galaxies with a batch of 10 staged."""
    project = make_project({"galaxies": 14}, upload={"per_run": 10})
    project.done("upload")
    return project


def test_without_yes_it_says_what_would_be_lost_and_does_nothing(staged: Any) -> None:
    (batch,) = staged.ledger.list_batches()
    name = batch.name
    with pytest.raises(RefusedError) as caught:
        abandon(staged.context, name)
    assert "10 are subjects on Zooniverse" in caught.value.message
    assert f"zoo-bridge abandon {name} --yes" in caught.value.hint
    assert state(staged, name) == "staged"
    assert abandon(staged.context, name, yes=True).startswith(
        f"{name} is given up: 10 are subjects"
    )
    assert state(staged, name) == "abandoned"
    # It says so, and advises what can be done.
    with pytest.raises(RefusedError, match="was given up") as refused:
        publish.publish(staged.context, name)
    assert "run upload" in refused.value.hint


def test_a_later_batch_links_what_was_paid_for(staged: Any) -> None:
    first = staged.ledger.list_batches()[0]
    abandon(staged.context, first.name, yes=True)
    before = staged.box.state.all("SELECT id, metadata FROM subjects ORDER BY id")
    run = staged.done("upload")
    # The first batch is drawn by the same seed: the same galaxies.
    assert (run.counts["created"], run.counts["linked"]) == (0, 10)
    assert staged.box.state.all("SELECT id, metadata FROM subjects ORDER BY id") == before
    second = staged.ledger.list_batches()[0]
    assert members(staged, second.subject_set_id) == {row["id"] for row in before}
    rows = staged.ledger.list_objects()
    assert {(row.batch, row.state) for row in rows} == {(second.name, "staged")}
    # Given up again they are there for a third.
    abandon(staged.context, second.name, yes=True)
    assert staged.done("upload").counts["linked"] == 10
    assert staged.show()["retired"] == 10


def test_an_adopted_subject_shows_what_its_new_batch_drew(staged: Any) -> None:
    """A batch may have been given up for its pictures: they are not shown after all."""
    first = staged.ledger.list_batches()[0]
    folder = staged.box.folder / "panoptes" / "media"
    pictures = {}
    for rows in staged.subjects().values():
        name = json.loads(rows[0]["locations"])[0]["path"].rpartition("/")[2]
        pictures[rows[0]["id"]] = folder / name
    black, lost, *_ = pictures.values()
    good = black.read_bytes()
    black.write_bytes(b"black")
    lost.unlink()
    abandon(staged.context, first.name, yes=True)
    run = staged.done("upload")
    assert run.counts["linked"] == 10
    assert black.read_bytes() == good
    assert all(staged.has_image(rows[0]) for rows in staged.subjects().values())


def test_a_store_that_is_away_costs_no_subject(staged: Any) -> None:
    """What was paid for is not left out for a trouble that passes: the next run goes on."""
    abandon(staged.context, staged.ledger.list_batches()[0].name, yes=True)
    folder = staged.box.folder / "panoptes" / "media"
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(b"black")
    staged.fault(server="media", method="PUT", what="status", status=503, times=None)
    run = staged.run("upload")
    assert run.exit_code == 1
    assert "10 subjects that are to be linked did not arrive" in run.message
    requests.delete(f"{staged.box.urls['panoptes']}/sandbox/faults", timeout=10)
    run = staged.done("upload")
    assert (run.counts["linked"], run.counts["skipped"]) == (10, 0)


def test_one_that_says_it_shows_something_else_is_left_out(staged: Any) -> None:
    first = staged.ledger.list_batches()[0]
    abandon(staged.context, first.name, yes=True)
    with staged.box.state.write() as db:
        db.execute(
            'UPDATE subjects SET metadata = \'{"#zoo_bridge_id": "other"}\' WHERE id = '
            "(SELECT min(id) FROM subjects)"
        )
    run = staged.done("upload")
    assert (run.counts["linked"], run.counts["skipped"]) == (9, 1)
    second = staged.ledger.list_batches()[0]
    assert len(members(staged, second.subject_set_id)) == 9


def test_what_says_it_under_another_key_is_not_adopted(staged: Any) -> None:
    abandon(staged.context, staged.ledger.list_batches()[0].name, yes=True)
    staged.change(cutouts={"size": 32}, upload={"per_run": 10, "metadata_key": "#galaxy"})
    run = staged.done("upload")
    # The four that were never subjects: nothing is made again, nothing left out for good.
    assert (run.counts["created"], run.counts["linked"], run.counts["skipped"]) == (4, 0, 0)
    assert len(staged.ledger.list_adoptable()) == 10


def test_what_others_uploaded_is_freed_and_never_changed(make_project: MakeProject) -> None:
    project = make_project({"galaxies": 14}, upload={"per_run": 10})
    project.done("upload")
    project.show()
    # Somebody else's, for the ledger: it knows nothing of them.
    with project.ledger.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM objects")
        connection.exec_driver_sql("DELETE FROM batches")
    pictures = {
        path: path.read_bytes()
        for path in (project.box.folder / "panoptes" / "media").rglob("*")
        if path.is_file()
    }
    project.change(
        cutouts={"size": 32, "stretch": "linear"}, upload={"per_run": 10, "enough_votes": 1000}
    )
    for _ in range(2):
        assert project.done("upload").counts["linked"] == 10
        name = project.ledger.list_batches()[0].name
        told = abandon(project.context, name, yes=True)
        assert "10 objects can be planned again" in told
        assert {row.state for row in project.ledger.list_objects()} == {"freed"}
    # However our own pictures would be drawn now.
    assert {path: path.read_bytes() for path in pictures} == pictures


def test_a_role_outlives_the_batch_that_settled_it(make_project: MakeProject) -> None:
    project = make_project({"galaxies": 14}, upload={"per_run": 10})
    project.done("upload")
    with project.ledger.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE objects SET heldout = (reason = 'random')")
    name = project.ledger.list_batches()[0].name
    before = {row.object_id: row.heldout for row in project.ledger.list_objects()}
    abandon(project.context, name, yes=True)
    project.done("upload")
    after = {row.object_id: row.heldout for row in project.ledger.list_objects()}
    assert after == before


def test_what_has_votes_enough_is_not_adopted(make_project: MakeProject) -> None:
    project = make_project({"galaxies": 40}, upload={"per_run": 10, "enough_votes": 5})
    name = project.done("upload").artifact
    project.show()
    project.done("pull")
    project.done("aggregate")
    publish.withdraw(project.context, name)
    abandon(project.context, name, yes=True)
    run = project.done("upload")
    assert (run.counts["created"], run.counts["linked"]) == (10, 0)


def test_what_volunteers_see_is_taken_back_whatever_the_ledger_says(staged: Any) -> None:
    """Publishing was carried out, and the run that did it was killed before it could say so."""
    (batch,) = staged.ledger.list_batches()
    publish.publish(staged.context, batch.name)
    staged.ledger.set_batch(batch.name, state="staged")
    assert staged.box.state.all("SELECT * FROM workflow_sets")
    abandon(staged.context, batch.name, yes=True)
    assert staged.box.state.all("SELECT * FROM workflow_sets") == []


def test_giving_up_is_one_step(staged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed anywhere in it, a batch is given up or it is not, and nothing is half forgotten."""
    (batch,) = staged.ledger.list_batches()
    before = staged.ledger.list_objects()
    engine = staged.ledger.engine

    def fail(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("INSERT INTO events"):
            raise KeyboardInterrupt

    sa.event.listen(engine, "before_cursor_execute", fail)
    with pytest.raises(KeyboardInterrupt):
        abandon(staged.context, batch.name, yes=True)
    sa.event.remove(engine, "before_cursor_execute", fail)
    assert state(staged, batch.name) == "staged"
    assert staged.ledger.list_objects() == before
    with pytest.raises(BusyError, match="planned no longer"):
        staged.ledger.ask_for("no batch", "nothing", "7")


def test_what_version_0_1_made_is_adopted_too(staged: Any) -> None:
    """It did not count creates: what the plan or the set says is what tells."""
    with staged.ledger.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE objects SET creates = 0, account = NULL")
    (batch,) = staged.ledger.list_batches()
    shutil.rmtree(staged.settings.work / batch.path)
    told = abandon(staged.context, batch.name, yes=True)
    assert "10 are subjects" in told
    assert staged.done("upload").counts["linked"] == 10


def test_the_sets_are_read_first(make_project: MakeProject) -> None:
    """A create that was carried out without an answer is known by its set."""
    project = make_project({"galaxies": 14}, upload={"per_run": 10, "patience_minutes": 0.01})
    project.fault(**CREATE, what="committed", status=502, times=1)
    project.fault(**CREATE, what="status", status=403, times=None)
    assert project.run("upload").exit_code == 1
    requests.delete(f"{project.box.urls['panoptes']}/sandbox/faults", timeout=10)
    with project.ledger.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE objects SET subject_id = NULL, state = 'doubtful' WHERE subject_id IS NOT NULL"
        )
    made = set(project.subjects())
    assert len(made) == 1
    name = project.ledger.list_batches()[0].name
    told = abandon(project.context, name, yes=True)
    assert "1 are subjects on Zooniverse" in told
    assert {row.object_id for row in project.ledger.list_adoptable()} == made
    run = project.done("upload")
    assert len(project.box.state.all("SELECT id FROM subjects")) == 10
    assert (run.counts["created"], run.counts["linked"]) == (9, 1)


def test_what_is_in_doubt_is_freed_by_hand_only(make_project: MakeProject) -> None:
    project = make_project({"galaxies": 30}, upload={"per_run": 12, "patience_minutes": 0.01})
    project.fault(**CREATE, what="status", status=502, times=None, after=4)
    assert project.run("upload").exit_code == 1
    requests.delete(f"{project.box.urls['panoptes']}/sandbox/faults", timeout=10)
    name = project.ledger.list_batches()[0].name
    locked = sorted(
        row.object_id for row in project.ledger.list_objects() if row.state == "doubtful"
    )
    told = abandon(project.context, name, yes=True)
    assert (
        f"stay locked, since nobody knows whether their create was carried out: {', '.join(locked)}"
        in told
    )
    assert [row.object_id for row in project.ledger.list_locked()] == locked
    project.change(cutouts={"size": 32}, upload={"per_run": 30})
    project.done("upload")
    planned = {row.object_id for row in project.ledger.list_objects()}
    assert len(planned) == 30
    assert not set(locked) & set(project.subjects())
    with pytest.raises(RefusedError, match="Nothing was done"):
        release(project.context, locked[:1])
    with pytest.raises(SettingsError, match="not locked"):
        release(project.context, ["nothing"], yes=True)
    # One of them was made after all; the other two were not.
    batch = next(row for row in project.ledger.list_batches() if row.name == name)
    late = project.box.state.one("SELECT max(id) AS id FROM subjects")["id"]
    with project.box.state.write() as db:
        db.execute(
            "UPDATE subjects SET metadata = ? WHERE id = ?",
            (json.dumps({"#zoo_bridge_id": locked[0]}), late),
        )
        db.execute(
            "INSERT INTO set_subjects (subject_set_id, subject_id) VALUES (?, ?)",
            (int(batch.subject_set_id), late),
        )
    lines = release(project.context, locked[:2], yes=True)
    assert lines == [
        f"{locked[0]} is subject {late}: a later batch may link it",
        f"{locked[1]} can be planned again",
    ]
    assert [row.object_id for row in project.ledger.list_locked()] == locked[2:]
    assert locked[0] in {row.object_id for row in project.ledger.list_adoptable()}
