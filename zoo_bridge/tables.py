"""The schema of every table that one step leaves for another, and how they are read and written.

All are Parquet (zstd). More columns may stand in a file than here; fewer may not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from zoo_bridge import trouble
from zoo_bridge.errors import InputError
from zoo_bridge.files import replacing

VOTES = pa.schema(
    [
        ("classification_id", pa.int64()),
        ("created_at", pa.timestamp("us", tz="UTC")),
        ("workflow_version", pa.struct([("major", pa.int32()), ("minor", pa.int32())])),
        ("user_key", pa.string()),
        ("subject_id", pa.int64()),
        ("question", pa.string()),
        ("answer", pa.string()),
    ]
)

LABELS = pa.schema(
    [
        ("subject_id", pa.int64()),
        ("object_id", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("k", pa.int32()),
        ("n", pa.int32()),
    ]
)

SURVEY = pa.schema([("object_id", pa.string()), ("uri", pa.string())])

SCORES = pa.schema(
    [
        ("object_id", pa.string()),
        ("uri", pa.string()),
        ("model_version", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("n_expected", pa.int32()),
        ("mean", pa.float32()),
        ("lo", pa.float32()),
        ("hi", pa.float32()),
        ("bald", pa.float32()),
        # Whether the answer is the one that the question's galaxies are ranked by.
        ("target", pa.bool_()),
    ]
)

REJECTS = pa.schema(
    [
        ("object_id", pa.string()),
        ("uri", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)

BATCH = pa.schema(
    [
        ("rank", pa.int32()),
        ("object_id", pa.string()),
        ("uri", pa.string()),
        ("reason", pa.string()),
        ("action", pa.string()),
        ("bald", pa.float32()),
        ("subject_id", pa.int64()),
        ("why", pa.string()),
    ]
)

# What columns mean, for files that are taken away, notebooks and the reference.
MEANINGS = {
    "votes": {
        "classification_id": "The classification's number on Zooniverse",
        "created_at": "When it was made, in UTC",
        "workflow_version": "The version of the workflow that the volunteer saw",
        "user_key": "Who it was: the same for the same person, without a name",
        "subject_id": "The subject's number on Zooniverse",
        "question": "The question that volunteers are asked",
        "answer": "The answer that was given",
    },
    "labels": {
        "subject_id": "The subject's number on Zooniverse",
        "object_id": "Identifier of the object in the survey",
        "question": "The question that volunteers are asked",
        "answer": "The answer that is counted",
        "k": "Volunteers who gave the answer",
        "n": "Volunteers who answered the question",
    },
    "survey": {
        "object_id": "Identifier of the object in the survey",
        "uri": "Where its cutout is",
    },
    "scores": {
        "object_id": "Identifier of the object in the survey",
        "uri": "Where the cutout is that was scored",
        "model_version": "The model that scored it",
        "question": "The question that volunteers are asked",
        "answer": "The answer that is predicted",
        "n_expected": "N, the number of volunteers that the prediction is for",
        "mean": "Posterior mean of the share k/N of volunteers who give the answer",
        "lo": "Lower end of the central 90 % credible interval of k/N",
        "hi": "Upper end of the central 90 % credible interval of k/N",
        "bald": "Mutual information of k and the weights of the networks (BALD), in nats",
        "target": "Whether the answer is the one that galaxies are ranked by",
    },
    "rejects": {
        "object_id": "Identifier of the object, where it is known",
        "uri": "The cutout, or the file and line of the row",
        "reason": "Why it was set aside, in a few words that are always the same",
        "detail": "What there is to say of this one",
    },
    "batch": {
        "rank": "1 for the first; also the number in the names of its pictures",
        "object_id": "Identifier of the object in the survey",
        "uri": "Where its cutout is",
        "reason": "bald for the most informative, random for the share drawn at random",
        "action": "create a subject, link one that there is, or skip what cannot be shown",
        "bald": "Mutual information by which it was chosen, in nats",
        "subject_id": "The subject that it is already, if it is one",
        "why": "Why it is in the batch, in words",
    },
}
SCHEMAS = {
    "votes": VOTES,
    "labels": LABELS,
    "survey": SURVEY,
    "scores": SCORES,
    "rejects": REJECTS,
    "batch": BATCH,
}


def write_table(path: Path, table: pa.Table, schema: pa.Schema) -> Path:
    """Write a table, whole or not at all.

    Parameters
    ----------
    path : Path
        The Parquet file, which appears when it is complete.
    table : pyarrow.Table
        It must have the columns of `schema`; they are cast to its types.
    schema : pyarrow.Schema
        One of this module's.

    Returns
    -------
    Path
        The same path.
    """
    extra = [name for name in table.column_names if name not in schema.names]
    ordered = table.select(schema.names).cast(schema)
    for name in extra:
        ordered = ordered.append_column(name, table[name])
    with replacing(path) as scratch:
        pq.write_table(ordered, scratch, compression="zstd")
    return path


class TableWriter:
    """A table written a part at a time: a file when the block ends well, nothing otherwise.

    Parameters
    ----------
    path : Path
        The Parquet file, which appears when the block ends well.
    schema : pyarrow.Schema
        Of every part.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._file = replacing(path)

    def __enter__(self) -> Self:
        scratch = self._file.__enter__()
        self._writer = pq.ParquetWriter(scratch, self._schema, compression="zstd")
        return self

    def write(self, part: pa.Table) -> None:
        """Take some rows."""
        if part.num_rows:
            self._writer.write_table(part)

    def __exit__(self, *error: Any) -> None:
        self._writer.close()
        self._file.__exit__(*error)


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """Read a table, or all the parts of one in a folder, and check its columns.

    Parameters
    ----------
    path : Path
        A Parquet file or a folder of ``part-*.parquet``.
    schema : pyarrow.Schema
        What must be in it.

    Returns
    -------
    pyarrow.Table

    Raises
    ------
    InputError
        If it is not there, is not Parquet or lacks a column.
    """
    parts = sorted(path.glob("part-*.parquet")) if path.is_dir() else [path]
    try:
        table = pa.concat_tables([pq.read_table(part) for part in parts]) if parts else None
    except (OSError, pa.ArrowException) as error:
        if (disk := trouble.explain(error, str(path))) is not None:
            raise disk from None
        raise InputError(
            f"The table {path} cannot be read: {error}.",
            "Run the step that writes it again, with --force.",
        ) from None
    if table is None:
        return schema.empty_table()
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise InputError(
            f"The table {path} lacks the column {', '.join(missing)}.",
            "Run the step that writes it again, with --force.",
        )
    return table


def sql_name(name: str) -> str:
    """A column's name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


def sql_text(text: str) -> str:
    """A text as SQL has it."""
    return "'" + text.replace("'", "''") + "'"
