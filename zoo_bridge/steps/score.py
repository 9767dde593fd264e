"""Score: the model in use reads the survey, or a pool of it; a catalogue with error bars.

What is to be scored is cut into parts. A part is a file that appears when it is whole, in a folder
that waits for the rest: a run that was stopped, however hard, goes on with the part it was at. What
an earlier run scored with the same model is taken over. Of the rest, what the same trunk has seen
before is scored from its features; only cutouts that are new, or were written anew, are read.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import pyarrow.parquet as pq

from zoo_bridge.balance import Balance
from zoo_bridge.cutouts.survey import Survey
from zoo_bridge.errors import InputError
from zoo_bridge.files import digest_value
from zoo_bridge.steps.context import (
    Context,
    Result,
    already_done,
    unchanged,
)
from zoo_bridge.steps.inputs import LIMITED, open_loader, open_store
from zoo_bridge.steps.scoring import catalogue
from zoo_bridge.steps.scoring.recipe import Recipe, recipe_for
from zoo_bridge.steps.scoring.scorer import Scorer, write_from_features
from zoo_bridge.steps.scoring.task import Task
from zoo_bridge.steps.scoring.todo import count_new
from zoo_bridge.steps.scoring.work import Work, leftovers_of, open_work
from zoo_bridge.tables import REJECTS, TableWriter, read_table

# So many objects tell whether the survey is in a bad way.
ENOUGH_TO_JUDGE = 1000


def score(ctx: Context) -> Result:
    """Score every object of the survey, or of its pool, with the model in use.

    Parameters
    ----------
    ctx : Context
        The settings, the ledger and what the command line asked for.

    Returns
    -------
    Result
        The artifact ``scores`` is a folder of parts, and of what was rejected.

    Raises
    ------
    NotReadyError
        If there is no model.
    RefusedError
        If the model was made for other preprocessing.
    InputError
        If too many cutouts cannot be used.
    """
    task = Task.of(ctx)
    if done := already_done(ctx, "score", "scores", task.inputs, task.settings):
        text = f"the survey was scored by {task.version} already"
        return unchanged(text, done, task.inputs, task.settings)
    if ctx.options.dry_run:
        count = count_new(task.asked(ctx))
        return Result("planned", f"would score {count} objects with model {task.version}")
    kind = f"{task.made_by} {ctx.options.force}"
    work = open_work(ctx, task.asked(ctx), task.folder(ctx), kind)
    if changed := work.changed:
        ctx.say(f"{len(changed)} cutouts were written anew, such as {changed[0]}")
        open_loader(ctx, open_store(ctx.settings)).forget(changed)
    if work.missing:
        recipe = recipe_for(ctx, task, work.objects)
        _score_parts(ctx, recipe, work, task.survey)
    tally = work.tally_rejects(work.done)
    _check_rejects(ctx, work, len(task.survey), tally, work.objects)
    return _keep(ctx, task, work, tally)


def _keep(ctx: Context, task: Task, work: Work, tally: Counter[str]) -> Result:
    """Make what is complete an artifact, if listed = scored + rejected."""
    survey = task.survey
    rows_each = sum(len(question.answers) for question in ctx.settings.question)
    listed = len(survey) + survey.rejects.num_rows
    taken_over = _rows_taken_over(work) // rows_each
    sizes = work.sizes()
    from_features = sum(sizes[part] for part in work.from_features())
    parts = {
        "scored": catalogue.count_rows(work.folder) // rows_each,
        "rejected": _write_rejects(work, survey),
    }
    if task.pool:
        parts["outside_pool"] = work.outside
    tally["in the catalogue"] = survey.rejects.num_rows
    kinds = {kind: count for kind, count in tally.most_common() if count}
    # Before it is an artifact, which others may use at once.
    balance = Balance("objects listed", listed, parts)
    balance.check()
    folder = work.folder.rename(ctx.work / "scores" / ctx.run_id)
    facts = {
        "model": task.version,
        **parts,
        "n_expected": task.expected,
        "made_by": task.made_by,
        "survey": survey.digest,
        "survey_content": survey.content,
        "form": catalogue.FORM,
        "rejected_by_reason": kinds,
        "pool": {"share": task.pool.share, "seed": task.pool.seed} if task.pool else None,
        "trunk": task.trunk,
    }
    digest = digest_value([task.inputs, task.settings, ctx.run_id])
    leftovers = leftovers_of(folder)
    names = {path.name for path in leftovers}
    ctx.ledger.add_artifact("scores", ctx.run_id, folder, digest, ctx.run_id, facts, names)
    for path in leftovers:
        path.unlink()
    message = f"{parts['scored']} objects scored by {task.version}, {parts['rejected']} rejected"
    if kinds:
        message += f" ({', '.join(f'{count} {kind}' for kind, count in kinds.items())})"
    if task.pool:
        message += f"; {parts['outside_pool']} are outside the pool"
    if taken_over:
        message += f"; {taken_over} of the scores are from before"
    counts = {"listed": listed, "taken_over": taken_over, **parts}
    if from_features:
        counts["from_features"] = from_features
        message += f"; {from_features} were read before"
    return Result("done", message, counts, [balance], ctx.run_id, task.inputs, task.settings)


def _rows_taken_over(work: Work) -> int:
    own = {work.scores(part) for part in range(work.parts)}
    others = (path for path in catalogue.parts(work.folder) if path not in own)
    return sum(pq.read_metadata(path).num_rows for path in others)


def _write_rejects(work: Work, survey: Survey) -> int:
    """All rejects in one file; how many."""
    path = work.folder / "rejects.parquet"
    with TableWriter(path, REJECTS) as writer:
        writer.write(survey.rejects)
        for part in range(work.parts):
            writer.write(read_table(work.rejects(part), REJECTS))
    return int(pq.read_metadata(path).num_rows)


def _score_parts(ctx: Context, recipe: Recipe, work: Work, survey: Survey) -> None:
    """Have the missing parts written, here or on a cluster; stop if too many are rejected."""
    sizes = work.sizes()
    before = sum(sizes[part] for part in work.done)
    seen, tally = before, work.tally_rejects(work.done)
    if ctx.settings.score.cluster is None:
        steps = _here(ctx, recipe, work)
    else:
        steps = _there(ctx, recipe, work)
    began = time.monotonic()
    with ctx.progress.bar("scoring", work.objects, before) as advance:
        for objects, part in steps:
            advance(objects)
            seen += objects
            if part is not None:
                tally += work.tally_rejects([part])
                _check_rejects(ctx, work, len(survey), tally, seen)
    seconds = max(time.monotonic() - began, 1e-9)
    rate = (seen - before) / seconds
    ctx.say(f"{seen - before} galaxies, {rate:.0f} a second", cutouts_per_second=rate)


def _here(ctx: Context, recipe: Recipe, work: Work) -> Iterator[tuple[int, int | None]]:
    """Score on this machine: how many objects were done, and which part that ended."""
    missing, kept = work.missing, work.from_features()
    if (known := [part for part in missing if part in kept]) and recipe.kept is not None:
        reader = recipe.open_reader()
        for piece in write_from_features(reader, recipe.kept, recipe.expected, work, known):
            yield piece.objects, piece.part
    if unread := [part for part in missing if part not in kept]:
        # Only now: loading the model brings TensorFlow in, for which nobody waits without news.
        yield from _read(ctx, recipe.open(), work, unread)


def _read(
    ctx: Context, scorer: Scorer, work: Work, parts: list[int]
) -> Iterator[tuple[int, int | None]]:
    """Score what must be read."""
    began = time.monotonic()
    for piece in scorer.write_parts(work, parts):
        yield piece.objects, piece.part if piece.last else None
    share = scorer.waited / max(time.monotonic() - began, 1e-9)
    limit = "fetching and decoding" if share > 0.5 else "the network"
    ctx.say(
        f"{share:.0%} of the time was spent waiting for cutouts: {limit} is the limit",
        waiting_share=share,
    )


def _there(ctx: Context, recipe: Recipe, work: Work) -> Iterator[tuple[int, int | None]]:
    """Score on a cluster: the same."""
    from zoo_bridge.steps.scoring import cluster

    where = ctx.settings.score.cluster
    assert where is not None
    sizes = work.sizes()
    for part in cluster.write_parts(where, recipe, work, ctx.say):
        yield sizes[part], part


def _check_rejects(ctx: Context, work: Work, survey: int, tally: Counter[str], seen: int) -> None:
    """Stop when more cutouts cannot be used than may; what they were is looked at anew then."""
    config = ctx.settings.score
    limits = [("", "max_reject_share"), *LIMITED.items()]
    for reason, key in limits:
        allowed = getattr(config, key)
        rejected = tally[reason] if reason else tally.total()
        # Of what is read in order, the first thousands tell of the rest, and of an increment.
        likely = rejected - 3 * (rejected * (1 - allowed)) ** 0.5
        hopeless = seen >= ENOUGH_TO_JUDGE and likely > allowed * seen
        if rejected > allowed * survey or hopeless:
            break
    else:
        return
    done = work.done
    one = work.first_reject(done, reason)
    for part in done:
        if work.count_rejects(part):
            work.forget(part)
    example = f" One is {one['uri']}: {one['reason']} ({one['detail']})." if one else ""
    told = reason or ", ".join(f"{count} {kind}" for kind, count in tally.most_common(4))
    raise InputError(
        f"{rejected} of the first {seen} cutouts cannot be used, more than {allowed:.0%} of the "
        f"survey: {told}.{example}",
        f"Look at some: zoo-bridge check --pictures FOLDER; check the [survey] and [cutouts] "
        f"tables and the files, or raise score.{key}.",
    )
