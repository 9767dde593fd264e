"""Uploads while the server is in trouble: a run goes on as long as things get better."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from zoo_bridge.errors import OutcomeUnknownError, RefusedError
from zoo_bridge.sandbox.world import CLIENT_ID, CLIENT_SECRET
from zoo_bridge.steps.batches import publish
from zoo_bridge.steps.batches.abandon import abandon
from zoo_bridge.zooniverse.project import find_account
from zoo_bridge.zooniverse.session import Session

MakeProject = Callable[..., Any]
CREATE = {"method": "POST", "path": "/api/subjects[?]"}


def made(project: Any) -> list[dict[str, Any]]:
    """Every subject that the server has."""
    return project.box.state.all("SELECT * FROM subjects")


def clear_faults(project: Any) -> None:
    with project.box.state.write() as db:
        db.execute("DELETE FROM faults")


def check_staged(project: Any, expected: int) -> None:
    """The set that volunteers would see holds each planned object once, with its picture."""
    batch = project.ledger.list_batches()[0]
    assert (batch.state, batch.size) == ("staged", expected)
    rows = project.box.state.all(
        "SELECT s.* FROM subjects s JOIN set_subjects m ON m.subject_id = s.id"
        " WHERE m.subject_set_id = ?",
        (batch.subject_set_id,),
    )
    names = [json.loads(row["metadata"])["#zoo_bridge_id"] for row in rows]
    assert len(names) == len(set(names)) == expected
    assert all(project.has_image(row) for row in rows)


def test_a_share_of_creates_that_fail_costs_one_run(make_project: MakeProject) -> None:
    project = make_project({"galaxies": 70}, upload={"per_run": 60})
    for what in ("status", "committed"):
        project.fault(**CREATE, what=what, status=502, times=None, share=0.05)
    run = project.done("upload")
    check_staged(project, 60)
    fired = {
        json.loads(row["rule"])["what"]: row["fired"]
        for row in project.box.state.all("SELECT * FROM faults")
    }
    assert min(fired.values()) > 0
    # What was carried out was found, and not made again.
    assert len(made(project)) == 60
    assert run.counts["created"] == 60


@pytest.mark.parametrize(
    "rule", [{"what": "status", "status": 502}, {"what": "html"}, {"what": "reset"}]
)
def test_an_outage_that_passes_is_got_over(make_project: MakeProject, rule: dict[str, Any]) -> None:
    project = make_project({"galaxies": 30}, upload={"per_run": 24, "doubt_share": 1.0})
    # Everything fails for a while, reads as well.
    project.fault(path="/api/", times=15, after=20, **rule)
    project.done("upload")
    check_staged(project, 24)
    assert len(made(project)) == 24


def test_a_store_that_is_away_for_a_while_is_waited_for(make_project: MakeProject) -> None:
    project = make_project({"galaxies": 14}, upload={"per_run": 12})
    project.fault(server="media", what="status", status=503, times=60, after=5)
    project.done("upload")
    check_staged(project, 12)


def test_without_progress_a_run_ends_and_says_so(make_project: MakeProject) -> None:
    project = make_project({"galaxies": 70}, upload={"per_run": 60, "patience_minutes": 0.02})
    project.fault(**CREATE, what="status", status=502, times=None, after=10)
    began = time.monotonic()
    run = project.run("upload")
    assert (run.outcome, run.exit_code) == ("failed", 1)
    assert time.monotonic() - began < 20
    assert "nothing got better for 0.02 minutes (upload.patience_minutes)" in run.message
    assert "502" in run.message
    assert "zoo-bridge run upload finishes it" in run.hint
    assert len(made(project)) == 10
    clear_faults(project)
    project.done("upload")
    check_staged(project, 60)
    assert len(made(project)) == 60


def test_creates_that_come_minutes_late_do_not_double_a_batch(make_project: MakeProject) -> None:
    project = make_project({"galaxies": 70}, upload={"per_run": 60})
    project.fault(**CREATE, what="late", seconds=6.0, times=None)
    run = project.run("upload")
    assert run.exit_code == 1
    assert "0 created, 0 linked, 0 skipped, 60 failed" in run.message
    asked = project.box.state.one("SELECT fired FROM faults")["fired"]
    names = {row.object_id for row in doubtful(project)}
    # As many in vain as a run may, at most.
    assert 0 <= asked - len(names) <= 5
    clear_faults(project)
    until = time.monotonic() + 30
    while len(made(project)) < asked and time.monotonic() < until:
        time.sleep(0.1)
    project.done("upload")
    check_staged(project, 60)
    assert len(made(project)) <= 60 + 5


def doubtful(project: Any) -> list[dict[str, Any]]:
    """Objects whose create was not answered."""
    rows = project.ledger.list_objects()
    return [row for row in rows if row.state == "doubtful"]


def test_what_is_in_doubt_stays_locked_when_its_batch_is_given_up(
    make_project: MakeProject,
) -> None:
    project = make_project({"galaxies": 30}, upload={"per_run": 20, "patience_minutes": 0.01})
    project.fault(**CREATE, what="status", status=502, times=None, after=4)
    assert project.run("upload").exit_code == 1
    clear_faults(project)
    locked = {row.object_id for row in doubtful(project)}
    assert locked
    (batch,) = project.ledger.list_batches()
    abandon(project.context, batch.name, yes=True)
    kept = project.ledger.list_objects()
    assert locked < {row.object_id for row in kept}
    assert len(kept) == 4 + len(locked)


def test_uploads_that_are_switched_off_end_a_run_at_once(make_project: MakeProject) -> None:
    project = make_project({"galaxies": 14}, upload={"per_run": 12})
    project.box.state.switch("uploads", False)
    run = project.run("upload")
    assert run.exit_code == 1
    assert "temporarily disabled" in run.message
    assert "switched this off" in run.hint
    assert doubtful(project) == []
    states = {row.state for row in project.ledger.list_objects()}
    assert states == {"planned"}
    project.box.state.switch("uploads", True)
    project.done("upload")
    check_staged(project, 12)


@pytest.fixture
def by_application(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sign in as an application: what the server says of the account is five minutes old then."""
    monkeypatch.delenv("PANOPTES_USERNAME")
    monkeypatch.delenv("PANOPTES_PASSWORD")
    monkeypatch.setenv("PANOPTES_CLIENT_ID", CLIENT_ID)
    monkeypatch.setenv("PANOPTES_CLIENT_SECRET", CLIENT_SECRET)


