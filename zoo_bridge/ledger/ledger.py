"""The ledger: what was run, what came of it, which model is in use, what was ever uploaded.

A real database through SQLAlchemy: SQLite by default, PostgreSQL by URL. Several workflows, of
several projects and servers, may share one: each sees its own rows alone. Every write is one short
transaction, so that a run killed at any moment leaves the ledger readable.
"""

from __future__ import annotations

from zoo_bridge.config import Settings
from zoo_bridge.ledger.artifacts import Artifacts
from zoo_bridge.ledger.batches import Batches
from zoo_bridge.ledger.runs import Runs
from zoo_bridge.ledger.scope import Scope
from zoo_bridge.ledger.watching import Watching


class Ledger(Runs, Artifacts, Batches, Watching):
    """The open ledger of one workflow; one of an earlier zoo_bridge is brought up to date first.

    Its parts stand in files of their own: `Runs` with the locks that tell which of them live,
    `Artifacts` with the model in use, `Batches` with the objects that were ever planned.
    """

    @classmethod
    def of(cls, settings: Settings) -> Ledger:
        """Open the ledger of a project's settings."""
        project = settings.project
        scope = Scope(project.endpoint, project.slug, project.workflow)
        return cls(settings.ledger_url, settings.work, scope)
