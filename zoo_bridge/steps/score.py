"""Score: the model in use reads the whole survey; a catalogue with error bars in ``scores/``.

What is to be scored is cut into parts. A part is a file that appears when it is whole, in a folder
that waits for the rest: a run that was stopped, however hard, goes on with the part it was at. What
an earlier run scored with the same model is taken over; only what is new is read.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from zoo_bridge.acquisition.information import interval
from zoo_bridge.balance import Balance
from zoo_bridge.cutouts.load import Batch, Loader
from zoo_bridge.cutouts.survey import Survey
from zoo_bridge.errors import InputError, NotReadyError
from zoo_bridge.files import digest_value
from zoo_bridge.ledger import Artifact
from zoo_bridge.steps import catalogue
from zoo_bridge.steps.context import (
    Context,
    Result,
    already_done,
    settings_digest,
    unchanged,
)
from zoo_bridge.steps.expected import expected_votes
from zoo_bridge.steps.galaxies import open_store, preprocessing, read_survey
from zoo_bridge.steps.posteriors import calibration_of, features_of, posterior_of
from zoo_bridge.tables import REJECTS, SCORES, TableWriter, read_table, write_table

if TYPE_CHECKING:
    from zoo_bridge.model.registry import Model

Objects = Sequence[tuple[str, str]]
Images = NDArray[np.floating[Any]]

CREDIBLE = 0.9
# Below so many objects, processes cost more to start than they save.
FEW = 4000
MOST_WORKERS = 32
# So many objects tell whether the survey is in a bad way.
ENOUGH_TO_JUDGE = 1000


def score(ctx: Context) -> Result:
    """Score every object of the survey with the model in use.

    Parameters
    ----------
    ctx : Context
        The run.

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
    store = open_store(ctx.settings)
    survey = read_survey(ctx, store)
    expected = expected_votes(ctx)
    inputs = digest_value([version, survey.digest, expected])
    # Not the runtime: features agree, whichever made them.
    settings = settings_digest(ctx.settings, "cutouts", "question", "survey")
    if done := already_done(ctx, "score", "scores", inputs, settings):
        return unchanged(f"the survey was scored by {version} already", done, inputs, settings)
    made_by = digest_value(
        [version, expected, settings_digest(ctx.settings, "cutouts", "question")]
    )
    base = None if ctx.options.force else _earlier(ctx, made_by)
    if ctx.options.dry_run:
        count = catalogue.count_new(survey, base.path if base else None)
        return Result("planned", f"would score {count} objects with model {version}")
    # Only now: loading the model brings TensorFlow in, for which nobody waits without news.
    from zoo_bridge.model import registry

    how = preprocessing(ctx.settings)
    runtime = ctx.settings.score.runtime
    model = registry.load(ctx.work / "models" / version, how.as_dict(), runtime)
    name = digest_value([made_by, survey.digest, base.name if base else None, ctx.options.force])
    work = _open_work(ctx, survey, base, ctx.work / "scores" / f".work-{name}")
    loader = Loader(
        store,
        how,
        ctx.work / "cache",
        round(ctx.settings.score.cache_gib * 2**30),
        workers_for(ctx, work.todo),
        anew=ctx.options.force,
    )
    _score_parts(ctx, model, loader, work, expected)
    counts = {
        "listed": len(survey) + survey.rejects.num_rows,
        "taken_over": work.taken_over // len(ctx.settings.question),
    }
    folder = _finish(ctx, work, survey)
    parts = {
        "scored": catalogue.count_rows(folder) // len(ctx.settings.question),
        "rejected": pq.read_metadata(folder / "rejects.parquet").num_rows,
    }
    facts = {
        "model": version,
        **parts,
        "n_expected": expected,
        "made_by": made_by,
        "survey": survey.digest,
    }
    digest = digest_value([inputs, settings, ctx.run_id])
    ctx.ledger.add_artifact("scores", ctx.run_id, folder, digest, ctx.run_id, facts)
    message = f"{parts['scored']} objects scored by {version}, {parts['rejected']} rejected"
    if counts["taken_over"]:
        message += f"; {counts['taken_over']} of the scores are from before"
    balance = Balance("objects listed", counts["listed"], parts)
    return Result("done", message, counts | parts, [balance], ctx.run_id, inputs, settings)


