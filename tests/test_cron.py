"""Cron lines mean what crontab(5) says, in every time zone and across every change of clocks.

The reference is a plain count: every minute of ten years, its time on the wall by zoneinfo, and the
fields of the line looked up in it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo_bridge.cron import Cron

ZONES = (
    "Europe/London",
    "America/New_York",
    "America/Santiago",  # changes at midnight
    "Australia/Lord_Howe",  # by half an hour
    "Asia/Kolkata",  # by nothing, and is half an hour off
    "Africa/Casablanca",  # four times a year
)
BEGIN, YEARS = datetime(2025, 1, 1, tzinfo=UTC), 10
DAY = 1440
MINUTES = YEARS * 365 * DAY


@cache
def offsets(zone: str) -> np.ndarray:
    """Minutes from UTC to the wall, for every minute: shape (MINUTES,)."""

    def ahead(minute: int) -> int:
        offset = (BEGIN + timedelta(minutes=minute)).astimezone(ZoneInfo(zone)).utcoffset()
        assert offset is not None
        return int(offset.total_seconds() // 60)

    found = np.empty(MINUTES, int)
    for day in range(0, MINUTES, DAY):
        # Where a day ends as it began, it did not change in between.
        step = DAY if ahead(day) == ahead(day + DAY) else 15
        for minute in range(day, day + DAY, step):
            found[minute : minute + step] = ahead(minute)
    return found


@cache
def days() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Day of the month, month and day of the week from Sunday = 0, from the day before BEGIN."""
    all_days = np.datetime64("2024-12-31") + np.arange(MINUTES // DAY + 3)
    months = all_days.astype("M8[M]")
    weekday = (all_days.astype("M8[D]").astype(int) + 4) % 7
    return (all_days - months).astype(int) + 1, months.astype(int) % 12 + 1, weekday


def numbers(field: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for part in field.split(","):
        body, _, step = part.partition("/")
        first, _, last = body.partition("-")
        if body == "*":
            span = range(low, high + 1)
        elif last:
            span = range(int(first), int(last) + 1)
        else:
            span = range(int(first), (high if step else int(first)) + 1)
        found |= set(span[:: int(step or 1)])
    return found


def expected(line: str, zone: str, begin: int = DAY, end: int = MINUTES - 5000) -> list[int]:
    """Minutes from BEGIN at which a line is due after one and until another, by looking at each."""
    minute, hour, day, month, weekday = line.split()
    # Some days more on either side: a wall may show yesterday.
    first, last = max(0, begin // DAY - 2), end // DAY + 4
    of_month, of_year, of_week = (each[first : last + 1] for each in days())
    on_day = np.isin(of_month, list(numbers(day, 1, 31)))
    on_weekday = np.isin(of_week, [each % 7 for each in numbers(weekday, 0, 7)])
    either = not (day.startswith("*") or weekday.startswith("*"))
    good = (on_day | on_weekday) if either else (on_day & on_weekday)
    good &= np.isin(of_year, list(numbers(month, 1, 12)))
    times = [60 * h + m for h in numbers(hour, 0, 23) for m in numbers(minute, 0, 59)]
    named = np.zeros((len(good), DAY), bool)
    named[np.ix_(good, times)] = True
    named_W = named.ravel()  # minutes on the wall, from the day before that day
    start, stop = first * DAY, min(MINUTES, (last - 1) * DAY)
    wall = np.arange(start, stop) + offsets(zone)[start:stop] + DAY - start
    if minute.startswith("*") or hour.startswith("*"):
        found = np.flatnonzero(named_W[wall])
    else:
        # Each time on the wall at the first minute that shows it, or the first that shows a later.
        latest = np.maximum.accumulate(wall)
        inside = np.flatnonzero(named_W[: int(latest[-1]) + 1])
        found = np.unique(np.searchsorted(latest, inside[inside > wall[0]]))
    return [int(each) + start for each in found if begin < each + start <= end]


def due(line: str, zone: str, begin: int, end: int) -> list[int]:
    cron, found = Cron(line, zone), []
    at = cron.after(BEGIN + timedelta(minutes=begin))
    while at is not None and at <= BEGIN + timedelta(minutes=end):
        found.append(round((at - BEGIN).total_seconds() / 60))
        at = cron.after(at)
    return found


LINES = (
    "0 0 1 * *",
    "0 0 * * *",
    "30 0 * * 1",
    "30 1 * * *",
    "30 2 * * *",
    "0,30 2,3 * * *",
    "15 2 1-7 * 7",
    "59 23 * * 6",
    "0 10 * * 4",
    "0 */6 * * *",
    "*/15 1 * * *",
    "45 * * * *",
    "0 0 29 2 *",
)


@pytest.mark.parametrize("zone", ZONES)
def test_ten_years_of_every_time_that_exists_once_twice_or_never(zone: str) -> None:
    for line in LINES:
        wanted = expected(line, zone)
        assert len(wanted) > 1, line
        if len(wanted) < 5000:
            assert due(line, zone, DAY, MINUTES - 5000) == wanted, line
    # What is due every few minutes: around every change.
    for change in changes_of(zone)[::2]:
        for line in ("*/10 * * * *", "* 1-2 * * *", "7 */2 * * *"):
            begin, end = change - 400, change + 400
            assert due(line, zone, begin, end) == expected(line, zone, begin, end), (line, change)


def changes_of(zone: str) -> list[int]:
    found = np.flatnonzero(np.diff(offsets(zone)))
    return [int(each) for each in found if 6000 < each < MINUTES - 9000]


def field(low: int, high: int) -> st.SearchStrategy[str]:
    one = st.integers(low, high).map(str)
    span = st.tuples(st.integers(low, high), st.integers(low, high)).map(
        lambda pair: f"{min(pair)}-{max(pair)}"
    )
    step = st.tuples(st.one_of(span, st.just("*")), st.integers(1, 9)).map("{0[0]}/{0[1]}".format)
    return st.one_of(
        one, st.lists(one, min_size=2, max_size=4).map(",".join), span, step, st.just("*")
    )


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(field(0, 59), field(0, 23), field(1, 28), field(1, 12), field(0, 7)).map(" ".join),
    st.sampled_from(ZONES),
    st.integers(0, 30),
    st.integers(-2000, 2000),
)
def test_any_line_around_a_change_of_clocks(line: str, zone: str, which: int, shift: int) -> None:
    changes = changes_of(zone)
    middle = changes[which % len(changes)] if changes else 700_000
    begin, end = middle + shift - 1000, middle + shift + 1000
    assert due(line, zone, begin, end) == expected(line, zone, begin, end)
    # And the last one, looked for backwards from any minute.
    if until := expected(line, zone, max(DAY, end - 20_000), end):
        last = Cron(line, zone).last(BEGIN + timedelta(minutes=end, seconds=30))
        # In UTC: a time that exists twice equals no time of another zone (PEP 495).
        assert last is not None
        assert last.astimezone(UTC) == BEGIN + timedelta(minutes=until[-1])


def test_next_and_last_meet() -> None:
    for zone in ZONES:
        for line in LINES[:9]:
            cron = Cron(line, zone)
            at = cron.after(BEGIN)
            times = []
            for _ in range(60):
                assert at is not None
                times.append(at)
                at = cron.after(at)
            for before, after in pairwise(times):
                assert cron.last(after) == after
                assert cron.last(after.astimezone(UTC) - timedelta(seconds=1)) == before


@pytest.mark.parametrize(
    ("line", "expected_time"),
    [
        ("0 3 * * 0", "2026-11-29 03:00"),  # a Sunday, not a Monday
        ("0 3 * * 7", "2026-11-29 03:00"),
        ("0 10 * * thu", "2026-11-26 10:00"),
        ("0 10 * * Thursday", "2026-11-26 10:00"),
        ("30 6 * * 1-5", "2026-11-24 06:30"),
        ("30 6 * * 5-7", "2026-11-27 06:30"),
        ("*/15 * * * *", "2026-11-23 12:15"),
        ("0 3 * * sat-sun", "2026-11-28 03:00"),
        ("0 3 * * mon-sun", "2026-11-24 03:00"),
        ("0 3 * * 0-0", "2026-11-29 03:00"),
        ("0 3 * * Sun-sun/2", "2026-11-29 03:00"),
        ("0 3 * * 0-7", "2026-11-24 03:00"),
        ("0 3 last * *", "2026-11-30 03:00"),
        ("@weekly", "2026-11-29 00:00"),
        ("@hourly", "2026-11-23 13:00"),
        ("@yearly", "2027-01-01 00:00"),
        ("0 0 1 * *", "2026-12-01 00:00"),
        # As crontab has it: either day.
        ("0 0 1 * mon", "2026-11-30 00:00"),
    ],
)
def test_the_next_time_is_that_of_cron(line: str, expected_time: str) -> None:
    monday_noon = datetime(2026, 11, 23, 12, 0, 1, tzinfo=UTC)
    at = Cron(line).after(monday_noon)
    assert at is not None
    assert at.strftime("%Y-%m-%d %H:%M") == expected_time


@pytest.mark.parametrize(
    "line",
    [
        "0 10 * *",
        "61 * * * *",
        "0 0 * * someday",
        "0 0 31 2 *",
        "0 0 * * 5-1",
        "0 0 * * mon/2",
        "@reboot",
        "",
    ],
)
def test_what_is_no_cron_line_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="cron line"):
        Cron(line)
