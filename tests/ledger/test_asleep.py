"""A machine that was asleep: its clock has jumped, its processes live, their locks have run out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from zoo_bridge.errors import BusyError
from zoo_bridge.ledger import Ledger, Scope

SCOPE = Scope("https://server", "owner/project", 1)
SECONDS = 3.0
HOLDER = """
import sys, time
from pathlib import Path
from zoo_bridge.ledger import Ledger, Scope
ledger = Ledger(sys.argv[1], Path(sys.argv[2]), Scope("https://server", "owner/project", 1))
with ledger.lock("serve", seconds=3.0):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.sqlite3"


@pytest.fixture
def holder(url: str, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process of this machine that has the lock."""
    command = [sys.executable, "-c", HOLDER, url, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        yield child
        child.send_signal(signal.SIGCONT)
        child.kill()


def run_out(ledger: Ledger) -> None:
    """As locks are when a machine wakes up after a day."""
    day = "strftime('%Y-%m-%dT%H:%M:%S+00:00', 'now', '-1 day')"
    with ledger.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE locks SET expires_at = {day}")


def test_the_lock_of_a_process_that_lives_is_not_taken_from_it(
    url: str, tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    ledger = Ledger(url, tmp_path, SCOPE)
    run_out(ledger)
    with pytest.raises(BusyError), ledger.lock("serve", seconds=SECONDS):
        pass
    # It was renewed meanwhile, and is held as ever.
    with pytest.raises(BusyError), ledger.lock("serve", seconds=SECONDS):
        pass


def test_that_of_a_process_that_stands_still_is(
    url: str, tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    ledger = Ledger(url, tmp_path, SCOPE)
    os.kill(holder.pid, signal.SIGSTOP)
    run_out(ledger)
    began = time.monotonic()
    with ledger.lock("serve", seconds=SECONDS):
        assert time.monotonic() - began > SECONDS / 12


def test_that_of_a_process_that_has_ended_is_at_once(
    url: str, tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    ledger = Ledger(url, tmp_path, SCOPE)
    holder.kill()
    holder.wait()
    began = time.monotonic()
    with ledger.lock("serve", seconds=60):
        assert time.monotonic() - began < 2
