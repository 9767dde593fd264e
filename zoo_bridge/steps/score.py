"""Score: the model in use reads the whole survey; a catalogue with error bars in ``scores/``."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zoo_bridge.acquisition.information import interval
from zoo_bridge.balance import Balance
from zoo_bridge.cutouts.load import Reject
from zoo_bridge.cutouts.store import Store
from zoo_bridge.errors import InputError, NotReadyError
from zoo_bridge.files import digest_value
from zoo_bridge.steps.context import (
    Context,
    Result,
    already_done,
    settings_digest,
    unchanged,
)
from zoo_bridge.steps.expected import expected_votes
from zoo_bridge.steps.galaxies import (
    Survey,
    open_loader,
    open_store,
    preprocessing,
    read_survey,
)
from zoo_bridge.steps.posteriors import calibration_of, features_of, posterior_of
from zoo_bridge.tables import REJECTS, SCORES, read_table, write_table

if TYPE_CHECKING:
    from zoo_bridge.model.registry import Model

Objects = Sequence[tuple[str, str]]
Images = NDArray[np.floating[Any]]

PART_ROWS = 20_000
CREDIBLE = 0.9


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
    """
    version = ctx.ledger.model_in_use()
    if version is None:
        raise NotReadyError(
            "There is no model to score with.", "Train one with: zoo-bridge run retrain."
        )
    store = open_store(ctx.settings)
    survey = read_survey(ctx, store)
    expected = expected_votes(ctx)
    inputs = digest_value([version, survey.objects, expected])
    # Not the runtime: features agree, whichever made them.
    settings = settings_digest(ctx.settings, "cutouts", "question", "survey")
    if done := already_done(ctx, "score", "scores", inputs, settings):
        return unchanged(f"the survey was scored by {version} already", done, inputs, settings)
    # Only now: loading the model brings TensorFlow in, for which nobody waits without news.
    from zoo_bridge.model import registry

    how = preprocessing(ctx.settings)
    runtime = ctx.settings.score.runtime
    model = registry.load(ctx.work / "models" / version, how.as_dict(), runtime)
    objects = survey.objects
    if ctx.options.dry_run:
        return Result("planned", f"would score {len(objects)} objects with model {version}")
    scratch = ctx.work / "scores" / f".{ctx.run_id}"
    try:
        rejected = _score_all(ctx, store, model, survey, expected, scratch)
        scored = len(objects) - len(rejected)
        _check_rejects(ctx, rejected, len(objects))
        folder = scratch.rename(ctx.work / "scores" / ctx.run_id)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    facts = {"model": version, "scored": scored, "rejected": len(rejected), "n_expected": expected}
    digest = digest_value([inputs, settings, ctx.run_id])
    ctx.ledger.add_artifact("scores", ctx.run_id, folder, digest, ctx.run_id, facts)
    listed = len(objects) + survey.rejects.num_rows
    counts = {"listed": listed, "scored": scored, "rejected": listed - scored}
    parts = {
        "scored": _rows_on_disk(folder) // max(len(ctx.settings.question), 1),
        "rejected": read_table(folder / "rejects.parquet", REJECTS).num_rows,
    }
    message = f"{scored} objects scored by {version}, {counts['rejected']} rejected"
    balance = Balance("objects listed", listed, parts)
    return Result("done", message, counts, [balance], ctx.run_id, inputs, settings)


def _score_all(
    ctx: Context,
    store: Store,
    model: Model,
    survey: Survey,
    expected: dict[str, int],
    folder: Any,
) -> list[Reject]:
    """Write the parts and the rejects; give back the cutouts that were rejected."""
    loader = open_loader(ctx, store)
    objects = survey.objects
    rejected: list[Reject] = []
    waiting: list[pa.Table] = []
    parts = 0
    with ctx.progress.bar("scoring", len(objects)) as advance:
        for batch in loader.batches(objects, ctx.settings.score.batch_size, advance):
            rejected += batch.rejects
            chosen = [objects[place] for place in batch.places]
            waiting.append(_score_batch(ctx, model, chosen, batch.images, expected))
            if sum(table.num_rows for table in waiting) >= PART_ROWS:
                _write_part(folder, parts, waiting)
                parts, waiting = parts + 1, []
    _write_part(folder, parts, waiting)
    table = pa.Table.from_pylist([vars(reject) for reject in rejected], schema=REJECTS)
    both = pa.concat_tables([survey.rejects, table])
    write_table(folder / "rejects.parquet", both, REJECTS)
    return rejected


def _score_batch(
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


def _write_part(folder: Any, number: int, tables: list[pa.Table]) -> None:
    if tables:
        write_table(folder / f"part-{number:05d}.parquet", pa.concat_tables(tables), SCORES)


def _rows_on_disk(folder: Any) -> int:
    return read_table(folder, SCORES).num_rows


def _check_rejects(ctx: Context, rejected: list[Reject], total: int) -> None:
    allowed = ctx.settings.score.max_reject_share
    if len(rejected) > allowed * total:
        first = rejected[0]
        raise InputError(
            f"{len(rejected)} of {total} cutouts cannot be used, more than {allowed:.0%}; the "
            f"first is {first.uri}: {first.reason} ({first.detail}).",
            "Check the [survey] table and the files, or raise score.max_reject_share.",
        )
