"""What is found to be wrong, by the ledger alone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from zoo_bridge.service.watching.findings import look, too_old

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def hourly(make_project: Callable[..., Any], since: Any) -> Any:
    """A project whose pull is due every hour, and has been for a month."""
    project = make_project({"galaxies": 12}, schedule={"pull": "0 * * * *"})
    path = project.settings.path
    path.write_text(path.read_text().replace("cycle = ", "# cycle = "))
    project.change(schedule={"pull": "0 * * * *"})
    project.edit("cycle = ", "# cycle = ")
    look(project.settings, project.ledger)
    since(project.ledger, 30 * DAY)
    return project


def names(project: Any) -> list[str]:
    return [each.name for each in look(project.settings, project.ledger)]


def test_nothing_is_wrong_with_a_new_project(project: Any) -> None:
    assert names(project) == []


@pytest.mark.parametrize("outcome", ["failed", "stale", "refused", "killed"])
def test_how_a_job_ended_last_is_what_counts(hourly: Any, ran: Any, outcome: str) -> None:
    ran(hourly.ledger, "upload", outcome, 3 * HOUR)
    expected = {"stale": "failed"}.get(outcome, outcome)
    assert f"{expected} upload" in names(hourly)
    # Another at work, or a dry run, says nothing of it.
    ran(hourly.ledger, "upload", "busy", 2 * HOUR)
    ran(hourly.ledger, "upload", "planned", 2 * HOUR)
    assert f"{expected} upload" in names(hourly)
    ran(hourly.ledger, "upload", "done", HOUR)
    assert f"{expected} upload" not in names(hourly)


def test_a_run_under_way_does_not_make_its_forerunner_good(hourly: Any, ran: Any) -> None:
    ran(hourly.ledger, "upload", "failed", 3 * HOUR)
    with hourly.ledger.lock("upload"):
        ran(hourly.ledger, "upload", "running", timedelta(minutes=1))
        assert "failed upload" in names(hourly)
        assert "killed upload" not in names(hourly)
    assert "killed upload" in names(hourly)


def test_one_that_hangs_is_seen_while_it_does(hourly: Any, ran: Any) -> None:
    with hourly.ledger.lock("upload"):
        ran(hourly.ledger, "upload", "running", 25 * HOUR)
        (found,) = [each for each in look(hourly.settings, hourly.ledger) if each.of == "upload"]
        assert found.kind == "hangs"
        assert "longer than schedule.time_limit_hours (24 h)" in found.text
    with hourly.ledger.lock("score"):
        ran(hourly.ledger, "score", "running", 23 * HOUR)
        assert "hangs score" not in names(hourly)


def test_what_was_due_and_did_not_run_is_overdue(hourly: Any, ran: Any, since: Any) -> None:
    ran(hourly.ledger, "pull", "done", 3 * HOUR)
    assert names(hourly) == ["overdue pull"]
    # Whether it ended well is another matter.
    ran(hourly.ledger, "pull", "failed", timedelta(minutes=1))
    assert names(hourly) == ["failed pull"]


def test_one_that_runs_across_its_next_time_is_not_late(hourly: Any, ran: Any) -> None:
    ran(hourly.ledger, "pull", "done", 5 * HOUR, took=5 * HOUR)
    assert names(hourly) == []


def test_what_is_paused_is_not_late(hourly: Any, ran: Any) -> None:
    ran(hourly.ledger, "pull", "done", 3 * HOUR)
    hourly.ledger.note_act("paused", "pull", "the bucket moves")
    assert names(hourly) == []
    hourly.ledger.note_act("resumed", "pull")
    assert names(hourly) == ["overdue pull"]


def test_a_line_that_is_new_was_never_due(hourly: Any, ran: Any) -> None:
    ran(hourly.ledger, "pull", "done", 3 * HOUR)
    hourly.edit('pull = "0 * * * *"', 'pull = "1 * * * *"')
    assert names(hourly) == []


def test_a_cycle_tells_for_its_parts(hourly: Any, ran: Any) -> None:
    ran(hourly.ledger, "pull", "done", timedelta(minutes=2))
    cycle = ran(hourly.ledger, "cycle", "failed", 2 * HOUR, message="pull done, aggregate failed")
    ran(hourly.ledger, "aggregate", "failed", HOUR, parent=cycle)
    assert names(hourly) == ["failed cycle"]
    # By hand it fails for itself.
    ran(hourly.ledger, "aggregate", "failed", timedelta(minutes=5))
    assert names(hourly) == ["failed aggregate", "failed cycle"]


def test_a_model_that_was_kept_out_is_news_and_no_failure(hourly: Any, ran: Any) -> None:
    ran(hourly.ledger, "pull", "done", timedelta(minutes=2))
    cycle = ran(hourly.ledger, "cycle", "refused", 2 * HOUR)
    ran(hourly.ledger, "retrain", "refused", HOUR, parent=cycle, artifact="20261126T100000-abc")
    assert names(hourly) == ["kept out 20261126T100000-abc"]
    # An upload that was refused in the same cycle is a problem.
    ran(hourly.ledger, "upload", "refused", HOUR, parent=cycle)
    assert "refused cycle" in names(hourly)


def test_what_was_stopped_is_told_if_nobody_goes_on(hourly: Any, ran: Any) -> None:
    ran(hourly.ledger, "upload", "stopped", timedelta(minutes=30))
    assert "stopped upload" not in names(hourly)
    ran(hourly.ledger, "score", "stopped", 2 * HOUR)
    assert "stopped score" in names(hourly)


def test_a_batch_waits_until_it_is_shown(make_project: Callable[..., Any]) -> None:
    project = make_project({"galaxies": 20}, upload={"per_run": 5})
    project.done("upload")
    batch = project.ledger.list_batches()[0].name
    assert names(project) == [f"approval {batch}"]
    project.show()
    assert names(project) == []


def test_volunteers_and_the_quota_are_told_of_before_they_stop_the_loop(
    hourly: Any, ran: Any
) -> None:
    few = {"quota_left": 90.0, "backlog_days": 50.0, "waiting_subjects": 300}
    ran(hourly.ledger, "pull", "done", timedelta(minutes=2))
    ran(hourly.ledger, "upload", "done", HOUR, measures=few)
    hourly.change(upload={"per_run": 60})
    hourly.edit("cycle = ", "# cycle = ")
    assert names(hourly) == ["backlog volunteers", "quota account"]
    hourly.change(upload={"per_run": 40, "max_backlog_days": 90})
    hourly.edit("cycle = ", "# cycle = ")
    assert names(hourly) == []


def test_a_loop_that_has_run_dry_says_so(hourly: Any, ran: Any) -> None:
    ran(hourly.ledger, "pull", "done", timedelta(minutes=2))
    made = ran(hourly.ledger, "upload", "done", 3 * HOUR, artifact="batch-1", measures={})
    assert made
    ran(hourly.ledger, "upload", "unchanged", HOUR, measures={"waiting_subjects": 0})
    assert names(hourly) == ["dry volunteers"]


def test_how_old_the_last_success_may_be(hourly: Any, ran: Any) -> None:
    settings, ledger = hourly.settings, hourly.ledger
    assert too_old(settings, ledger, DAY) == "pull has never ended well."
    ran(ledger, "pull", "done", 3 * HOUR)
    assert too_old(settings, ledger, DAY) is None
    assert "3 h ago" in (too_old(settings, ledger, HOUR) or "")
    # With a cycle in the schedule it is the cycle that counts.
    hourly.change()
    assert too_old(hourly.settings, ledger, DAY) == "cycle has never ended well."
    cycle = ran(ledger, "cycle", "refused", 2 * HOUR)
    ran(ledger, "retrain", "refused", 2 * HOUR, parent=cycle, artifact="m")
    assert too_old(hourly.settings, ledger, DAY) is None
