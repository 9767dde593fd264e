"""Runs as child processes: each with a time limit, never two of one job at once.

A child process because TensorFlow does not give memory back and panoptes-client keeps its log-in
per thread; and so that a run can be ended whatever it waits for.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from datetime import UTC, datetime

from zoo_bridge import memory
from zoo_bridge.config import Settings
from zoo_bridge.ledger.actors import SCHEDULE, VARIABLE

STOP_SECONDS = 60
# Exit codes of runs that said themselves how they ended.
SAID = (0, 1, 3, 75, 143)


class Children:
    """The runs under way, one a job.

    Parameters
    ----------
    settings : Settings
        Settings whose jobs are run, by the path of their file.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        # What processes ended with that could not say it themselves, by job.
        self.notes: dict[str, str] = {}
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
        # The run ends itself at its limit; this is for one that cannot.
        limit = self.settings.schedule.time_limit_hours * 3600 + STOP_SECONDS
        return self.command(job, ["run", job], limit)

    def command(self, name: str, words: list[str], limit: float) -> int:
        """Run any command of ``zoo-bridge`` with these settings.

        Parameters
        ----------
        name : str
            What it is called in messages.
        words : list of str
            The command.
        limit : float
            Seconds after which it is ended.

        Returns
        -------
        int
            The exit code; 124 if it had to be ended.
        """
        path = str(self.settings.path)
        command = [sys.executable, "-m", "zoo_bridge", *words, "--config", path]
        with self._guard:
            if self._stopping:
                return 143
            if name in self._running:
                # Started by a schedule of before the settings were read again.
                tell(f"{name} is still running; this time is left out")
                return 75
            # A group of its own: a Ctrl-C at the terminal reaches us, and we tell the child.
            environ = memory.with_huge_pages({**os.environ, VARIABLE: SCHEDULE})
            child = subprocess.Popen(command, start_new_session=True, env=environ)
            self._running[name] = child
        tell(f"{name} started (process {child.pid})")
        try:
            # Not longer than a process can be waited for.
            code = child.wait(min(limit, threading.TIMEOUT_MAX))
        except subprocess.TimeoutExpired:
            tell(f"{name} ran past its time limit and is stopped")
            child.terminate()
            _wait(child)
            code = 124
        finally:
            with self._guard:
                self._running.pop(name, None)
        self.notes.pop(name, None)
        if code not in SAID:
            self.notes[name] = (
                f"It was started, and its process ended with {_ending(code)}: see the log of "
                "zoo-bridge serve."
            )
        tell(f"{name} ended with {_ending(code)}")
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


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


def _wait(child: subprocess.Popen[bytes]) -> None:
    """Wait for one that was asked to stop, but not for ever."""
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def tell(text: str) -> None:
    """One line on stderr, with the time."""
    from zoo_bridge.redact import redact

    stamp = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
    print(f"{stamp} serve: {redact(text)}", file=sys.stderr, flush=True)
