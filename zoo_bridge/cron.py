"""Cron lines as crontab(5) means them, in a time zone whose clocks change.

cronsim knows what a line means on the clock on the wall; here that becomes moments. A time that
exists twice, when clocks go back, is meant once, the first time; one that does not exist, when they
go forward, is meant at the first minute after the gap. Lines with a star for the minute or the hour
follow real time instead, as Debian's cron has it: every hour is every hour.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

_SHORT = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_DAY_NAMES = re.compile(r"(?i)\b(sun|mon|tue|wed|thu|fri|sat)[a-z]+")
# A range of one number, which cronsim takes for one without an end if a step follows.
_ONE_NUMBER = re.compile(r"\b(\w+)-\1\b(/\d+)?")
MINUTE = timedelta(minutes=1)
# Clocks that go back make a moment of what is earlier on the wall by so much at most: an hour or
# two of summer time, which lines with stars repeat; a day where a country changed the side of the
# date line, which a single time a day must not be lost to.
_BACK_STAR, _BACK = timedelta(hours=3), timedelta(hours=25)


class Cron:
    """When a job is due.

    Parameters
    ----------
    line : str
        Five fields, such as ``"0 10 * * thu"``, or a name such as ``"@daily"``.
    zone : str
        The time zone that the line is in.

    Raises
    ------
    ValueError
        If it is not a cron line.
    """

    def __init__(self, line: str, zone: str = "UTC") -> None:
        self._fields = _SHORT.get(line.strip().lower(), line).split()
        if len(self._fields) != 5:
            raise ValueError(
                f"{line!r} is not a cron line: five fields are needed "
                "(minute hour day month weekday), such as 0 10 * * thu"
            )
        days, weekdays = self._fields[2].lower(), self._fields[4].lower()
        # Sunday is the last day of a range that ends with it, and is not all days of the week.
        weekdays = re.sub(r"-(sun[a-z]*|0)\b", "-7", _ONE_NUMBER.sub(r"\1", weekdays))
        if re.search(r"(^|,)\w+/", weekdays):
            raise ValueError(
                f"{line!r} is not a cron line: a step needs a range of weekdays, such as 1-5/2"
            )
        fields = [*self._fields[:2], re.sub(r"^last$", "L", days), self._fields[3], weekdays]
        self._line = _ONE_NUMBER.sub(r"\1", _DAY_NAMES.sub(r"\1", " ".join(fields)))
        self._zone = ZoneInfo(zone)
        self._follows_real_time = any(field.startswith("*") for field in self._fields[:2])
        try:
            next(CronSim(self._line, datetime(2000, 1, 1)))
        except CronSimError as error:
            raise ValueError(f"{line!r} is not a cron line: {str(error).lower()}") from None
        except StopIteration:
            raise ValueError(f"{line!r} is not a cron line: no such day ever comes") from None

    def after(self, moment: datetime) -> datetime | None:
        """The first time that the job is due after a moment.

        Parameters
        ----------
        moment : datetime
            With a time zone.

        Returns
        -------
        datetime or None
            In the line's time zone; None if it is never due again.
        """
        return self._nearest(moment, later=True)

    def last(self, moment: datetime) -> datetime | None:
        """The last time that the job was due until a moment, that moment included.

        Parameters
        ----------
        moment : datetime
            With a time zone.

        Returns
        -------
        datetime or None
            In the line's time zone; None if it was never due.
        """
        return self._nearest(moment, later=False)

    def _nearest(self, moment: datetime, later: bool) -> datetime | None:
        """The due time next to a moment on one side of it."""
        back, sign = self._back(moment), 1 if later else -1
        start = self._on_the_wall(moment).replace(second=0, microsecond=0)
        best: datetime | None = None
        for wall in CronSim(self._line, start - sign * (back + MINUTE), reverse=not later):
            if best is not None and sign * (wall - self._on_the_wall(best)) > back:
                break
            for due in self._moments(wall):
                here = due > moment if later else due <= moment
                if here and (best is None or sign * (due - best) < timedelta()):
                    best = due
        return best and best.astimezone(self._zone)

    def _back(self, moment: datetime) -> timedelta:
        """How much earlier on the wall a later moment may be: nothing, far from any change."""
        back = _BACK_STAR if self._follows_real_time else _BACK
        near = (moment.astimezone(UTC) + shift for shift in (-2 * back, -back, back, 2 * back))
        now = moment.astimezone(self._zone).utcoffset()
        steady = all(each.astimezone(self._zone).utcoffset() == now for each in near)
        return timedelta() if steady else back

    def _on_the_wall(self, moment: datetime) -> datetime:
        return moment.astimezone(self._zone).replace(tzinfo=None)

    def _moments(self, wall: datetime) -> list[datetime]:
        """When the clock on the wall shows a time that the line names, in UTC."""
        first, second = (
            wall.replace(tzinfo=self._zone, fold=fold).astimezone(UTC) for fold in (0, 1)
        )
        if first == second:
            return [first]
        if self._on_the_wall(first) == wall:
            return [first, second] if self._follows_real_time else [first]
        # The clock goes forward past it; read by the clocks on either side, they change between.
        return [] if self._follows_real_time else [self._change(second, first)]

    def _change(self, before: datetime, after: datetime) -> datetime:
        """The first minute, in UTC, at which the clock is set as it is after a change."""
        offset = after.astimezone(self._zone).utcoffset()
        while after - before > MINUTE:
            middle = before + (after - before) // 2
            middle = middle.replace(second=0, microsecond=0)
            if middle <= before:
                break
            if middle.astimezone(self._zone).utcoffset() == offset:
                after = middle
            else:
                before = middle
        return after
