"""Unattended: the ``[schedule]`` table, each run a child process, never two of one job at once.

A child process because TensorFlow does not give memory back and panoptes-client keeps its log-in
per thread; and so that a run can be given a time limit.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

from zoo_bridge.config import Settings
from zoo_bridge.cron import Cron
from zoo_bridge.errors import SettingsError
from zoo_bridge.ledger import Ledger
from zoo_bridge.ledger.actors import SCHEDULE, VARIABLE

log = logging.getLogger("zoo_bridge.serve")

# A job that could not start on time (the machine slept) still runs, up to so many seconds late.
GRACE_SECONDS = 6 * 3600
# A job that has never run is caught up with if it was due so short a time ago.
FIRST_HOURS = 6.0
# Runs among which the last that did something is looked for.
LOOKED_AT = 50
STOP_SECONDS = 60


class Children:
    """The runs under way, one a job.

    Parameters
    ----------
    settings : Settings
        Settings whose jobs are run, by the path of their file.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._guard = threading.Lock()
        self._stopping = False

    def run(self, job: str) -> int:
        """Run a job to its end, or to its time limit.

        Parameters
        ----------
        job : str
            pull, aggregate, retrain, score, upload or cycle.

        Returns
        -------
        int
            The exit code.
        """
        path = str(self.settings.path)
        command = [sys.executable, "-m", "zoo_bridge", "run", job, "--config", path]
        with self._guard:
            if self._stopping:
                return 143
            # A group of its own: a Ctrl-C at the terminal reaches us, and we tell the child.
            child = subprocess.Popen(
                command, start_new_session=True, env={**os.environ, VARIABLE: SCHEDULE}
            )
            self._running[job] = child
        tell(f"{job} started (process {child.pid})")
        try:
            code = child.wait(self.settings.schedule.time_limit_hours * 3600)
        except subprocess.TimeoutExpired:
            tell(f"{job} ran past schedule.time_limit_hours and is stopped")
            child.terminate()
            _wait(child)
            code = 124
        finally:
            with self._guard:
                self._running.pop(job, None)
        tell(f"{job} ended with exit code {code}")
        return code

    def stop(self) -> None:
        """Ask every run to stop, and wait until it has."""
        with self._guard:
            self._stopping = True
            children = list(self._running.values())
        for child in children:
            child.terminate()
        for child in children:
            _wait(child)


def _wait(child: subprocess.Popen[bytes]) -> None:
    """Wait for one that was asked to stop, but not for ever."""
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def tell(text: str) -> None:
    """One line on stderr, with the time."""
    stamp = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
    print(f"{stamp} serve: {text}", file=sys.stderr, flush=True)


def serve(settings: Settings, ledger: Ledger) -> int:
    """Run scheduled jobs until SIGTERM or Ctrl-C.

    Parameters
    ----------
    settings : Settings
        With a ``[schedule]`` table that has at least one line.
    ledger : Ledger
        Holds the lock: one scheduler a project, on any number of hosts.

    Returns
    -------
    int
        The exit code: 143 after SIGTERM.

    Raises
    ------
    SettingsError
        If nothing is scheduled.
    BusyError
        If another scheduler of this project is running.
    """
    lines = settings.schedule.lines
    if not lines:
        raise SettingsError(
            "Nothing is scheduled.", 'Add a line such as cycle = "0 10 * * thu" to [schedule].'
        )
    stopping = threading.Event()
    code = 0

    def stop(signum: int, frame: Any) -> None:
        nonlocal code
        code = 128 + signum
        stopping.set()

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, stop)
    with ledger.lock("serve"):
        children = Children(settings)
        now = datetime.now(UTC)
        late, told = find_late(settings, ledger, now)
        for job, line in lines.items():
            tell(f"{job} ({line}) runs next at {Cron(line, settings.schedule.timezone).after(now)}")
        for text in told:
            tell(text)
        scheduler = _schedule(settings, children, late)
        scheduler.start()
        while not stopping.wait(1.0):
            pass
        tell("stopping; waiting for runs under way")
        scheduler.pause()
        children.stop()
        scheduler.shutdown(wait=True)
        tell("stopped")
    return code


