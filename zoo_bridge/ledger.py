"""The ledger: what was run, what came of it, which model is in use, what was ever uploaded.

A real database through SQLAlchemy: SQLite by default, PostgreSQL by URL. Artifacts lie in
``work_dir``; the ledger says which of them count. Every write is one short transaction, so that a
run killed at any moment leaves it readable.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

from zoo_bridge.errors import BusyError, SettingsError

metadata = sa.MetaData()

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("run_id", sa.String, primary_key=True),
    sa.Column("job", sa.String, nullable=False, index=True),
    sa.Column("started_at", sa.String, nullable=False),
    sa.Column("ended_at", sa.String),
    sa.Column("outcome", sa.String, nullable=False),
    sa.Column("inputs_digest", sa.String),
    sa.Column("settings_digest", sa.String),
    sa.Column("artifact", sa.String),
    sa.Column("counts", sa.JSON),
    sa.Column("message", sa.String),
)
artifacts = sa.Table(
    "artifacts",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("kind", sa.String, nullable=False, index=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("path", sa.String, nullable=False),
    sa.Column("digest", sa.String, nullable=False),
    sa.Column("run_id", sa.String, nullable=False),
    sa.Column("created_at", sa.String, nullable=False),
    sa.Column("facts", sa.JSON),
)
promotions = sa.Table(
    "promotions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("version", sa.String, nullable=False),
    sa.Column("action", sa.String, nullable=False),
    sa.Column("reason", sa.String),
    sa.Column("at", sa.String, nullable=False),
)
batches = sa.Table(
    "batches",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("project", sa.String, nullable=False),
    sa.Column("workflow", sa.Integer, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("subject_set_id", sa.String),
    sa.Column("scores", sa.String),
    sa.Column("labels", sa.String),
    sa.Column("path", sa.String, nullable=False),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("created_at", sa.String, nullable=False),
    sa.Column("published_at", sa.String),
)
objects = sa.Table(
    "objects",
    metadata,
    sa.Column("project", sa.String, primary_key=True),
    sa.Column("object_id", sa.String, primary_key=True),
    sa.Column("batch", sa.String, nullable=False, index=True),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("subject_id", sa.String),
    sa.Column("updated_at", sa.String, nullable=False),
)
events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("batch", sa.String, nullable=False, index=True),
    sa.Column("at", sa.String, nullable=False),
    sa.Column("what", sa.String, nullable=False),
    sa.Column("who", sa.String, nullable=False),
    sa.Column("facts", sa.JSON),
)
locks = sa.Table(
    "locks",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("owner", sa.String, nullable=False),
    sa.Column("expires_at", sa.String, nullable=False),
)

LOCK_SECONDS = 120


def now() -> str:
    """The time in UTC as sortable ISO text, which every database keeps alike."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


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


class Ledger:
    """The open ledger.

    Parameters
    ----------
    url : str
        Any SQLAlchemy URL.
    work : Path
        The folder that artifact paths are relative to.

    Raises
    ------
    SettingsError
        If the database cannot be opened.
    """

    def __init__(self, url: str, work: Path) -> None:
        self.work = work
        self._lost_lock = ""
        try:
            parsed = sa.make_url(url)
            if parsed.drivername.startswith("sqlite") and parsed.database:
                Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            self.engine = sa.create_engine(url)
            if self.engine.dialect.name == "sqlite":
                sa.event.listen(self.engine, "connect", _sqlite_manners)
            metadata.create_all(self.engine)
        except (sa.exc.SQLAlchemyError, OSError, ImportError) as error:
            shown = str(error).splitlines()[0]
            raise SettingsError(
                f"The ledger cannot be opened: {shown}.",
                "Correct ledger in the settings (PostgreSQL needs 'zoo-bridge[postgresql]').",
            ) from None

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
        """Forget what a batch planned and never created, so that it may be planned again."""
        gone = sa.delete(objects).where(objects.c.batch == batch, objects.c.subject_id.is_(None))
        with self.engine.begin() as connection:
            return int(connection.execute(gone).rowcount)

    def set_objects(self, project: str, subject_ids: dict[str, str | None], state: str) -> None:
        """Note how far the upload of objects has come, all in one transaction.

        Parameters
        ----------
        project : str
            Its slug.
        subject_ids : dict
            The subject of each object, None where there is none yet.
        state : str
            planned, creating, created, uploaded, staged or skipped.
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

    # locks

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a lock while the block runs; it is renewed, and expires when its owner dies.

        Raises
        ------
        BusyError
            If somebody else holds it.
        """
        owner = f"{socket.gethostname()}:{os.getpid()}:{threading.get_ident()}"
        self._take(name, owner)
        done = threading.Event()
        keeper = threading.Thread(target=self._keep, args=(name, owner, done), daemon=True)
        keeper.start()
        try:
            yield
        finally:
            done.set()
            keeper.join()
            mine = sa.delete(locks).where(locks.c.name == name, locks.c.owner == owner)
            with self.engine.begin() as connection:
                connection.execute(mine)

    def _take(self, name: str, owner: str) -> None:
        for _ in range(2):
            try:
                with self.engine.begin() as connection:
                    row = {"name": name, "owner": owner, "expires_at": _expiry()}
                    connection.execute(sa.insert(locks).values(row))
                return
            except sa.exc.IntegrityError:
                held = self._rows(sa.select(locks).where(locks.c.name == name))
                if held and held[0]["expires_at"] > now() and not _is_dead(held[0]["owner"]):
                    host, pid, _ = held[0]["owner"].split(":")
                    raise BusyError(
                        f"Another run holds the lock {name}: process {pid} on {host}.",
                        "Wait for it to end, or stop it; a lock without a process ends by itself.",
                    ) from None
                stale = [locks.c.name == name]
                if held:
                    stale.append(locks.c.owner == held[0]["owner"])
                with self.engine.begin() as connection:
                    connection.execute(sa.delete(locks).where(*stale))
        raise BusyError(
            f"Another run took the lock {name} just now.", "Try again when it has ended."
        )

    def require_lock(self) -> None:
        """See that a lock that was taken is still held: a machine that slept may have lost it.

        Raises
        ------
        BusyError
            If somebody else may have it by now.
        """
        if self._lost_lock:
            raise BusyError(
                f"The lock {self._lost_lock} ran out unrenewed: another run may have it.",
                "Was this machine asleep, or the ledger out of reach? Run the same command again.",
            )

    def _keep(self, name: str, owner: str, done: threading.Event) -> None:
        mine = sa.update(locks).where(locks.c.name == name, locks.c.owner == owner)
        good_until = time.monotonic() + LOCK_SECONDS
        while not done.wait(LOCK_SECONDS / 12):
            late = time.monotonic() > good_until
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                with self.engine.begin() as connection:
                    held = connection.execute(mine.values(expires_at=_expiry())).rowcount
                late = late or not held
                good_until = time.monotonic() + LOCK_SECONDS
            if late:
                self._lost_lock = name
                return


def _expiry() -> str:
    expiry = datetime.now(UTC) + timedelta(seconds=LOCK_SECONDS)
    return expiry.isoformat(timespec="microseconds")


def _who() -> str:
    """Who runs this process."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"


def _is_dead(owner: str) -> bool:
    """Whether a lock's owner was a process of this host that is no more."""
    host, pid, _ = owner.split(":")
    return host == socket.gethostname() and not psutil.pid_exists(int(pid))


def _sqlite_manners(connection: Any, _: Any) -> None:
    """Let readers and one writer live together, and wait for a busy file, not fail at once."""
    for pragma in ("journal_mode=WAL", "busy_timeout=30000", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
