"""The ledger: what was run, what came of it, which model is in use, what was ever uploaded.

A real database through SQLAlchemy: SQLite by default, PostgreSQL by URL. Artifacts lie in
``work_dir``; the ledger says which of them count. Every write is one short transaction, so that a
run killed at any moment leaves it readable.
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from zoo_bridge.ledger.lock import Locking, now
from zoo_bridge.ledger.schema import open_engine, upgrade
from zoo_bridge.ledger.tables import artifacts, batches, events, objects, promotions, runs


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
        with self.engine.begin() as connection:
            connection.execute(sa.insert(runs).values(row))

    def end_run(self, run_id: str, outcome: str, **facts: Any) -> None:
        """Note how a run ended.

        Parameters
        ----------
        run_id : str
            Which.
        outcome : str
            done, unchanged, planned, refused, failed, stopped or busy.
        **facts
            inputs_digest, settings_digest, artifact, counts, message.
        """
        change = sa.update(runs).where(runs.c.run_id == run_id)
        with self.engine.begin() as connection:
            connection.execute(change.values(ended_at=now(), outcome=outcome, **facts))

    def end_abandoned(self, job: str, run_id: str) -> None:
        """Close rows of killed runs; called by `run_id`, which holds the job's lock."""
        change = (
            sa.update(runs)
            .where(runs.c.job == job, runs.c.outcome == "running", runs.c.run_id != run_id)
            .values(ended_at=now(), outcome="failed", message="The process was killed.")
        )
        with self.engine.begin() as connection:
            connection.execute(change)

    def list_runs(self, job: str | None = None, limit: int = 20) -> list[dict[str, Any]]:
        """The last runs, newest first."""
        query = sa.select(runs).order_by(runs.c.started_at.desc()).limit(limit)
        return self._rows(query if job is None else query.where(runs.c.job == job))

    def last_done(self, job: str) -> dict[str, Any] | None:
        """The last run of a job that made something (even if kept out) or had nothing to do."""
        made = runs.c.outcome.in_(["done", "unchanged"])
        kept_out = (runs.c.outcome == "refused") & runs.c.artifact.is_not(None)
        query = (
            sa.select(runs)
            .where(runs.c.job == job, made | kept_out)
            .order_by(runs.c.started_at.desc())
            .limit(1)
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

        Raises
        ------
        sqlalchemy.exc.IntegrityError
            If an object was ever planned before: an object becomes at most one subject.
        """
        stamp = now()
        rows = [{**member, "batch": row["name"], "updated_at": stamp} for member in members]
        event = {"batch": row["name"], "at": stamp, "what": "planned", "who": _who()}
        with self.engine.begin() as connection:
            connection.execute(sa.insert(batches).values(**row, created_at=stamp))
            connection.execute(sa.insert(events).values(**event, facts=facts))
            if rows:
                connection.execute(sa.insert(objects), rows)

    def set_batch(self, name: str, **facts: Any) -> None:
        """Change a batch's state or what is known of it."""
        with self.engine.begin() as connection:
            connection.execute(sa.update(batches).where(batches.c.name == name).values(**facts))

    def list_batches(self, project: str) -> list[dict[str, Any]]:
        """A project's batches, newest first."""
        query = sa.select(batches).where(batches.c.project == project)
        return self._rows(query.order_by(batches.c.created_at.desc()))

    def free_objects(self, batch: str) -> int:
        """Forget what a batch planned and never asked for, so that it may be planned again.

        What was asked for and never heard of may still become a subject: it stays.
        """
        in_doubt = objects.c.state.in_(["creating", "doubtful"])
        gone = sa.delete(objects).where(
            objects.c.batch == batch, objects.c.subject_id.is_(None), ~in_doubt
        )
        with self.engine.begin() as connection:
            return int(connection.execute(gone).rowcount)

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
            connection.execute(change)

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
            planned, staged, published or withdrawn.
        facts : dict, optional
            What else is to be kept.
        who : str
            A log-in of Zooniverse; of this machine if not given.
        """
        row = {"batch": batch, "at": now(), "what": what, "who": who or _who(), "facts": facts}
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
        """How many objects were planned in the last days: what the weekly cap counts."""
        since = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="microseconds")
        query = (
            sa.select(sa.func.coalesce(sa.func.sum(batches.c.size), 0).label("total"))
            .where(batches.c.project == project)
            .where(batches.c.created_at >= since)
        )
        return int(self._rows(query)[0]["total"])


def _who() -> str:
    """Who runs this process."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"
