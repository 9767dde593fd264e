"""From export files to votes: every row is used or set aside under a reason, none is lost."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from zoo_bridge.rows import PIECE_BYTES, Ahead, Piece, Reject, read_rows
from zoo_bridge.votes.annotations import Annotations
from zoo_bridge.votes.rules import Question, Rules, Texts, read_json
from zoo_bridge.votes.spill import Spill
from zoo_bridge.votes.subjects import Subjects
from zoo_bridge.votes.tally import Tally

NEEDED = [
    "classification_id",
    "user_name",
    "user_id",
    "user_ip",
    "workflow_id",
    "workflow_version",
    "created_at",
    "gold_standard",
    "metadata",
    "annotations",
    "subject_data",
    "subject_ids",
]
# What a row that does not count is counted under, in this order; the place is its number.
REASONS = (
    "",
    "before from_version",
    "before launch",
    "gold standard",
    "excluded user",
    "several subjects",
    "training subject",
)
BEFORE_LAUNCH = REASONS.index("before launch")
TRAINING = REASONS.index("training subject")
# Columns that must be numbers or times, and what they become.
TYPED = {
    "classification_id": ["classification_id"],
    "subject_ids": ["subject_id"],
    "created_at": ["created_at"],
    "workflow_version": ["major", "minor"],
}
MOMENT = r"^(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.\d+)?\s*(?:UTC|Z|\+00:00)?$"
LONG = ["metadata", "annotations", "subject_data"]


def frame_schema(questions: Sequence[Question]) -> dict[str, Any]:
    """The columns of a row on its way to becoming votes.

    ``copy`` is 0 for a row of an export and 1 for one that came through the classifications API;
    ``reason`` a place in `REASONS`; then a column for each question, see `column_of`, with a bit
    for each answer, or `UNMATCHED`, or `NOT_ANSWERED`.
    """
    return {
        "classification_id": pl.Int64,
        "copy": pl.Int8,
        "reason": pl.Int8,
        "created_at": pl.Datetime("us", "UTC"),
        "major": pl.Int32,
        "minor": pl.Int32,
        "anonymous": pl.Boolean,
        "user_key": pl.String,
        "subject_id": pl.Int64,
        **{column_of(place): pl.Int64 for place in range(len(questions))},
    }


def column_of(place: int) -> str:
    """The column of a question; its own name might be that of another column."""
    return f"q{place}"


@dataclass(frozen=True)
class Source:
    """A file of classifications; ``raw`` ones came through the API, and exports know better."""

    path: Path
    raw: bool = False


class Reader:
    """Reads classifications into a `Spill`.

    Parameters
    ----------
    questions : sequence of Question
        What is asked.
    rules : Rules
        Which rows count.
    texts : Texts
        To resolve answers that are indexes.
    subjects : Subjects
        Learns which object each subject shows.
    spill : Spill
        Takes the rows of the workflow, with the columns of `frame_schema`.
    tally : Tally
        Counts.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        rules: Rules,
        texts: Texts,
        subjects: Subjects,
        spill: Spill,
        tally: Tally,
    ) -> None:
        self.questions = list(questions)
        self.rules = rules
        self.subjects = subjects
        self.spill = spill
        self.tally = tally
        self.annotations = Annotations(self.questions, texts, tally)
        # Names matter only when some are excluded; damage in one must not cost a vote.
        self.columns = [name for name in NEEDED if name != "user_name" or rules.excluded_users]

    def read(
        self,
        source: Source,
        tick: Callable[[int], None] = lambda size: None,
        piece_bytes: int = PIECE_BYTES,
    ) -> None:
        """Take a file.

        Parameters
        ----------
        source : Source
            The file.
        tick : callable
            Called with the number of bytes just read.
        piece_bytes : int
            How much is worked on at a time.

        Raises
        ------
        InputError
            If it is not a classifications export.
        """
        pieces = read_rows(source.path, self.columns, "classifications", tick, None, piece_bytes)
        batches = Ahead((_type(piece, self.rules) for piece in pieces), 1)
        for batch in batches:
            self._take(source, batch)

    def _take(self, source: Source, batch: _Batch) -> None:
        self._count_others(source.path.name, batch)
        frame = batch.frame
        if not len(frame):
            return
        bad = dict(batch.bad)
        early = self._before_launch(batch, bad)
        codes = self.annotations.read(batch.annotations, frame, bad)
        training, unreadable = self.subjects.take(frame, batch.data)
        for row, why in unreadable.items():
            bad.setdefault(row, ("bad JSON", why))
        if batch.open_end:
            self._check_last(batch, bad)
        for row in sorted(bad):
            self.tally.reject(source.path.name, frame["line"][row], *bad[row])
        good = np.ones(len(frame), dtype=bool)
        good[list(bad)] = False
        reason = self._reasons(frame["rule"].to_numpy(), early, training)
        self.annotations.count(good & (reason == 0))
        schema: Any = frame_schema(self.questions)
        rows = frame.with_columns(
            pl.lit(int(source.raw), pl.Int8).alias("copy"),
            pl.Series("reason", reason),
            *(pl.Series(column_of(place), column) for place, column in enumerate(codes)),
        ).select(*schema)
        self.spill.add((rows.filter(pl.Series(good)) if bad else rows).cast(schema))

    def _count_others(self, file: str, batch: _Batch) -> None:
        """Count all rows, and those that never come to be looked at."""
        self.tally.rows += batch.rows
        self.tally.mended += batch.mended
        self.tally.dropped["other workflow"] += batch.others
        for reject in batch.rejects:
            self.tally.reject(file, reject.line, reject.reason, reject.detail)

    def _before_launch(self, batch: _Batch, bad: dict[int, tuple[str, str]]) -> NDArray[np.bool_]:
        """Which rows were made before the launch; all metadata are read, strictly."""
        early = np.zeros(len(batch.frame), dtype=bool)
        decode = _METADATA.decode
        for row, text in enumerate(itertools.compress(_texts(batch.metadata), batch.ours)):
            try:
                live = decode(text).live_project if text else None
            except (msgspec.MsgspecError, RecursionError):
                try:
                    value = read_json(str(text, "utf-8"))
                except ValueError as error:
                    bad.setdefault(row, ("bad JSON", f"metadata: {error}"))
                    continue
                live = value.get("live_project") if isinstance(value, dict) else None
            if live is not True and live is not None:
                early[row] = str(live).strip().lower() == "false"
        return early

    def _check_last(self, batch: _Batch, bad: dict[int, tuple[str, str]]) -> None:
        """A file's last row without a line break: is its last cell whole, as its data say?"""
        row = len(batch.frame) - 1
        if row in bad:
            return
        subject, place = batch.frame["subject_id"][row], batch.frame["subject_data"][row]
        if str(subject) not in read_json(batch.data[place].as_py()):
            detail = f"the file ends here, and subject {subject} is not the one that is described"
            bad[row] = ("cut short", detail)

    def _reasons(
        self, rule: NDArray[np.int8], early: NDArray[np.bool_], training: NDArray[np.bool_]
    ) -> NDArray[np.int8]:
        """Why each row does not count, as a place in `REASONS`; 0 if it does."""
        rules = self.rules
        first = np.where(early & (not rules.before_launch), BEFORE_LAUNCH, len(REASONS))
        last = np.where(training & (not rules.training_subjects), TRAINING, len(REASONS))
        reason = np.minimum(np.minimum(first, last), np.where(rule > 0, rule, len(REASONS)))
        return np.where(reason == len(REASONS), 0, reason).astype(np.int8)