def find_late(
    settings: Settings, ledger: Ledger, now: datetime
) -> tuple[dict[str, datetime], list[str]]:
    """Jobs whose last time passed while nothing ran, and when that was.

    Parameters
    ----------
    settings : Settings
        ``[schedule]``: the lines, and how far back it is looked.
    ledger : Ledger
        What has run, on whatever host.
    now : datetime
        The time by which something is late, with a time zone.

    Returns
    -------
    tuple of dict, list of str
        Those that are to run now, in the order of the flow; and what is to be told of them, and of
        those that were due too long ago.
    """
    told: list[str] = []
    config = settings.schedule
    late: dict[str, datetime] = {}
    for job, line in config.lines.items():
        cron = Cron(line, config.timezone)
        due = cron.last(now)
        # What found another at work, or only said what it would do, did nothing.
        recent = ledger.list_runs(job, limit=LOOKED_AT)
        runs = [row for row in recent if row.outcome not in ("busy", "planned")]
        under_way = bool(runs) and runs[0].outcome == "running"
        done = bool(runs) and datetime.fromisoformat(runs[0].started_at) >= (due or now)
        if due is None or under_way or done:
            continue
        # What has never run may have been scheduled only now.
        hours = config.catch_up_hours if runs else min(config.catch_up_hours, FIRST_HOURS)
        if now - due <= timedelta(hours=hours):
            late[job] = due
            told.append(f"{job} ({line}) was due at {due} while nothing ran: it runs now")
        elif runs and config.catch_up_hours:
            told.append(
                f"{job} ({line}) was due at {due} while nothing ran, longer ago than "
                "schedule.catch_up_hours: it does not run now"
            )
    return late, told


def _schedule(settings: Settings, children: Children, late: Collection[str] = ()) -> Any:
    from apscheduler.events import (
        EVENT_JOB_ERROR,
        EVENT_JOB_MAX_INSTANCES,
        EVENT_JOB_MISSED,
    )
    from apscheduler.schedulers.background import BackgroundScheduler
    from apscheduler.triggers.base import BaseTrigger

    class CronTrigger(BaseTrigger):
        """Times of a cron line; APScheduler's own loses some when clocks change."""

        def __init__(self, line: str) -> None:
            self._cron = Cron(line, settings.schedule.timezone)

        def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime | None:
            return self._cron.after(previous or now - timedelta(microseconds=1))

    logging.getLogger("apscheduler").setLevel(logging.CRITICAL)
    # In UTC, whatever zone the lines are in: two times of one zone are compared, and subtracted, by
    # the clock on the wall, which is wrong by an hour when it changes.
    scheduler = BackgroundScheduler(timezone=UTC)

    def trouble(event: Any) -> None:
        words = {
            EVENT_JOB_MAX_INSTANCES: "is still running; this time is left out",
            EVENT_JOB_MISSED: "was missed by more than its grace time",
            EVENT_JOB_ERROR: f"could not be run: {getattr(event, 'exception', '')}",
        }
        tell(f"{event.job_id} {words[event.code]}")

    scheduler.add_listener(trouble, EVENT_JOB_ERROR | EVENT_JOB_MAX_INSTANCES | EVENT_JOB_MISSED)
    grace = max(GRACE_SECONDS, round(3600 * settings.schedule.catch_up_hours))
    for job, line in settings.schedule.lines.items():
        scheduler.add_job(
            children.run,
            CronTrigger(line),
            args=[job],
            id=job,
            max_instances=1,
            coalesce=True,
            misfire_grace_time=grace,
            **({"next_run_time": datetime.now(UTC)} if job in late else {}),
        )
    return scheduler
