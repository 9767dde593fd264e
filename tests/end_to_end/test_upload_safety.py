"""Uploads: whatever fails, an object becomes one subject, and none is seen without its image."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.commands import Command
from zoo_bridge.errors import RefusedError, ZooniverseError
from zoo_bridge.steps.batches import publish

MakeProject = Callable[..., Any]


def check_complete(project: Any, expected: int) -> None:
    """Every planned object is one subject, in the set, with its image."""
    found = project.subjects()
    assert len(found) == expected
    assert {len(rows) for rows in found.values()} == {1}
    assert all(project.has_image(rows[0]) for rows in found.values())
    (batch,) = project.ledger.list_batches()
    members = project.box.state.all(
        "SELECT * FROM set_subjects WHERE subject_set_id = ?", (batch.subject_set_id,)
    )
    assert len(members) == expected
    ledger = project.ledger.list_objects()
    ids = {row.object_id: row.subject_id for row in ledger}
    assert ids == {name: str(rows[0]["id"]) for name, rows in found.items()}
    assert {row.state for row in ledger} == {"staged"}
    (batch,) = project.ledger.list_batches()
    assert batch.state == "staged"


FAULTS = {
    "set made, answer lost": {"path": "subject_sets", "what": "committed"},
    "500 before the commit": {"path": "/subjects", "what": "status", "status": 500, "after": 3},
    "500 after the commit": {"path": "/subjects", "what": "committed", "after": 3, "times": 2},
    "connection lost after the commit": {"path": "/subjects", "what": "reset-after", "after": 5},
    "connection lost before": {"path": "/subjects", "what": "reset", "after": 5},
    "maintenance page": {"path": "/subjects", "what": "html", "after": 2},
    "log-in ended": {"path": "/subjects", "what": "empty", "status": 401, "after": 4},
    "stale set": {"path": "/links/subjects", "what": "status", "status": 409, "times": 2},
    "image refused": {"server": "media", "method": "PUT", "what": "status", "status": 403},
    "image lost without a word": {"server": "media", "method": "PUT", "what": "lose", "times": 2},
    "image broken off": {"server": "media", "method": "PUT", "what": "reset", "after": 3},
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_once_or_twice_is_got_over_in_the_same_run(
    make_project: MakeProject, name: str
) -> None:
    project = make_project({"galaxies": 14}, upload={"per_run": 12})
    project.fault(**{"method": "POST", **FAULTS[name]})
    project.done("upload")
    check_complete(project, 12)


@pytest.mark.parametrize(
    "rule",
    [
        {"path": "/api/subjects[?]", "what": "status", "status": 503, "after": 4},
        {"path": "/api/subjects[?]", "what": "html", "after": 1},
        {"server": "media", "method": "PUT", "path": "", "what": "lose", "after": 4},
        {"path": "/links/subjects", "what": "status", "status": 409},
    ],
)
def test_a_fault_that_stays_fails_the_run_and_the_next_one_finishes(
    make_project: MakeProject, rule: dict[str, Any]
) -> None:
    project = make_project({"galaxies": 8}, upload={"per_run": 6})
    project.fault(**{"method": "POST", "times": None, **rule})
    run = project.run("upload")
    assert (run.outcome, run.exit_code) == ("failed", 1)
    (batch,) = project.ledger.list_batches()
    assert batch.state == "staging"
    with pytest.raises(RefusedError, match="not staged completely"):
        publish.publish(project.context, batch.name)
    # Nothing is seen: the set is linked to no workflow.
    assert project.box.state.all("SELECT * FROM workflow_sets") == []
    with project.box.state.write() as db:
        db.execute("DELETE FROM faults")
    project.done("upload")
    check_complete(project, 6)


def test_sigterm_stops_an_upload_in_a_state_to_go_on_from(make_project: MakeProject) -> None:
    project = make_project({"galaxies": 40}, upload={"per_run": 30})
    project.fault(server="media", method="PUT", what="delay", seconds=2, after=9)
    child = Command("run", "upload", config=project.settings.path)
    while len(project.box.state.all("SELECT id FROM subjects")) < 10:
        assert child.poll() is None
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGTERM)
    ended = child.completed(60)
    assert ended.returncode == 143, ended.stderr
    assert "Stopped by SIGTERM" in ended.stderr
    assert project.ledger.list_runs("upload")[0].outcome == "stopped"
    project.done("upload")
    check_complete(project, 30)


def test_the_quota_is_read_first_and_nothing_is_made(make_project: MakeProject) -> None:
    project = make_project({"galaxies": 20}, upload={"per_run": 10})
    with project.box.state.write() as db:
        db.execute("UPDATE users SET uploaded_subjects_count = 9995")
    run = project.run("upload")
    assert (run.outcome, run.exit_code) == ("refused", 3)
    assert "may upload 5 more subjects" in run.message
    assert project.subjects() == {}
    assert project.ledger.list_batches() == []


def test_the_quota_met_on_the_way_is_finished_when_it_is_raised(make_project: MakeProject) -> None:
    project = make_project({"galaxies": 20}, upload={"per_run": 10})
    project.fault(
        method="POST",
        path="/api/subjects[?]",
        what="status",
        status=403,
        message="User has uploaded 10000 subjects of 10000 maximum",
        after=6,
        times=None,
    )
    run = project.run("upload")
    assert run.exit_code == 1
    assert "10000 maximum" in run.message
    assert len(project.subjects()) == 6
    with project.box.state.write() as db:
        db.execute("DELETE FROM faults")
    project.done("upload")
    check_complete(project, 10)


def test_the_weekly_cap_counts_what_was_planned(make_project: MakeProject) -> None:
    project = make_project({"galaxies": 40}, upload={"per_run": 10, "per_week": 15})
    project.done("upload")
    assert project.done("upload", force=True).counts["created"] == 5
    run = project.run("upload", force=True)
    assert (run.outcome, run.exit_code) == ("refused", 3)
    assert "upload.per_week is 15" in run.message


def test_published_batches_can_be_taken_back(make_project: MakeProject) -> None:
    project = make_project({"galaxies": 20}, upload={"per_run": 10})
    batch = project.done("upload").artifact
    assert "is published" in publish.publish(project.context, batch)
    assert "already" in publish.publish(project.context, batch)
    assert "withdrawn" in publish.withdraw(project.context, batch)
    assert project.box.volunteers.classify(1)["subjects"] == 0
    assert len(project.subjects()) == 10
    assert project.show()["subjects"] == 10


def test_a_batch_can_be_published_by_the_settings(make_project: MakeProject) -> None:
    project = make_project({"galaxies": 20}, upload={"per_run": 10, "publish": "automatic"})
    assert "published" in project.done("upload").message
    assert project.box.volunteers.classify(1)["subjects"] == 10


def test_an_object_that_cannot_be_shown_is_skipped_and_counted(make_project: MakeProject) -> None:
    project = make_project({"galaxies": 10}, upload={"per_run": 10})
    put_object(project, "cutouts/ZB000003.fits", b"<html>gone</html>")
    counts = project.done("upload").counts
    assert (counts["planned"], counts["created"], counts["skipped"]) == (10, 9, 1)
    # It is not forgotten for ever: what cannot be shown today may be tomorrow.
    rows = project.ledger.list_objects()
    assert "ZB000003" not in {row.object_id for row in rows}
    assert {row.state for row in rows} == {"staged"}


def put_object(project: Any, key: str, data: bytes) -> None:
    """Change an object in the sandbox's bucket."""
    import boto3

    s3 = boto3.session.Session().client("s3", endpoint_url=project.box.urls["s3"])
    s3.put_object(Bucket=project.box.plan.bucket, Key=key, Body=data)