@dataclass(frozen=True)
class _Batch:
    """Rows of the workflow with numbers and times in place of texts.

    ``frame`` has classification_id, created_at, major, minor, anonymous, user_key, subject_id,
    line, rule (a place in `REASONS`), and the places in ``annotations`` and ``data`` of the row's
    texts. ``ours`` says which rows of ``metadata`` are in it, ``bad`` which of its rows have a
    value that cannot be. ``rows`` counts all rows, ``others`` those of other workflows.
    """

    frame: pl.DataFrame
    annotations: pa.Array
    data: pa.Array
    metadata: pa.ChunkedArray
    ours: list[bool]
    bad: dict[int, tuple[str, str]]
    rejects: list[Reject]
    rows: int
    others: int
    mended: int
    open_end: bool


def _type(piece: Piece, rules: Rules) -> _Batch:
    # The long texts stay in Arrow's memory; of those that repeat, each will be read once.
    annotations = piece.table["annotations"].combine_chunks().dictionary_encode()
    data = piece.table["subject_data"].combine_chunks().dictionary_encode()
    frame = pl.DataFrame(piece.table.drop_columns(LONG)).with_columns(
        pl.Series("line", piece.lines, dtype=pl.Int64),
        pl.Series("annotations", annotations.indices),
        pl.Series("subject_data", data.indices),
    )
    workflow = frame["workflow_id"].str.strip_chars()
    ours = workflow == str(rules.workflow)
    rejects = list(piece.rejects)
    others = 0
    if not ours.all():
        numbers = workflow.str.contains(r"^\d+$")
        others = int((numbers & ~ours).sum())
        for row in (~numbers).arg_true():
            detail = f"workflow_id is {workflow[row][:60]!r}, not a number"
            rejects.append(Reject(frame["line"][row], "bad value", detail))
        frame = frame.filter(ours)
    typed = frame.select(*_columns(rules))
    bad = {}
    for row in typed["odd"].arg_true():
        values = {
            name: frame[name][row]
            for name, columns in TYPED.items()
            if any(typed[column][row] is None for column in columns)
        }
        shown = ", ".join(f"{name} is {value[:60]!r}" for name, value in values.items())
        bad[row] = ("bad value", shown)
    if bad:
        # They are set aside; a zero keeps the column whole until then.
        typed = typed.with_columns(
            pl.col("classification_id", "subject_id", "major", "minor").fill_null(0)
        )
    return _Batch(
        frame=typed,
        annotations=annotations.dictionary,
        data=data.dictionary,
        metadata=piece.table["metadata"],
        ours=ours.to_list(),
        bad=bad,
        rejects=rejects,
        rows=piece.table.num_rows + len(piece.rejects),
        others=others,
        mended=piece.mended,
        open_end=piece.open_end and _ends_with_row(piece),
    )


