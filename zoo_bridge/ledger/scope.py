"""Whose rows are whose: one ledger may be shared by workflows, projects and servers.

A workflow's number is unique on its server, and the settings have it. So it is by the workflow that
a project is found again, whatever its slug has become; or by slug and workflow, whatever the
server's address has become. The project's own number is known from the first log-in on; until then
its slug stands for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from zoo_bridge.errors import BusyError
from zoo_bridge.ledger.actors import through, who
from zoo_bridge.ledger.owners import now
from zoo_bridge.ledger.tables import (
    artifacts,
    batches,
    events,
    locks,
    objects,
    projects,
    promotions,
    runs,
    workflows,
)


@dataclass(frozen=True)
class Scope:
    """A workflow of a project, as the settings name it.

    Parameters
    ----------
    endpoint : str
        The server, such as ``https://www.zooniverse.org``.
    slug : str
        The project, as ``owner/name``: it may change.
    workflow : int
        The workflow's number on Zooniverse.
    """

    endpoint: str
    slug: str
    workflow: int


def find_workflow(connection: sa.Connection, scope: Scope) -> int | None:
    """The key of the workflow's row; None if this ledger does not have it yet."""
    known = _same_workflow(scope).where(workflows.c.claimed_at.is_not(None))
    row = connection.execute(known).first()
    return None if row is None else int(row.key)


def _same_workflow(scope: Scope) -> sa.Select[tuple[int, int]]:
    """Rows of the workflow, the surest first."""
    named = projects.c.slug == scope.slug
    here = (projects.c.endpoint == scope.endpoint) | projects.c.endpoint.is_(None)
    return (
        sa.select(workflows.c.key, workflows.c.project_key)
        .join(projects, projects.c.key == workflows.c.project_key)
        .where(workflows.c.zooniverse_id == scope.workflow, here | named)
        .order_by(*_best_first(scope))
    )


def _best_first(scope: Scope) -> list[sa.ColumnElement[int]]:
    """Rows that are surely meant before those of a version that knew no servers."""
    signs = (projects.c.endpoint == scope.endpoint, projects.c.slug == scope.slug)
    return [sa.case((sign, 0), else_=1) for sign in signs]


def settle(connection: sa.Connection, scope: Scope, work: Path) -> int:
    """Give a workflow its row, and what an earlier version wrote of it; nobody else may do so now.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        In a transaction that only one process is in.
    scope : Scope
        The workflow, as its settings name it.
    work : Path
        Its ``work_dir``, by which runs and artifacts of an earlier version are told from those of
        other workflows.

    Returns
    -------
    int
        The key of the workflow's row.
    """
    known = connection.execute(_same_workflow(scope)).first()
    if known is not None:
        key, project = int(known.key), int(known.project_key)
    else:
        found = connection.execute(
            sa.select(projects.c.key)
            .where(projects.c.slug == scope.slug)
            .order_by(*_best_first(scope))
        ).scalar()
        project = _insert(connection, projects, slug=scope.slug) if found is None else int(found)
        key = _insert(connection, workflows, project_key=project, zooniverse_id=scope.workflow)
    place = sa.update(projects).where(projects.c.key == project, projects.c.endpoint.is_(None))
    connection.execute(place.values(endpoint=scope.endpoint))
    row = sa.select(workflows.c.claimed_at).where(workflows.c.key == key)
    if connection.execute(row).scalar() is None:
        _claim(connection, key, work)
        done = sa.update(workflows).where(workflows.c.key == key)
        connection.execute(done.values(claimed_at=now()))
    return key


def _insert(connection: sa.Connection, table: sa.Table, **values: object) -> int:
    made = connection.execute(sa.insert(table).values(**values)).inserted_primary_key
    assert made is not None
    return int(made[0])


def _claim(connection: sa.Connection, key: int, work: Path) -> None:
    """Take the runs, artifacts and promotions that nobody has, and whose files are here.

    If none of the files is here, the folder is another than it was: then all are taken, unless the
    ledger has other workflows that they may belong to.
    """
    open_artifacts = connection.execute(
        sa.select(artifacts).where(artifacts.c.workflow_key.is_(None))
    ).fetchall()
    open_runs = [
        row.run_id
        for row in connection.execute(sa.select(runs.c.run_id).where(runs.c.workflow_key.is_(None)))
    ]
    here = [row for row in open_artifacts if (work / row.path).exists()]
    made = {row.run_id for row in here}
    ran = [name for name in open_runs if name in made or (work / "runs" / name).is_dir()]
    if not here and not ran:
        others = sa.select(sa.func.count()).select_from(workflows).where(workflows.c.key != key)
        if connection.execute(others).scalar():
            return
        here, ran = list(open_artifacts), open_runs
    models = [row.name for row in here if row.kind == "model"]
    for table, column, names in (
        (artifacts, artifacts.c.id, [row.id for row in here]),
        (runs, runs.c.run_id, ran),
        (promotions, promotions.c.version, models),
    ):
        for start in range(0, len(names), 500):
            some = column.in_(names[start : start + 500]) & table.c.workflow_key.is_(None)
            connection.execute(sa.update(table).where(some).values(workflow_key=key))


