"""The ledger's tables, as they are now.

A change here needs a migration beside it, and `HEAD` its name: a test holds the two against each
other. What tables were before stands in ``migrations/versions/``.

Every row belongs to a workflow, and by it to a project: the keys of both are the ledger's own, and
the rows of ``projects`` and ``workflows`` say which ones of which server they are. What an earlier
version wrote and nobody has claimed has no workflow.
"""

from __future__ import annotations

import sqlalchemy as sa

# The newest migration.
HEAD = "0006"

metadata = sa.MetaData()

projects = sa.Table(
    "projects",
    metadata,
    sa.Column("key", sa.Integer, primary_key=True),
    # Of the server; unknown for what an earlier version wrote, until it is opened.
    sa.Column("endpoint", sa.String),
    # Its number there, as the first log-in found it; until then the slug stands for it.
    sa.Column("zooniverse_id", sa.Integer),
    sa.Column("slug", sa.String, nullable=False),
    sa.UniqueConstraint("endpoint", "zooniverse_id", name="uq_projects_zooniverse_id"),
)
workflows = sa.Table(
    "workflows",
    metadata,
    sa.Column("key", sa.Integer, primary_key=True),
    sa.Column(
        "project_key",
        sa.Integer,
        sa.ForeignKey("projects.key", name="fk_workflows_project"),
        nullable=False,
    ),
    # Its number on Zooniverse, as the settings have it.
    sa.Column("zooniverse_id", sa.Integer, nullable=False),
    # When rows of an earlier version, which did not say whose they are, were looked through.
    sa.Column("claimed_at", sa.String),
    sa.UniqueConstraint("project_key", "zooniverse_id", name="uq_workflows_zooniverse_id"),
)


def _workflow_of(table: str) -> sa.Column[int]:
    key = sa.ForeignKey("workflows.key", name=f"fk_{table}_workflow")
    return sa.Column("workflow_key", sa.Integer, key, index=True)


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
    # What is last is decided by this: a clock may have been wrong.
    sa.Column("number", sa.Integer, index=True),
    # The process, as it holds its locks.
    sa.Column("owner", sa.String),
    sa.Column("warnings", sa.JSON),
    _workflow_of("runs"),
    # Whose run it was, and through what: see `zoo_bridge.ledger.actors`.
    sa.Column("who", sa.String),
    sa.Column("through", sa.String),
    # The cycle that it is part of.
    sa.Column("parent", sa.String),
    # Numbers that are watched from run to run, whatever came of it: quota, backlog, pace.
    sa.Column("measures", sa.JSON),
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
    _workflow_of("artifacts"),
)
promotions = sa.Table(
    "promotions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("version", sa.String, nullable=False),
    sa.Column("action", sa.String, nullable=False),
    sa.Column("reason", sa.String),
    sa.Column("at", sa.String, nullable=False),
    _workflow_of("promotions"),
    sa.Column("who", sa.String),
    sa.Column("through", sa.String),
    # In a person's words, where a person did it.
    sa.Column("why", sa.String),
)
batches = sa.Table(
    "batches",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("subject_set_id", sa.String),
    sa.Column("scores", sa.String),
    sa.Column("labels", sa.String),
    sa.Column("path", sa.String, nullable=False),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("created_at", sa.String, nullable=False),
    sa.Column("published_at", sa.String),
    sa.Column("number", sa.Integer, index=True),
    _workflow_of("batches"),
)
objects = sa.Table(
    "objects",
    metadata,
    # An object is uploaded once in a project, whichever workflow shows it.
    sa.Column(
        "project_key",
        sa.Integer,
        sa.ForeignKey("projects.key", name="fk_objects_project"),
        primary_key=True,
        autoincrement=False,
    ),
    sa.Column("object_id", sa.String, primary_key=True),
    sa.Column("batch", sa.String, nullable=False, index=True),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("subject_id", sa.String),
    sa.Column("updated_at", sa.String, nullable=False),
    # Whose quota its subject counts to: a user's number on Zooniverse.
    sa.Column("account", sa.String, index=True),
    # The create that was sent last, whether or not it was answered; and how many were sent.
    sa.Column("asked_at", sa.String),
    sa.Column("creates", sa.Integer, nullable=False, default=0, server_default="0"),
    # Whether its votes judge models, or teach them; None where a hash of its id decides, as it does
    # for everything that was labelled before it was planned.
    sa.Column("heldout", sa.Boolean),
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
    sa.Column("through", sa.String),
)
incidents = sa.Table(
    "incidents",
    metadata,
    sa.Column(
        "workflow_key",
        sa.Integer,
        sa.ForeignKey("workflows.key", name="fk_incidents_workflow"),
        primary_key=True,
        autoincrement=False,
    ),
    # What is not as it should be, such as "failed cycle": a row as long as it lasts.
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("text", sa.String, nullable=False),
    sa.Column("opened_at", sa.String, nullable=False),
    # When somebody was told last; and until when a process says that it is about to tell.
    sa.Column("told_at", sa.String),
    sa.Column("claimed_until", sa.String),
)
acts = sa.Table(
    "acts",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    _workflow_of("acts"),
    sa.Column("at", sa.String, nullable=False),
    # What was done, such as "paused", and to what, such as a job.
    sa.Column("what", sa.String, nullable=False),
    sa.Column("subject", sa.String, nullable=False),
    sa.Column("text", sa.String),
    sa.Column("who", sa.String, nullable=False),
    sa.Column("through", sa.String, nullable=False),
)
locks = sa.Table(
    "locks",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("project_key", sa.Integer, primary_key=True, autoincrement=False),
    # 0 for what only one workflow of a project may do at a time.
    sa.Column("workflow_key", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("owner", sa.String, nullable=False),
    sa.Column("expires_at", sa.String, nullable=False),
)