def _ends_with_row(piece: Piece) -> bool:
    last = piece.rejects[-1].line if piece.rejects else 0
    return bool(piece.lines) and piece.lines[-1] > last


def _columns(rules: Rules) -> list[pl.Expr]:
    """A batch's columns from an export's."""
    ident = pl.col("classification_id").str.strip_chars().cast(pl.Int64, strict=False)
    # Several subjects do not vote; the first, in any order, gives the row a place.
    several = pl.col("subject_ids").str.contains(";", literal=True)
    first = pl.col("subject_ids").str.split(";").list.sort().list.first()
    subject = pl.when(several).then(first).otherwise(pl.col("subject_ids"))
    subject = subject.str.strip_chars().cast(pl.Int64, strict=False)
    # As Panoptes writes it ("2018-02-20 10:44:42 UTC"), or as programs that saved it anew do.
    created = pl.col("created_at").str.strip_chars().str.replace(MOMENT, "$1 $2")
    created = created.str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", strict=False)
    version = pl.col("workflow_version").str.strip_chars().str.split_exact(".", 1).struct
    major = version.field("field_0").cast(pl.Int32, strict=False)
    minor = version.field("field_1").fill_null("0").cast(pl.Int32, strict=False)
    # A column with gaps becomes one of floats in many programs: 7.0 is the user 7.
    user = pl.col("user_id").str.strip_chars().str.strip_suffix(".0")
    # Addresses are hashed; a row from the API has none, and is nobody's second look.
    address = (
        pl.when(pl.col("user_ip") == "")
        .then(pl.format("classification:{}", "classification_id"))
        .otherwise(pl.format("ip:{}", "user_ip"))
    )
    person = pl.when(user == "").then(address).otherwise(pl.format("user:{}", user))
    oldest = rules.first_version
    old = (major < oldest[0]) | ((major == oldest[0]) & (minor < oldest[1]))
    gold = pl.col("gold_standard").str.strip_chars().str.to_lowercase() == "true"
    excluded = user.is_in(sorted(rules.excluded_ids))
    if rules.excluded_users:
        names = sorted({name.lower() for name in rules.excluded_users})
        excluded |= pl.col("user_name").str.strip_chars().str.to_lowercase().is_in(names)
    rule = (
        pl.when(old)
        .then(REASONS.index("before from_version"))
        .when(pl.lit(not rules.gold_standard) & gold)
        .then(REASONS.index("gold standard"))
        .when(excluded)
        .then(REASONS.index("excluded user"))
        .when(several)
        .then(REASONS.index("several subjects"))
        .otherwise(0)
    )
    typed = {
        "classification_id": ident,
        "subject_id": subject,
        "created_at": created.dt.replace_time_zone("UTC"),
        "major": major,
        "minor": minor,
    }
    return [
        *(expression.alias(name) for name, expression in typed.items()),
        pl.any_horizontal(expression.is_null() for expression in typed.values()).alias("odd"),
        (user == "").alias("anonymous"),
        person.alias("user_key"),
        rule.cast(pl.Int8).alias("rule"),
        pl.col("line", "annotations", "subject_data"),
    ]


def _texts(column: pa.ChunkedArray) -> Iterator[memoryview]:
    """The texts of a column (no nulls), in UTF-8, without a copy."""
    for chunk in column.chunks:
        _, offsets, data = chunk.buffers()
        if data is None:
            yield from itertools.repeat(memoryview(b""), len(chunk))
            continue
        ends = np.frombuffer(offsets, dtype=np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
        view = memoryview(data)
        for start, end in itertools.pairwise(ends.tolist()):
            yield view[start:end]


class _Metadata(msgspec.Struct):
    """The one thing in a classification's metadata that matters."""

    live_project: Any = None


_METADATA = msgspec.json.Decoder(_Metadata)
