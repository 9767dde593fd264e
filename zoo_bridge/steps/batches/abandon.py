"""Giving a batch up: what is lost by that, what is kept for a later one, and what stays locked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo_bridge.errors import InputError, RefusedError, SettingsError, ZooniverseError
from zoo_bridge.ledger import IN_DOUBT, Batch, BatchState, ObjectState
from zoo_bridge.ledger.actors import signed
from zoo_bridge.steps.batches.publish import find_batch, reason
from zoo_bridge.steps.batches.staging import SET_MADE, facts_of
from zoo_bridge.steps.context import Context
from zoo_bridge.steps.login import log_in
from zoo_bridge.steps.shelf import here
from zoo_bridge.tables import BATCH, read_table

if TYPE_CHECKING:
    from zoo_bridge.zooniverse.session import Session

Row = dict[str, Any]
MOST_NAMED = 20


@dataclass(frozen=True)
class Fates:
    """What becomes of a batch's objects when it is given up.

    ``subjects`` exist on Zooniverse, by object id; ``locked`` are objects whose create was not
    answered, and which may become subjects yet; ``linked`` are subjects of others; ``left_out`` are
    those that a person took out.
    """

    subjects: dict[str, str]
    locked: list[str]
    linked: list[str]
    never: int
    left_out: int = 0

    def text(self) -> str:
        """In words."""
        parts = []
        if again := self.never + len(self.linked):
            parts.append(f"{again} objects can be planned again")
        if self.subjects:
            parts.append(
                f"{len(self.subjects)} are subjects on Zooniverse, which were paid for from the "
                "quota: a later batch may link them, none is made again"
            )
        if self.locked:
            parts.append(
                f"{len(self.locked)} stay locked, since nobody knows whether their create was "
                f"carried out: {some(self.locked)}"
            )
        if self.left_out:
            parts.append(f"{self.left_out} were left out, and stay so")
        return "; ".join(parts) or "it has no objects"


def some(names: Sequence[str]) -> str:
    """Names, as many as one reads."""
    return ", ".join(names[:MOST_NAMED]) + (" …" if len(names) > MOST_NAMED else "")


def abandon(ctx: Context, name: str, yes: bool = False, why: str | None = None) -> str:
    """Give a batch up that cannot be finished, or is not wanted; nothing is deleted.

    Its sets are read first. Objects that it planned and never asked for may be planned again, those
    that are subjects may be linked by a later batch, and those whose create was not answered stay
    locked until somebody has looked: see `release`.

    Parameters
    ----------
    ctx : Context
        The settings and the ledger.
    name : str
        The batch's name.
    yes : bool
        Do it; otherwise it is only said what would become of its objects.
    why : str, optional
        A person's reason, which is kept.

    Returns
    -------
    str
        What was done.

    Raises
    ------
    RefusedError
        If volunteers see it, or without `yes`.
    """
    batch = find_batch(ctx, name)
    if batch.state == BatchState.ABANDONED:
        return f"{name} was given up already"
    if batch.state == BatchState.PUBLISHED:
        raise RefusedError(
            f"{name} is published: volunteers see it.",
            f"Take it back first: zoo-bridge withdraw {name}.",
        )
    from zoo_bridge.zooniverse.subjects import withdraw

    session, who = _log_in(ctx)
    fates = _fates(ctx, session, batch)
    if not yes:
        raise RefusedError(
            f"Nothing was done. If {name} is given up it can be neither finished nor published: "
            f"{fates.text()}.",
            f"If that is what you want: zoo-bridge abandon {name} --yes.",
        )
    if batch.subject_set_id is not None:
        # Whatever the ledger says: publishing may have been carried out and not answered.
        withdraw(session, ctx.settings.project.workflow, batch.subject_set_id)
    facts = {"subjects": len(fates.subjects), "locked": fates.locked, **reason(why)}
    ctx.ledger.give_up(name, fates.subjects, fates.linked, facts, who)
    return f"{name} is given up: {fates.text()}"


def _log_in(ctx: Context) -> tuple[Session, str]:
    session, access = log_in(ctx)
    # Without rights every set seems to be gone.
    access.require_rights()
    return session, signed(access.account.login)


def _fates(ctx: Context, session: Session, batch: Batch) -> Fates:
    name = batch.name
    made = _made(ctx, session, batch)
    subjects, locked, never = {}, [], 0
    actions = _actions(ctx, batch)
    linked = []
    left_out = 0
    for row in ctx.ledger.list_objects(name):
        if row.state == ObjectState.LEFT_OUT:
            # A person did not want it shown, and no batch is to plan it again.
            left_out += 1
            continue
        ident = row.object_id
        subject = row.subject_id or made.get(ident)
        if subject is not None:
            action = actions.get(ident)
            # Before version 0.2 creates were not counted; without a plan the set tells.
            own = row.creates > 0 or action == "create"
            if own or (action is None and made.get(ident) == subject):
                subjects[ident] = subject
            else:
                linked.append(ident)
        elif row.state in IN_DOUBT:
            locked.append(ident)
        else:
            never += 1
    return Fates(subjects, sorted(locked), linked, never, left_out)


def _actions(ctx: Context, batch: Batch) -> dict[str, str]:
    """What a batch planned to do with each object; nothing if its plan is gone."""
    try:
        plan = read_table(here(ctx.settings, batch.path) / "plan.parquet", BATCH).to_pylist()
    except InputError:
        return {}
    return {row["object_id"]: row["action"] for row in plan}


def _made(ctx: Context, session: Session, batch: Batch) -> dict[str, str]:
    """The subjects in a batch's sets, by the object that they say to show: the first of each."""
    from zoo_bridge.zooniverse.subjects import list_members

    name = batch.name
    key = facts_of(ctx, name).get("key") or ctx.settings.upload.metadata_key
    events = [row for row in ctx.ledger.list_events(name) if row.what == SET_MADE]
    sets = {str(row.facts["id"]) for row in events} | {batch.subject_set_id}
    found: dict[str, str] = {}
    for set_id in sorted(filter(None, sets), key=int):
        try:
            members = list_members(session, set_id)
        except ZooniverseError as error:
            # Deleted by hand: what the ledger knows of it is all that there is.
            if error.status != 404:
                raise
            continue
        for subject in members:
            if (shown := subject.metadata.get(key)) is not None:
                found.setdefault(str(shown), subject.subject_id)
    return found


