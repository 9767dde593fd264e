"""Before a new batch: one to finish, one that waits, or one made of these votes already."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_bridge.ledger import Artifact, Batch, BatchState, ObjectState
from zoo_bridge.steps.batches import safety
from zoo_bridge.steps.batches.checks import refuse_unless
from zoo_bridge.steps.batches.publish import publish
from zoo_bridge.steps.batches.stage import stage
from zoo_bridge.steps.batches.staging import publishes_itself
from zoo_bridge.steps.context import Context, Result

if TYPE_CHECKING:
    from zoo_bridge.zooniverse.project import Access
    from zoo_bridge.zooniverse.session import Session

# Such a batch is as if it had not been made.
TAKEN_BACK = (BatchState.ABANDONED, BatchState.WITHDRAWN)


def find_started(ctx: Context) -> Batch | None:
    """A batch whose staging was interrupted, or whose publishing, if that was asked for."""
    for batch in reversed(ctx.ledger.list_batches()):
        staged = batch.state == BatchState.STAGED
        if batch.state == BatchState.STAGING or (staged and publishes_itself(ctx, batch.name)):
            return batch
    return None


def finish(ctx: Context, session: Session, access: Access, batch: Batch) -> Result:
    """Go on with a batch that was interrupted.

    Parameters
    ----------
    ctx : Context
        The settings, the ledger and the run that goes on.
    session : Session
        A log-in that may write to the project.
    access : Access
        The project, the account and its rights.
    batch : Batch
        The interrupted one, as `find_started` gives it.

    Returns
    -------
    Result
        Of the staging; or of the publishing, if only that was missing.

    Raises
    ------
    RefusedError
        If rights, quota or the work before volunteers do not allow it by now.
    """
    name = batch.name
    if ctx.options.dry_run:
        return Result("planned", f"would finish the interrupted batch {name} first")
    looked = [safety.check_rights(access)]
    if publishes_itself(ctx, name):
        looked.append(safety.check_backlog(ctx, session, access.project))
    rows = ctx.ledger.list_objects(name)
    # What is in doubt may have been made and paid for; only its create will tell.
    left = sum(row.subject_id is None and row.state == ObjectState.PLANNED for row in rows)
    looked.append(safety.check_quota(ctx, access.account, left))
    refuse_unless(looked)
    if batch.state == BatchState.STAGED:
        # Its run ended between the last check and the publishing that was asked for.
        return Result("done", publish(ctx, name, session), {}, [], name)
    ctx.say(f"finishing the interrupted batch {name}")
    return stage(ctx, session, access.project, batch, access.account)


def waits_for_approval(ctx: Context) -> Result | None:
    """The result where a batch is staged that nobody has shown to volunteers yet."""
    if not ctx.settings.upload.wait_for_approval or ctx.options.force:
        return None
    for batch in ctx.ledger.list_batches():
        if batch.state == BatchState.STAGED:
            name = batch.name
            done = [event.at for event in ctx.ledger.list_events(name) if event.what == "staged"]
            since = max(done, default=batch.created_at)[:16].replace("T", " ")
            return Result(
                "unchanged",
                f"{name} waits for approval since {since}",
                hint=f"Show it to volunteers: zoo-bridge publish {name}; or give it up: zoo-bridge "
                f"abandon {name}.",
            )
    return None


def already_made(ctx: Context, version: str | None, labels: Artifact | None) -> Result | None:
    """The result where this model has made a batch from these votes.

    New votes allow another batch by the same model: when a new one was kept out, volunteers still
    go on with what the model in use would ask next. What counts is what the labels say: they are
    made anew each day, though nobody has voted. Before the first model there is one batch; where it
    was kept out, new votes allow another, drawn at random. What was given up or taken back is as if
    it had not been made.
    """
    if ctx.options.force or ctx.options.dry_run:
        return None
    learns = version is not None or bool(ctx.ledger.list_artifacts("model"))
    now = version, labels.digest if labels and learns else None
    for batch in ctx.ledger.list_batches():
        if batch.state in TAKEN_BACK:
            continue
        scores = _artifact(ctx, "scores", batch.scores)
        used = _artifact(ctx, "labels", batch.labels) if learns else None
        if (scores.facts["model"] if scores else None, used.digest if used else None) == now:
            since = "no new votes or model since" if version else "no model yet, and there is"
            return Result("unchanged", f"{since} {batch.name}; --force makes another")
    return None


def _artifact(ctx: Context, kind: str, name: str | None) -> Artifact | None:
    return ctx.ledger.find_artifact(kind, name) if name else None
