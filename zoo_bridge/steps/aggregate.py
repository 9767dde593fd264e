"""Aggregate: exports to votes, votes to labels, in ``labels/``."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import polars as pl

from zoo_bridge.errors import InputError
from zoo_bridge.files import digest_file, digest_value
from zoo_bridge.ledger import Artifact
from zoo_bridge.steps.context import Context, Result, already_done, settings_digest, unchanged
from zoo_bridge.steps.counting.count import Count, count_votes, scratch_in
from zoo_bridge.steps.counting.describe import describe
from zoo_bridge.steps.counting.sources import find_sources
from zoo_bridge.steps.inputs import read_labels
from zoo_bridge.tables import LABELS


def aggregate(ctx: Context) -> Result:
    """Turn the newest exports, or files named on the command line, into labels.

    Parameters
    ----------
    ctx : Context
        The settings, the ledger and what the command line asked for.

    Returns
    -------
    Result
        The artifact ``labels`` is a folder with labels, votes, rejects and a summary.

    Raises
    ------
    NotReadyError
        If nothing was pulled yet.
    InputError
        If an export is empty, is something else, or too much of it cannot be read.
    """
    sources = find_sources(ctx)
    inputs, settings = sources.digest, _digest(ctx)
    if done := already_done(ctx, "aggregate", "labels", inputs, settings):
        text = f"the labels {done.name} are those of these exports"
        return unchanged(text, done, inputs, settings)
    with scratch_in(ctx.work / "labels") as scratch:
        count = count_votes(ctx, sources, scratch)
        facts = count.facts(ctx)
        for line in describe(facts):
            ctx.say(line)
        message = f"{facts['votes']} votes on {facts['subjects']} subjects"
        result = Result(
            "done", message, facts, count.tally.balances(), ctx.run_id, inputs, settings
        )
        if ctx.options.dry_run:
            return Result("planned", f"would keep {message}", facts, result.balances)
        last = _last_that_says_the_same(ctx, count.labels)
        if last is not None and _is_idle(ctx, last, facts, settings):
            # Exports change every day though nobody votes.
            told = unchanged(f"the same votes as before: {message}", last, inputs, settings)
            return replace(told, counts=facts, balances=result.balances)
        _keep(ctx, count, facts, last)
    return result


def _digest(ctx: Context) -> str:
    """Of the settings that matter to labels."""
    sections = settings_digest(ctx.settings, "votes", "question", "project")
    return digest_value([sections, ctx.settings.upload.metadata_key])


def _last_that_says_the_same(ctx: Context, labels: pl.DataFrame) -> Artifact | None:
    """The last labels, if these say what they say, in whatever order.

    The order hangs on how many buckets of subjects there were, and so on the size of an export.
    """
    last = ctx.ledger.newest("labels")
    if last is None:
        return None
    try:
        same = read_labels(last).sort(LABELS.names).equals(labels.sort(LABELS.names))
    except InputError:
        # The last one cannot be read any more.
        return None
    return last if same else None


def _is_idle(ctx: Context, last: Artifact, facts: dict[str, Any], settings: str) -> bool:
    """Whether everything that is counted is as it was, by the same settings."""
    counted = ctx.ledger.last_done("aggregate")
    by_these = counted is not None and counted.settings_digest == settings
    # As they come back from the ledger.
    kept = json.loads(json.dumps(facts))
    return by_these and not ctx.options.force and bool(kept == last.facts)


def _keep(ctx: Context, count: Count, facts: dict[str, Any], same: Artifact | None) -> None:
    """Make the count an artifact: its folder appears whole."""
    count.complete(facts)
    # A newer pyarrow writes other bytes: labels that say the same are the same.
    digest = same.digest if same is not None else digest_file(count.path)
    folder = count.folder.rename(ctx.work / "labels" / ctx.run_id)
    ctx.ledger.add_artifact("labels", ctx.run_id, folder, digest, ctx.run_id, facts)