def states(project: Any) -> list[str]:
    return [row.state for row in project.ledger.list_batches()]


def test_rights_that_were_lost_leave_a_batch_what_it_was(make_project: MakeProject) -> None:
    """A 404 may be "not linked" or "not yours": only one of them is a proof."""
    project = make_project({"galaxies": 10}, upload={"per_run": 4})
    batch = project.done("upload").artifact
    publish.publish(project.context, batch)
    shown = project.box.state.all("SELECT * FROM workflow_sets")
    with project.box.state.write() as db:
        db.execute("UPDATE projects SET owner_id = 99")
    with pytest.raises(ZooniverseError, match="Could not find workflow") as caught:
        publish.withdraw(project.context, batch)
    assert "lost its rights" in caught.value.hint
    assert states(project) == ["published"]
    with pytest.raises(ZooniverseError, match="Could not find workflow"):
        publish.publish(project.context, batch)
    assert project.box.state.all("SELECT * FROM workflow_sets") == shown
    with project.box.state.write() as db:
        db.execute("UPDATE projects SET owner_id = 1")
    assert "is withdrawn" in publish.withdraw(project.context, batch)
    assert states(project) == ["withdrawn"]
    assert project.box.state.all("SELECT * FROM workflow_sets") == []


def test_a_read_that_is_five_minutes_old_decides_nothing(make_project: MakeProject) -> None:
    """Everything within a second: the server goes on showing what was first."""
    project = make_project({"galaxies": 10}, upload={"per_run": 4})
    batch = project.done("upload").artifact
    project.box.state.stop_clock(project.box.state.time())
    publish.publish(project.context, batch)
    publish.withdraw(project.context, batch)
    assert project.box.state.all("SELECT * FROM workflow_sets") == []
    publish.publish(project.context, batch)
    assert len(project.box.state.all("SELECT * FROM workflow_sets")) == 1
    # Somebody took it back in the project builder: "published already" would be wrong.
    with project.box.state.write() as db:
        db.execute("DELETE FROM workflow_sets")
    publish.publish(project.context, batch)
    assert len(project.box.state.all("SELECT * FROM workflow_sets")) == 1
    # And somebody showed what the ledger takes for staged only.
    project.ledger.set_batch(batch, state="staged")
    assert "is withdrawn" in publish.withdraw(project.context, batch)
    assert states(project) == ["withdrawn"]
