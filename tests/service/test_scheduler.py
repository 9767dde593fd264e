"""The scheduler's children: one process a run, an end to each."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from zoo_bridge.config import JOBS
from zoo_bridge.service.serving.children import Children
from zoo_bridge.service.serving.schedule import find_late, has_run, make_scheduler

THURSDAY = datetime(2026, 11, 26, 10, 0, tzinfo=UTC)


def test_a_run_is_a_child_process_with_its_own_exit_code(
    project: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    children = Children(project.settings)
    assert children.run("score") == 1
    assert children.run("upload") == 0
    assert project.ledger.list_runs("upload")[0].outcome == "done"
    assert "upload ended with exit code 0" in capfd.readouterr().err


def test_a_run_past_its_time_limit_ends_itself_and_says_so(project: Any) -> None:
    project.fault(path="/api/projects", what="delay", seconds=6, times=1)
    project.change(schedule={"time_limit_hours": 4 / 3600}, upload={"per_run": 5})
    assert Children(project.settings).run("upload") == 1
    run = project.ledger.list_runs("upload")[0]
    assert run.outcome == "failed"
    assert "longer than schedule.time_limit_hours" in run.message


def test_one_that_does_not_end_itself_is_ended(project: Any) -> None:
    children = Children(project.settings)
    # A process that waits in a library, deaf to its own timer, looks like this from outside.
    began = time.monotonic()
    words = ["sandbox", str(project.box.folder / "another"), "--galaxies", "3"]
    command = children.command
    assert command("sandbox", [*words, "--week", "0"], 3) != 0
    assert time.monotonic() - began < 60


def test_a_process_that_leaves_no_run_is_remembered(project: Any) -> None:
    children = Children(project.settings)
    text = project.settings.path.read_text()
    project.settings.path.write_text(text + "\n[nonsense]\n")
    assert children.run("upload") == 2
    assert "exit code 2" in children.notes["upload"]
    project.settings.path.write_text(text)
    assert children.run("upload") == 0
    assert children.notes == {}


def test_stopping_ends_what_is_under_way(project: Any) -> None:
    project.fault(path="/api/projects", what="delay", seconds=6, times=1)
    children = Children(project.settings)
    codes: list[int] = []
    worker = threading.Thread(target=lambda: codes.append(children.run("upload")))
    worker.start()
    while not project.ledger.list_runs("upload"):
        assert worker.is_alive()
    while not project.box.state.one("SELECT fired FROM faults")["fired"]:
        assert worker.is_alive()
    children.stop()
    worker.join(60)
    assert codes == [143]
    assert children.run("upload") == 143
    assert project.ledger.list_runs("upload")[0].outcome == "stopped"


def ran(project: Any, job: str, at: datetime, outcome: str = "done") -> None:
    """A run in the ledger, of whichever host."""
    name = f"run-{job}-{at:%d%H%M}"
    project.ledger.start_run(name, job)
    if outcome != "running":
        project.ledger.end_run(name, outcome)
    with project.ledger.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE runs SET started_at = ? WHERE run_id = ?", (at.isoformat(), name)
        )


def test_what_was_due_while_nothing_ran_runs_once_when_serve_starts(project: Any) -> None:
    project.change(schedule={"cycle": "0 10 * * thu", "pull": "0 3 * * *"})
    ran(project, "cycle", THURSDAY - timedelta(days=7))
    ran(project, "pull", THURSDAY - timedelta(hours=6))
    late, told = find_late(project.settings, project.ledger, THURSDAY + timedelta(minutes=1))
    assert late == {"cycle": THURSDAY}
    assert "cycle (0 10 * * thu) was due at 2026-11-26 10:00:00+00:00 while nothing ran" in told[0]
    # Before it was due, and once it has run, there is nothing to catch up with.
    assert find_late(project.settings, project.ledger, THURSDAY - timedelta(minutes=1))[0] == {}
    ran(project, "cycle", THURSDAY + timedelta(minutes=1))
    late, _ = find_late(project.settings, project.ledger, THURSDAY + timedelta(days=1))
    assert set(late) == {"pull"}


@pytest.mark.parametrize(
    ("outcome", "catches_up"),
    [("done", False), ("failed", False), ("planned", True), ("busy", True), ("stopped", True)],
)
def test_what_did_nothing_was_no_run(project: Any, outcome: str, catches_up: bool) -> None:
    project.change(schedule={"cycle": "0 10 * * thu"})
    ran(project, "cycle", THURSDAY - timedelta(days=7))
    ran(project, "cycle", THURSDAY + timedelta(minutes=5), outcome)
    late, _ = find_late(project.settings, project.ledger, THURSDAY + timedelta(minutes=9))
    assert bool(late) == catches_up


def test_a_run_under_way_is_one(project: Any) -> None:
    project.change(schedule={"cycle": "0 10 * * thu"})
    ran(project, "cycle", THURSDAY - timedelta(hours=3), "running")
    of = project.settings.project
    with project.ledger.lock(f"cycle:{of.slug}:{of.workflow}"):
        assert find_late(project.settings, project.ledger, THURSDAY + timedelta(minutes=9))[0] == {}
    # Without its lock it was killed.
    assert find_late(project.settings, project.ledger, THURSDAY + timedelta(minutes=9))[0]


def test_what_was_cut_off_again_and_again_is_left_alone(project: Any) -> None:
    project.change(schedule={"cycle": "0 10 * * thu"})
    for minute, again in ((1, True), (2, True), (3, False)):
        ran(project, "cycle", THURSDAY + timedelta(minutes=minute), "running")
        late, _ = find_late(project.settings, project.ledger, THURSDAY + timedelta(minutes=9))
        assert bool(late) == again


def test_what_another_scheduler_has_run_is_not_run_again(project: Any) -> None:
    project.change(schedule={"cycle": "0 10 * * thu"})
    settings, ledger = project.settings, project.ledger
    ran(project, "cycle", THURSDAY - timedelta(days=7))
    soon = THURSDAY + timedelta(minutes=9)
    assert not has_run(settings, ledger, "cycle", soon)
    ran(project, "cycle", THURSDAY + timedelta(minutes=1), "busy")
    assert not has_run(settings, ledger, "cycle", soon)
    ran(project, "cycle", THURSDAY + timedelta(minutes=3), "stopped")
    assert not has_run(settings, ledger, "cycle", soon)
    ran(project, "cycle", THURSDAY + timedelta(minutes=5), "failed")
    assert has_run(settings, ledger, "cycle", soon)
    assert not has_run(settings, ledger, "cycle", soon + timedelta(days=7))


def test_what_is_paused_is_not_caught_up_with(project: Any) -> None:
    project.change(schedule={"cycle": "0 10 * * thu"})
    ran(project, "cycle", THURSDAY - timedelta(days=7))
    project.ledger.note_act("paused", "cycle", "the bucket is being moved")
    assert find_late(project.settings, project.ledger, THURSDAY + timedelta(minutes=1))[0] == {}
    project.ledger.note_act("resumed", "cycle")
    assert find_late(project.settings, project.ledger, THURSDAY + timedelta(minutes=1))[0]


def test_how_far_back_is_a_setting(project: Any) -> None:
    ran(project, "cycle", THURSDAY - timedelta(days=7))
    for hours, found in ((168, {"cycle"}), (24, set()), (0, set())):
        project.change(schedule={"cycle": "0 10 * * thu", "catch_up_hours": hours})
        late, told = find_late(project.settings, project.ledger, THURSDAY + timedelta(days=2))
        assert set(late) == found
        assert ("it does not run now" in "".join(told)) == (hours == 24)


def test_a_job_that_never_ran_may_be_new(project: Any) -> None:
    project.change(schedule={"cycle": "0 10 * * thu"})
    late, _ = find_late(project.settings, project.ledger, THURSDAY + timedelta(minutes=1))
    assert set(late) == {"cycle"}
    late, told = find_late(project.settings, project.ledger, THURSDAY + timedelta(days=2))
    assert (late, told) == ({}, [])


def test_the_service_runs_it_at_once_and_then_at_its_time(project: Any) -> None:
    project.change(schedule={"cycle": "0 10 * * thu", "timezone": "Europe/London"})
    for late in ((), ("cycle",)):
        noted = threading.Event()
        scheduler = make_scheduler(project.settings, {"cycle": noted.set}, late)
        scheduler.start()
        try:
            assert noted.wait(5 if late else 0.5) == bool(late)
            (job,) = scheduler.get_jobs()
            local = job.next_run_time.astimezone(ZoneInfo("Europe/London"))
            assert (local.strftime("%a %H:%M"), job.next_run_time > datetime.now(UTC)) == (
                "Thu 10:00",
                True,
            )
        finally:
            scheduler.shutdown()


def test_runs_are_spread_after_their_time_and_none_is_lost(project: Any) -> None:
    project.change(schedule={"pull": "*/2 * * * *", "jitter_minutes": 5})
    scheduler = make_scheduler(project.settings, dict.fromkeys(JOBS, lambda: None))
    scheduler.start(paused=True)
    try:
        trigger = scheduler.get_job("pull").trigger
        began = now = datetime(2026, 11, 26, 10, 1, 30, tzinfo=UTC)
        times: list[datetime] = []
        while len(times) < 400:
            # APScheduler asks more than once, and gets the same answer.
            moment = trigger.get_next_fire_time(times[-1] if times else None, now)
            assert moment == trigger.get_next_fire_time(times[-1] if times else None, now)
            times.append(moment)
            now = max(now, moment)
        assert times == sorted(set(times))
        # Every due time has its run, within five minutes after it.
        dues = [began + timedelta(seconds=30, minutes=2 * number) for number in range(400)]
        for number, due in enumerate(dues[10:300], 10):
            until = due + timedelta(minutes=5)
            # Of those that were due before the beginning, some begin after it.
            assert sum(moment <= due for moment in times) <= number + 1 + 3
            assert sum(moment <= until for moment in times) >= number + 1
        gaps = {(later - earlier).total_seconds() for earlier, later in pairwise(times)}
        assert len(gaps) > 50
    finally:
        scheduler.shutdown()


@pytest.mark.parametrize("minutes", [0, 20])
@pytest.mark.parametrize("late", [(), ("pull",)])
def test_every_time_comes_by_apscheduler_s_own_reckoning(
    project: Any, minutes: int, late: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three weeks on a clock of our own: a run for each day, and one for what was late."""
    hour = (datetime.now(UTC) + timedelta(hours=12)).hour
    project.change(schedule={"pull": f"0 {hour} * * *", "jitter_minutes": minutes})
    ran: list[datetime] = []
    scheduler = make_scheduler(
        project.settings, {**dict.fromkeys(JOBS, lambda: None), "pull": lambda: None}, late
    )
    scheduler.start(paused=True)
    try:
        job = scheduler.get_job("pull")
        now = datetime.now(UTC)
        end = now + timedelta(days=21)
        while now < end:
            times = job._get_run_times(now)
            if times:
                ran.append(times[-1])
                # As the scheduler does after it has handed a run on.
                job._modify(next_run_time=job.trigger.get_next_fire_time(times[-1], now))
            now += timedelta(minutes=7)
    finally:
        scheduler.shutdown()
    by_day = [moment for moment in ran if moment.hour == hour and moment.minute <= minutes]
    days = {moment.date() for moment in by_day}
    assert len(days) == len(by_day) == 21
    assert len(ran) - len(by_day) <= len(late)
