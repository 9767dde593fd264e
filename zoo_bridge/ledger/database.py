"""The open database, and the rows of it that are this workflow's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from zoo_bridge.ledger import scope as scopes
from zoo_bridge.ledger.schema import alone, explained, open_engine, upgrade
from zoo_bridge.ledger.scope import Scope
from zoo_bridge.ledger.tables import projects, workflows


class Database:
    """A ledger's database, brought up to date, as one workflow sees it.

    Parameters
    ----------
    url : str
        Any SQLAlchemy URL.
    work : Path
        The folder that artifact paths are relative to.
    scope : Scope
        The workflow whose rows these are.

    Attributes
    ----------
    engine : sqlalchemy.Engine
        The connections; SQLite's wait for a busy file.
    workflow_key : int
        The ledger's own key of the workflow.

    Raises
    ------
    SettingsError
        If the database cannot be opened, or was written by a newer zoo_bridge.
    """

    def __init__(self, url: str, work: Path, scope: Scope) -> None:
        self.work = work
        self.scope = scope
        self.engine = open_engine(url)
        try:
            upgrade(self.engine)
            with explained(url):
                self.workflow_key = self._settled()
        except BaseException:
            self.engine.dispose()
            raise

    def _settled(self) -> int:
        with self.engine.connect() as connection:
            key = scopes.find_workflow(connection, self.scope)
        if key is not None:
            return key
        with alone(self.engine) as connection:
            return scopes.settle(connection, self.scope, self.work)

    def identify(self, project_id: int) -> None:
        """Note the project's number on Zooniverse; done at every log-in, and new at the first.

        Parameters
        ----------
        project_id : int
            As the server gives it.
        """
        query = sa.select(projects).where(projects.c.key == self.project_key)
        with explained(str(self.engine.url)):
            with self.engine.connect() as connection:
                row = connection.execute(query).first()
            known = row and (row.zooniverse_id, row.slug, row.endpoint)
            if known != (project_id, self.scope.slug, self.scope.endpoint):
                with alone(self.engine) as connection:
                    self.workflow_key = scopes.settle(connection, self.scope, self.work)
                    key, scope = self.workflow_key, self.scope
                    scopes.identify(connection, key, scope, project_id, self.work)

    def close(self) -> None:
        """Let go of every connection."""
        self.engine.dispose()

    @property
    def project_key(self) -> sa.ScalarSelect[int]:
        """The key of the project, looked up anew: a log-in may have found it to be another."""
        query = sa.select(workflows.c.project_key).where(workflows.c.key == self.workflow_key)
        return query.scalar_subquery()

    def _mine(self, table: sa.Table) -> sa.ColumnElement[bool]:
        """Whether a row is this workflow's."""
        return table.c.workflow_key == self.workflow_key

    def _rows(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """One short transaction: a run that is killed at any moment leaves the ledger readable."""
        with self.engine.begin() as connection:
            yield connection


def following(table: sa.Table) -> sa.ScalarSelect[int]:
    """The number after the greatest in a table."""
    return sa.select(sa.func.coalesce(sa.func.max(table.c.number), 0) + 1).scalar_subquery()
