"""Showing a staged batch to volunteers, and taking it back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from zoo_bridge.errors import RefusedError, SettingsError, ZooniverseError
from zoo_bridge.ledger import Batch, BatchState, ObjectState, now
from zoo_bridge.ledger.actors import signed
from zoo_bridge.steps.context import Context

if TYPE_CHECKING:
    from zoo_bridge.zooniverse.session import Session


def find_batch(ctx: Context, name: str) -> Batch:
    """A batch of this workflow by its name; raises `SettingsError` if there is none."""
    batches = ctx.ledger.list_batches()
    found = next((batch for batch in batches if batch.name == name), None)
    if found is None:
        known = ", ".join(batch.name for batch in batches[:5]) or "none yet"
        raise SettingsError(f"There is no batch {name}.", f"Batches of this workflow: {known}.")
    return found


def publish(ctx: Context, name: str, session: Session | None = None, why: str | None = None) -> str:
    """Show a staged batch to volunteers.

    Parameters
    ----------
    ctx : Context
        The settings and the ledger.
    name : str
        The batch's name.
    session : Session, optional
        A log-in to use.
    why : str, optional
        A person's reason, which is kept.

    Returns
    -------
    str
        What was done.

    Raises
    ------
    RefusedError
        If the batch is not staged completely, or its set is no longer what was staged.
    ZooniverseError
        If volunteers may not see it by now, for want of rights, say; the batch stays what it was.
    """
    from zoo_bridge.zooniverse import subjects
    from zoo_bridge.zooniverse.project import find_account, find_project
    from zoo_bridge.zooniverse.session import Session

    batch = find_batch(ctx, name)
    if batch.state == BatchState.ABANDONED:
        raise RefusedError(
            f"{name} was given up.",
            "Stage another with: zoo-bridge run upload; it links the subjects that there are.",
        )
    if batch.state == BatchState.STAGING:
        raise RefusedError(
            f"{name} is not staged completely (its state is {batch.state}).",
            "Finish it first: zoo-bridge run upload.",
        )
    session = session or Session.of(ctx.settings)
    # Who is it? Link calls go through under a token that has ended, and this one does not.
    who = find_account(session).login
    asked = ctx.settings.project
    project = find_project(session, asked.slug, asked.workflow)
    ctx.ledger.identify(project.project_id)
    where = f"workflow {asked.workflow} ({project.workflow.name}) of {project.name}"
    if batch.state != BatchState.PUBLISHED:
        _check_set(ctx, session, batch)
    ctx.ledger.require_lock()
    # Always sent, and its answer is the proof: what was read may be five minutes old.
    _call(ctx, session, batch, subjects.publish)
    if batch.state == BatchState.PUBLISHED:
        return f"{name} is published already: volunteers of {where} see it"
    # The event first: a run that is killed between the two says it again, and loses nobody's name.
    ctx.ledger.add_event(name, "published", reason(why), signed(who))
    ctx.ledger.move_batch(name, BatchState.PUBLISHED, published_at=now())
    return f"{name} is published: volunteers of {where} see it"


def withdraw(
    ctx: Context, name: str, session: Session | None = None, why: str | None = None
) -> str:
    """Take a batch back from volunteers; nothing is deleted.

    Parameters
    ----------
    ctx : Context
        The settings and the ledger.
    name : str
        The batch's name.
    session : Session, optional
        A log-in to use.
    why : str, optional
        A person's reason, which is kept.

    Returns
    -------
    str
        What was done.

    Raises
    ------
    ZooniverseError
        If volunteers may still see it; the batch stays what it was.
    """
    from zoo_bridge.zooniverse import subjects
    from zoo_bridge.zooniverse.project import find_account
    from zoo_bridge.zooniverse.session import Session

    batch = find_batch(ctx, name)
    never = f"{name} is not shown to volunteers"
    if batch.subject_set_id is None:
        return never
    session = session or Session.of(ctx.settings)
    who = find_account(session).login
    # Always sent: whatever a read says, and the ledger, volunteers do not see it afterwards.
    shown = _call(ctx, session, batch, subjects.withdraw)
    if not shown and batch.state != BatchState.PUBLISHED:
        return never
    ctx.ledger.add_event(name, "withdrawn", reason(why), signed(who))
    if BatchState.WITHDRAWN in batch.state.may_become:
        ctx.ledger.move_batch(name, BatchState.WITHDRAWN)
    return f"{name} is withdrawn: volunteers no longer see it; nothing was deleted"


def reason(why: str | None) -> dict[str, str]:
    """A person's reason as an event's facts."""
    return {"why": why} if why else {}


def _check_set(ctx: Context, session: Session, batch: Batch) -> None:
    """The subject set still holds what was staged: somebody may have changed it meanwhile."""
    from zoo_bridge.zooniverse import subjects

    rows = ctx.ledger.list_objects(batch.name)
    planned = {row.subject_id for row in rows if row.state == ObjectState.STAGED}
    assert batch.subject_set_id is not None
    held = {each.subject_id for each in subjects.list_members(session, batch.subject_set_id)}
    left_out = {row.subject_id for row in rows if row.state == ObjectState.LEFT_OUT}
    if still := sorted(filter(None, held & left_out)):
        # Whoever took them out was stopped before the server was told.
        subjects.unlink(session, batch.subject_set_id, still)
        held = {each.subject_id for each in subjects.list_members(session, batch.subject_set_id)}
    if held == planned:
        return
    raise RefusedError(
        f"The subject set of {batch.name} was changed since it was staged: "
        f"{len(held - planned)} subjects more, {len(planned - held)} fewer.",
        f"Put subject set {batch.subject_set_id} back as it was on Zooniverse, or give the "
        f"batch up with: zoo-bridge abandon {batch.name}.",
    )


def _call(
    ctx: Context, session: Session, batch: Batch, action: Callable[[Session, int, str], bool]
) -> bool:
    assert batch.subject_set_id is not None
    try:
        return action(session, ctx.settings.project.workflow, batch.subject_set_id)
    except ZooniverseError as error:
        hint = error.hint
        if error.status == 404:
            hint = (
                f"This account ({session.who}) has lost its rights to the project, or the subject "
                "set is gone."
            )
        message = f"{batch.name}: {error.message}"
        raise type(error)(message, hint, error.status, error.reason) from None