@pytest.mark.usefixtures("by_application")
def test_the_quota_ends_a_run_at_once_and_keeps_what_was_made(make_project: MakeProject) -> None:
    project = make_project({"galaxies": 30}, upload={"per_run": 24})
    # Zooniverse says that there is room, and its number is old.
    project.done("pull", dry_run=True)
    with project.box.state.write() as db:
        db.execute("UPDATE users SET uploaded_subjects_count = 9990")
    run = project.run("upload")
    assert run.exit_code == 1
    assert "24 planned = 10 created, 0 linked, 0 skipped, 14 failed" in run.message
    assert "User has uploaded 10000 subjects of 10000 maximum" in run.message
    refused = project.box.state.all("SELECT * FROM subjects")
    assert len(refused) == 10
    # The next run knows better than Zooniverse's old number, and makes nothing in vain.
    project.box.state.advance(600)
    again = project.run("upload")
    assert (again.outcome, again.exit_code) == ("refused", RefusedError.exit_code)
    assert "0 more subjects" in again.message
    with project.box.state.write() as db:
        db.execute("UPDATE users SET subject_limit = 20000")
    project.box.parts.cache.forget("users")
    project.done("upload")
    check_staged(project, 24)


@pytest.mark.usefixtures("by_application")
def test_what_the_ledger_knows_counts_where_the_server_lags(make_project: MakeProject) -> None:
    project = make_project({"galaxies": 40}, upload={"per_run": 20})
    with project.box.state.write() as db:
        db.execute("UPDATE users SET subject_limit = 30")
    project.done("upload")
    # The server still says that nothing was uploaded.
    assert find_account(Session.of(project.settings)).uploaded == 0
    run = project.run("upload", force=True)
    assert (run.outcome, run.exit_code) == ("refused", RefusedError.exit_code)
    assert "may upload 10 more subjects (20 of 30 used" in run.message
    assert len(made(project)) == 20


