"""Objects know who created their subject, when the create was sent last, and how often."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add columns; of what was uploaded before, nobody knows these things."""
    with op.batch_alter_table("objects") as objects:
        objects.add_column(sa.Column("account", sa.String))
        objects.add_column(sa.Column("asked_at", sa.String))
        objects.add_column(sa.Column("creates", sa.Integer, nullable=False, server_default="0"))
    op.create_index("ix_objects_account", "objects", ["account"])
