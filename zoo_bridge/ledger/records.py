"""The ledger: what was run, what came of it, which model is in use, what was ever uploaded.

A real database through SQLAlchemy: SQLite by default, PostgreSQL by URL. Artifacts lie in
``work_dir``; the ledger says which of them count. Every write is one short transaction, so that a
run killed at any moment leaves it readable.
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from zoo_bridge.errors import BusyError
from zoo_bridge.ledger.lock import Locking, now, this_owner
from zoo_bridge.ledger.schema import open_engine, upgrade
from zoo_bridge.ledger.tables import artifacts, batches, events, objects, promotions, runs
from zoo_bridge.redact import redact_all

# Of a run that could not even say how it ended.
NO_LAST_WORD = (
    "It ended without a word: its process was killed, the machine went down, or the ledger could "
    "not be written."
)


NEWEST_RUN = (runs.c.number.desc().nulls_last(), runs.c.started_at.desc())
NEWEST_BATCH = (batches.c.number.desc().nulls_last(), batches.c.created_at.desc())
_GIVEN_UP = sa.select(batches.c.name).where(batches.c.state == "abandoned")
_IN_DOUBT = objects.c.state.in_(["creating", "doubtful"])
# Links to subjects of others that were given up; they keep their role.
FREED = "freed"
_ADOPTABLE = (
    objects.c.batch.in_(_GIVEN_UP)
    & objects.c.subject_id.is_not(None)
    & ((objects.c.creates > 0) | (objects.c.state == FREED))
)


@dataclass(frozen=True)
class Artifact:
    """Something a step left behind: a file or folder under ``work_dir``."""

    kind: str
    name: str
    path: Path
    digest: str
    run_id: str
    created_at: str
    facts: dict[str, Any]


class Ledger(Locking):
    """The open ledger; one of an earlier zoo_bridge is brought up to date first.

    Parameters
    ----------
    url : str
        Any SQLAlchemy URL.
    work : Path
        The folder that artifact paths are relative to.

    Raises
    ------
    SettingsError
        If the database cannot be opened, or was written by a newer zoo_bridge.
    """

    def __init__(self, url: str, work: Path) -> None:
        self.work = work
        self.engine = open_engine(url)
        try:
            upgrade(self.engine)
        except BaseException:
            self.engine.dispose()
            raise

    def close(self) -> None:
        """Let go of every connection."""
        self.engine.dispose()

    def _rows(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    # runs

    def start_run(self, run_id: str, job: str) -> None:
        """Note that a run began."""
        row = {"run_id": run_id, "job": job, "started_at": now(), "outcome": "running"}
        numbered = {**row, "owner": this_owner(), "number": _next(runs)}
        with self.engine.begin() as connection:
            connection.execute(sa.insert(runs).values(numbered))

    def end_run(self, run_id: str, outcome: str, **facts: Any) -> None:
        """Note how a run ended.

        Parameters
        ----------
        run_id : str
            Which.
        outcome : str
            done, unchanged, planned, refused, stale, failed, stopped or busy.
        **facts
            inputs_digest, settings_digest, artifact, counts, message, warnings.
        """
        change = sa.update(runs).where(runs.c.run_id == run_id)
        with self.engine.begin() as connection:
            connection.execute(change.values(ended_at=now(), outcome=outcome, **facts))

    def end_abandoned(self, job: str, run_id: str) -> None:
        """Close rows of killed runs; called by `run_id`, which holds the job's lock."""
        change = (
            sa.update(runs)
            .where(runs.c.job == job, runs.c.outcome == "running", runs.c.run_id != run_id)
            .values(ended_at=now(), outcome="failed", message=NO_LAST_WORD)
        )
        with self.engine.begin() as connection:
            connection.execute(change)

    def list_runs(self, job: str | None = None, limit: int = 20) -> list[dict[str, Any]]:
        """The last runs, newest first; of those said to be running, locks tell which are."""
        query = sa.select(runs).order_by(*NEWEST_RUN).limit(limit)
        rows = self._rows(query if job is None else query.where(runs.c.job == job))
        living = self.living_owners()
        for row in rows:
            if row["outcome"] == "running" and row["owner"] not in living:
                row |= {"outcome": "failed", "message": NO_LAST_WORD}
        return rows

    def last_done(self, job: str) -> dict[str, Any] | None:
        """The last run of a job that made something (even if kept out) or had nothing to do."""
        made = runs.c.outcome.in_(["done", "unchanged"])
        kept_out = (runs.c.outcome == "refused") & runs.c.artifact.is_not(None)
        query = (
            sa.select(runs).where(runs.c.job == job, made | kept_out).order_by(*NEWEST_RUN).limit(1)
        )
        rows = self._rows(query)
        return rows[0] if rows else None

    # artifacts

    def add_artifact(
        self, kind: str, name: str, path: Path, digest: str, run_id: str, facts: dict[str, Any]
    ) -> Artifact:
        """Make an artifact count from now on."""
        row = {
            "kind": kind,
            "name": name,
            "path": path.relative_to(self.work).as_posix(),
            "digest": digest,
            "run_id": run_id,
            "created_at": now(),
            "facts": facts,
        }
        with self.engine.begin() as connection:
            connection.execute(sa.insert(artifacts).values(row))
        return self._artifact(row)

    def list_artifacts(self, kind: str) -> list[Artifact]:
        """All artifacts of a kind that are still on disk, newest first."""
        query = sa.select(artifacts).where(artifacts.c.kind == kind).order_by(artifacts.c.id.desc())
        found = (self._artifact(row) for row in self._rows(query))
        return [artifact for artifact in found if artifact.path.exists()]

    def find_artifact(self, kind: str, name: str) -> Artifact | None:
        """An artifact by its name, whether or not it is still on disk."""
        query = sa.select(artifacts).where(artifacts.c.kind == kind, artifacts.c.name == name)
        rows = self._rows(query.order_by(artifacts.c.id.desc()).limit(1))
        return self._artifact(rows[0]) if rows else None

    def newest(self, kind: str) -> Artifact | None:
        """The newest artifact of a kind."""
        return next(iter(self.list_artifacts(kind)), None)

    def _artifact(self, row: dict[str, Any]) -> Artifact:
        path = self.work / row["path"]
        facts = row["facts"] or {}
        names = ("kind", "name", "digest", "run_id", "created_at")
        return Artifact(path=path, facts=facts, **{name: row[name] for name in names})

    # the model in use

    def promote(self, version: str, action: str, reason: str) -> None:
        """Put a model in use; the list is only ever added to."""
        row = {"version": version, "action": action, "reason": reason, "at": now()}
        with self.engine.begin() as connection:
            connection.execute(sa.insert(promotions).values(row))

    def list_promotions(self) -> list[dict[str, Any]]:
        """Every promotion and rollback, newest first."""
        return self._rows(sa.select(promotions).order_by(promotions.c.id.desc()))

    def model_in_use(self) -> str | None:
        """The version in use."""
        rows = self.list_promotions()
        return rows[0]["version"] if rows else None

    # batches and objects

    def add_batch(
        self,
        row: dict[str, Any],
        members: Iterable[dict[str, Any]],
        facts: dict[str, Any] | None = None,
        adopted: Iterable[dict[str, Any]] = (),
    ) -> None:
        """Write a batch and the intent to upload each of its objects, in one transaction.

        Parameters
        ----------
        row : dict
            The batch.
        members : iterable of dict
            Its objects.
        facts : dict, optional
            Of the event ``planned``.
        adopted : iterable of dict
            Objects of `list_adoptable`, which are subjects already: this batch's from now on.

        Raises
        ------
        sqlalchemy.exc.IntegrityError
            If another object was ever planned before: an object becomes at most one subject.
        BusyError
            If what was to be adopted is somebody else's by now.
        """
        stamp = now()
        rows = [{**member, "batch": row["name"], "updated_at": stamp} for member in members]
        event = {"batch": row["name"], "at": stamp, "what": "planned", "who": _who()}
        with self.engine.begin() as connection:
            numbered = {**row, "created_at": stamp, "number": _next(batches)}
            connection.execute(sa.insert(batches).values(numbered))
            connection.execute(sa.insert(events).values(**event, facts=facts))
            if rows:
                connection.execute(sa.insert(objects), rows)
            for member in adopted:
                change = sa.update(objects).where(
                    objects.c.project == member["project"],
                    objects.c.object_id == member["object_id"],
                    _ADOPTABLE,
                )
                values = {**member, "batch": row["name"], "updated_at": stamp}
                if connection.execute(change.values(values)).rowcount != 1:
                    raise BusyError(
                        f"{member['object_id']} was taken by another batch meanwhile.",
                        "Run the same command again.",
                    )

    def set_batch(self, name: str, **facts: Any) -> None:
        """Change a batch's state or what is known of it."""
        with self.engine.begin() as connection:
            connection.execute(sa.update(batches).where(batches.c.name == name).values(**facts))

    def list_batches(self, project: str) -> list[dict[str, Any]]:
        """A project's batches, newest first."""
        query = sa.select(batches).where(batches.c.project == project)
        return self._rows(query.order_by(*NEWEST_BATCH))

    def give_up(
        self,
        project: str,
        batch: str,
        subjects: dict[str, str],
        linked: Collection[str],
        facts: dict[str, Any],
        who: str,
    ) -> int:
        """Note that a batch is given up, and what becomes of its objects, in one transaction.

        What was asked for and never heard of may still become a subject: it stays as it is. What
        was planned and never asked for is forgotten, so that it may be planned again.

        Parameters
        ----------
        project, batch : str
            Which.
        subjects : dict
            Objects that we made subjects of, and which ones.
        linked : collection of str
            Objects that are subjects of others.
        facts : dict
            Of the event.
        who : str
            Who did it.

        Returns
        -------
        int
            How many objects were forgotten.
        """
        stamp = now()
        mine = (objects.c.project == project) & (objects.c.batch == batch)
        ours = sa.update(objects).where(mine, objects.c.object_id == sa.bindparam("name"))
        # What zoo_bridge 0.1 made was not counted.
        made = sa.case((objects.c.creates > 0, objects.c.creates), else_=1)
        ours = ours.values(
            subject_id=sa.bindparam("subject"), state="created", creates=made, updated_at=stamp
        )
        rows = [{"name": name, "subject": subject} for name, subject in subjects.items()]
        free = sa.update(objects).where(mine, objects.c.object_id.in_(linked))
        never = sa.delete(objects).where(mine, objects.c.subject_id.is_(None), ~_IN_DOUBT)
        event = {"batch": batch, "at": stamp, "what": "abandoned", "who": who, "facts": facts}
        with self.engine.begin() as connection:
            if rows:
                connection.execute(ours, rows)
            connection.execute(free.values(state=FREED, updated_at=stamp))
            forgotten = int(connection.execute(never).rowcount)
            connection.execute(sa.insert(events).values(event))
            state = sa.update(batches).where(batches.c.name == batch)
            connection.execute(state.values(state="abandoned"))
        return forgotten

    def list_adoptable(self, project: str) -> list[dict[str, Any]]:
        """Objects of batches that were given up which are subjects: a later one may have them.

        Those in the state `FREED` are subjects of others.
        """
        return self._rows(sa.select(objects).where(objects.c.project == project, _ADOPTABLE))

    def list_locked(self, project: str) -> list[dict[str, Any]]:
        """Objects of batches that were given up which may or may not be subjects."""
        locked = objects.c.batch.in_(_GIVEN_UP) & objects.c.subject_id.is_(None) & _IN_DOUBT
        query = sa.select(objects).where(objects.c.project == project, locked)
        return self._rows(query.order_by(objects.c.batch, objects.c.object_id))

    def release_object(self, project: str, object_id: str) -> None:
        """Forget one of `list_locked`, on somebody's word that there is no such subject."""
        gone = sa.delete(objects).where(
            objects.c.project == project,
            objects.c.object_id == object_id,
            objects.c.subject_id.is_(None),
        )
        with self.engine.begin() as connection:
            connection.execute(gone)

    def ask_for(self, project: str, object_id: str, account: str) -> None:
        """Note that a create is about to be sent: before it is, so that none is forgotten.

        Parameters
        ----------
        project : str
            Its slug.
        object_id : str
            Whose subject.
        account : str
            The number of the user whose quota it counts to.
        """
        stamp = now()
        change = (
            sa.update(objects)
            .where(objects.c.project == project, objects.c.object_id == object_id)
            .values(
                state="creating",
                account=account,
                asked_at=stamp,
                updated_at=stamp,
                creates=objects.c.creates + 1,
            )
        )
        with self.engine.begin() as connection:
            if connection.execute(change).rowcount != 1:
                raise BusyError(
                    f"{object_id} is planned no longer: its batch was given up meanwhile.",
                    "Run the same command again.",
                )

    def created_by(self, account: str) -> int:
        """How many subjects an account is known to have created, over all projects here."""
        query = sa.select(sa.func.count().label("total")).where(
            objects.c.account == account, objects.c.subject_id.is_not(None)
        )
        return int(self._rows(query)[0]["total"])

    def set_objects(self, project: str, subject_ids: dict[str, str | None], state: str) -> None:
        """Note how far the upload of objects has come, all in one transaction.

        Parameters
        ----------
        project : str
            Its slug.
        subject_ids : dict
            The subject of each object, None where there is none yet.
        state : str
            planned, creating (asked for), doubtful (asked for, and not answered), created,
            uploaded, staged or skipped.
        """
        if not subject_ids:
            return
        change = (
            sa.update(objects)
            .where(objects.c.project == project, objects.c.object_id == sa.bindparam("name"))
            .values(state=state, subject_id=sa.bindparam("subject"), updated_at=now())
        )
        rows = [{"name": name, "subject": subject} for name, subject in subject_ids.items()]
        with self.engine.begin() as connection:
            connection.execute(change, rows)

    def add_event(
        self, batch: str, what: str, facts: dict[str, Any] | None = None, who: str = ""
    ) -> None:
        """Note who did what to a batch; the list is only ever added to.

        Parameters
        ----------
        batch : str
            Its name.
        what : str
            planned, staged, published, withdrawn, abandoned or released, among others.
        facts : dict, optional
            What else is to be kept.
        who : str
            A log-in of Zooniverse; of this machine if not given.
        """
        kept = redact_all(facts)
        row = {"batch": batch, "at": now(), "what": what, "who": who or _who(), "facts": kept}
        with self.engine.begin() as connection:
            connection.execute(sa.insert(events).values(row))

    def list_events(self, batch: str) -> list[dict[str, Any]]:
        """What was done to a batch, oldest first."""
        query = sa.select(events).where(events.c.batch == batch).order_by(events.c.id)
        return self._rows(query)

    def list_objects(self, project: str, batch: str | None = None) -> list[dict[str, Any]]:
        """Every object ever planned for a project, or those of one batch."""
        query = sa.select(objects).where(objects.c.project == project)
        return self._rows(query if batch is None else query.where(objects.c.batch == batch))

    def planned_since(self, project: str, days: float) -> int:
        """How many objects were planned in the last days: what the weekly cap counts.

        A batch of a time to come was made under a wrong clock: it is older than the runs after it.
        """
        since = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="microseconds")
        query = sa.select(batches).where(
            batches.c.project == project, batches.c.created_at >= since
        )
        total = 0
        for batch in self._rows(query):
            if batch["created_at"] <= now() or not self._ran_since(batch["name"], since):
                total += batch["size"]
        return total

    def _ran_since(self, batch: str, before: str) -> bool:
        """Whether a run that came after a batch's own began before some time."""
        planned = [row for row in self.list_events(batch) if row["what"] == "planned"]
        run_id = (planned[0]["facts"] or {}).get("run") if planned else None
        number = sa.select(runs.c.number).where(runs.c.run_id == run_id).scalar_subquery()
        later = sa.select(runs.c.run_id).where(runs.c.number > number, runs.c.started_at < before)
        return bool(self._rows(later.limit(1)))


def _next(table: sa.Table) -> sa.ScalarSelect[int]:
    """The number after the greatest in a table."""
    return sa.select(sa.func.coalesce(sa.func.max(table.c.number), 0) + 1).scalar_subquery()


def _who() -> str:
    """Who runs this process."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"
