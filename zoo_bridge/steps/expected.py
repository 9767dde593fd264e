"""How many votes a galaxy is expected to get: what information and error bars are about."""

from __future__ import annotations

import polars as pl

from zoo_bridge.steps.context import Context
from zoo_bridge.steps.labelled import read_labels

DEFAULT_VOTES = 40


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
