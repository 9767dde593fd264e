"""What the sandbox's Panoptes remembers: one SQLite file, so that it survives a restart.

The sandbox has a clock of its own, which can be put forward: a week of volunteers' work, the daily
limit of exports and the end of a token can be lived through in seconds.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS users (
  id INTEGER PRIMARY KEY, login TEXT UNIQUE NOT NULL, password TEXT NOT NULL,
  uploaded_subjects_count INTEGER NOT NULL DEFAULT 0,
  subject_limit INTEGER NOT NULL DEFAULT 10000, upload_whitelist INTEGER NOT NULL DEFAULT 0,
  created_at TEXT NOT NULL DEFAULT '', updated_at TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS applications (
  client_id TEXT PRIMARY KEY, client_secret TEXT NOT NULL, user_id INTEGER,
  scopes TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS redirects (client_id TEXT, uri TEXT, PRIMARY KEY (client_id, uri));
CREATE TABLE IF NOT EXISTS consents (client_id TEXT, user_id INTEGER,
  PRIMARY KEY (client_id, user_id));
CREATE TABLE IF NOT EXISTS codes (
  code TEXT PRIMARY KEY, client_id TEXT NOT NULL, user_id INTEGER NOT NULL, uri TEXT NOT NULL,
  scopes TEXT NOT NULL, challenge TEXT NOT NULL, expires REAL NOT NULL);
CREATE TABLE IF NOT EXISTS tokens (
  token TEXT PRIMARY KEY, refresh TEXT, user_id INTEGER NOT NULL, expires REAL NOT NULL,
  revoked INTEGER NOT NULL DEFAULT 0, scopes TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS projects (
  id INTEGER PRIMARY KEY, slug TEXT UNIQUE NOT NULL, display_name TEXT NOT NULL,
  owner_id INTEGER NOT NULL, live INTEGER NOT NULL, private INTEGER NOT NULL DEFAULT 0,
  state TEXT NOT NULL DEFAULT 'live',
  created_at TEXT NOT NULL, updated_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS collaborators (project_id INTEGER, user_id INTEGER,
  PRIMARY KEY (project_id, user_id));
CREATE TABLE IF NOT EXISTS roles (project_id INTEGER, user_id INTEGER, role TEXT NOT NULL,
  PRIMARY KEY (project_id, user_id, role));
CREATE TABLE IF NOT EXISTS workflows (
  id INTEGER PRIMARY KEY, project_id INTEGER NOT NULL, display_name TEXT NOT NULL,
  retirement TEXT NOT NULL, major INTEGER NOT NULL, minor INTEGER NOT NULL,
  subjects_count INTEGER NOT NULL DEFAULT 0, retired_count INTEGER NOT NULL DEFAULT 0,
  finished_at TEXT, lock_version INTEGER NOT NULL DEFAULT 0,
  created_at TEXT NOT NULL, updated_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS workflow_versions (
  workflow_id INTEGER, major INTEGER, minor INTEGER, tasks TEXT NOT NULL, strings TEXT NOT NULL,
  created_at TEXT NOT NULL, PRIMARY KEY (workflow_id, major, minor));
CREATE TABLE IF NOT EXISTS subject_sets (
  id INTEGER PRIMARY KEY AUTOINCREMENT, project_id INTEGER NOT NULL, display_name TEXT NOT NULL,
  metadata TEXT NOT NULL, member_count INTEGER NOT NULL DEFAULT 0, created_at TEXT NOT NULL,
  updated_at TEXT NOT NULL, lock_version INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS workflow_sets (workflow_id INTEGER, subject_set_id INTEGER,
  PRIMARY KEY (workflow_id, subject_set_id));
CREATE TABLE IF NOT EXISTS subjects (
  id INTEGER PRIMARY KEY AUTOINCREMENT, project_id INTEGER NOT NULL, uploader_id INTEGER NOT NULL,
  metadata TEXT NOT NULL, locations TEXT NOT NULL, created_at TEXT NOT NULL,
  updated_at TEXT NOT NULL, deleted INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS set_subjects (
  id INTEGER PRIMARY KEY AUTOINCREMENT, subject_set_id INTEGER NOT NULL,
  subject_id INTEGER NOT NULL, created_at TEXT NOT NULL DEFAULT '',
  UNIQUE (subject_set_id, subject_id));
CREATE INDEX IF NOT EXISTS by_member ON set_subjects (subject_id);
CREATE TABLE IF NOT EXISTS media (
  id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE NOT NULL, mime TEXT NOT NULL,
  shown_as TEXT NOT NULL DEFAULT '', written_at REAL, etag TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS statuses (
  id INTEGER PRIMARY KEY, subject_id INTEGER NOT NULL, workflow_id INTEGER NOT NULL,
  classifications_count INTEGER NOT NULL DEFAULT 0, retired_at TEXT, retirement_reason TEXT,
  created_at TEXT NOT NULL DEFAULT '', updated_at TEXT NOT NULL DEFAULT '',
  UNIQUE (subject_id, workflow_id));
CREATE TABLE IF NOT EXISTS classifications (
  id INTEGER PRIMARY KEY, created_at TEXT NOT NULL, project_id INTEGER NOT NULL,
  workflow_id INTEGER NOT NULL, major INTEGER NOT NULL, minor INTEGER NOT NULL,
  user_id INTEGER, user_name TEXT NOT NULL, user_ip TEXT NOT NULL, subject_id INTEGER NOT NULL,
  annotations TEXT NOT NULL, metadata TEXT NOT NULL, gold_standard TEXT NOT NULL DEFAULT '',
  completed INTEGER NOT NULL DEFAULT 1, more_subjects TEXT NOT NULL DEFAULT '[]');
CREATE INDEX IF NOT EXISTS by_subject ON classifications (workflow_id, subject_id);
CREATE TABLE IF NOT EXISTS exports (
  id INTEGER PRIMARY KEY, resource TEXT NOT NULL, resource_id INTEGER NOT NULL,
  kind TEXT NOT NULL, state TEXT NOT NULL, file TEXT NOT NULL, created_at TEXT NOT NULL,
  updated_at TEXT NOT NULL, last_run REAL, job_id TEXT, starts_at REAL, ready_at REAL,
  UNIQUE (resource, resource_id, kind));
CREATE TABLE IF NOT EXISTS work (
  kind TEXT NOT NULL, what INTEGER NOT NULL, due REAL, last_run REAL, PRIMARY KEY (kind, what));
CREATE TABLE IF NOT EXISTS faults (
  id INTEGER PRIMARY KEY, rule TEXT NOT NULL, seen INTEGER NOT NULL DEFAULT 0,
  fired INTEGER NOT NULL DEFAULT 0);
"""
# What an application of one's own may be allowed to do, and what signing in by password allows.
SCOPES = "user project group collection classification subject medium organization translation"
EVERY_SCOPE = f"{SCOPES} public"


