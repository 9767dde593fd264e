"""The ledger's tables, as they are now.

A change here needs a migration beside it, and `HEAD` its name: a test holds the two against each
other. What tables were before stands in ``migrations/versions/``.
"""

from __future__ import annotations

import sqlalchemy as sa

# The newest migration.
HEAD = "0003"

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
    # What is last is decided by this: a clock may have been wrong.
    sa.Column("number", sa.Integer, index=True),
    # The process, as it holds its locks.
    sa.Column("owner", sa.String),
    sa.Column("warnings", sa.JSON),
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
    sa.Column("number", sa.Integer, index=True),
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
)
locks = sa.Table(
    "locks",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("owner", sa.String, nullable=False),
    sa.Column("expires_at", sa.String, nullable=False),
)