def release(ctx: Context, names: Sequence[str], yes: bool = False) -> list[str]:
    """Free objects that a batch which was given up left locked, on the word of a person.

    The batch's sets are read first: what is a subject after all is not freed, but may be linked by
    a later batch.

    Parameters
    ----------
    ctx : Context
        The settings and the ledger.
    names : sequence of str
        Objects, of those that `Ledger.list_locked` has.
    yes : bool
        Free them; otherwise it is only said what would become of them.

    Returns
    -------
    list of str
        A line for each object.

    Raises
    ------
    SettingsError
        If one is not locked.
    RefusedError
        Without `yes`.
    """
    locked = {row.object_id: row for row in ctx.ledger.list_locked()}
    if unknown := [name for name in names if name not in locked]:
        raise SettingsError(
            f"{some(unknown)}: not locked.",
            f"Locked are: {some(sorted(locked))}." if locked else "No object is locked.",
        )
    session, who = _log_in(ctx)
    batches = {locked[name].batch for name in names}
    # Objects are the project's: another of its workflows may have planned them.
    known = [each for each in ctx.ledger.project_batches() if each.name in batches]
    made = {each.name: _made(ctx, session, each) for each in known}
    if not yes:
        there = [name for name in names if name in made[locked[name].batch]]
        subjects = f" {some(there)} are subjects, as their sets show." if there else ""
        raise RefusedError(
            f"Nothing was done.{subjects} {some(names)}: if a create that was never answered is "
            "carried out after all, and the object is uploaded again, volunteers may see it twice.",
            "Look on Zooniverse whether there is such a subject; if there is none: zoo-bridge "
            f"release {' '.join(names)} --yes",
        )
    lines = []
    for name in names:
        batch = locked[name].batch
        if subject := made[batch].get(name):
            ctx.ledger.set_objects(batch, {name: subject}, ObjectState.CREATED)
            lines.append(f"{name} is subject {subject}: a later batch may link it")
        else:
            ctx.ledger.release_object(name)
            ctx.ledger.add_event(batch, "released", {"object": name}, who)
            lines.append(f"{name} can be planned again")
    return lines