def test_rights_that_are_lost_on_the_way_end_the_run(make_project: MakeProject) -> None:
    project = make_project({"galaxies": 14}, upload={"per_run": 12})
    project.fault(
        **CREATE,
        what="status",
        status=422,
        message="Couldn't find linked project for current user",
        after=5,
        times=None,
    )
    run = project.run("upload")
    assert run.exit_code == 1
    assert "5 created" in run.message
    assert "Couldn't find linked project for current user" in run.message
    asked = project.box.state.one("SELECT seen FROM faults")["seen"]
    # Those that were under way, and no more.
    assert asked <= 5 + 5
    clear_faults(project)
    project.done("upload")
    check_staged(project, 12)


def test_a_set_that_was_deleted_is_said_to_be_gone(make_project: MakeProject) -> None:
    project = make_project({"galaxies": 14}, upload={"per_run": 12})
    project.fault(**CREATE, what="status", status=403, after=4, times=None)
    assert project.run("upload").exit_code == 1
    clear_faults(project)
    with project.box.state.write() as db:
        db.execute("DELETE FROM subject_sets")
        db.execute("DELETE FROM set_subjects")
    run = project.run("upload")
    assert run.exit_code == 1
    assert "Could not find subject_set" in run.message
    assert "was deleted, or this account has lost its rights" in run.hint
    # An empty list would have been taken for nothing created.
    assert len(made(project)) == 4


@pytest.mark.parametrize("job", ["pull", "upload"])
@pytest.mark.parametrize("role", ["expert", "moderator", "none"])
def test_without_rights_nothing_is_believed(make_project: MakeProject, job: str, role: str) -> None:
    project = make_project({"galaxies": 14}, upload={"per_run": 12}, pull={"mode": "incremental"})
    with project.box.state.write() as db:
        db.execute("UPDATE projects SET owner_id = 99")
        if role != "none":
            db.execute("INSERT INTO roles SELECT 1, id, ? FROM users WHERE id = 1", (role,))
    run = project.run(job)
    assert (run.outcome, run.exit_code) == ("refused", RefusedError.exit_code)
    who = role if role != "none" else "neither owner nor collaborator"
    assert f"sandbox is {who} of" in run.message
    assert "make this account a collaborator" in run.hint


def test_a_create_that_was_given_up_stays_in_doubt_when_the_next_try_is_refused(
    make_project: MakeProject,
) -> None:
    """The first may come through yet: its object must not be free for another batch."""
    project = make_project({"galaxies": 14}, upload={"per_run": 6})
    project.fault(**CREATE, what="status", status=502, times=1)
    project.fault(**CREATE, what="status", status=403, after=5, times=None)
    run = project.run("upload")
    assert run.exit_code == 1
    assert "5 created" in run.message
    (left,) = doubtful(project)
    assert left.creates == 2
    (batch,) = project.ledger.list_batches()
    abandon(project.context, batch.name, yes=True)
    assert len(project.ledger.list_objects()) == 6


def test_what_was_published_without_an_answer_can_be_taken_back_when_given_up(
    make_project: MakeProject,
) -> None:
    project = make_project({"galaxies": 10}, upload={"per_run": 4})
    name = project.done("upload").artifact
    lost = {"method": "POST", "path": "links/subject_sets", "what": "committed", "status": 502}
    project.fault(**lost, times=None)
    # Said again it is a 400, "already taken"; that answer is lost, too.
    with pytest.raises(OutcomeUnknownError):
        publish.publish(project.context, name)
    (batch,) = project.ledger.list_batches()
    assert batch.state == "staged"
    assert len(project.box.state.all("SELECT * FROM workflow_sets")) == 1
    clear_faults(project)
    # Giving it up takes it back: what was not answered may have been done.
    abandon(project.context, name, yes=True)
    assert project.box.state.all("SELECT * FROM workflow_sets") == []
    assert "not shown" in publish.withdraw(project.context, name)
    assert project.box.state.all("SELECT * FROM workflow_sets") == []
    (batch,) = project.ledger.list_batches()
    assert batch.state == "abandoned"
