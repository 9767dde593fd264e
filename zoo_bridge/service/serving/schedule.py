"""The ``[schedule]`` table: what is due next, what is late, and what is left out."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from zoo_bridge.config import Settings
from zoo_bridge.cron import Cron
from zoo_bridge.ledger import Ledger, RunRecord
from zoo_bridge.ledger.runs import NO_LAST_WORD
from zoo_bridge.service.serving.children import tell
from zoo_bridge.service.watching.findings import LOOKED_AT, NO_RUN

# A job that could not start on time (the machine slept) still runs, up to so many seconds late.
GRACE_SECONDS = 6 * 3600
# A job that has never run is caught up with if it was due so short a time ago.
FIRST_HOURS = 6.0
# A run that was cut off is gone on with when `serve` starts; one that ends the machine is not, for
# ever.
MOST_TRIES = 3
TIDY = "tidy"


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
    paused = ledger.paused()
    for job, line in config.lines.items():
        cron = Cron(line, config.timezone)
        due = cron.last(now)
        # What found another at work, or only said what it would do, did nothing.
        recent = ledger.list_runs(job, limit=LOOKED_AT)
        runs = [row for row in recent if row.outcome not in NO_RUN]
        under_way = bool(runs) and runs[0].outcome == "running"
        since = [row for row in runs if datetime.fromisoformat(row.started_at) >= (due or now)]
        cut_off = bool(since) and _was_cut_off(since[0]) and len(since) < MOST_TRIES
        if due is None or under_way or job in paused or (since and not cut_off):
            continue
        if cut_off:
            late[job] = due
            told.append(f"{job} ({line}), due at {due}, was cut off: it goes on now")
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


def has_run(settings: Settings, ledger: Ledger, job: str, now: datetime) -> bool:
    """Whether a scheduled job has run, or runs, since it was last due, and was not cut off.

    Parameters
    ----------
    settings : Settings
        ``[schedule]``: the job's line.
    ledger : Ledger
        What has run, on whatever host.
    job : str
        One that has a line.
    now : datetime
        With a time zone.

    Returns
    -------
    bool
    """
    due = Cron(settings.schedule.lines[job], settings.schedule.timezone).last(now)
    if due is None:
        return False
    for run in ledger.list_runs(job, LOOKED_AT):
        if run.outcome in NO_RUN:
            continue
        return datetime.fromisoformat(run.started_at) >= due and not _was_cut_off(run)
    return False


def _was_cut_off(run: RunRecord) -> bool:
    """Whether a run was stopped, or killed, before it had done what it could."""
    return run.outcome == "stopped" or run.message == NO_LAST_WORD


def make_scheduler(
    settings: Settings, actions: Mapping[str, Callable[[], Any]], late: Collection[str] = ()
) -> Any:
    """An APScheduler that does each action when its line of the settings says so.

    Parameters
    ----------
    settings : Settings
        ``[schedule]``: the lines, the time zone, and how far runs are spread.
    actions : mapping
        What is done for each job; `TIDY` has its line in ``[keep]``.
    late : collection of str
        Jobs that are done at once, too.

    Returns
    -------
    apscheduler.schedulers.background.BackgroundScheduler
        Not started yet.
    """
    from apscheduler.events import (
        EVENT_JOB_ERROR,
        EVENT_JOB_MAX_INSTANCES,
        EVENT_JOB_MISSED,
    )
    from apscheduler.executors.pool import ThreadPoolExecutor
    from apscheduler.schedulers.background import BackgroundScheduler
    from apscheduler.triggers.base import BaseTrigger

    spread = timedelta(minutes=settings.schedule.jitter_minutes)
    project = settings.project

    class CronTrigger(BaseTrigger):
        """Times of a cron line; APScheduler's own loses some when clocks change.

        It keeps nothing in mind: APScheduler asks several times for the same time.
        """

        def __init__(self, line: str) -> None:
            self._line = line
            self._cron = Cron(line, settings.schedule.timezone)

        def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime | None:
            moment = previous or now - timedelta(microseconds=1)
            due = self._cron.after(moment - spread)
            first: datetime | None = None
            # What is due later may begin earlier, where runs are spread further than the times.
            while due is not None and (first is None or due < first):
                begins = self._put_off(due)
                if begins > moment and (first is None or begins < first):
                    first = begins
                due = self._cron.after(due)
            return first

        def _put_off(self, due: datetime) -> datetime:
            """When a run begins that is due: put off by chance, and always by the same."""
            if not spread:
                return due.astimezone(UTC)
            chance = random.Random(f"{project.slug} {project.workflow} {self._line} {due}")
            return due.astimezone(UTC) + chance.random() * spread

    logging.getLogger("apscheduler").setLevel(logging.CRITICAL)
    # In UTC, whatever zone the lines are in: two times of one zone are compared, and subtracted, by
    # the clock on the wall, which is wrong by an hour when it changes.
    pool = ThreadPoolExecutor(max_workers=len(actions) + 1)
    scheduler = BackgroundScheduler(timezone=UTC, executors={"default": pool})

    def trouble(event: Any) -> None:
        words = {
            EVENT_JOB_MAX_INSTANCES: "is still running; this time is left out",
            EVENT_JOB_MISSED: "was missed by more than its grace time",
            EVENT_JOB_ERROR: f"could not be run: {getattr(event, 'exception', '')}",
        }
        tell(f"{event.job_id} {words[event.code]}")

    scheduler.add_listener(trouble, EVENT_JOB_ERROR | EVENT_JOB_MAX_INSTANCES | EVENT_JOB_MISSED)
    grace = max(GRACE_SECONDS, round(3600 * settings.schedule.catch_up_hours))
    for job, line in lines_of(settings).items():
        scheduler.add_job(
            actions[job],
            CronTrigger(line),
            id=job,
            max_instances=1,
            coalesce=True,
            misfire_grace_time=grace,
            **({"next_run_time": datetime.now(UTC)} if job in late else {}),
        )
    return scheduler


def lines_of(settings: Settings) -> dict[str, str]:
    """Everything that has a cron line: the jobs, and tidying."""
    tidy = {TIDY: settings.keep.schedule} if settings.keep.schedule else {}
    return {**settings.schedule.lines, **tidy}
