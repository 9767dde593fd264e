"""Every row belongs to a workflow of a project, by their numbers on Zooniverse; who did it, too."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Give batches and objects to the projects that they name.

    Runs, artifacts and promotions did not say whose they are: they are claimed when a workflow is
    first opened, by `zoo_bridge.ledger.scope`.
    """
    _make_projects()
    for table in ("runs", "artifacts", "promotions"):
        _add_workflow(table)
    for table in ("runs", "promotions"):
        with op.batch_alter_table(table) as changed:
            changed.add_column(sa.Column("who", sa.String))
            changed.add_column(sa.Column("through", sa.String))
    with op.batch_alter_table("events") as events:
        events.add_column(sa.Column("through", sa.String))
    _add_workflow("batches")
    op.execute(
        "UPDATE batches SET workflow_key = (SELECT workflows.key FROM workflows JOIN projects ON "
        "projects.key = workflows.project_key WHERE projects.slug = batches.project AND "
        "workflows.zooniverse_id = batches.workflow)"
    )
    with op.batch_alter_table("batches") as batches:
        batches.drop_column("project")
        batches.drop_column("workflow")
    _rebuild_objects()
    # Nobody holds one: see `zoo_bridge.ledger.schema`.
    op.drop_table("locks")
    op.create_table(
        "locks",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("project_key", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("workflow_key", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("expires_at", sa.String, nullable=False),
    )


def _make_projects() -> None:
    op.create_table(
        "projects",
        sa.Column("key", sa.Integer, primary_key=True),
        sa.Column("endpoint", sa.String),
        sa.Column("zooniverse_id", sa.Integer),
        sa.Column("slug", sa.String, nullable=False),
        sa.UniqueConstraint("endpoint", "zooniverse_id", name="uq_projects_zooniverse_id"),
    )
    op.create_table(
        "workflows",
        sa.Column("key", sa.Integer, primary_key=True),
        sa.Column(
            "project_key",
            sa.Integer,
            sa.ForeignKey("projects.key", name="fk_workflows_project"),
            nullable=False,
        ),
        sa.Column("zooniverse_id", sa.Integer, nullable=False),
        sa.Column("claimed_at", sa.String),
        sa.UniqueConstraint("project_key", "zooniverse_id", name="uq_workflows_zooniverse_id"),
    )
    op.execute(
        "INSERT INTO projects (slug) SELECT project FROM batches UNION SELECT project FROM objects"
    )
    op.execute(
        "INSERT INTO workflows (project_key, zooniverse_id) SELECT DISTINCT projects.key, "
        "batches.workflow FROM batches JOIN projects ON projects.slug = batches.project"
    )


def _add_workflow(table: str) -> None:
    with op.batch_alter_table(table) as changed:
        changed.add_column(sa.Column("workflow_key", sa.Integer))
        changed.create_foreign_key(f"fk_{table}_workflow", "workflows", ["workflow_key"], ["key"])
    op.create_index(f"ix_{table}_workflow_key", table, ["workflow_key"])


def _rebuild_objects() -> None:
    op.create_table(
        "objects_of_projects",
        sa.Column(
            "project_key",
            sa.Integer,
            sa.ForeignKey("projects.key", name="fk_objects_project"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("object_id", sa.String, primary_key=True),
        sa.Column("batch", sa.String, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("subject_id", sa.String),
        sa.Column("updated_at", sa.String, nullable=False),
        sa.Column("account", sa.String),
        sa.Column("asked_at", sa.String),
        sa.Column("creates", sa.Integer, nullable=False, server_default="0"),
        sa.Column("heldout", sa.Boolean),
    )
    kept = "object_id, batch, reason, state, subject_id, updated_at, account, asked_at, creates"
    op.execute(
        f"INSERT INTO objects_of_projects (project_key, {kept}, heldout) SELECT projects.key, "
        f"{kept}, heldout FROM objects JOIN projects ON projects.slug = objects.project"
    )
    op.drop_table("objects")
    op.rename_table("objects_of_projects", "objects")
    op.create_index("ix_objects_batch", "objects", ["batch"])
    op.create_index("ix_objects_account", "objects", ["account"])
