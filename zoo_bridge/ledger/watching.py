"""What is watched: what is not as it should be, who was told, and what was paused.

Several processes may find the same at the same time, on several hosts. One of them claims it, tells
and notes that it told; a claim whose process died runs out, so that nothing is told by nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import sqlalchemy as sa

from zoo_bridge.ledger.actors import through, who
from zoo_bridge.ledger.database import Database
from zoo_bridge.ledger.owners import in_seconds, now
from zoo_bridge.ledger.records import Act, Incident
from zoo_bridge.ledger.tables import acts, incidents

# A process that claims has so long to tell; one that could not, is not to try for so long.
CLAIM_SECONDS, AGAIN_SECONDS = 120, 240
PAUSED, RESUMED, SCHEDULED = "paused", "resumed", "scheduled"
TOLD, NOT_TOLD = "told", "not told"


class Watching(Database):
    """What a ledger knows of incidents and of acts on the schedule."""

    # incidents

    def list_incidents(self) -> dict[str, Incident]:
        """What is open, by name."""
        rows = self._rows(sa.select(incidents).where(self._mine(incidents)))
        names = Incident.__dataclass_fields__
        return {row["name"]: Incident(**{key: row[key] for key in names}) for row in rows}

    def claim_incident(self, name: str, text: str, seen: Incident | None) -> bool:
        """Open an incident, or take up one that is open; only one process at a time may.

        Parameters
        ----------
        name : str
            Its kind and what it is of.
        text : str
            What was found.
        seen : Incident or None
            As this process knows it: if another has told of it since, there is nothing to tell.

        Returns
        -------
        bool
            Whether this process is the one to tell.
        """
        until = in_seconds(CLAIM_SECONDS)
        free = incidents.c.claimed_until.is_(None) | (incidents.c.claimed_until < now())
        same = incidents.c.told_at.is_not_distinct_from(seen.told_at if seen else None)
        update = sa.update(incidents).where(self._mine(incidents), incidents.c.name == name, same)
        row = {"name": name, "text": text, "opened_at": now(), "claimed_until": until}
        try:
            with self._writing() as connection:
                values = update.where(free).values(text=text, claimed_until=until)
                if connection.execute(values).rowcount:
                    return True
                if seen is not None:
                    return False
                new = {**row, "workflow_key": self.workflow_key}
                connection.execute(sa.insert(incidents).values(new))
        except sa.exc.IntegrityError:
            return False
        return True

    def told_incidents(self, names: Iterable[str], at: datetime) -> None:
        """Note that somebody was told, and when: in UTC."""
        self._change(names, told_at=at.isoformat(timespec="microseconds"), claimed_until=None)

    def release_incidents(self, names: Iterable[str]) -> None:
        """Give up claims: nobody could be told, and it is to be tried again, a little later."""
        self._change(names, claimed_until=in_seconds(AGAIN_SECONDS))

    def close_incidents(self, names: Iterable[str]) -> None:
        """Forget what is over."""
        chosen = incidents.c.name.in_(list(names))
        with self._writing() as connection:
            connection.execute(sa.delete(incidents).where(self._mine(incidents), chosen))

    def _change(self, names: Iterable[str], **values: str | None) -> None:
        chosen = incidents.c.name.in_(list(names))
        with self._writing() as connection:
            update = sa.update(incidents).where(self._mine(incidents), chosen)
            connection.execute(update.values(**values))

    # acts

    def note_act(self, what: str, subject: str, text: str | None = None) -> None:
        """Note what was done; the list is only ever added to.

        Parameters
        ----------
        what : str
            paused, resumed, scheduled, told or not told.
        subject : str
            A job, or what else it was done to.
        text : str, optional
            Why, or what it became.
        """
        row = {"at": now(), "what": what, "subject": subject, "text": text, "who": who()}
        with self._writing() as connection:
            whole = {**row, "through": through(), "workflow_key": self.workflow_key}
            connection.execute(sa.insert(acts).values(whole))

    def list_acts(self, *kinds: str, limit: int = 50) -> list[Act]:
        """The last acts of these kinds, or of all: newest first."""
        query = sa.select(acts).where(self._mine(acts)).order_by(acts.c.id.desc()).limit(limit)
        rows = self._rows(query.where(acts.c.what.in_(kinds)) if kinds else query)
        return [Act(**{name: row[name] for name in Act.__dataclass_fields__}) for row in rows]

    def last_told(self) -> Act | None:
        """Whether the last message arrived, and when that was."""
        newest = self.list_acts(TOLD, NOT_TOLD, limit=50)
        return next((act for act in newest if act.subject == "notify"), None)

    def paused(self) -> dict[str, Act]:
        """The jobs whose schedule is paused, and the act that did it."""
        return {job: act for job, act in self._last(PAUSED, RESUMED).items() if act.what == PAUSED}

    def note_schedule(self, lines: dict[str, str]) -> dict[str, str]:
        """Note when a job's line of the schedule became what it is.

        Parameters
        ----------
        lines : dict
            Cron lines by job, as they are now.

        Returns
        -------
        dict
            For each job, since when its line is this one: UTC, as ISO text.
        """
        last = self._last(SCHEDULED)
        changed = [
            job
            for job in sorted({*lines, *last})
            if job not in last or (last[job].text or "") != lines.get(job, "")
        ]
        for job in changed:
            self.note_act(SCHEDULED, job, lines.get(job, ""))
        if changed:
            last = self._last(SCHEDULED)
        return {job: last[job].at for job in lines}

    def _last(self, *kinds: str) -> dict[str, Act]:
        """For each thing that was acted upon so, the last act."""
        newest = sa.select(sa.func.max(acts.c.id)).where(self._mine(acts), acts.c.what.in_(kinds))
        rows = self._rows(sa.select(acts).where(acts.c.id.in_(newest.group_by(acts.c.subject))))
        names = Act.__dataclass_fields__
        return {row["subject"]: Act(**{key: row[key] for key in names}) for row in rows}
