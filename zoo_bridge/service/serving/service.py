"""``zoo-bridge serve``: for each workflow a scheduler that one lock allows, and a watchdog.

Any number of hosts may run it for the same workflow. One is at work; the others stand by, and one
of them takes over when the lock of the first is free: at once if it ended, within two minutes if it
died.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from zoo_bridge.config import Settings, load
from zoo_bridge.config.tables import Serve
from zoo_bridge.cron import Cron
from zoo_bridge.errors import BusyError, SettingsError, ZooBridgeError
from zoo_bridge.ledger import Ledger
from zoo_bridge.service.serving.children import Children, tell
from zoo_bridge.service.serving.schedule import (
    TIDY,
    find_late,
    has_run,
    lines_of,
    make_scheduler,
)
from zoo_bridge.service.serving.web import Pages, Web
from zoo_bridge.service.watching.channels import Channels, Message
from zoo_bridge.service.watching.findings import LOOKED_AT, under_way
from zoo_bridge.service.watching.health import Heartbeat
from zoo_bridge.service.watching.telling import send, tell_news
from zoo_bridge.trouble import unexpected

# The scheduler's lock is free so long after its host died.
LEASE_SECONDS = 90.0
STAND_BY_SECONDS = 5.0
WATCH_SECONDS = 30.0
# What is caught up with has begun by then, and is not overdue.
FIRST_WATCH_SECONDS = 60.0
LEAST_JUMP_SECONDS = 5.0
TIDY_SECONDS = 6 * 3600.0
LOCK = "serve"
# A change of these is another project, another ledger, another port: not for a process at work.
NEEDS_RESTART = ("work_dir", "ledger", "project", "serve", "console")


class Workflow:
    """What `serve` does for one settings file, in a thread of its own.

    Parameters
    ----------
    settings : Settings
        With a line at least in ``[schedule]``.
    ledger : Ledger
        Holds the lock: one scheduler a workflow, on any number of hosts.
    stopping : threading.Event
        Set when the process is to end.
    """

    def __init__(self, settings: Settings, ledger: Ledger, stopping: threading.Event) -> None:
        self.settings = settings
        self.ledger = ledger
        self.heartbeat = Heartbeat()
        self.state = "starting"
        self._stopping = stopping
        self._reload = threading.Event()
        self._children = Children(settings)
        self._channels = Channels.of_environment()
        self._thread = threading.Thread(target=self._live, name=self.name, daemon=True)

    @property
    def name(self) -> str:
        """The project and the workflow, for messages."""
        return f"{self.settings.project.slug} ({self.settings.project.workflow})"

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self) -> None:
        """Wait until its runs have ended, once the process is to end."""
        self._thread.join()

    def reload(self) -> None:
        """Read the settings file again, soon."""
        self._reload.set()

    def _live(self) -> None:
        """Stand by until the lock is free, work as long as it is ours, and again."""
        waits = False
        while not self._stopping.is_set():
            self.heartbeat.beat()
            try:
                with self.ledger.lock(LOCK, seconds=LEASE_SECONDS):
                    waits = False
                    self.state = "at work"
                    while self._work():
                        pass
            except BusyError as error:
                self.state = "standing by"
                if not waits:
                    tell(f"{self.name}: {error.message} This one stands by to take over.")
                waits = True
            except Exception as error:
                # The ledger is out of reach, say: that passes, and nobody starts this again.
                self.state = "in trouble"
                known = unexpected(error, "serve")
                tell(f"{self.name}: {known.message} Trying again.")
            self._stopping.wait(STAND_BY_SECONDS)
        self._children.stop()

    def _work(self) -> bool:
        """Work as long as the lock is ours; whether there are new settings to go on with."""
        late, told = find_late(self.settings, self.ledger, datetime.now(UTC))
        for job, line in lines_of(self.settings).items():
            following = Cron(line, self.settings.schedule.timezone).after(datetime.now(UTC))
            tell(f"{job} ({line}) runs next at {following}")
        if not lines_of(self.settings):
            tell(f"{self.name}: nothing is scheduled in {self.settings.path}")
        for text in told:
            tell(text)
        if late and self._channels:
            slug = self.settings.project.slug
            news = Message(f"[{slug}] runs were late", "\n".join(told), good=True)
            send(self.ledger, self._channels, news)
        scheduler = make_scheduler(self.settings, self._actions(), late)
        # Whose runs these are may have died with its machine: it is not known yet.
        going = {job for job in self.settings.schedule.lines if self._is_under_way(job)}
        scheduler.start()
        try:
            return self._watch(scheduler, going)
        finally:
            scheduler.pause()
            if self._stopping.is_set():
                tell(f"{self.name}: stopping; waiting for runs under way")
                self._children.stop()
            scheduler.shutdown(wait=self._stopping.is_set())

    def _is_under_way(self, job: str) -> bool:
        return under_way(self.ledger.list_runs(job, LOOKED_AT)) is not None

    def _go_on(self, scheduler: Any, going: set[str]) -> None:
        """Go on with runs of another scheduler that turn out to have been cut off."""
        for job in [job for job in going if not self._is_under_way(job)]:
            going.discard(job)
            late, told = find_late(self.settings, self.ledger, datetime.now(UTC))
            if job in late:
                tell(next(text for text in told if text.startswith(job)))
                scheduler.modify_job(job, next_run_time=datetime.now(UTC))

    def _watch(self, scheduler: Any, going: set[str]) -> bool:
        """Look around until it is to end, the lock is lost, or there are new settings (true)."""
        due = time.monotonic() + FIRST_WATCH_SECONDS
        clock = _Clock()
        while not self._stopping.wait(1.0):
            self.heartbeat.beat()
            if moved := clock.moved():
                # It waits for a length of time, which is another by now.
                tell(
                    f"{self.name}: the clock went {'on' if moved > 0 else 'back'} by {moved:.0f} s"
                )
                scheduler.wakeup()
                # What was due meanwhile begins now: it is not late by that.
                due = time.monotonic() + FIRST_WATCH_SECONDS
            if not scheduler.running or not scheduler._thread.is_alive():
                raise RuntimeError("the scheduler's thread has died")
            if self.ledger.has_lost(LOCK):
                tell(f"{self.name}: the lock was lost; another scheduler may be at work.")
                return False
            if self._reload.is_set() and self._take_new_settings():
                return True
            if time.monotonic() >= due:
                due = time.monotonic() + WATCH_SECONDS
                self._go_on(scheduler, going)
                message = tell_news(
                    self.settings, self.ledger, self._channels, self._children.notes
                )
                if message is not None:
                    tell(f"told: {message.title}")
        return False

    def _take_new_settings(self) -> bool:
        """Whether there are new ones, which the schedule is to be made from."""
        self._reload.clear()
        try:
            new = load(self.settings.path)
            restart = [
                name for name in NEEDS_RESTART if getattr(new, name) != getattr(self.settings, name)
            ]
            if lines_of(self.settings) and not lines_of(new):
                raise SettingsError("Nothing is scheduled.", "Stop serve instead.")
        except ZooBridgeError as error:
            tell(f"{self.name}: the settings stay as they were: {error.message} {error.hint}")
            return False
        if restart:
            tell(f"{self.name}: {', '.join(restart)} changed: restart zoo-bridge serve for that.")
            return False
        self.settings = new
        self._children.settings = new
        tell(f"{self.name}: the settings were read again.")
        return True

    def _actions(self) -> dict[str, Any]:
        actions: dict[str, Any] = {job: self._run_of(job) for job in self.settings.schedule.lines}
        actions[TIDY] = lambda: self._children.command(TIDY, [TIDY, "--yes"], TIDY_SECONDS)
        return actions

    def _run_of(self, job: str) -> Any:
        def run() -> None:
            if (act := self.ledger.paused().get(job)) is not None:
                tell(f"{job} is paused by {act.who}: {act.text or 'no reason given'}")
                return
            if has_run(self.settings, self.ledger, job, datetime.now(UTC)):
                # Another scheduler took over, and was at work before this one knew of it.
                tell(f"{job} has run already since it was due")
                return
            self._children.run(job)

        return run


class _Clock:
    """Sees that the clock on the wall was set, or that the machine was asleep."""

    def __init__(self) -> None:
        self._last = time.time() - time.monotonic()

    def moved(self) -> float:
        """Seconds by which it was moved since it was last asked; 0 for less than five."""
        now = time.time() - time.monotonic()
        moved, self._last = now - self._last, now
        return moved if abs(moved) > LEAST_JUMP_SECONDS else 0.0


def serve(
    workflows: Sequence[tuple[Settings, Ledger]], address: Serve, pages: Pages | None = None
) -> int:
    """Run scheduled jobs, watch over them, and answer at the web port, until told to stop.

    Parameters
    ----------
    workflows : sequence of (Settings, Ledger)
        One at least.
    address : Serve
        Where health and metrics are answered.
    pages : callable, optional
        As `Web` takes it: the console.

    Returns
    -------
    int
        The exit code: 143 after SIGTERM.

    Raises
    ------
    SettingsError
        If nothing is scheduled for one of them and there are no pages, two are the same, or the
        port is taken.
    """
    _check(workflows, pages is not None)
    stopping = threading.Event()
    code = 0

    def stop(signum: int, frame: Any) -> None:
        nonlocal code
        code = 128 + signum
        stopping.set()

    def reload(signum: int, frame: Any) -> None:
        for each in served:
            each.reload()

    served = [Workflow(settings, ledger, stopping) for settings, ledger in workflows]
    with Web(address, served, pages) as web:
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, stop)
        signal.signal(signal.SIGHUP, reload)
        tell(f"health and metrics at {web.address}/healthz and {web.address}/metrics")
        if pages is not None:
            tell(f"console at {web.address}/")
        for each in served:
            each.start()
        while not stopping.wait(1.0):
            pass
        for each in served:
            each.join()
    tell("stopped")
    return code


def _check(workflows: Sequence[tuple[Settings, Ledger]], has_pages: bool) -> None:
    seen: set[tuple[str, int, str]] = set()
    for settings, _ in workflows:
        # Where cron runs the jobs, there are pages to look at all the same.
        if not settings.schedule.lines and not has_pages:
            raise SettingsError(
                f"Nothing is scheduled in {settings.path}.",
                'Add a line such as cycle = "0 10 * * thu" to [schedule].',
            )
        project = settings.project
        key = (project.endpoint, project.workflow, settings.ledger_url)
        if key in seen:
            raise SettingsError(
                f"Workflow {project.workflow} stands in two settings files.", "Name one of them."
            )
        seen.add(key)
