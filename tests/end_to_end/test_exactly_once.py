"""Exactly once: an upload that is killed after any call, or meets any mixture of faults.

Whatever happens, running it again ends with just the planned subjects in the set, each with its own
picture.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.commands import Command
from tests.conftest import HASTY
from zoo_bridge.config import load
from zoo_bridge.errors import BusyError, RefusedError
from zoo_bridge.ledger import Ledger
from zoo_bridge.service.runner import lock_of
from zoo_bridge.steps.batches import publish
from zoo_bridge.steps.batches.abandon import abandon
from zoo_bridge.tables import BATCH, read_table

MakeProject = Callable[..., Any]


def check_complete(project: Any) -> list[dict[str, Any]]:
    """The set holds just what was planned, each once, each with its own picture."""
    (batch,) = project.ledger.list_batches()
    assert batch.state == "staged"
    folder = project.settings.work / batch.path
    plan = read_table(folder / "plan.parquet", BATCH).to_pylist()
    rows = project.box.state.all(
        "SELECT s.* FROM subjects s JOIN set_subjects m ON m.subject_id = s.id"
        " WHERE m.subject_set_id = ?",
        (batch.subject_set_id,),
    )
    names = [json.loads(row["metadata"])["#zoo_bridge_id"] for row in rows]
    assert sorted(names) == sorted(row["object_id"] for row in plan)
    pictures = {row["object_id"]: folder / "previews" / f"{row['rank']:06d}-1.jpg" for row in plan}
    media = project.box.folder / "panoptes" / "media"
    for row, name in zip(rows, names, strict=True):
        place = json.loads(row["locations"])[0]["path"].rpartition("/")[2]
        assert (media / place).read_bytes() == pictures[name].read_bytes(), name
    ledger = project.ledger.list_objects()
    assert {row.object_id: row.subject_id for row in ledger} == {
        name: str(row["id"]) for row, name in zip(rows, names, strict=True)
    }
    assert {row.state for row in ledger} == {"staged"}
    return rows


def empty(project: Any) -> None:
    """Take the sandbox back to where nothing was uploaded."""
    with project.box.state.write() as db:
        for table in ("subjects", "set_subjects", "subject_sets", "workflow_sets", "faults"):
            db.execute(f"DELETE FROM {table}")


def forbid_creates(project: Any, after: int) -> None:
    """Run an upload that ends after some creates."""
    rule = {"method": "POST", "path": "/api/subjects[?]", "what": "status", "status": 403}
    project.fault(**rule, after=after, times=None)
    assert project.run("upload").exit_code == 1
    with project.box.state.write() as db:
        db.execute("DELETE FROM faults")


@pytest.mark.parametrize("first", [0, 1], ids=["even calls", "odd calls"])
def test_killed_after_any_call_it_goes_on_and_makes_nothing_twice(
    make_project: MakeProject, first: int
) -> None:
    project = make_project({"galaxies": 8}, upload={"per_run": 5})
    # A batch of which nothing but the plan is there.
    project.fault(method="POST", path="/api/subject_sets", what="status", status=403)
    assert project.run("upload").exit_code == 1
    project.ledger.close()
    planned = project.settings.path.parent
    killed = first
    while True:
        empty(project)
        folder = planned.with_name(f"killed-{killed}")
        shutil.copytree(planned, folder)
        upload = Command("run", "upload", config=folder / "zoo_bridge.toml", hold=True)
        project.fault(server="any", what="kill", pid=upload.pid, after=killed)
        upload.go()
        code = upload.completed().returncode
        project.settings = load(folder / "zoo_bridge.toml")
        project.ledger = Ledger.of(project.settings)
        if code == 0:
            check_complete(project)
            break
        assert code == -9, f"after call {killed}: exit code {code}"
        project.done("upload")
        rows = check_complete(project)
        # Nothing was made in vain, either: the account's quota is never refunded.
        assert len(project.box.state.all("SELECT id FROM subjects")) == len(rows) == 5
        project.ledger.close()
        shutil.rmtree(folder)
        killed += 2
    # Five creates, five pictures sent, five fetched back, and what is around them.
    assert killed > 20


RULES = [
    {"method": "POST", "path": "/api/subjects[?]", "what": "status", "status": 500},
    {"method": "POST", "path": "/api/subjects[?]", "what": "committed", "status": 502},
    {"method": "POST", "path": "/api/subjects[?]", "what": "reset-after"},
    {"method": "POST", "path": "/api/subjects[?]", "what": "html"},
    {"method": "POST", "path": "/api/subjects[?]", "what": "late", "seconds": 0.4},
    {"method": "POST", "path": "/api/subjects[?]", "what": "late", "seconds": 1.5},
    {"method": "POST", "path": "/api/subjects[?]", "what": "empty", "status": 401},
    {"method": "POST", "path": "subject_sets", "what": "committed", "status": 504},
    {"method": "POST", "path": "links/subjects", "what": "status", "status": 409},
    {"method": "GET", "path": "/api/subjects[?]", "what": "status", "status": 503},
    {"method": "PUT", "path": "/api/subjects", "what": "status", "status": 412},
    {"server": "media", "method": "PUT", "what": "status", "status": 403},
    {"server": "media", "method": "PUT", "what": "status", "status": 500},
    {"server": "media", "method": "PUT", "what": "reset"},
    {"server": "media", "method": "PUT", "what": "lose"},
    {"server": "media", "method": "GET", "what": "cut"},
    {"server": "media", "method": "GET", "what": "status", "status": 404},
]
MIXTURES = st.lists(
    st.tuples(st.sampled_from(RULES), st.integers(0, 6), st.integers(1, 3)), min_size=1, max_size=6
)


def test_whatever_goes_wrong_together_it_ends_well(make_project: MakeProject) -> None:
    project = make_project({"galaxies": 14}, upload={"per_run": 12})
    project.fault(method="POST", path="/api/subject_sets", what="status", status=403)
    assert project.run("upload").exit_code == 1
    project.ledger.close()
    planned, number = project.settings.path.parent, iter(range(1000))

    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    @given(MIXTURES)
    def mixed(rules: list[tuple[dict[str, Any], int, int]]) -> None:
        empty(project)
        folder = planned.with_name(f"mixed-{next(number)}")
        shutil.copytree(planned, folder)
        project.settings = load(folder / "zoo_bridge.toml")
        project.ledger = Ledger.of(project.settings)
        for rule, after, times in rules:
            project.fault(**rule, after=after, times=times)
        for _ in range(10):
            run = project.run("upload")
            if run.exit_code == 0:
                break
            # A batch that is not complete is not to be seen.
            assert project.ledger.list_batches()[0].state != "staged"
            assert project.box.state.all("SELECT * FROM workflow_sets") == []
        assert run.exit_code == 0, run.message
        check_complete(project)
        project.ledger.close()
        if any(rule["what"] == "late" for rule, *_ in rules):
            # What is still under way must not reach the next example's sandbox.
            time.sleep(max(rule.get("seconds", 0) for rule, *_ in rules) + 0.2)

    mixed()


@pytest.mark.parametrize("seconds", [1.5, 4.0], ids=["before the end", "after it"])
@pytest.mark.parametrize("mode", ["manual", "automatic"])
def test_a_create_that_comes_through_late_is_never_seen_twice(
    make_project: MakeProject, seconds: float, mode: str
) -> None:
    options = {"per_run": 4, "publish": mode, "doubt_seconds": 1.6}
    project = make_project({"galaxies": 10}, upload=options)
    project.fault(method="POST", path="/api/subjects[?]", what="late", seconds=seconds)
    batch = project.done("upload").artifact
    # The early one may be there when the members are read again: then nothing is made twice.
    until = time.monotonic() + seconds + 5
    while len(project.box.state.all("SELECT id FROM subjects")) < 5 and time.monotonic() < until:
        time.sleep(0.05)
    made = len(project.box.state.all("SELECT id FROM subjects"))
    assert made == 5 if seconds == 4.0 else made in (4, 5)
    if mode == "manual":
        publish.publish(project.context, batch)
    seen = project.box.state.all(
        "SELECT m.subject_id FROM set_subjects m JOIN workflow_sets w"
        " ON w.subject_set_id = m.subject_set_id"
    )
    rows = project.ledger.list_objects()
    assert sorted(row["subject_id"] for row in seen) == sorted(int(row.subject_id) for row in rows)
    assert len(seen) == 4


def test_a_set_that_somebody_changed_is_not_published(make_project: MakeProject) -> None:
    project = make_project({"galaxies": 10}, upload={"per_run": 4})
    batch = project.done("upload").artifact
    with project.box.state.write() as db:
        db.execute("DELETE FROM set_subjects WHERE subject_id = 2")
    with pytest.raises(RefusedError, match="0 subjects more, 1 fewer"):
        publish.publish(project.context, batch)
    assert project.box.state.all("SELECT * FROM workflow_sets") == []


def test_the_key_of_a_batch_is_that_of_its_plan(make_project: MakeProject) -> None:
    project = make_project({"galaxies": 10}, upload={"per_run": 6})
    forbid_creates(project, after=2)
    project.change(
        cutouts={"size": 32},
        upload={"per_run": 6, "metadata_key": "#other", "publish": "automatic"},
    )
    project.done("upload")
    check_complete(project)
    assert len(project.box.state.all("SELECT id FROM subjects")) == 6
    assert project.box.state.all("SELECT * FROM workflow_sets") == []


def test_what_was_taken_out_by_hand_is_put_back_and_not_made_again(
    make_project: MakeProject,
) -> None:
    project = make_project({"galaxies": 10}, upload={"per_run": 6})
    forbid_creates(project, after=2)
    with project.box.state.write() as db:
        db.execute("DELETE FROM set_subjects WHERE subject_id IN (1, 3)")
    project.done("upload")
    check_complete(project)
    assert len(project.box.state.all("SELECT id FROM subjects")) == 6


def test_publishing_that_was_asked_for_is_made_good(make_project: MakeProject) -> None:
    project = make_project({"galaxies": 10}, upload={"per_run": 4, "publish": "automatic"})
    project.fault(method="POST", path="links/subject_sets", what="status", status=409, times=None)
    assert project.run("upload").exit_code == 1
    (batch,) = project.ledger.list_batches()
    assert batch.state == "staged"
    with project.box.state.write() as db:
        db.execute("DELETE FROM faults")
    assert "is published" in project.done("upload").message
    assert len(project.box.state.all("SELECT * FROM workflow_sets")) == 1
    assert len(project.ledger.list_batches()) == 1


@pytest.mark.parametrize("what", ["set deleted", "folder lost", "picture lost"])
def test_a_batch_that_cannot_be_finished_can_be_given_up(
    make_project: MakeProject, what: str
) -> None:
    project = make_project({"galaxies": 10}, upload={"per_run": 6})
    forbid_creates(project, after=2)
    (batch,) = project.ledger.list_batches()
    folder = project.settings.work / batch.path
    if what == "set deleted":
        with project.box.state.write() as db:
            db.execute("DELETE FROM subject_sets")
            db.execute("DELETE FROM set_subjects")
    elif what == "folder lost":
        shutil.rmtree(folder)
    else:
        for path in (folder / "previews").iterdir():
            path.unlink()
    run = project.run("upload")
    assert run.exit_code == 1
    assert f"zoo-bridge abandon {batch.name}" in run.hint
    told = abandon(project.context, batch.name, yes=True)
    assert "4 objects can be planned again; 2 are subjects on Zooniverse" in told
    project.done("upload", force=True)
    new = project.ledger.list_batches()[0]
    assert (new.state, new.size) == ("staged", 6)
    names = [row.object_id for row in project.ledger.list_objects()]
    # Those that are subjects are linked, or left out with a reason: none is made again.
    assert len(set(names)) == len(names) == 6
    assert max(len(rows) for rows in project.subjects().values()) == 1


def test_a_lock_that_was_lost_stops_the_creating(make_project: MakeProject) -> None:
    project = make_project({"galaxies": 10}, upload={"per_run": 6})
    project.ledger._lost_locks.add("cycle")
    run = project.run("upload")
    assert run.exit_code == BusyError.exit_code
    assert "ran out unrenewed" in run.message
    assert project.box.state.all("SELECT id FROM subjects") == []


def test_two_workflows_of_a_project_do_not_upload_at_once(make_project: MakeProject) -> None:
    project = make_project({"galaxies": 10}, upload={"per_run": 6})
    scope = replace(project.ledger.scope, workflow=2)
    other = Ledger(project.settings.ledger_url, project.settings.work, scope)
    # Another workflow of the same project, which nobody knows by its number yet.
    with lock_of(other, "upload"):
        assert project.run("upload").exit_code == BusyError.exit_code
    project.done("upload")


def test_a_batch_of_more_than_a_page_and_its_calls(make_project: MakeProject) -> None:
    """Members come a hundred to a page; what a subject costs in calls is bounded."""
    project = make_project({"galaxies": 250}, upload={"per_run": 230})
    run = project.done("upload")
    assert len(check_complete(project)) == 230
    # A create each, links and members a hundred at a time, and what is there only once.
    assert run.counts["calls"] <= 230 + 4 * (230 / 100 + 1) + 10
    assert run.counts["media_calls"] == 2 * 230
    publish.publish(project.context, run.artifact)


def test_answers_that_take_longer_than_anybody_waits(make_project: MakeProject) -> None:
    project = make_project(
        {"galaxies": 10},
        # Looked for from when nobody waits any longer, not from when it was sent.
        upload={"per_run": 6, "doubt_seconds": 0.9},
        project={"timeout_seconds": 0.5, **HASTY},
    )
    slow = {"what": "delay", "seconds": 1.0}
    project.fault(method="POST", path="/api/subjects[?]", **slow, after=1)
    project.fault(server="media", method="PUT", **slow, times=2)
    project.fault(method="GET", path="/api/subjects[?]", **slow, after=2)
    project.done("upload")
    check_complete(project)
    assert len(project.box.state.all("SELECT id FROM subjects")) == 6


def test_a_server_that_is_away_for_a_while(make_project: MakeProject) -> None:
    project = make_project({"galaxies": 10}, upload={"per_run": 6})
    forbid_creates(project, after=1)
    project.box.stop()
    run = project.run("upload")
    assert (run.outcome, run.exit_code) == ("failed", 1)
    assert run.message.startswith("No answer from http://127.0.0.1")
    again = type(project.box)(project.box.folder, project.box.plan, export_seconds=0.05)
    with again as box:
        assert box.urls == project.box.urls
        project.box = box
        project.done("upload")
        check_complete(project)
