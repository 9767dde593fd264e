"""Artifacts in the ledger, and which model is in use."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from zoo_bridge.ledger.actors import through, who
from zoo_bridge.ledger.database import Database
from zoo_bridge.ledger.owners import now
from zoo_bridge.ledger.records import Artifact, Promotion
from zoo_bridge.ledger.shelf import Shelf
from zoo_bridge.ledger.tables import artifacts, promotions
from zoo_bridge.redact import redact


class Artifacts(Database):
    """What a ledger knows of what this workflow's runs left behind.

    Artifacts lie in ``work_dir``, or on a shelf that they are fetched from; the ledger says which
    of them count.
    """

    shelf: Shelf | None = None

    def add_artifact(
        self,
        kind: str,
        name: str,
        path: Path,
        digest: str,
        run_id: str,
        facts: dict[str, Any],
        leave: Collection[str] = (),
    ) -> Artifact:
        """Make an artifact count from now on; on the shelf it is before that, whole.

        Parameters
        ----------
        kind, name, path, digest, run_id, facts
            As `Artifact` has them.
        leave : collection of str
            Names of files in it that are no part of it.
        """
        self.shelve(path, leave)
        row = {
            "kind": kind,
            "name": name,
            "path": path.relative_to(self.work).as_posix(),
            "digest": digest,
            "run_id": run_id,
            "created_at": now(),
            "facts": facts,
        }
        with self._writing() as connection:
            whole = {**row, "workflow_key": self.workflow_key}
            connection.execute(sa.insert(artifacts).values(whole))
        return self._artifact(row)

    def shelve(self, path: Path, leave: Collection[str] = ()) -> None:
        """Keep a file or folder of ``work_dir`` on the shelf, too, where there is one."""
        if self.shelf is not None:
            self.shelf.put(path, leave)

    def list_artifacts(self, kind: str, gone: bool = False) -> list[Artifact]:
        """All artifacts of a kind that still are somewhere, newest first; or ever were."""
        query = sa.select(artifacts).where(self._mine(artifacts), artifacts.c.kind == kind)
        found = (self._artifact(row) for row in self._rows(query.order_by(artifacts.c.id.desc())))
        return [artifact for artifact in found if gone or artifact.exists]

    def find_artifact(self, kind: str, name: str) -> Artifact | None:
        """An artifact by its name, whether or not it still is anywhere."""
        query = sa.select(artifacts).where(
            self._mine(artifacts), artifacts.c.kind == kind, artifacts.c.name == name
        )
        rows = self._rows(query.order_by(artifacts.c.id.desc()).limit(1))
        return self._artifact(rows[0]) if rows else None

    def newest(self, kind: str) -> Artifact | None:
        """The newest artifact of a kind."""
        return next(iter(self.list_artifacts(kind)), None)

    def _artifact(self, row: dict[str, Any]) -> Artifact:
        home = self.work / row["path"]
        facts = row["facts"] or {}
        names = ("kind", "name", "digest", "run_id", "created_at")
        named = {name: row[name] for name in names}
        return Artifact(home=home, facts=facts, shelf=self.shelf, **named)

    # the model in use

    def promote(self, version: str, action: str, reason: str, why: str | None = None) -> None:
        """Put a model in use; the list is only ever added to.

        Parameters
        ----------
        version : str
            Name of the model that is in use from now on.
        action : str
            promote or rollback.
        reason : str
            The gate's verdict; of a rollback, the model that is taken out of use.
        why : str, optional
            A person's reason.
        """
        row = {
            "version": version,
            "action": action,
            "reason": reason,
            "at": now(),
            "workflow_key": self.workflow_key,
            "who": who(),
            "through": through(),
            "why": redact(why) if why else None,
        }
        with self._writing() as connection:
            connection.execute(sa.insert(promotions).values(row))

    def list_promotions(self) -> list[Promotion]:
        """Every promotion and rollback, newest first."""
        query = sa.select(promotions).where(self._mine(promotions))
        names = Promotion.__dataclass_fields__
        return [
            Promotion(**{name: row[name] for name in names})
            for row in self._rows(query.order_by(promotions.c.id.desc()))
        ]

    def model_in_use(self) -> str | None:
        """The version in use."""
        rows = self.list_promotions()
        return rows[0].version if rows else None
