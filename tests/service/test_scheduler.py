"""The scheduler's children: one process a run, an end to each."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from zoo_bridge.service.scheduler import Children


def test_a_run_is_a_child_process_with_its_own_exit_code(
    project: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    children = Children(project.settings)
    assert children.run("score") == 1
    assert children.run("upload") == 0
    assert project.ledger.list_runs("upload")[0]["outcome"] == "done"
    assert "upload ended with exit code 0" in capfd.readouterr().err


def test_a_run_past_its_time_limit_is_stopped(project: Any) -> None:
    project.fault(path="/api/projects", what="delay", seconds=6, times=1)
    project.change(schedule={"time_limit_hours": 4 / 3600}, upload={"per_run": 5})
    assert Children(project.settings).run("upload") == 124
    assert project.ledger.list_runs("upload")[0]["outcome"] == "stopped"


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
    assert project.ledger.list_runs("upload")[0]["outcome"] == "stopped"
