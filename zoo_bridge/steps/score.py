"""Score: the model in use reads the whole survey; a catalogue with error bars in ``scores/``.

What is to be scored is cut into parts. A part is a file that appears when it is whole, in a folder
that waits for the rest: a run that was stopped, however hard, goes on with the part it was at. What
an earlier run scored with the same model is taken over; only what is new is read.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import pyarrow.parquet as pq

from zoo_bridge.balance import Balance
from zoo_bridge.cutouts.survey import Survey
from zoo_bridge.errors import InputError, NotReadyError
from zoo_bridge.files import digest_value
from zoo_bridge.ledger import Artifact
from zoo_bridge.steps.context import (
    Context,
    Result,
    already_done,
    settings_digest,
    unchanged,
)
from zoo_bridge.steps.inputs import LIMITED, expected_votes, open_store, read_survey
from zoo_bridge.steps.scoring import catalogue
from zoo_bridge.steps.scoring.catalogue import FORM
from zoo_bridge.steps.scoring.recipe import Recipe, recipe
from zoo_bridge.steps.scoring.scorer import Scorer
from zoo_bridge.steps.scoring.work import KIND, Work, open_work
from zoo_bridge.tables import REJECTS, TableWriter, read_table

# So many objects tell whether the survey is in a bad way.
ENOUGH_TO_JUDGE = 1000


def score(ctx: Context) -> Result:
    """Score every object of the survey with the model in use.

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
    version = ctx.ledger.model_in_use()
    if version is None:
        raise NotReadyError(
            "There is no model to score with.", "Train one with: zoo-bridge run retrain."
        )
    survey = read_survey(ctx, open_store(ctx.settings))
    expected = expected_votes(ctx)
    inputs = digest_value([FORM, version, survey.content, expected])
    # Not the runtime: features agree, whichever made them.
    settings = settings_digest(ctx.settings, "cutouts", "question", "survey")
    if done := already_done(ctx, "score", "scores", inputs, settings):
        return unchanged(f"the survey was scored by {version} already", done, inputs, settings)
    sections = settings_digest(ctx.settings, "cutouts", "question")
    # The same address on another server is another cutout.
    server = ctx.settings.survey.endpoint_url
    made_by = digest_value([FORM, version, expected, sections, server])
    base = None if ctx.options.force else _earlier(ctx, made_by)
    if ctx.options.dry_run:
        count = catalogue.count_new(survey, base.path if base else None)
        return Result("planned", f"would score {count} objects with model {version}")
    name = digest_value([made_by, survey.content, base.name if base else None, ctx.options.force])
    kind = f"{made_by} {ctx.options.force}"
    work = open_work(ctx, survey, base, ctx.work / "scores" / f".work-{name}", kind)
    if work.missing:
        _score_parts(ctx, recipe(ctx, version, expected, work.objects), work, survey)
    tally = work.tally_rejects(work.done)
    _check_rejects(ctx, work, len(survey), tally, work.objects)
    rows_each = sum(len(question.answers) for question in ctx.settings.question)
    counts = {
        "listed": len(survey) + survey.rejects.num_rows,
        "taken_over": _rows_taken_over(work) // rows_each,
    }
    parts = {
        "scored": catalogue.count_rows(work.folder) // rows_each,
        "rejected": _write_rejects(work, survey),
    }
    tally["in the catalogue"] = survey.rejects.num_rows
    kinds = {kind: count for kind, count in tally.most_common() if count}
    # Before it is an artifact, which others may use at once.
    balance = Balance("objects listed", counts["listed"], parts)
    balance.check()
    folder = work.folder.rename(ctx.work / "scores" / ctx.run_id)
    facts = {
        "model": version,
        **parts,
        "n_expected": expected,
        "made_by": made_by,
        "survey": survey.digest,
        "survey_content": survey.content,
        "form": FORM,
        "rejected_by_reason": kinds,
    }
    digest = digest_value([inputs, settings, ctx.run_id])
    ctx.ledger.add_artifact("scores", ctx.run_id, folder, digest, ctx.run_id, facts)
    for path in [*folder.glob("rejects-*.parquet"), folder / KIND, folder / "todo.parquet"]:
        path.unlink()
    message = f"{parts['scored']} objects scored by {version}, {parts['rejected']} rejected"
    if kinds:
        message += f" ({', '.join(f'{count} {kind}' for kind, count in kinds.items())})"
    if counts["taken_over"]:
        message += f"; {counts['taken_over']} of the scores are from before"
    return Result("done", message, counts | parts, [balance], ctx.run_id, inputs, settings)


def _earlier(ctx: Context, made_by: str) -> Artifact | None:
    """The newest scores by the same model, preprocessing, questions and expected votes."""
    known = ctx.ledger.list_artifacts("scores")
    return next((scores for scores in known if scores.facts.get("made_by") == made_by), None)


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


def _score_parts(ctx: Context, how: Recipe, work: Work, survey: Survey) -> None:
    """Have the missing parts written, here or on a cluster; stop if too many are rejected."""
    sizes = work.sizes()
    before = sum(sizes[part] for part in work.done)
    seen, tally = before, work.tally_rejects(work.done)
    if ctx.settings.score.cluster is None:
        # Only now: loading the model brings TensorFlow in, for which nobody waits without news.
        steps = _here(ctx, how.open(), work)
    else:
        steps = _there(ctx, how, work)
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
    ctx.say(f"{seen - before} cutouts, {rate:.0f} a second", cutouts_per_second=rate)


def _here(ctx: Context, scorer: Scorer, work: Work) -> Iterator[tuple[int, int | None]]:
    """Score on this machine: how many objects were done, and which part that ended."""
    began = time.monotonic()
    for piece in scorer.write_parts(work, work.missing):
        yield piece.objects, piece.part if piece.last else None
    share = scorer.waited / max(time.monotonic() - began, 1e-9)
    limit = "fetching and decoding" if share > 0.5 else "the network"
    ctx.say(
        f"{share:.0%} of the time was spent waiting for cutouts: {limit} is the limit",
        waiting_share=share,
    )


def _there(ctx: Context, how: Recipe, work: Work) -> Iterator[tuple[int, int | None]]:
    """Score on a cluster: the same."""
    from zoo_bridge.steps.scoring import cluster

    where = ctx.settings.score.cluster
    assert where is not None
    sizes = work.sizes()
    for part in cluster.write_parts(where, how, work, ctx.say):
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