@dataclass(frozen=True)
class _Work:
    """A folder that waits for its parts.

    ``todo.parquet`` has the objects to score, a row group for each part; ``old-*.parquet`` are
    earlier scores that still hold.
    """

    folder: Path
    todo: int
    parts: int
    survey: int
    fresh: bool

    def scores(self, part: int) -> Path:
        return self.folder / f"part-{part:05d}.parquet"

    def rejects(self, part: int) -> Path:
        return self.folder / f"rejects-{part:05d}.parquet"

    def objects(self, part: int) -> list[tuple[str, str]]:
        with pq.ParquetFile(self.folder / "todo.parquet") as file:
            table = file.read_row_group(part)
        return list(zip(table["object_id"].to_pylist(), table["uri"].to_pylist(), strict=True))

    @property
    def done(self) -> list[int]:
        return [part for part in range(self.parts) if self.scores(part).exists()]

    @property
    def taken_over(self) -> int:
        return sum(pq.read_metadata(path).num_rows for path in self.folder.glob("old-*.parquet"))


def _earlier(ctx: Context, made_by: str) -> Artifact | None:
    """The newest scores by the same model, preprocessing, questions and expected votes."""
    known = ctx.ledger.list_artifacts("scores")
    return next((scores for scores in known if scores.facts.get("made_by") == made_by), None)


def _open_work(ctx: Context, survey: Survey, base: Artifact | None, folder: Path) -> _Work:
    """Go on with the folder of a run that was stopped, or begin one; older ones are cleared."""
    for path in folder.parent.glob(".work-*"):
        if path != folder:
            shutil.rmtree(path, ignore_errors=True)
    todo = folder / "todo.parquet"
    if not todo.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        old = base.path if base else None
        if old is not None:
            catalogue.take_over(old, survey, folder)
        catalogue.write_new(survey, old, todo, ctx.settings.score.part_objects)
    facts = pq.read_metadata(todo)
    work = _Work(folder, facts.num_rows, facts.num_row_groups, len(survey), base is None)
    if done := work.done:
        ctx.say(f"going on where a run was stopped: {len(done)} of {work.parts} parts are done")
    return work


def workers_for(ctx: Context, objects: int) -> int:
    """Processes that fetch and decode so many objects; 0 for threads of this one."""
    if ctx.settings.score.workers is not None:
        return ctx.settings.score.workers
    if objects < FEW:
        return 0
    return max(1, min(len(os.sched_getaffinity(0)) - 1, MOST_WORKERS))


def _score_parts(
    ctx: Context, model: Model, loader: Loader, work: _Work, expected: dict[str, int]
) -> None:
    """Write what is missing of the parts and the rejects."""
    size = ctx.settings.score.batch_size
    missing = [part for part in range(work.parts) if part not in set(work.done)]
    rejected = sum(pq.read_metadata(path).num_rows for path in work.folder.glob("rejects-*"))
    waited, began = 0.0, time.monotonic()
    done = 0

    def groups() -> Iterator[Objects]:
        for part in missing:
            objects = work.objects(part)
            yield from (objects[start : start + size] for start in range(0, len(objects), size))

    with (
        closing(loader.batches(groups())) as batches,
        ctx.progress.bar("scoring", work.todo) as advance,
    ):
        seen = work.todo - sum(_rows_of(work, part) for part in missing)
        advance(seen)
        for part in missing:
            objects = work.objects(part)
            tables, rejects = [SCORES.empty_table()], []
            for start in range(0, len(objects), size):
                asked = time.monotonic()
                batch: Batch = next(batches)
                waited += time.monotonic() - asked
                group = objects[start : start + size]
                chosen = [group[place] for place in batch.places]
                if chosen:
                    tables.append(score_batch(ctx, model, chosen, batch.images, expected))
                rejects += batch.rejects
                advance(len(group))
                done += len(group)
            rejected += len(rejects)
            rows = pa.Table.from_pylist([vars(reject) for reject in rejects], schema=REJECTS)
            # In this order: a part that is there has its rejects beside it.
            write_table(work.rejects(part), rows, REJECTS)
            write_table(work.scores(part), pa.concat_tables(tables), SCORES)
            seen += len(objects)
            _check_rejects(ctx, work, part, rejected, seen)
    if done:
        seconds = max(time.monotonic() - began, 1e-9)
        limit = "fetching and decoding" if waited > seconds / 2 else "the network"
        ctx.say(
            f"{done} cutouts, {done / seconds:.0f} a second; {waited / seconds:.0%} of the time "
            f"was spent waiting for cutouts, so {limit} is the limit",
            cutouts_per_second=done / seconds,
            waiting_share=waited / seconds,
        )


