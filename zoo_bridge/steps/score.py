"""Score: the model in use reads the whole survey; a catalogue with error bars in ``scores/``."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from zoo_bridge.acquisition import information
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
from zoo_bridge.steps.galaxies import (
    Survey,
    analytic,
    open_loader,
    open_store,
    preprocessing,
    read_survey,
)
from zoo_bridge.steps.labelled import read_labels
from zoo_bridge.tables import REJECTS, SCORES, read_table, write_table

if TYPE_CHECKING:
    from zoo_bridge.model.network import Network

Objects = Sequence[tuple[str, str]]
Images = NDArray[np.floating[Any]]

PART_ROWS = 20_000
CREDIBLE = 0.9
DEFAULT_VOTES = 40


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
    settings = settings_digest(ctx.settings, "cutouts", "question", "survey")
    if done := already_done(ctx, "score", "scores", inputs, settings):
        return unchanged(f"the survey was scored by {version} already", done, inputs, settings)
    # Only now: loading the model brings TensorFlow in, for which nobody waits without news.
    from zoo_bridge.model import registry

    how = preprocessing(ctx.settings)
    network, _ = registry.load(ctx.work / "models" / version, how.as_dict())
    objects = survey.objects
    if ctx.options.dry_run:
        return Result("planned", f"would score {len(objects)} objects with model {version}")
    scratch = ctx.work / "scores" / f".{ctx.run_id}"
    try:
        rejected = _score_all(ctx, store, network, version, survey, expected, scratch)
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


def expected_votes(ctx: Context) -> dict[str, int]:
    """How many votes a galaxy is expected to get on each question.

    The workflow's retirement limit, times the share of volunteers who reach the question.
    """
    exports = ctx.ledger.newest("exports")
    limit = ctx.settings.score.expected_votes
    if limit is None and exports is not None:
        limit = exports.facts.get("retirement_limit")
    labels = ctx.ledger.newest("labels")
    totals: dict[str, int] = {}
    if labels is not None:
        frame = read_labels(labels)
        one_answer = frame.unique(["subject_id", "question"])
        totals = dict(one_answer.group_by("question").agg(pl.col("n").sum()).iter_rows())
    expected = {}
    for question in ctx.settings.question:
        reach = 1.0
        if question.asked_after is not None:
            before = totals.get(question.asked_after.question, 0)
            reach = min(1.0, totals.get(question.name, 0) / before) if before else 0.5
        expected[question.name] = max(1, round((limit or DEFAULT_VOTES) * reach))
    return expected


def _score_all(
    ctx: Context,
    store: Store,
    network: Network,
    version: str,
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
            waiting.append(_score_batch(ctx, network, version, chosen, batch.images, expected))
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
    network: Network,
    version: str,
    objects: Objects,
    images: Images,
    expected: dict[str, int],
) -> pa.Table:
    """The rows of some galaxies: one a question."""
    mean_NQ, spread_NQ = network.logit_moments(network.features(images))
    tables = []
    for place, question in enumerate(ctx.settings.question):
        n = expected[question.name]
        nodes = analytic(mean_NQ[:, place], spread_NQ[:, place])
        p_NK = information.predictive(nodes.logit_NJ, nodes.weight_J, n)
        low, high = information.interval(p_NK, CREDIBLE)
        columns = {
            "object_id": [name for name, _ in objects],
            "uri": [uri for _, uri in objects],
            "model_version": [version] * len(objects),
            "question": [question.name] * len(objects),
            "answer": [question.target] * len(objects),
            "n_expected": [n] * len(objects),
            "mean": nodes.mean,
            "lo": low / n,
            "hi": high / n,
            "bald": information.mutual_information(nodes.logit_NJ, nodes.weight_J, n),
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
