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

from zoo_bridge.errors import InputError
from zoo_bridge.rows import PIECE_BYTES, Ahead, Piece, Reject, read_rows
from zoo_bridge.votes.annotations import Annotations, Note
from zoo_bridge.votes.rules import (
    MISSING,
    NOT_ANSWERED,
    NOT_PICKED,
    PICKED,
    UNMATCHED,
    YES,
    Place,
    Question,
    Rules,
    Texts,
    is_no,
    read_json,
)
from zoo_bridge.votes.spill import Spill
from zoo_bridge.votes.subjects import Subjects
from zoo_bridge.votes.tally import Tally

NEEDED = [
    "classification_id",
    "workflow_id",
    "workflow_version",
    "created_at",
    "annotations",
    "subject_ids",
]
# What a project may have taken out before it gave an export away.
OPTIONAL = ["user_name", "user_id", "user_ip", "gold_standard", "metadata", "subject_data"]
# Damage in a name must not cost a vote.
SOFT = ["user_name"]
# What a row that does not count is counted under, in this order; the place is its number.
REASONS = (
    "",
    "before from_version",
    "before launch",
    "gold standard",
    "excluded user",
    "several subjects",
    "training subject",
    "after to_version",
    "between versions",
)
BEFORE_LAUNCH = REASONS.index("before launch")
TRAINING = REASONS.index("training subject")
SEVERAL = REASONS.index("several subjects")
WHAT = "classifications"
# Free text would fill the memory.
MOST_NOTES = 20_000
LATEST = (2**31 - 1, 2**31 - 1)
MANY_TEXTS = "one of very many texts"
# Columns that must be numbers or times, and what they become.
TYPED = {
    "classification_id": ["classification_id"],
    "subject_ids": ["subject_id"],
    "created_at": ["created_at"],
    "workflow_version": ["major", "minor"],
}
MOMENT = r"^(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d)(:\d\d)?(?:\.\d+)?\s*(?:UTC|Z|\+00:?00)?$"
# In any case, without the cost of looking at every cell's.
MARKS = sorted({each for mark in MISSING for each in (mark, mark.upper(), mark.title())})
# Never a person's number.
NOBODY = [*MARKS, "0"]
# A person of whom nothing is known but the hash that an export gave him.
NOT_LOGGED_IN = ("not-logged-in", "Not-logged-in", "Not-Logged-In", "NOT-LOGGED-IN")
LONG = ["metadata", "annotations", "subject_data"]


