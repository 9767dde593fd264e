"""Why a model was put in use by hand."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add a column; nothing that is there changes."""
    with op.batch_alter_table("promotions") as promotions:
        promotions.add_column(sa.Column("why", sa.String))
