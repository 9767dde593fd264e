"""Cron lines as crontab(5) means them.

APScheduler counts days of the week from Monday = 0, crontab from Sunday = 0 (and 7): handed over
as they stand, "0 3 * * 0" would run on Mondays. So day numbers are turned into names here.
"""

from __future__ import annotations

import re

_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")
_SHORT = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
}
_NAMES = ("minute", "hour", "day", "month", "day_of_week")


def cron_fields(line: str) -> dict[str, str]:
    """The five fields of a cron line, as APScheduler's ``CronTrigger`` takes them.

    Parameters
    ----------
    line : str
        Such as ``"0 10 * * thu"`` or ``"@daily"``.

    Returns
    -------
    dict of str to str
        minute, hour, day, month, day_of_week.

    Raises
    ------
    ValueError
        If it is not a cron line.
    """
    from apscheduler.triggers.cron import CronTrigger

    parts = _SHORT.get(line.strip().lower(), line).split()
    if len(parts) != 5:
        raise ValueError(
            f"{line!r} is not a cron line: five fields are needed "
            "(minute hour day month weekday), such as 0 10 * * thu"
        )
    fields = dict(zip(_NAMES, parts, strict=True))
    fields["day_of_week"] = ",".join(_weekdays(part) for part in parts[4].lower().split(","))
    if parts[2] != "*" and parts[4] != "*":
        # cron would run on either day, APScheduler only where both hold: say so, do not guess.
        raise ValueError(f"{line!r} restricts both the day and the weekday; give one of them")
    try:
        CronTrigger(timezone="UTC", **fields)
    except ValueError as error:
        raise ValueError(f"{line!r} is not a cron line: {error}") from None
    return fields


def _weekdays(part: str) -> str:
    """One entry of the weekday field, with names for numbers; a range is spelled out."""
    body, _, step = part.partition("/")
    if body == "*":
        return "*" if not step else ",".join(_DAYS[day] for day in range(0, 7, int(step)))
    match = re.fullmatch(r"(\w+)(?:-(\w+))?", body)
    if not match:
        raise ValueError(f"{part!r} is not a weekday")
    first = _day(match.group(1))
    last = _day(match.group(2)) if match.group(2) else first
    if match.group(2) and last == 0:
        last = 7
    if last < first:
        raise ValueError(f"{part!r} runs backwards")
    return ",".join(_DAYS[day] for day in range(first, last + 1, int(step or 1)))


def _day(text: str) -> int:
    if text.isdigit() and int(text) <= 7:
        return int(text)
    if text[:3] in _DAYS:
        return _DAYS.index(text[:3])
    raise ValueError(f"{text!r} is not a weekday")