class State:
    """The database and the clock of one sandbox.

    Parameters
    ----------
    folder : Path
        Where ``panoptes.sqlite3``, ``media/`` and ``exports/`` live.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "media").mkdir(parents=True, exist_ok=True)
        (folder / "exports").mkdir(parents=True, exist_ok=True)
        self._local = threading.local()
        self._writing = threading.RLock()
        with self.write() as db:
            db.executescript(SCHEMA)
            db.execute("INSERT OR IGNORE INTO meta VALUES ('secret', ?)", (secrets.token_hex(),))
            db.execute("INSERT OR IGNORE INTO meta VALUES ('offset', '0')")
        self.secret = self.one("SELECT value FROM meta WHERE key = 'secret'")["value"]
        self._offset = float(self.one("SELECT value FROM meta WHERE key = 'offset'")["value"])
        self._stopped: float | None = None
        self.before_advance: list[Callable[[], None]] = []

    @property
    def db(self) -> sqlite3.Connection:
        """This thread's connection."""
        if not hasattr(self._local, "db"):
            db = sqlite3.connect(self.folder / "panoptes.sqlite3", timeout=60)
            db.row_factory = sqlite3.Row
            db.isolation_level = None
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            self._local.db = db
        connection: sqlite3.Connection = self._local.db
        return connection

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction; an exception undoes all of it. Nested uses join the outer one."""
        with self._writing:
            db = self.db
            if db.in_transaction:
                yield db
                return
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.rollback()
                raise
            if db.in_transaction:
                db.commit()

    def all(self, query: str, values: Iterable[Any] = ()) -> list[dict[str, Any]]:
        """Every row of a query."""
        return [dict(row) for row in self.db.execute(query, tuple(values)).fetchall()]

    def one(self, query: str, values: Iterable[Any] = ()) -> dict[str, Any]:
        """The first row of a query, or an empty dictionary."""
        row = self.db.execute(query, tuple(values)).fetchone()
        return dict(row) if row else {}

    # the clock

    def time(self) -> float:
        """Seconds since 1970 by the sandbox's clock."""
        return time.time() + self._offset if self._stopped is None else self._stopped

    def stamp(self, at: float | None = None) -> str:
        """The sandbox's time as the API writes it."""
        moment = datetime.fromtimestamp(self.time() if at is None else at, UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def moved(self, before: str) -> str:
        """The time as what is changed now has it: later than when it was changed before."""
        now = self.stamp()
        if now > before:
            return now
        last = datetime.fromisoformat(before)
        after = last.replace(microsecond=min(999_000, last.microsecond + 1000))
        return self.stamp(after.timestamp())

    def advance(self, seconds: float) -> None:
        """Put the clock forward."""
        for due in self.before_advance:
            due()
        if self._stopped is not None:
            self._stopped += seconds
        self._offset += seconds
        with self.write() as db:
            db.execute("UPDATE meta SET value = ? WHERE key = 'offset'", (str(self._offset),))

    def stop_clock(self, at: float | None) -> None:
        """Let the clock stand still at a moment; None lets it run on from where it stands."""
        if at is None and self._stopped is not None:
            self.advance(self._stopped - (time.time() + self._offset))
        self._stopped = at

    # switches

    def switch(self, name: str, on: bool) -> None:
        """Turn a feature of the server on or off: uploads, exports."""
        with self.write() as db:
            db.execute(
                "INSERT OR REPLACE INTO meta VALUES (?, ?)", (f"off:{name}", str(int(not on)))
            )

    def is_on(self, name: str) -> bool:
        """Whether a feature of the server is on."""
        row = self.one("SELECT value FROM meta WHERE key = ?", (f"off:{name}",))
        return row.get("value", "0") == "0"

    # making a project

    def add_user(self, login: str, password: str, **facts: Any) -> int:
        """An account; facts: subject_limit, upload_whitelist."""
        now = self.stamp()
        stamps = {"created_at": now, "updated_at": now}
        return self._insert("users", login=login, password=password, **stamps, **facts)

    def add_application(
        self,
        client_id: str,
        client_secret: str = "",
        user_id: int | None = None,
        scopes: str = EVERY_SCOPE,
    ) -> None:
        """Client credentials that act as a user; without a secret, one to sign in by password."""
        self._insert(
            "applications",
            client_id=client_id,
            client_secret=client_secret,
            user_id=user_id,
            scopes=scopes,
        )

    def add_redirect(self, client_id: str, uri: str) -> None:
        """Let an application be signed in with: an address that people come back to."""
        self._insert("redirects", client_id=client_id, uri=uri)

    def add_project(
        self, slug: str, display_name: str, owner_id: int, live: bool = True, private: bool = False
    ) -> int:
        """A project of an owner."""
        now = self.stamp()
        return self._insert(
            "projects",
            slug=slug,
            display_name=display_name,
            owner_id=owner_id,
            live=live,
            private=private,
            created_at=now,
            updated_at=now,
        )

    def add_workflow(
        self, project_id: int, name: str, tasks: dict[str, Any], strings: dict[str, str], limit: int
    ) -> int:
        """A workflow in its first version; it retires subjects after `limit` classifications."""
        now = self.stamp()
        with self.write():
            workflow = self._insert(
                "workflows",
                created_at=now,
                updated_at=now,
                project_id=project_id,
                display_name=name,
                retirement=json.dumps(
                    {"criteria": "classification_count", "options": {"count": limit}}
                ),
                major=1,
                minor=1,
            )
            self.add_version(workflow, 1, 1, tasks, strings)
        return workflow

    def add_version(
        self,
        workflow: int,
        major: int,
        minor: int,
        tasks: dict[str, Any],
        strings: dict[str, str],
    ) -> None:
        """A new version of a workflow's tasks and texts, in use from now on."""
        with self.write() as db:
            self._insert(
                "workflow_versions",
                workflow_id=workflow,
                major=major,
                minor=minor,
                tasks=json.dumps(tasks),
                strings=json.dumps(strings),
                created_at=self.stamp(),
            )
            db.execute(
                "UPDATE workflows SET major = ?, minor = ?, updated_at = ?,"
                " lock_version = lock_version + 1 WHERE id = ?",
                (major, minor, self.stamp(), workflow),
            )

    def _insert(self, table: str, **row: Any) -> int:
        names, marks = ", ".join(row), ", ".join("?" * len(row))
        with self.write() as db:
            cursor = db.execute(
                f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(row.values())
            )
        return int(cursor.lastrowid or 0)

    insert = _insert
