"""``zoo-bridge stop``: asked politely, on this host, by whoever may."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from zoo_bridge.errors import RefusedError, SettingsError
from zoo_bridge.ledger import actors
from zoo_bridge.service.stopping import stop_run


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """Somebody's process."""
    made = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield made
    made.kill()
    made.wait()


def put_running(project: Any, host: str, pid: int, parent: str | None = None) -> str:
    """A run that is said to be under way in some process, and whose lock is held."""
    ledger, name = project.ledger, f"20261127T120000-pull-{pid:06d}"
    ledger.start_run(name, "pull", parent)
    owner = f"{host}:{pid}:1"
    with ledger.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE runs SET owner = '{owner}' WHERE run_id = '{name}'")
        connection.exec_driver_sql(
            "INSERT INTO locks VALUES ('pull', (SELECT project_key FROM workflows), "
            f"(SELECT key FROM workflows), '{owner}', '2099-01-01T00:00:00.000000+00:00')"
        )
    return name


def test_its_process_is_told_and_who_did_it_is_kept(project: Any, process: Any) -> None:
    name = put_running(project, socket.gethostname(), process.pid)
    with actors.acting("anna@192.0.2.7", actors.CONSOLE):
        assert "is told to stop" in stop_run(project.ledger, "pull", "too slow")
    assert process.wait(20) == -signal.SIGTERM
    act = project.ledger.list_acts("stopped")[0]
    assert (act.subject, act.who, act.through, act.text) == (
        name, "anna@192.0.2.7", "console", "too slow",
    )  # fmt: skip


def test_of_another_host_it_says_where(project: Any) -> None:
    name = put_running(project, "elsewhere", os.getpid())
    with pytest.raises(RefusedError, match=r"process \d+ on elsewhere"):
        stop_run(project.ledger, name)
    assert project.ledger.list_acts("stopped") == []


def test_what_does_not_run_is_named(project: Any, ran: Any) -> None:
    with pytest.raises(SettingsError, match="No run pull is under way"):
        stop_run(project.ledger, "pull")
    ended = ran(project.ledger, "pull")
    with pytest.raises(SettingsError, match=f"{ended} has ended"):
        stop_run(project.ledger, "pull")
