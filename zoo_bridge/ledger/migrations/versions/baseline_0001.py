"""The ledger as it was before there were migrations."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

# What a ledger without migrations is recognised by.
TABLES = {
    "runs": (
        "run_id",
        "job",
        "started_at",
        "ended_at",
        "outcome",
        "inputs_digest",
        "settings_digest",
        "artifact",
        "counts",
        "message",
    ),
    "artifacts": ("id", "kind", "name", "path", "digest", "run_id", "created_at", "facts"),
    "promotions": ("id", "version", "action", "reason", "at"),
    "batches": (
        "name",
        "project",
        "workflow",
        "state",
        "kind",
        "subject_set_id",
        "scores",
        "labels",
        "path",
        "size",
        "created_at",
        "published_at",
    ),
    "objects": ("project", "object_id", "batch", "reason", "state", "subject_id", "updated_at"),
    "events": ("id", "batch", "at", "what", "who", "facts"),
    "locks": ("name", "owner", "expires_at"),
}


def upgrade() -> None:
    """Make the tables of a new ledger."""
    op.create_table(
        "runs",
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
    op.create_table(
        "artifacts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("kind", sa.String, nullable=False, index=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("path", sa.String, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("created_at", sa.String, nullable=False),
        sa.Column("facts", sa.JSON),
    )
    op.create_table(
        "promotions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("version", sa.String, nullable=False),
        sa.Column("action", sa.String, nullable=False),
        sa.Column("reason", sa.String),
        sa.Column("at", sa.String, nullable=False),
    )
    op.create_table(
        "batches",
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
    op.create_table(
        "objects",
        sa.Column("project", sa.String, primary_key=True),
        sa.Column("object_id", sa.String, primary_key=True),
        sa.Column("batch", sa.String, nullable=False, index=True),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("subject_id", sa.String),
        sa.Column("updated_at", sa.String, nullable=False),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("batch", sa.String, nullable=False, index=True),
        sa.Column("at", sa.String, nullable=False),
        sa.Column("what", sa.String, nullable=False),
        sa.Column("who", sa.String, nullable=False),
        sa.Column("facts", sa.JSON),
    )
    op.create_table(
        "locks",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("expires_at", sa.String, nullable=False),
    )
