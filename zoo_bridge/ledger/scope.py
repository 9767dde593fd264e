"""Whose rows are whose: one ledger may be shared by workflows, projects and servers.

A workflow's number is unique on its server, and the settings have it. So it is by the workflow that
a project is found again, whatever its slug has become; or by slug and workflow, whatever the
server's address has become. The project's own number is known from the first log-in on; until then
its slug stands for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from zoo_bridge.errors import BusyError
from zoo_bridge.ledger.actors import through, who
from zoo_bridge.ledger.owners import is_held, named, now, process_of, this_owner
from zoo_bridge.ledger.states import IN_DOUBT
from zoo_bridge.ledger.tables import (
    acts,
    artifacts,
    batches,
    events,
    incidents,
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
    """The key of the workflow's row; None if it is not settled yet, see `settle`."""
    row = connection.execute(
        _workflows_of(scope).where(
            projects.c.endpoint == scope.endpoint, workflows.c.claimed_at.is_not(None)
        )
    ).first()
    return None if row is None else int(row.key)


def _workflows_of(scope: Scope) -> sa.Select[tuple[int, int]]:
    """Rows of a workflow of this number, of whatever server; those of its project's name first."""
    named = sa.case((projects.c.slug == scope.slug, 0), else_=1)
    return (
        sa.select(workflows.c.key, workflows.c.project_key)
        .join(projects, projects.c.key == workflows.c.project_key)
        .where(workflows.c.zooniverse_id == scope.workflow)
        .order_by(named, workflows.c.key)
    )


def settle(connection: sa.Connection, scope: Scope, work: Path) -> int:
    """Give a workflow its row, and what an earlier version wrote of it; nobody else may do so now.

    Numbers are unique on one server. Rows of an earlier version, which knew no servers, and those
    of a server that has moved, are taken by number only if the slug or the files say so, too.

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
    same = _workflows_of(scope)
    legacy, named = projects.c.endpoint.is_(None), projects.c.slug == scope.slug
    known = connection.execute(same.where(projects.c.endpoint == scope.endpoint)).first()
    if known is None:
        known = connection.execute(same.where(legacy, named)).first()
    if known is None:
        # The project was renamed, or the server has another address by now.
        others = connection.execute(same.where(legacy | named)).fetchall()
        known = next((row for row in others if _has_files(connection, row.key, work)), None)
    if known is not None:
        key, project, own = int(known.key), int(known.project_key), True
    else:
        here = (projects.c.endpoint == scope.endpoint) | legacy
        found = connection.execute(sa.select(projects.c.key).where(named, here)).scalar()
        project = _insert(connection, projects, slug=scope.slug) if found is None else int(found)
        key = _insert(connection, workflows, project_key=project, zooniverse_id=scope.workflow)
        own = False
    if (there := _same_project_there(connection, project, scope)) is not None:
        _unite(connection, project, there)
        return settle(connection, scope, work)
    place = sa.update(projects).where(projects.c.key == project)
    connection.execute(place.values(endpoint=scope.endpoint))
    row = sa.select(workflows.c.claimed_at).where(workflows.c.key == key)
    if connection.execute(row).scalar() is None and _claim(connection, key, work, own):
        done = sa.update(workflows).where(workflows.c.key == key)
        connection.execute(done.values(claimed_at=now()))
    return key


def _same_project_there(connection: sa.Connection, project: int, scope: Scope) -> int | None:
    """The row that a project has already under the server's new address, if it has moved."""
    row = connection.execute(sa.select(projects).where(projects.c.key == project)).one()
    if row.zooniverse_id is None or row.endpoint == scope.endpoint:
        return None
    found = connection.execute(
        sa.select(projects.c.key).where(
            projects.c.endpoint == scope.endpoint, projects.c.zooniverse_id == row.zooniverse_id
        )
    ).scalar()
    return None if found is None else int(found)


def _insert(connection: sa.Connection, table: sa.Table, **values: object) -> int:
    made = connection.execute(sa.insert(table).values(**values)).inserted_primary_key
    assert made is not None
    return int(made[0])


def _has_files(connection: sa.Connection, key: int, work: Path) -> bool:
    """Whether batches or artifacts of a workflow lie in a folder."""
    paths = [
        path
        for table in (batches, artifacts)
        for path in connection.execute(
            sa.select(table.c.path).where(table.c.workflow_key == key)
        ).scalars()
    ]
    return any((work / path).exists() for path in paths)


def _claim(connection: sa.Connection, key: int, work: Path, own: bool) -> bool:
    """Take the runs, artifacts and promotions that nobody has, and whose files are here.

    With them those that this workflow's batches were made from. If the ledger has no other
    workflow that they may belong to, all are taken: if ``own``, since it had a row of an earlier
    version, even if no file is here.

    Returns
    -------
    bool
        Whether there is nothing more to be claimed; otherwise it is looked for at each opening.
    """
    open_artifacts = connection.execute(
        sa.select(artifacts).where(artifacts.c.workflow_key.is_(None))
    ).fetchall()
    open_runs = list(
        connection.execute(sa.select(runs.c.run_id).where(runs.c.workflow_key.is_(None))).scalars()
    )
    none_open = sa.select(sa.func.count()).select_from(promotions)
    none_open = none_open.where(promotions.c.workflow_key.is_(None))
    if not open_artifacts and not open_runs and not connection.execute(none_open).scalar():
        return True
    here = [row for row in open_artifacts if (work / row.path).exists()]
    ran = [name for name in open_runs if (work / "runs" / name).is_dir()]
    others = sa.select(sa.func.count()).select_from(workflows).where(workflows.c.key != key)
    alone = not connection.execute(others).scalar()
    if alone and (own or here or ran):
        for table in (artifacts, runs, promotions):
            unclaimed = sa.update(table).where(table.c.workflow_key.is_(None))
            connection.execute(unclaimed.values(workflow_key=key))
        return True
    if not here and not ran:
        return False
    used = connection.execute(
        sa.select(batches.c.scores, batches.c.labels).where(batches.c.workflow_key == key)
    ).fetchall()
    names = {name for row in used for name in row if name is not None}
    mine = [row for row in open_artifacts if row in here or row.name in names]
    made = {row.run_id for row in mine}
    models = [row.name for row in mine if row.kind == "model"]
    for table, column, values in (
        (artifacts, artifacts.c.id, [row.id for row in mine]),
        (runs, runs.c.run_id, [name for name in open_runs if name in made or name in ran]),
        (promotions, promotions.c.version, models),
    ):
        for start in range(0, len(values), 500):
            some = column.in_(values[start : start + 500]) & table.c.workflow_key.is_(None)
            connection.execute(sa.update(table).where(some).values(workflow_key=key))
    return True


