"""Cron lines mean what crontab(5) says, in particular days of the week."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from apscheduler.triggers.cron import CronTrigger

from zoo_bridge.cron import cron_fields


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0 3 * * 0", "2026-11-29 03:00"),  # a Sunday, not a Monday
        ("0 3 * * 7", "2026-11-29 03:00"),
        ("0 10 * * thu", "2026-11-26 10:00"),
        ("30 6 * * 1-5", "2026-11-24 06:30"),
        ("*/15 * * * *", "2026-11-23 12:15"),
        ("@weekly", "2026-11-29 00:00"),
        ("0 0 1 * *", "2026-12-01 00:00"),
    ],
)
def test_the_next_time_is_that_of_cron(line: str, expected: str) -> None:
    trigger = CronTrigger(timezone="UTC", **cron_fields(line))
    monday_noon = datetime(2026, 11, 23, 12, 0, 1, tzinfo=UTC)
    assert trigger.get_next_fire_time(None, monday_noon).strftime("%Y-%m-%d %H:%M") == expected


@pytest.mark.parametrize("line", ["0 10 * *", "61 * * * *", "0 0 * * someday", "0 0 1 * mon", ""])
def test_what_is_no_cron_line_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"cron line|weekday"):
        cron_fields(line)
