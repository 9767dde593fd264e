"""Which cycle runs were part of, what they measured; what is wrong, who was told, what was done."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add columns and tables; nothing that is there changes."""
    with op.batch_alter_table("runs") as runs:
        runs.add_column(sa.Column("parent", sa.String))
        runs.add_column(sa.Column("measures", sa.JSON))
    op.create_table(
        "incidents",
        sa.Column(
            "workflow_key",
            sa.Integer,
            sa.ForeignKey("workflows.key", name="fk_incidents_workflow"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("text", sa.String, nullable=False),
        sa.Column("opened_at", sa.String, nullable=False),
        sa.Column("told_at", sa.String),
        sa.Column("claimed_until", sa.String),
    )
    op.create_table(
        "acts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("workflow_key", sa.Integer),
        sa.Column("at", sa.String, nullable=False),
        sa.Column("what", sa.String, nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("text", sa.String),
        sa.Column("who", sa.String, nullable=False),
        sa.Column("through", sa.String, nullable=False),
        sa.ForeignKeyConstraint(["workflow_key"], ["workflows.key"], name="fk_acts_workflow"),
    )
    op.create_index("ix_acts_workflow_key", "acts", ["workflow_key"])
