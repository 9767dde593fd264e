"""Health: whether the service lives, and whether the loop does what it should."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from zoo_bridge.config import Settings
from zoo_bridge.cron import Cron
from zoo_bridge.ledger import Ledger
from zoo_bridge.service.watching.findings import LOOKED_AT, ended_last, last_well, look, under_way

# A watchdog that has not looked for so long is dead, or hangs.
STALE_SECONDS = 180.0


class Heartbeat:
    """When a thread was last seen to do its work, by a clock that nobody sets."""

    def __init__(self) -> None:
        self._at = time.monotonic()

    def beat(self) -> None:
        """Say that it lives."""
        self._at = time.monotonic()

    @property
    def age(self) -> float:
        """Seconds since."""
        return time.monotonic() - self._at


def readiness(settings: Settings, ledger: Ledger) -> dict[str, Any]:
    """The last success of each job against its schedule, and what is not as it should be.

    Parameters
    ----------
    settings : Settings
        The schedule.
    ledger : Ledger
        What has run.

    Returns
    -------
    dict
        ``ready``, ``jobs`` (of each that is scheduled: last success, next time, and so on),
        ``findings``, and ``notifications``: whether the last message arrived.
    """
    now = datetime.now(UTC)
    found = look(settings, ledger, now)
    paused = ledger.paused()
    jobs: dict[str, Any] = {}
    for job, line in settings.schedule.lines.items():
        runs = ledger.list_runs(job, LOOKED_AT)
        good, last = last_well(ledger, job), ended_last(runs)
        following = Cron(line, settings.schedule.timezone).after(now)
        jobs[job] = {
            "line": line,
            "last_success": good.ended_at if good else None,
            "last_outcome": last.outcome if last else None,
            "running": under_way(runs) is not None,
            "paused": job in paused,
            "next": following.isoformat() if following else None,
        }
    told = ledger.last_told()
    return {
        "ready": not any(each.is_problem for each in found),
        "project": settings.project.slug,
        "workflow": settings.project.workflow,
        "jobs": jobs,
        "findings": [
            {"kind": each.kind, "of": each.of, "text": each.text, "todo": each.todo}
            for each in found
        ],
        "notifications": {"last": told.what, "at": told.at} if told else None,
    }
