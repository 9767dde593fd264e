"""Batches and objects in the ledger: what was planned, asked for, made, shown and given up."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from zoo_bridge.errors import BusyError
from zoo_bridge.ledger.actors import through, who
from zoo_bridge.ledger.database import Database, following
from zoo_bridge.ledger.owners import now
from zoo_bridge.ledger.records import Batch, Event, NewObject, PlannedObject
from zoo_bridge.ledger.states import HIDDEN, IN_DOUBT, BatchState, ObjectState
from zoo_bridge.ledger.tables import batches, events, objects, projects, runs, workflows
from zoo_bridge.redact import redact_all

NEWEST_BATCH = (batches.c.number.desc().nulls_last(), batches.c.created_at.desc())
_IN_DOUBT = objects.c.state.in_(IN_DOUBT)


class Batches(Database):
    """What a ledger knows of this workflow's batches, and of the objects of its project.

    An object becomes at most one subject of a project: whatever workflow planned it, no other does.
    """

    def add_batch(
        self,
        batch: Batch,
        members: Iterable[NewObject],
        facts: dict[str, Any] | None = None,
        adopted: Iterable[NewObject] = (),
    ) -> None:
        """Write a batch and the intent to upload each of its objects, in one transaction.

        Parameters
        ----------
        batch : Batch
            The batch; its number and the time are noted here.
        members : iterable of NewObject
            Objects that no batch has planned before.
        facts : dict, optional
            Of the event ``planned``.
        adopted : iterable of NewObject
            Objects of `list_adoptable`, which are subjects already: this batch's from now on.

        Raises
        ------
        sqlalchemy.exc.IntegrityError
            If another object was ever planned before: an object becomes at most one subject.
        BusyError
            If what was to be adopted is somebody else's by now.
        """
        row = {
            **asdict(batch),
            "created_at": now(),
            "number": following(batches),
            "workflow_key": self.workflow_key,
        }
        with self._writing() as connection:
            connection.execute(sa.insert(batches).values(row))
            connection.execute(sa.insert(events).values(_event(batch.name, "planned", facts)))
            self._add_members(connection, batch.name, members, adopted)

    def extend_batch(
        self,
        name: str,
        members: Iterable[NewObject],
        facts: dict[str, Any],
        adopted: Iterable[NewObject] = (),
    ) -> None:
        """Add objects to a staged batch, which is to be staged again, in one transaction.

        Parameters
        ----------
        name : str
            The batch.
        members, adopted : iterable of NewObject
            As `add_batch` takes them.
        facts : dict
            Of the event ``replaced``.

        Raises
        ------
        BusyError
            If it is staged no longer, or an object is somebody else's by now.
        """
        with self._writing() as connection:
            self._move(connection, name, BatchState.STAGING)
            connection.execute(sa.insert(events).values(_event(name, "replaced", facts)))
            self._add_members(connection, name, members, adopted)

    def _add_members(
        self,
        connection: sa.Connection,
        batch: str,
        members: Iterable[NewObject],
        adopted: Iterable[NewObject],
    ) -> None:
        stamp = now()
        project = connection.execute(sa.select(self.project_key)).scalar_one()
        rows = [{"project_key": project, **_values(member, batch, stamp)} for member in members]
        if rows:
            connection.execute(sa.insert(objects), rows)
        for member in adopted:
            values = _values(member, batch, stamp)
            if member.keeps_role:
                del values["heldout"]
            change = sa.update(objects).where(
                objects.c.project_key == project,
                objects.c.object_id == member.object_id,
                self._adoptable,
            )
            if connection.execute(change.values(values)).rowcount != 1:
                raise BusyError(
                    f"{member.object_id} was taken by another batch meanwhile.",
                    "Run the same command again.",
                )

    def leave_out(self, batch: str, subjects: dict[str, str], why: str, by: str) -> None:
        """Note that a person takes objects out of a batch that volunteers do not see.

        Parameters
        ----------
        batch : str
            The batch's name; it is staged or withdrawn.
        subjects : dict
            The subject of each object.
        why : str
            In that person's words.
        by : str
            Who it is.

        Raises
        ------
        BusyError
            If volunteers see it by now, or an object is in it no longer.
        """
        mine = (objects.c.project_key == self.project_key) & (objects.c.batch == batch)
        change = sa.update(objects).where(
            mine,
            objects.c.object_id.in_(list(subjects)),
            objects.c.state == ObjectState.STAGED,
        )
        hidden = batches.c.state.in_(HIDDEN)
        smaller = sa.update(batches).where(self._mine(batches), batches.c.name == batch, hidden)
        with self._writing() as connection:
            values = smaller.values(size=batches.c.size - len(subjects))
            seen = connection.execute(values).rowcount != 1
            left = change.values(state=ObjectState.LEFT_OUT, updated_at=now())
            if seen or connection.execute(left).rowcount != len(subjects):
                raise BusyError(
                    f"{batch} was changed by somebody else meanwhile.",
                    "See what it is by now with: zoo-bridge batches --offline.",
                )
            rows = [
                _event(batch, "left out", {"object": name, "subject": subject, "why": why}, by)
                for name, subject in subjects.items()
            ]
            connection.execute(sa.insert(events), rows)

    def set_batch(self, name: str, **facts: Any) -> None:
        """Note what is known of a batch by now; its state is changed by `move_batch` alone."""
        change = sa.update(batches).where(self._mine(batches), batches.c.name == name)
        with self._writing() as connection:
            connection.execute(change.values(**facts))

    def move_batch(self, name: str, state: BatchState, **facts: Any) -> None:
        """Bring a batch into another state, if the one that it is in allows it.

        Parameters
        ----------
        name : str
            The batch's name.
        state : BatchState
            The new state.
        **facts
            Other columns that change with it.

        Raises
        ------
        BusyError
            If somebody else has brought it into a state meanwhile that this one cannot follow.
        """
        with self._writing() as connection:
            self._move(connection, name, state, **facts)

    def _move(self, connection: sa.Connection, name: str, state: BatchState, **facts: Any) -> None:
        before = [each for each in BatchState if state in each.may_become]
        change = sa.update(batches).where(
            self._mine(batches), batches.c.name == name, batches.c.state.in_(before)
        )
        if connection.execute(change.values(state=state, **facts)).rowcount != 1:
            raise BusyError(
                f"{name} cannot become {state}: somebody else has changed it meanwhile.",
                "See what it is by now with: zoo-bridge batches --offline.",
            )

    def list_batches(self) -> list[Batch]:
        """The workflow's batches, newest first."""
        return self._batches(self._mine(batches))

    def project_batches(self) -> list[Batch]:
        """The batches of all workflows of the project, newest first."""
        return self._batches(self._of_project)

    def _batches(self, which: sa.ColumnElement[bool]) -> list[Batch]:
        query = sa.select(batches).where(which).order_by(*NEWEST_BATCH)
        names = Batch.__dataclass_fields__
        return [
            Batch(**{name: row[name] for name in names} | {"state": BatchState(row["state"])})
            for row in self._rows(query)
        ]

    def give_up(
        self,
        batch: str,
        subjects: dict[str, str],
        linked: Collection[str],
        facts: dict[str, Any],
        by: str,
    ) -> int:
        """Note that a batch is given up, and what becomes of its objects, in one transaction.

        What was asked for and never heard of may still become a subject: it stays as it is. What
        was planned and never asked for is forgotten, so that it may be planned again.

        Parameters
        ----------
        batch : str
            The batch's name.
        subjects : dict
            Objects that we made subjects of, and which ones.
        linked : collection of str
            Objects that are subjects of others.
        facts : dict
            Of the event.
        by : str
            Who did it: a log-in of Zooniverse.

        Returns
        -------
        int
            How many objects were forgotten.
        """
        stamp = now()
        mine = (objects.c.project_key == self.project_key) & (objects.c.batch == batch)
        ours = sa.update(objects).where(mine, objects.c.object_id == sa.bindparam("name"))
        # What zoo_bridge 0.1 made was not counted.
        made = sa.case((objects.c.creates > 0, objects.c.creates), else_=1)
        ours = ours.values(
            subject_id=sa.bindparam("subject"),
            state=ObjectState.CREATED,
            creates=made,
            updated_at=stamp,
        )
        rows = [{"name": name, "subject": subject} for name, subject in subjects.items()]
        free = sa.update(objects).where(mine, objects.c.object_id.in_(linked))
        never = sa.delete(objects).where(mine, objects.c.subject_id.is_(None), ~_IN_DOUBT)
        with self._writing() as connection:
            if rows:
                connection.execute(ours, rows)
            connection.execute(free.values(state=ObjectState.FREED, updated_at=stamp))
            forgotten = int(connection.execute(never).rowcount)
            connection.execute(sa.insert(events).values(_event(batch, "abandoned", facts, by)))
            self._move(connection, batch, BatchState.ABANDONED)
        return forgotten

    @property
    def _given_up(self) -> sa.Select[tuple[str]]:
        """Names of the project's batches that were given up, by whatever workflow."""
        given_up = batches.c.state == BatchState.ABANDONED
        return sa.select(batches.c.name).where(self._of_project, given_up)

    @property
    def _of_project(self) -> sa.ColumnElement[bool]:
        """Whether a batch is of a workflow of this project: objects are the project's."""
        every = sa.select(workflows.c.key).where(workflows.c.project_key == self.project_key)
        return batches.c.workflow_key.in_(every)

    @property
    def _adoptable(self) -> sa.ColumnElement[bool]:
        return (
            objects.c.batch.in_(self._given_up)
            & objects.c.subject_id.is_not(None)
            & ((objects.c.creates > 0) | (objects.c.state == ObjectState.FREED))
            & (objects.c.state != ObjectState.LEFT_OUT)
        )

    def list_adoptable(self) -> list[PlannedObject]:
        """Objects of batches that were given up which are subjects: a later one may have them.

        Those in the state ``freed`` are subjects of others.
        """
        return self._objects(self._adoptable)

    def list_locked(self) -> list[PlannedObject]:
        """Objects of batches that were given up which may or may not be subjects, in order."""
        locked = objects.c.batch.in_(self._given_up) & objects.c.subject_id.is_(None) & _IN_DOUBT
        return sorted(self._objects(locked), key=lambda each: (each.batch, each.object_id))

    def release_object(self, object_id: str) -> None:
        """Forget one of `list_locked`, on somebody's word that there is no such subject."""
        gone = sa.delete(objects).where(self._named(object_id), objects.c.subject_id.is_(None))
        with self._writing() as connection:
            connection.execute(gone)

    def ask_for(self, batch: str, object_id: str, account: str) -> None:
        """Note that a create is about to be sent: before it is, so that none is forgotten.

        Parameters
        ----------
        batch : str
            The batch that planned the object.
        object_id : str
            The object that is to become a subject.
        account : str
            The number of the user whose quota it counts to.

        Raises
        ------
        BusyError
            If it is planned no longer.
        """
        stamp = now()
        change = (
            sa.update(objects)
            .where(self._named(object_id), objects.c.batch == batch)
            .values(
                state=ObjectState.CREATING,
                account=account,
                asked_at=stamp,
                updated_at=stamp,
                creates=objects.c.creates + 1,
            )
        )
        with self._writing() as connection:
            if connection.execute(change).rowcount != 1:
                raise BusyError(
                    f"{object_id} is planned no longer: its batch was given up meanwhile.",
                    "Run the same command again.",
                )

    def created_by(self, account: str) -> int:
        """How many subjects an account is known to have created, in all projects of its server."""
        query = (
            sa.select(sa.func.count().label("total"))
            .join(projects, projects.c.key == objects.c.project_key)
            .where(
                objects.c.account == account,
                objects.c.subject_id.is_not(None),
                # Users of another server have numbers of their own.
                projects.c.endpoint == self.scope.endpoint,
            )
        )
        return int(self._rows(query)[0]["total"])

    def set_objects(
        self, batch: str, subject_ids: dict[str, str | None], state: ObjectState
    ) -> None:
        """Note how far the upload of objects has come, all in one transaction.

        Parameters
        ----------
        batch : str
            The batch that planned them.
        subject_ids : dict
            The subject of each object, None where there is none yet.
        state : ObjectState
            The state of all of them by now.
        """
        if not subject_ids:
            return
        change = (
            sa.update(objects)
            .where(
                objects.c.project_key == self.project_key,
                objects.c.batch == batch,
                objects.c.object_id == sa.bindparam("name"),
            )
            .values(state=state, subject_id=sa.bindparam("subject"), updated_at=now())
        )
        rows = [{"name": name, "subject": subject} for name, subject in subject_ids.items()]
        with self._writing() as connection:
            connection.execute(change, rows)

    def list_objects(self, batch: str | None = None) -> list[PlannedObject]:
        """Every object ever planned for the project, by any workflow, or those of one batch."""
        return self._objects(sa.true() if batch is None else objects.c.batch == batch)

    def states_of(self, batch: str) -> dict[str, ObjectState]:
        """How far each object of a batch has come: quicker than all of each."""
        query = sa.select(objects.c.object_id, objects.c.state).where(
            objects.c.project_key == self.project_key, objects.c.batch == batch
        )
        return {row["object_id"]: ObjectState(row["state"]) for row in self._rows(query)}

    def find_object(self, object_id: str) -> PlannedObject | None:
        """An object of the project by its id, if any batch ever planned it."""
        found = self._objects(objects.c.object_id == object_id)
        return found[0] if found else None

    def settled_roles(self) -> dict[str, bool]:
        """Whether objects of the project are held out, where their planning settled it."""
        found = self._objects(objects.c.heldout.is_not(None))
        return {each.object_id: bool(each.heldout) for each in found}

    def _objects(self, which: sa.ColumnElement[bool]) -> list[PlannedObject]:
        with self.engine.connect() as connection:
            project = connection.execute(sa.select(self.project_key)).scalar()
        if project is None:
            raise BusyError(
                "This workflow was united with the same one under a former name meanwhile.",
                "Run the same command again.",
            )
        query = sa.select(objects).where(objects.c.project_key == project, which)
        names = PlannedObject.__dataclass_fields__
        return [
            PlannedObject(
                **{name: row[name] for name in names} | {"state": ObjectState(row["state"])}
            )
            for row in self._rows(query)
        ]

    def _named(self, object_id: str) -> sa.ColumnElement[bool]:
        return (objects.c.project_key == self.project_key) & (objects.c.object_id == object_id)

    def add_event(
        self, batch: str, what: str, facts: dict[str, Any] | None = None, by: str = ""
    ) -> None:
        """Note what was done to a batch; the list is only ever added to.

        Parameters
        ----------
        batch : str
            The batch's name.
        what : str
            planned, set made, staged, published, withdrawn, abandoned or released, among others.
            Facts of publishing, withdrawing and giving up have a person's reason under ``why``.
        facts : dict, optional
            What else is to be kept; secrets are taken out.
        by : str
            A log-in of Zooniverse; if not given, the account of this machine.
        """
        with self._writing() as connection:
            connection.execute(sa.insert(events).values(_event(batch, what, facts, by)))

    def list_events(self, batch: str) -> list[Event]:
        """What was done to a batch, oldest first."""
        query = sa.select(events).where(events.c.batch == batch).order_by(events.c.id)
        return [_as_event(row) for row in self._rows(query)]

    def all_events(self, limit: int = 200) -> list[Event]:
        """What was done to this workflow's batches, newest first, so many at most."""
        mine = sa.select(batches.c.name).where(self._mine(batches))
        query = sa.select(events).where(events.c.batch.in_(mine))
        rows = self._rows(query.order_by(events.c.id.desc()).limit(limit))
        return [_as_event(row) for row in rows]

    def planned_since(self, days: float) -> int:
        """How many objects of the project were planned in the last days, by all its workflows.

        A batch of a time to come was made under a wrong clock: it is older than the runs after it.
        """
        since = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="microseconds")
        return sum(
            batch.size
            for batch in self.project_batches()
            if batch.created_at >= since
            and (batch.created_at <= now() or not self._ran_since(batch.name, since))
        )

    def _ran_since(self, batch: str, before: str) -> bool:
        """Whether a run that came after a batch's own began before some time."""
        planned = [event for event in self.list_events(batch) if event.what == "planned"]
        run_id = planned[0].facts.get("run") if planned else None
        number = sa.select(runs.c.number).where(runs.c.run_id == run_id).scalar_subquery()
        later = sa.select(runs.c.run_id).where(
            self._mine(runs), runs.c.number > number, runs.c.started_at < before
        )
        return bool(self._rows(later.limit(1)))


def _values(member: NewObject, batch: str, stamp: str) -> dict[str, Any]:
    return {
        "object_id": member.object_id,
        "reason": member.reason,
        "state": ObjectState.PLANNED,
        "subject_id": member.subject_id,
        "heldout": member.heldout,
        "batch": batch,
        "updated_at": stamp,
    }


def _as_event(row: dict[str, Any]) -> Event:
    names = ("batch", "at", "what", "who", "through")
    return Event(**{name: row[name] for name in names}, facts=row["facts"] or {})


def _event(batch: str, what: str, facts: dict[str, Any] | None, by: str = "") -> dict[str, Any]:
    return {
        "batch": batch,
        "at": now(),
        "what": what,
        "who": by or who(),
        "through": through(),
        "facts": redact_all(facts),
    }