def frame_schema(questions: Sequence[Question]) -> dict[str, Any]:
    """The columns of a row on its way to becoming votes.

    ``copy`` is 0 for a row of an export and 1 for one that came through the classifications API;
    ``reason`` a place in `REASONS`; ``sent`` tells when a row was sent, and by which browser
    if nobody was logged in, null where that is not known; ``note`` a place in `Reader.notes`;
    then a column for each question, see `column_of`, with a bit for each answer, or `UNMATCHED`,
    `UNKNOWN`, `NOT_ASKED` or `NOT_ANSWERED`.
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
        "workflow": pl.Int64,
        "subject_id": pl.Int64,
        "sent": pl.Int64,
        "note": pl.Int32,
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
        Where rows and answers are counted, by what became of them.
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
        self.questions = [question.placed(rules) for question in questions]
        self.rules = rules
        self.subjects = subjects
        self.spill = spill
        self.tally = tally
        self.annotations = Annotations(self.questions, texts, tally)
        self.places = [place for question in self.questions for place in question.places]
        self.notes: dict[Note, int] = {((), ()): 0}
        self.grids = any(question.is_grid for question in self.questions)

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
            A file of classifications, and in which form it is.
        tick : callable
            Called with the number of bytes just read.
        piece_bytes : int
            How much is worked on at a time.

        Raises
        ------
        InputError
            If it is not a classifications export.
        """
        how = {"optional": OPTIONAL, "soft": SOFT}
        pieces = read_rows(source.path, NEEDED, WHAT, tick, None, piece_bytes, **how)
        batches = Ahead((_type(piece, self.rules, self.places) for piece in pieces), 1)
        for batch in batches:
            if batch.missing and source.path.name not in self.tally.missing:
                self._check_missing(source, batch.missing)
            self._take(source, batch)

    def _check_missing(self, source: Source, missing: list[str]) -> None:
        """See that what is asked for can be told without some columns."""
        self.tally.missing[source.path.name] = missing
        lacks = f"{source.path} lacks the column"
        if {"user_name", "user_id"} <= set(missing):
            raise InputError(
                f"{lacks}s user_name and user_id: nobody can tell whose votes these are.",
                "Use an export that has one of them.",
            )
        if "user_name" in missing and self.rules.excluded_users:
            raise InputError(
                f"{lacks} user_name, which votes.excluded_users needs.",
                "Use an export that has it, or exclude nobody.",
            )
        if "user_ip" in missing and self.rules.anonymous_repeats == "first":
            raise InputError(
                f'{lacks} user_ip, which votes.anonymous_repeats = "first" needs.',
                'Use an export that has it, or set votes.anonymous_repeats = "all".',
            )

    def _take(self, source: Source, batch: _Batch) -> None:
        self._count_others(source.path.name, batch)
        frame = batch.frame
        if not len(frame):
            return
        bad = dict(batch.bad)
        early, sent = self._read_metadata(batch, bad)
        codes = self.annotations.read(batch.annotations, frame, bad)
        notes, note_of = self.annotations.notes()
        numbers = np.array([self._number(note) for note in notes], dtype=np.int32)
        if batch.open_end:
            self._check_last(batch, bad)
        frame = frame.with_columns(
            pl.Series("early", early),
            sent,
            pl.Series("note", numbers[note_of]),
            *(pl.Series(column_of(place), column) for place, column in enumerate(codes)),
        ).with_row_index("row")
        if self.grids:
            frame = self._open_grids(frame, bad)
        training, unreadable = self.subjects.take(frame, batch.data)
        rows = frame["row"].to_list() if unreadable else []
        for place, why in unreadable.items():
            bad.setdefault(rows[place], ("bad JSON", why))
        for row in sorted(bad):
            self.tally.reject(source.path.name, batch.frame["line"][row], *bad[row])
        reason = self._reasons(frame["rule"].to_numpy(), frame["early"].to_numpy(), training)
        schema: Any = frame_schema(self.questions)
        rows_out = frame.with_columns(
            pl.lit(int(source.raw), pl.Int8).alias("copy"), pl.Series("reason", reason)
        )
        if bad:
            rows_out = rows_out.filter(~pl.col("row").is_in(list(bad)))
        for column in ("user_id", "user_name"):
            self.tally.marked[column] += int(batch.frame[f"{column}_marked"].sum())
        if len(frame) > len(batch.frame):
            self.tally.opened += len(rows_out) - rows_out["row"].n_unique()
        self.spill.add(rows_out.select(*schema).cast(schema))

    def _number(self, note: Note) -> int:
        """The place of a note; beyond so many different ones, texts are no longer told apart."""
        if note not in self.notes and len(self.notes) >= MOST_NOTES:
            others, missed = note
            note = others, tuple((question, MANY_TEXTS) for question, _ in missed)
            if note not in self.notes and len(self.notes) >= 2 * MOST_NOTES:
                return 0
        return self.notes.setdefault(note, len(self.notes))

    def _open_grids(self, frame: pl.DataFrame, bad: dict[int, tuple[str, str]]) -> pl.DataFrame:
        """Rows that show a grid of galaxies become a row for each of them."""
        columns = [column_of(number) for number in range(len(self.questions))]
        galaxies: list[dict[str, Any]] = []
        opened = []
        for row in frame.iter_rows(named=True):
            picks = self.annotations.picks(row["row"])
            if row["rule"] not in (0, SEVERAL) or all(each is None for each in picks):
                continue
            subjects = [text.strip().removesuffix(".0") for text in row["subject_ids"].split(";")]
            if not all(subject.isdecimal() for subject in subjects):
                bad.setdefault(row["row"], ("bad value", f"subject_ids is {row['subject_ids']!r}"))
                continue
            opened.append(row["row"])
            for place, subject in enumerate(subjects):
                codes, missed = dict.fromkeys(columns, NOT_ANSWERED), []
                for column, question, each in zip(columns, self.questions, picks, strict=True):
                    if each is None:
                        continue
                    label = PICKED if {subject, place} & each else NOT_PICKED
                    found = question.place_of(label)
                    codes[column] = UNMATCHED if found is None else 1 << found
                    if found is None:
                        missed.append((question.name, label))
                note = self._number(((), tuple(missed)))
                galaxy = {"subject_id": int(subject), "rule": 0, "note": note}
                galaxies.append({**row, **codes, **galaxy})
        if not opened:
            return frame
        self.tally.grids += len(opened)
        new = pl.DataFrame(galaxies, schema=frame.schema)
        return pl.concat([frame.filter(~pl.col("row").is_in(opened)), new]).sort("row")

    def _count_others(self, file: str, batch: _Batch) -> None:
        """Count all rows, and those that never come to be looked at."""
        self.tally.rows += batch.rows
        self.tally.mended += batch.mended
        self.tally.dropped["other workflow"] += sum(batch.others.values())
        self.tally.elsewhere.update(batch.others)
        for reject in batch.rejects:
            self.tally.reject(file, reject.line, reject.reason, reject.detail)

    def _read_metadata(
        self, batch: _Batch, bad: dict[int, tuple[str, str]]
    ) -> tuple[NDArray[np.bool_], pl.Series]:
        """Which rows were made before the launch, and what tells one submission from another.

        All metadata are read, strictly. A browser that lost the answer sends the same again: with
        the same times, to the millisecond, of the same person, or of the same browser. That is a
        number, good as long as this process lives.
        """
        rows = len(batch.frame)
        early = np.zeros(rows, dtype=bool)
        sent: list[int | None] = [None] * rows
        anonymous = batch.frame["anonymous"].to_list()
        decode = _METADATA.decode
        texts = () if "metadata" in batch.missing else _texts(batch.metadata)
        for row, text in enumerate(itertools.compress(texts, batch.ours)):
            if not text:
                continue
            try:
                found = decode(text)
            except (msgspec.MsgspecError, RecursionError):
                try:
                    found = _read_oddly(text)
                except ValueError as error:
                    bad.setdefault(row, ("bad JSON", f"metadata: {error}"))
                    continue
            live = found.live_project
            if live is not True and live is not None:
                early[row] = is_no(live)
            if found.started_at and found.finished_at:
                who = None
                if anonymous[row]:
                    who = found.session or batch.frame["hash"][row] or row
                sent[row] = hash((found.started_at, found.finished_at, who))
        return early, pl.Series("sent", sent, pl.Int64)

    def _check_last(self, batch: _Batch, bad: dict[int, tuple[str, str]]) -> None:
        """A file's last row without a line break: is its last cell whole, as its data say?"""
        row = len(batch.frame) - 1
        if row in bad or "subject_data" in batch.missing:
            return
        subject, place = batch.frame["subject_id"][row], batch.frame["subject_data"][row]
        try:
            described = read_json(batch.data[place].as_py())
        except ValueError as error:
            bad[row] = ("bad JSON", f"subject_data: {error}")
            return
        if isinstance(described, dict) and described and str(subject) not in described:
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
    line, rule (a place in `REASONS`), hash (a user's name, or what an export has in its place),
    user_id_marked and user_name_marked, and the places in ``annotations`` and ``data`` of the row's
    texts. ``ours`` says which rows of ``metadata`` are in it, ``bad`` which of its rows have a
    value that cannot be. ``rows`` counts all rows, ``others`` those of other workflows, ``missing``
    are the columns that the file lacks.
    """

    frame: pl.DataFrame
    annotations: pa.Array
    data: pa.Array
    metadata: pa.ChunkedArray
    ours: list[bool]
    bad: dict[int, tuple[str, str]]
    rejects: list[Reject]
    rows: int
    others: dict[str, int]
    mended: int
    open_end: bool
    missing: list[str]


def _type(piece: Piece, rules: Rules, places: Sequence[Place]) -> _Batch:
    # The long texts stay in Arrow's memory; of those that repeat, each will be read once.
    annotations = piece.table["annotations"].combine_chunks().dictionary_encode()
    data = piece.table["subject_data"].combine_chunks().dictionary_encode()
    frame = pl.DataFrame(piece.table.drop_columns(LONG)).with_columns(
        pl.Series("line", piece.lines, dtype=pl.Int64),
        pl.Series("annotations", annotations.indices),
        pl.Series("subject_data", data.indices),
    )
    workflow = frame["workflow_id"].str.strip_chars().str.strip_suffix(".0")
    ours = workflow.is_in(sorted({str(place.workflow) for place in places}))
    rejects = list(piece.rejects)
    others: dict[str, int] = {}
    if not ours.all():
        numbers = workflow.str.contains(r"^\d+$")
        others = dict(workflow.filter(numbers & ~ours).value_counts().iter_rows())
        for row in (~numbers).arg_true():
            detail = f"workflow_id is {workflow[row][:60]!r}, not a number"
            rejects.append(Reject(frame["line"][row], "bad value", detail))
        frame = frame.filter(ours)
    typed = _prepared(frame, "user_id" not in piece.missing).select(*_columns(rules, places))
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
        missing=piece.missing,
    )


def _ends_with_row(piece: Piece) -> bool:
    last = piece.rejects[-1].line if piece.rejects else 0
    return bool(piece.lines) and piece.lines[-1] > last


def _known(column: str, marks: Sequence[str]) -> pl.Expr:
    """A cell, empty where a program has written some mark for nothing."""
    text = pl.col(column).str.strip_chars()
    return pl.when(text.is_in(marks)).then(pl.lit("")).otherwise(text)


def _outside(places: Sequence[Place], workflow: pl.Expr, version: pl.Expr) -> pl.Expr:
    """Why a row is of no version that counts; 0 if it is of one."""
    # Most questions are asked in the same versions.
    ranges = sorted({(place.workflow, place.first, place.last or LATEST) for place in places})
    mine = [workflow == number for number, _, _ in ranges]
    young = [version >= _ordered(first) for _, first, _ in ranges]
    old = [version <= _ordered(last) for _, _, last in ranges]
    three = list(zip(mine, young, old, strict=True))
    return (
        pl.when(pl.any_horizontal(m & y & o for m, y, o in three))
        .then(0)
        .when(~pl.any_horizontal(m & y for m, y, _ in three))
        .then(REASONS.index("before from_version"))
        .when(~pl.any_horizontal(m & o for m, _, o in three))
        .then(REASONS.index("after to_version"))
        .otherwise(REASONS.index("between versions"))
    )


def _ordered(version: tuple[int, int]) -> int:
    """A version as one number."""
    return (version[0] << 32) + version[1]


def _prepared(frame: pl.DataFrame, has_id: bool) -> pl.DataFrame:
    """A batch's rows with what several columns are made of: when, who, and from where."""
    moment = pl.col("created_at").str.strip_chars().str.replace(MOMENT, "$1 $2$3")
    # As Panoptes writes it ("2018-02-20 10:44:42 UTC"), or as programs that saved it anew do.
    created = moment.str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", strict=False)
    given = pl.col("user_id").str.strip_chars().str.strip_suffix(".0")
    frame = frame.with_columns(
        created.alias("created"),
        given.alias("given"),
        _known("user_name", MARKS).alias("name"),
        _known("user_ip", MARKS).alias("ip"),
    )
    if frame["created"].null_count():
        minutes = moment.str.to_datetime("%Y-%m-%d %H:%M", time_unit="us", strict=False)
        frame = frame.with_columns(pl.col("created").fill_null(minutes))
    # Two columns tell who somebody is, and either may have lost what stood in it.
    hashed = pl.any_horizontal(pl.col("name").str.starts_with(each) for each in NOT_LOGGED_IN)
    lost = hashed | pl.col("given").is_in(NOBODY)
    user = pl.when(lost).then(pl.lit("")).otherwise(pl.col("given"))
    # Where nothing at all stands, nobody is logged in; only a mark may hide that somebody was.
    empty = pl.col("name") == ""
    if has_id:
        empty |= pl.col("given") == ""
    nobody = hashed | ((pl.col("user") == "") & empty)
    return frame.with_columns(user.alias("user")).with_columns(nobody.alias("nobody"))


def _columns(rules: Rules, places: Sequence[Place]) -> list[pl.Expr]:
    """A batch's columns from an export's."""
    # A column with gaps becomes one of floats in many programs: 7.0 is the number 7.
    number = {
        name: pl.col(name).str.strip_chars().str.strip_suffix(".0")
        for name in ("classification_id", "workflow_id", "user_id")
    }
    ident = number["classification_id"].cast(pl.Int64, strict=False)
    workflow = number["workflow_id"].cast(pl.Int64, strict=False)
    # Several subjects do not vote; the first, in any order, gives the row a place.
    several = pl.col("subject_ids").str.contains(";", literal=True)
    first = pl.col("subject_ids").str.split(";").list.sort().list.first()
    subject = pl.when(several).then(first).otherwise(pl.col("subject_ids"))
    subject = subject.str.strip_chars().str.strip_suffix(".0").cast(pl.Int64, strict=False)
    created = pl.col("created")
    version = pl.col("workflow_version").str.strip_chars().str.split_exact(".", 1).struct
    major = version.field("field_0").cast(pl.Int32, strict=False)
    minor = version.field("field_1").fill_null("0").cast(pl.Int32, strict=False)
    user, name, nobody = (pl.col(column) for column in ("user", "name", "nobody"))
    # Addresses are hashed; a row from the API has none, and is nobody's second look.
    who = (
        pl.when(~nobody & (user != ""))
        .then(user)
        .when(~nobody)
        .then(name.str.to_lowercase())
        .when(pl.col("ip") != "")
        .then(pl.col("ip"))
        .otherwise(number["classification_id"])
    )
    kind = (
        pl.when(~nobody & (user != ""))
        .then(pl.lit("user:"))
        .when(~nobody)
        .then(pl.lit("name:"))
        .when(pl.col("ip") != "")
        .then(pl.lit("ip:"))
        .otherwise(pl.lit("classification:"))
    )
    gold = pl.col("gold_standard").str.strip_chars().str.to_lowercase().is_in(sorted(YES))
    excluded = user.is_in(sorted(rules.excluded_ids))
    if rules.excluded_users:
        names = sorted({name.lower() for name in rules.excluded_users})
        excluded |= pl.col("user_name").str.strip_chars().str.to_lowercase().is_in(names)
    outside = _outside(places, workflow, (major.cast(pl.Int64) * 2**32) + minor)
    rule = (
        pl.when(outside > 0)
        .then(outside)
        .when(pl.lit(not rules.gold_standard) & gold)
        .then(REASONS.index("gold standard"))
        .when(excluded)
        .then(REASONS.index("excluded user"))
        .when(several)
        .then(SEVERAL)
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
        workflow.alias("workflow"),
        nobody.alias("anonymous"),
        pl.concat_str(kind, who).alias("user_key"),
        name.alias("hash"),
        ((pl.col("given") != "") & (user == "")).alias("user_id_marked"),
        ((pl.col("user_name").str.strip_chars() != "") & (name == "")).alias("user_name_marked"),
        rule.cast(pl.Int8).alias("rule"),
        pl.col("line", "annotations", "subject_data", "subject_ids"),
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
    """What of a classification's metadata matters."""

    live_project: Any = None
    started_at: str | None = None
    finished_at: str | None = None
    session: str | None = None


def _read_oddly(text: memoryview) -> _Metadata:
    """What of metadata matters that are not as they should be.

    Raises
    ------
    ValueError
        If they are no JSON.
    """
    value = read_json(str(text, "utf-8"))
    value = value if isinstance(value, dict) else {}
    texts = ("started_at", "finished_at", "session")
    found = {name: str(value[name]) for name in texts if value.get(name) is not None}
    return _Metadata(value.get("live_project"), **found)


_METADATA = msgspec.json.Decoder(_Metadata)
