"""From votes to labels: of the n volunteers who answered a question, k gave an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl
import pyarrow as pa

from zoo_bridge.errors import CountsError
from zoo_bridge.tables import LABELS, VOTES

LABEL_TYPES = {
    "subject_id": pl.Int64,
    "object_id": pl.String,
    "question": pl.String,
    "answer": pl.String,
    "k": pl.Int32,
    "n": pl.Int32,
}


def count(
    votes: pl.DataFrame, objects: Mapping[int, str], answers: Mapping[str, Sequence[str]]
) -> pa.Table:
    """Count votes.

    Parameters
    ----------
    votes : polars.DataFrame
        With subject_id, question, answer.
    objects : mapping
        Object ids by subject id.
    answers : mapping
        The answers of each question, by its name.

    Returns
    -------
    pyarrow.Table
        The labels: for each subject and question that was answered at all, one row an answer.

    Raises
    ------
    CountsError
        If the counts do not add up to the votes.
    """
    keys = ["subject_id", "question"]
    totals = votes.group_by(keys).agg(n=pl.len().cast(pl.Int32))
    each = votes.group_by([*keys, "answer"]).agg(k=pl.len().cast(pl.Int32))
    grid = pl.DataFrame(
        [(question, answer) for question, names in answers.items() for answer in names],
        schema={"question": pl.String, "answer": pl.String},
        orient="row",
    )
    known = pl.DataFrame(
        {"subject_id": list(objects), "object_id": list(objects.values())},
        schema={"subject_id": pl.Int64, "object_id": pl.String},
    )
    labels = (
        totals.join(grid, on="question")
        .join(each, on=[*keys, "answer"], how="left")
        .join(known, on="subject_id", how="left")
        .with_columns(pl.col("k").fill_null(0))
        .select(*LABEL_TYPES)
        .sort("subject_id", "question", "answer")
    )
    if labels["k"].sum() != len(votes):
        raise CountsError(
            f"{len(votes)} votes were counted as {labels['k'].sum()}.",
            "This is a fault of zoo_bridge; please report it with the run's log.",
        )
    return labels.to_arrow().cast(LABELS)


def votes_table(votes: pl.DataFrame) -> pa.Table:
    """Votes as the table that is kept."""
    version = pl.struct(major="major", minor="minor").alias("workflow_version")
    return votes.with_columns(version).select(VOTES.names).to_arrow().cast(VOTES)
