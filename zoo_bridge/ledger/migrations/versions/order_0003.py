"""Runs and batches are numbered, runs say whose they are, objects say what they are for."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add columns; what is there is numbered in the order of its times, as it was shown so far."""
    with op.batch_alter_table("runs") as runs:
        runs.add_column(sa.Column("number", sa.Integer))
        runs.add_column(sa.Column("owner", sa.String))
        runs.add_column(sa.Column("warnings", sa.JSON))
    with op.batch_alter_table("batches") as batches:
        batches.add_column(sa.Column("number", sa.Integer))
    with op.batch_alter_table("objects") as objects:
        objects.add_column(sa.Column("heldout", sa.Boolean))
    op.create_index("ix_runs_number", "runs", ["number"])
    op.create_index("ix_batches_number", "batches", ["number"])
    for table, key, time in (("runs", "run_id", "started_at"), ("batches", "name", "created_at")):
        op.execute(
            f"UPDATE {table} SET number = (SELECT count(*) FROM {table} AS other WHERE "
            f"other.{time} < {table}.{time} OR "
            f"(other.{time} = {table}.{time} AND other.{key} <= {table}.{key}))"
        )
    # What BALD chose is for learning, the random share is held out; batches of before there was a
    # model are split by a hash. Which of these were links to others' subjects is not known here.
    op.execute(
        "UPDATE objects SET heldout = (reason = 'random') WHERE batch NOT IN "
        "(SELECT name FROM batches WHERE kind = 'start')"
    )