def identify(
    connection: sa.Connection, key: int, scope: Scope, zooniverse_id: int, work: Path
) -> None:
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
    work : Path
        The workflow's ``work_dir``, by which former names of the project are told from others.

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
    _take_former_names(connection, key, int(target), scope, work)


def _take_former_names(
    connection: sa.Connection, key: int, project: int, scope: Scope, work: Path
) -> None:
    """What an earlier version noted of the same workflow under another slug is of this project.

    It is the same one if its files lie in the same folder: those of two servers may have equal
    numbers.
    """
    former = _workflows_of(scope).where(
        workflows.c.key != key,
        projects.c.key != project,
        projects.c.zooniverse_id.is_(None),
        projects.c.endpoint.is_(None) | (projects.c.endpoint == scope.endpoint),
    )
    for row in connection.execute(former).fetchall():
        if _has_files(connection, row.key, work):
            _unite(connection, int(row.project_key), project)


def _unite(connection: sa.Connection, source: int, target: int) -> None:
    """Everything of one project is another's."""
    _require_idle(connection, locks.c.project_key == source)
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
        for table in (runs, artifacts, promotions, batches, acts):
            of_it = table.c.workflow_key == row.key
            connection.execute(sa.update(table).where(of_it).values(workflow_key=same))
        # What is wrong is found again.
        connection.execute(sa.delete(incidents).where(incidents.c.workflow_key == row.key))
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
    # What this process holds of the whole project is of the project that it works on.
    mine = (locks.c.workflow_key == 0) & locks.c.owner.in_(_of_this_process(connection))
    _move_locks(connection, mine & (locks.c.project_key == source), project_key=target)


def _of_this_process(connection: sa.Connection) -> list[str]:
    """Owners of locks that are threads of this process."""
    owners = connection.execute(sa.select(locks.c.owner)).scalars()
    return [owner for owner in owners if process_of(owner) == process_of(this_owner())]


def _move_objects(connection: sa.Connection, which: sa.ColumnElement[bool], target: int) -> None:
    """Objects become another project's.

    Of one that both have, the one with a subject stays, or the one that may have one; the other is
    on record as an event.
    """
    taken = sa.select(objects.c.object_id).where(objects.c.project_key == target)
    for row in connection.execute(
        sa.select(objects).where(which, objects.c.object_id.in_(taken))
    ).fetchall():
        same = (objects.c.project_key == target) & (objects.c.object_id == row.object_id)
        theirs = connection.execute(sa.select(objects).where(same)).one()
        both = (objects.c.project_key == row.project_key) & (objects.c.object_id == row.object_id)
        stays, goes, gone = theirs, row, both
        if _worth(row) > _worth(theirs):
            stays, goes, gone = row, theirs, same
        connection.execute(sa.delete(objects).where(gone))
        facts = {"object": row.object_id, "subject": goes.subject_id, "stays in": stays.batch}
        connection.execute(
            sa.insert(events).values(
                batch=goes.batch,
                at=now(),
                what="object of another batch, too",
                who=who(),
                through=through(),
                facts={**facts, "state": goes.state, "creates": goes.creates},
            )
        )
    connection.execute(sa.update(objects).where(which).values(project_key=target))


def _worth(row: sa.Row[Any]) -> int:
    """How much would be lost with an object's row: its subject, or a create that may come."""
    if row.subject_id is not None:
        return 2
    return 1 if row.state in IN_DOUBT or row.creates else 0


def _require_idle(connection: sa.Connection, which: sa.ColumnElement[bool]) -> None:
    """Raise `BusyError` if another process works on what is to be united."""
    here = process_of(this_owner())
    for row in connection.execute(sa.select(locks).where(which)).fetchall():
        if is_held(row.owner, row.expires_at) and process_of(row.owner) != here:
            raise BusyError(
                f"Another run works on this project under its former name: {named(row.owner)}.",
                "Run the same command again when it has ended.",
            )


def _move_locks(connection: sa.Connection, which: sa.ColumnElement[bool], **values: int) -> None:
    for row in connection.execute(sa.select(locks).where(which)).fetchall():
        this = (
            (locks.c.name == row.name)
            & (locks.c.project_key == row.project_key)
            & (locks.c.workflow_key == row.workflow_key)
        )
        if not is_held(row.owner, row.expires_at):
            connection.execute(sa.delete(locks).where(this))
            continue
        there = {**row._mapping, **values}
        rival = (
            (locks.c.name == there["name"])
            & (locks.c.project_key == there["project_key"])
            & (locks.c.workflow_key == there["workflow_key"])
        )
        _require_idle(connection, rival)
        connection.execute(sa.delete(locks).where(rival))
        connection.execute(sa.update(locks).where(this).values(**values))