def identify(connection: sa.Connection, key: int, scope: Scope, zooniverse_id: int) -> None:
    """Note a project's number on Zooniverse, which a log-in has found.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        In a transaction that only one process is in.
    key : int
        Of the workflow's row.
    scope : Scope
        The workflow: its slug is the project's name by now.
    zooniverse_id : int
        The project's number.

    Raises
    ------
    BusyError
        If rows of two projects turn out to be of one, while both are worked on.
    """
    row = connection.execute(
        sa.select(projects)
        .join(workflows, workflows.c.project_key == projects.c.key)
        .where(workflows.c.key == key)
    ).one()
    known = connection.execute(
        sa.select(projects.c.key).where(
            projects.c.endpoint == scope.endpoint, projects.c.zooniverse_id == zooniverse_id
        )
    ).scalar()
    target = row.key
    if row.zooniverse_id in (None, zooniverse_id) and known not in (None, row.key):
        # The slug, or the address, had changed before it was opened under its number.
        target = int(known or 0)
        _unite(connection, int(row.key), target)
    elif row.zooniverse_id not in (None, zooniverse_id):
        # The slug was another project's before.
        target = int(known) if known is not None else _insert(connection, projects, slug=scope.slug)
        _move(connection, key, int(row.key), target)
    named = sa.update(projects).where(projects.c.key == target)
    values = {"endpoint": scope.endpoint, "zooniverse_id": zooniverse_id, "slug": scope.slug}
    connection.execute(named.values(values))
    _take_former_names(connection, key, int(target), scope)


def _take_former_names(connection: sa.Connection, key: int, project: int, scope: Scope) -> None:
    """What an earlier version noted of the same workflow under another slug is of this project."""
    same = (
        sa.select(workflows.c.project_key)
        .join(projects, projects.c.key == workflows.c.project_key)
        .where(
            workflows.c.zooniverse_id == scope.workflow,
            workflows.c.key != key,
            projects.c.zooniverse_id.is_(None),
            projects.c.endpoint.is_(None) | (projects.c.endpoint == scope.endpoint),
        )
    )
    for former in connection.execute(same).scalars().all():
        _unite(connection, int(former), project)


def _unite(connection: sa.Connection, source: int, target: int) -> None:
    """Everything of one project is another's."""
    _move_objects(connection, objects.c.project_key == source, target)
    there = dict(
        connection.execute(
            sa.select(workflows.c.zooniverse_id, workflows.c.key).where(
                workflows.c.project_key == target
            )
        ).fetchall()
    )
    for row in connection.execute(
        sa.select(workflows).where(workflows.c.project_key == source)
    ).fetchall():
        same = there.get(row.zooniverse_id)
        own = workflows.c.key == row.key
        if same is None:
            connection.execute(sa.update(workflows).where(own).values(project_key=target))
            continue
        for table in (runs, artifacts, promotions, batches):
            of_it = table.c.workflow_key == row.key
            connection.execute(sa.update(table).where(of_it).values(workflow_key=same))
        _move_locks(connection, locks.c.workflow_key == row.key, workflow_key=same)
        connection.execute(sa.delete(workflows).where(own))
    _move_locks(connection, locks.c.project_key == source, project_key=target)
    connection.execute(sa.delete(projects).where(projects.c.key == source))


def _move(connection: sa.Connection, key: int, source: int, target: int) -> None:
    """One workflow is another project's."""
    own = objects.c.batch.in_(sa.select(batches.c.name).where(batches.c.workflow_key == key))
    _move_objects(connection, (objects.c.project_key == source) & own, target)
    row = sa.update(workflows).where(workflows.c.key == key)
    connection.execute(row.values(project_key=target))
    _move_locks(connection, locks.c.workflow_key == key, project_key=target)


def _move_objects(connection: sa.Connection, which: sa.ColumnElement[bool], target: int) -> None:
    """Objects become another project's; of one that both have, the one with a subject stays."""
    taken = sa.select(objects.c.object_id).where(objects.c.project_key == target)
    for row in connection.execute(
        sa.select(objects).where(which, objects.c.object_id.in_(taken))
    ).fetchall():
        same = (objects.c.project_key == target) & (objects.c.object_id == row.object_id)
        theirs = connection.execute(sa.select(objects).where(same)).one()
        both = (objects.c.project_key == row.project_key) & (objects.c.object_id == row.object_id)
        stays, goes, gone = theirs, row, both
        if theirs.subject_id is None and row.subject_id is not None:
            stays, goes, gone = row, theirs, same
        connection.execute(sa.delete(objects).where(gone))
        connection.execute(
            sa.insert(events).values(
                batch=goes.batch,
                at=now(),
                what="object of another batch, too",
                who=who(),
                through=through(),
                facts={
                    "object": row.object_id,
                    "subject": goes.subject_id,
                    "stays in": stays.batch,
                },
            )
        )
    connection.execute(sa.update(objects).where(which).values(project_key=target))


def _move_locks(connection: sa.Connection, which: sa.ColumnElement[bool], **values: int) -> None:
    try:
        connection.execute(sa.update(locks).where(which).values(**values))
    except sa.exc.IntegrityError:
        raise BusyError(
            "Another run works on this project under its former name.",
            "Run the same command again when it has ended.",
        ) from None
