"""Runs in the ledger: when they began, how they ended, which of them still live."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from zoo_bridge.ledger.actors import through, who
from zoo_bridge.ledger.database import following
from zoo_bridge.ledger.lock import Locking
from zoo_bridge.ledger.owners import now, this_owner
from zoo_bridge.ledger.records import RunRecord
from zoo_bridge.ledger.tables import runs

# Of a run that could not even say how it ended.
NO_LAST_WORD = (
    "It ended without a word: its process was killed, the machine went down, or the ledger could "
    "not be written."
)
NEWEST_RUN = (runs.c.number.desc().nulls_last(), runs.c.started_at.desc())


class Runs(Locking):
    """What a ledger knows of this workflow's runs."""

    def start_run(self, run_id: str, job: str, parent: str | None = None) -> None:
        """Note that a run began.

        Parameters
        ----------
        run_id, job : str
            Its id, and what it runs.
        parent : str, optional
            Id of the cycle that it is part of.
        """
        row = {
            "run_id": run_id,
            "job": job,
            "started_at": now(),
            "outcome": "running",
            "owner": this_owner(),
            "workflow_key": self.workflow_key,
            "who": who(),
            "through": through(),
            "parent": parent,
        }
        with self._writing() as connection:
            connection.execute(sa.insert(runs).values({**row, "number": following(runs)}))

    def end_run(self, run_id: str, outcome: str, **facts: Any) -> None:
        """Note how a run ended.

        Parameters
        ----------
        run_id : str
            The run's id, as `start_run` was given it.
        outcome : str
            done, unchanged, planned, refused, stale, failed, stopped or busy.
        **facts
            inputs_digest, settings_digest, artifact, counts, message, warnings, measures.
        """
        change = sa.update(runs).where(runs.c.run_id == run_id)
        with self._writing() as connection:
            connection.execute(change.values(ended_at=now(), outcome=outcome, **facts))

    def end_abandoned(self, job: str, run_id: str) -> None:
        """Close rows of killed runs; called by `run_id`, which holds the job's lock."""
        change = (
            sa.update(runs)
            .where(
                self._mine(runs),
                runs.c.job == job,
                runs.c.outcome == "running",
                runs.c.run_id != run_id,
            )
            .values(ended_at=now(), outcome="failed", message=NO_LAST_WORD)
        )
        with self._writing() as connection:
            connection.execute(change)

    def list_runs(self, job: str | None = None, limit: int = 20) -> list[RunRecord]:
        """The last runs, newest first; of those said to be running, locks tell which are."""
        query = sa.select(runs).where(self._mine(runs)).order_by(*NEWEST_RUN).limit(limit)
        return self._living(self._rows(query if job is None else query.where(runs.c.job == job)))

    def _living(self, rows: list[dict[str, Any]]) -> list[RunRecord]:
        """Rows as records; one that says it is running has failed if nobody holds its lock."""
        running = any(row["outcome"] == "running" for row in rows)
        living = self.living_owners() if running else set()
        for row in rows:
            if row["outcome"] == "running" and row["owner"] not in living:
                row |= {"outcome": "failed", "message": NO_LAST_WORD}
        return [_record(row) for row in rows]

    def find_run(self, run_id: str) -> RunRecord | None:
        """A run by its id, or by the beginning of it if only one begins so."""
        begins = runs.c.run_id.startswith(run_id, autoescape=True)
        rows = self._rows(sa.select(runs).where(self._mine(runs), begins).limit(2))
        exact = [row for row in rows if row["run_id"] == run_id]
        if len(exact or rows) != 1:
            return None
        return self._living(exact or rows)[0]

    def list_parts(self, run_id: str) -> list[RunRecord]:
        """The runs that a cycle consists of, in their order."""
        query = sa.select(runs).where(self._mine(runs), runs.c.parent == run_id)
        return self._living(self._rows(query.order_by(runs.c.number)))

    def measures(self) -> dict[str, float]:
        """The last known number of each kind that runs measure."""
        query = sa.select(runs).where(self._mine(runs)).order_by(*NEWEST_RUN).limit(200)
        found: dict[str, float] = {}
        for row in self._rows(query):
            found = {**(row["measures"] or {}), **found}
        return found

    def last_done(self, job: str) -> RunRecord | None:
        """The last run of a job that made something (even if kept out) or had nothing to do."""
        made = runs.c.outcome.in_(["done", "unchanged"])
        kept_out = (runs.c.outcome == "refused") & runs.c.artifact.is_not(None)
        query = sa.select(runs).where(self._mine(runs), runs.c.job == job, made | kept_out)
        rows = self._rows(query.order_by(*NEWEST_RUN).limit(1))
        return _record(rows[0]) if rows else None


def _record(row: dict[str, Any]) -> RunRecord:
    facts = {name: row[name] for name in RunRecord.__dataclass_fields__}
    empty: dict[str, Any] = {"counts": {}, "warnings": [], "measures": {}}
    return RunRecord(**facts | {name: row[name] or none for name, none in empty.items()})