def _rows_of(work: _Work, part: int) -> int:
    return int(pq.read_metadata(work.folder / "todo.parquet").row_group(part).num_rows)


def score_batch(
    ctx: Context,
    model: Model,
    objects: Objects,
    images: Images,
    expected: dict[str, int],
) -> pa.Table:
    """The rows of some galaxies: one a question."""
    features = features_of(model, images)
    tables = []
    for place, question in enumerate(ctx.settings.question):
        n = expected[question.name]
        calibration = calibration_of(model, place)
        said = posterior_of(model.networks, features, place, model.record.estimator, calibration)
        counts, information = said.both(n)
        low, high = interval(counts, CREDIBLE)
        columns = {
            "object_id": [name for name, _ in objects],
            "uri": [uri for _, uri in objects],
            "model_version": [model.record.version] * len(objects),
            "question": [question.name] * len(objects),
            "answer": [question.target] * len(objects),
            "n_expected": [n] * len(objects),
            "mean": said.mean,
            "lo": low / n,
            "hi": high / n,
            "bald": information,
        }
        tables.append(pa.table(columns).cast(SCORES))
    return pa.concat_tables(tables)


def _finish(ctx: Context, work: _Work, survey: Survey) -> Path:
    """The folder as an artifact: parts numbered through, all rejects in one file."""
    asides = [read_table(work.rejects(part), REJECTS) for part in range(work.parts)]
    with TableWriter(work.folder / "rejects.parquet", REJECTS) as writer:
        for table in [survey.rejects, *asides]:
            writer.write(table)
    for number, path in enumerate(sorted(work.folder.glob("old-*.parquet")), work.parts):
        path.rename(work.scores(number))
    for path in [*work.folder.glob("rejects-*.parquet"), work.folder / "todo.parquet"]:
        path.unlink()
    return work.folder.rename(ctx.work / "scores" / ctx.run_id)


def _check_rejects(ctx: Context, work: _Work, part: int, rejected: int, seen: int) -> None:
    """Stop when more cutouts cannot be used than may; what they were is looked at anew then."""
    allowed = ctx.settings.score.max_reject_share
    # Of a survey that is read from its beginning, the first thousands tell of the rest.
    likely = rejected - 3 * (rejected * (1 - allowed)) ** 0.5 if work.fresh else 0.0
    hopeless = seen >= ENOUGH_TO_JUDGE and likely > allowed * seen
    if rejected <= allowed * work.survey and not hopeless:
        return
    first = read_table(work.rejects(part), REJECTS).slice(0, 1).to_pylist()
    for number in work.done:
        if pq.read_metadata(work.rejects(number)).num_rows:
            work.scores(number).unlink()
            work.rejects(number).unlink()
    example = "".join(f" One is {row['uri']}: {row['reason']} ({row['detail']})." for row in first)
    raise InputError(
        f"{rejected} of the first {seen} cutouts cannot be used, more than {allowed:.0%} of the "
        f"survey.{example}",
        "Check the [survey] table and the files, or raise score.max_reject_share.",
    )
