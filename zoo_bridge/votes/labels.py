"""From votes to labels: of the n volunteers who answered a question, k gave an answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from zoo_bridge.balance import Balance
from zoo_bridge.rows import PIECE_BYTES
from zoo_bridge.tables import LABELS, VOTES
from zoo_bridge.votes.annotations import Note
from zoo_bridge.votes.read import REASONS, Reader, Source, column_of
from zoo_bridge.votes.rules import (
    NO_TEXTS,
    NOT_ANSWERED,
    NOT_ASKED,
    UNKNOWN,
    UNMATCHED,
    Question,
    Rules,
    Texts,
)
from zoo_bridge.votes.spill import ROWS_IN_MEMORY, Spill
from zoo_bridge.votes.subjects import Objects, Subjects
from zoo_bridge.votes.tally import Fate, Tally

# A bucket of subjects for so much of the (gzipped) files.
BUCKET_BYTES = 2**24
# What becomes of a row for one question.
VOTE, REPEAT, ABSENT, NOT_REACHED, OFF_PATH, MISSED, NO_LABEL, ELSEWHERE = range(8)
Keep = Callable[[pa.Table], None]
COUNTS: Any = {
    "subject_id": pl.Int64,
    "question": pl.String,
    "answer": pl.String,
    "k": pl.Int32,
    "n": pl.Int32,
}


@dataclass(frozen=True)
class Reach:
    """Up to where an export has every classification that was ever completed.

    Parameters
    ----------
    below : int
        Numbers less than this one.
    before : datetime
        Made earlier than this, in UTC: what is newer may not have been visible yet.
    """

    below: int
    before: datetime


NO_REACH: Mapping[int, Reach] = {}


def aggregate(
    sources: Sequence[Source],
    questions: Sequence[Question],
    rules: Rules,
    scratch: Path,
    keep_labels: Keep,
    keep_votes: Keep = lambda votes: None,
    texts: Texts = NO_TEXTS,
    subjects: Subjects | None = None,
    tick: Callable[[int], None] = lambda size: None,
    reach: Mapping[int, Reach] = NO_REACH,
    piece_bytes: int = PIECE_BYTES,
    rows_in_memory: int = ROWS_IN_MEMORY,
) -> tuple[Objects, Tally]:
    """Aggregate classifications, in memory that does not grow with their number.

    The result depends neither on the order of rows nor on how they are spread over files.

    Parameters
    ----------
    sources : sequence of Source
        The files. A classification that stands in several counts once.
    questions : sequence of Question
        What is asked.
    rules : Rules
        Which votes count.
    scratch : Path
        A folder that does not exist yet; large projects need it for a while.
    keep_labels : callable
        Is given the labels, a table at a time, with the schema `LABELS`: for each subject (or
        object, if ``rules.same_object`` is "merge") and question that was answered at all, one row
        an answer.
    keep_votes : callable
        Is given the votes, a table at a time, with the schema `VOTES`.
    texts : Texts
        To resolve answers that are indexes.
    subjects : Subjects, optional
        Has read the subjects export.
    tick : callable
        Called with the number of bytes just read.
    reach : mapping, optional
        By workflow: which rows of the API its export would have, had they been completed.
    piece_bytes, rows_in_memory : int
        How much is worked on at a time.

    Returns
    -------
    objects : Objects
        Which object each subject with votes shows.
    tally : Tally
        What became of every row; it adds up.

    Raises
    ------
    InputError
        If a file is not a classifications export.
    CountsError
        If anything does not add up.
    """
    if texts.known:
        questions = [_named(question, rules, texts) for question in questions]
    names = [question.name for question in questions]
    tally = Tally(fates={name: Fate() for name in names}, sizes={name: Counter() for name in names})
    subjects = subjects or Subjects(rules.object_id_keys)
    size = sum(source.path.stat().st_size for source in sources if source.path.is_file())
    spill = Spill(scratch, rows_in_memory, buckets=min(256, max(8, size // BUCKET_BYTES)))
    reader = Reader(questions, rules, texts, subjects, spill, tally)
    for source in sources:
        reader.read(source, tick, piece_bytes)
    objects = subjects.resolve()
    labels = _Labels(objects, rules, keep_labels, tally)
    notes = list(reader.notes)
    for part in _whole_objects(spill, labels.representative):
        rows = _used(part, tally, reach)
        _count_notes(rows, notes, tally)
        states = _states(rows, questions, rules)
        counts = []
        for place, question in enumerate(questions):
            _add_fates(tally.fates[question.name], states[place])
            voted = rows.filter(states[place] == VOTE)
            votes = _votes(voted, place, question)
            counts.append(_count(voted, place, question))
            kept = len(votes.drop_nulls("answer"))
            counted = {"counted": int(counts[-1]["k"].sum())}
            Balance(f"votes on {question.name}", kept, counted).check()
            keep_votes(votes.to_arrow().cast(VOTES))
        labels.add(pl.concat(counts))
        # Arrow keeps what it has freed, part after part, unless it is told.
        pa.default_memory_pool().release_unused()
    labels.end()
    for balance in tally.balances():
        balance.check()
    return objects.only(labels.subjects), tally


def _named(question: Question, rules: Rules, texts: Texts) -> Question:
    """A question with those of its answers' names that the workflow itself has as labels."""
    labels: set[str] = set()
    for place in question.placed(rules).places:
        labels |= texts.of(place.workflow).labels(place.task)
    return question.with_names(labels)


def _whole_objects(spill: Spill, representative: Mapping[int, int]) -> Iterator[pl.DataFrame]:
    """The parts of a spill, with a column ``unit``: what a person votes on once.

    That is a subject, or an object with several subjects, all of which then come together.
    """
    folder = spill.folder.with_name(f"{spill.folder.name}-shared")
    held = Spill(folder, spill.rows_in_memory, spill.buckets, key="unit")
    unit = pl.col("subject_id").replace(representative) if representative else pl.col("subject_id")
    shared = list(representative)
    for part in spill.parts():
        part = part.with_columns(unit.alias("unit"))
        if shared:
            several = pl.col("subject_id").is_in(shared)
            held.add(part.filter(several))
            part = part.filter(~several)
        if len(part):
            yield part
    yield from held.parts()


def _count_notes(rows: pl.DataFrame, notes: Sequence[Note], tally: Tally) -> None:
    """Count other tasks and texts that stand for nothing, in the rows that are used."""
    for place, number in rows["note"].value_counts().iter_rows():
        others, missed = notes[place]
        for task in others:
            tally.other_tasks[task] += number
        for question, text in missed:
            tally.miss(question, text, number)
        for question in {question for question, _ in missed}:
            tally.odd[question] += number


class _Labels:
    """Counts on their way to becoming labels; only what is to be merged is kept in memory."""

    def __init__(self, objects: Objects, rules: Rules, keep: Keep, tally: Tally) -> None:
        self.objects = objects
        self.merged = set(objects.shared) if rules.same_object == "merge" else set()
        self.keep = keep
        self.tally = tally
        self._subjects: list[pl.Series] = []
        self._held: list[pl.DataFrame] = []
        # The first subject of an object stands for all of them.
        self.representative = {
            subject: min(subjects)
            for name, subjects in objects.shared.items()
            if name in self.merged
            for subject in subjects
        }

    @property
    def subjects(self) -> pl.Series:
        """All subjects that have votes."""
        return pl.concat([pl.Series("subject_id", dtype=pl.Int64), *self._subjects]).unique()

    def add(self, counts: pl.DataFrame) -> None:
        """Take the counts of some subjects, all there are of each."""
        self._subjects.append(counts["subject_id"].unique())
        labels = counts.join(self.objects.table, on="subject_id", how="left")
        if self.merged:
            held = pl.col("object_id").is_in(list(self.merged))
            self._held.append(labels.filter(held))
            labels = labels.filter(~held)
        self._keep(labels)

    def end(self) -> None:
        """Subjects of one object add up."""
        if self._held:
            merged = pl.concat(self._held).group_by("object_id", "question", "answer")
            self._keep(merged.agg(pl.col("subject_id").min(), pl.col("k").sum(), pl.col("n").sum()))

    def _keep(self, labels: pl.DataFrame) -> None:
        ordered = labels.select(LABELS.names).sort("subject_id", "question", "answer")
        self.keep(ordered.to_arrow().cast(LABELS))
        once = ordered.unique(["subject_id", "question"]).group_by("question", "n").len()
        for question, n, number in once.iter_rows():
            self.tally.sizes[question][n] += number


def _used(part: pl.DataFrame, tally: Tally, reach: Mapping[int, Reach]) -> pl.DataFrame:
    """The rows that count, each classification once, in the order of their numbers."""
    # Exports know more than the API (gold standard, addresses); beyond that any order will do,
    # as long as it does not depend on that of the files.
    # A copy that does not count wins over one that does: what an export says of gold standard and
    # training images is as of that export.
    part = part.sort(part.columns, descending=[name == "reason" for name in part.columns])
    # A grid of galaxies is one classification of many subjects.
    both = pl.struct("classification_id", "subject_id")
    whole = both if tally.opened else pl.col("classification_id")
    once = part.filter(whole.is_first_distinct())
    if len(once) < len(part):
        tally.dropped["classification twice"] += len(part) - len(once)
    for workflow, told in reach.items():
        # An export leaves out what was begun and never completed; the API does not.
        lacking = (
            (pl.col("copy") == 1)
            & (pl.col("workflow") == workflow)
            & (pl.col("classification_id") < told.below)
            & (pl.col("created_at") < told.before)
        )
        tally.dropped["never completed"] += len(once.filter(lacking))
        once = once.filter(~lacking)
    for reason, rows in once["reason"].value_counts().iter_rows():
        if reason:
            tally.dropped[REASONS[reason]] += rows
    used = _without_resent(once.filter(pl.col("reason") == 0), tally)
    tally.used += len(used)
    return used


def _without_resent(used: pl.DataFrame, tally: Tally) -> pl.DataFrame:
    """Each submission once: a browser that lost the answer sends the same again.

    Rows of one road are alike if all their answers are; an export and the API call the answers to
    tasks that nobody asks for otherwise.
    """
    codes = [name for name in used.columns if name[0] == "q" and name[1:].isdecimal()]
    same = ["sent", "who", "subject_id", *codes]
    twice = used.filter(pl.col("sent").is_not_null() & pl.col("sent").is_duplicated())
    if twice.is_empty():
        return used
    known = pl.col("sent").is_not_null() & pl.col("sent").is_in(twice["sent"].unique().implode())
    # Of which browser an anonymous row is, its number says.
    who = pl.when("anonymous").then(pl.lit("")).otherwise(pl.col("user_key"))
    used = used.with_columns(who.alias("who"))
    first = pl.struct(*same, "note", "copy").is_first_distinct()
    kept = used.filter(first | ~known)
    by_api = kept.filter(known & (pl.col("copy") == 1))
    if len(by_api):
        exported = kept.filter(known & (pl.col("copy") == 0)).select(same)
        again = by_api.join(exported, on=same, how="semi")["classification_id"]
        kept = kept.filter(~pl.col("classification_id").is_in(again.implode()))
    if len(kept) < len(used):
        tally.dropped["resent"] += len(used) - len(kept)
    return kept


def _states(rows: pl.DataFrame, questions: Sequence[Question], rules: Rules) -> list[pl.Series]:
    """What becomes of each row, for each question.

    A question that is asked after another counts only on the way that leads to it: where the
    same classification's vote on the other counts and is one of the answers named.
    """
    places = {question.name: place for place, question in enumerate(questions)}
    states: dict[int, pl.Series] = {}
    waiting = list(range(len(questions)))
    while waiting:
        # The settings see to it that no question is asked, by any way, after itself.
        place = waiting.pop(0)
        after = questions[place].asked_after
        if after is None:
            states[place] = _state(rows, place, rules)
            continue
        other = places[after[0]]
        if other not in states:
            waiting.append(place)
            continue
        led = (rows[column_of(other)] & questions[other].bits(after[1])) != 0
        states[place] = _state(rows, place, rules, states[other], led)
    return [states[place] for place in range(len(questions))]


def _state(
    rows: pl.DataFrame,
    place: int,
    rules: Rules,
    other: pl.Series | None = None,
    led: pl.Series | None = None,
) -> pl.Series:
    """What becomes of each row for one question.

    ``other`` is what became of the question that it is asked after, ``led`` whether that one's
    answer leads to it.
    """
    lost, reached = pl.lit(False), pl.lit(True)
    if other is not None and led is not None:
        rows = rows.with_columns(other=other, led=led)
        lost = pl.col("other") == REPEAT
        reached = (pl.col("other") == VOTE) & pl.col("led")
    code = pl.col(column_of(place))
    state = (
        pl.when(code == NOT_ANSWERED)
        .then(pl.when(reached).then(ABSENT).otherwise(NOT_REACHED))
        .when(code == NOT_ASKED)
        .then(ELSEWHERE)
        .when(lost)
        .then(REPEAT)
        .when(~reached)
        .then(OFF_PATH)
        .when(code == UNMATCHED)
        .then(MISSED)
        .when(code == UNKNOWN)
        .then(NO_LABEL)
        .otherwise(VOTE)
    )
    return _without_repeats(rows.with_columns(state=state.cast(pl.Int8)), rules)


def _without_repeats(frame: pl.DataFrame, rules: Rules) -> pl.Series:
    """One vote a person and unit, the first; which people this holds for is a setting."""
    anonymous, logged_in = rules.anonymous_repeats == "first", rules.repeats == "first"
    if not anonymous and not logged_in:
        return frame["state"]
    votes = frame.with_row_index("row").filter(pl.col("state") == VOTE)
    once = pl.struct("user_key", "unit").is_first_distinct()
    held = pl.when(pl.col("anonymous")).then(anonymous).otherwise(logged_in)
    repeats = votes.filter(held & ~once)["row"]
    return frame["state"].scatter(repeats, REPEAT)


def _add_fates(fate: Fate, state: pl.Series) -> None:
    counts = dict(state.value_counts().iter_rows())
    fate.votes += counts.get(VOTE, 0)
    fate.repeats += counts.get(REPEAT, 0)
    fate.not_answered += counts.get(ABSENT, 0)
    fate.not_reached += counts.get(NOT_REACHED, 0)
    fate.off_path += counts.get(OFF_PATH, 0)
    fate.unmatched += counts.get(MISSED, 0)
    fate.unknown_label += counts.get(NO_LABEL, 0)
    fate.not_asked += counts.get(ELSEWHERE, 0)


def _votes(voted: pl.DataFrame, place: int, question: Question) -> pl.DataFrame:
    """One row for each answer given; without an answer where several may be chosen and none was."""
    bits = pl.col(column_of(place))
    parts = [
        voted.filter((bits & (1 << number)) != 0).with_columns(answer=pl.lit(answer))
        for number, answer in enumerate(question.answers)
    ]
    parts.append(voted.filter(bits == 0).with_columns(answer=pl.lit(None, pl.String)))
    version = pl.struct(pl.col("major"), pl.col("minor")).alias("workflow_version")
    return (
        pl.concat(parts).with_columns(version, question=pl.lit(question.name)).select(VOTES.names)
    )


def _count(voted: pl.DataFrame, place: int, question: Question) -> pl.DataFrame:
    """k and n of each subject that has votes, for each answer."""
    bits = pl.col(column_of(place))
    wide = voted.group_by("subject_id").agg(
        pl.len().cast(pl.Int32).alias("n"),
        *(
            ((bits & (1 << number)) != 0).sum().cast(pl.Int32).alias(f"k{number}")
            for number in range(len(question.answers))
        ),
    )
    parts = [
        wide.select(
            "subject_id",
            pl.lit(question.name).alias("question"),
            pl.lit(answer).alias("answer"),
            pl.col(f"k{number}").alias("k"),
            "n",
        )
        for number, answer in enumerate(question.answers)
    ]
    return pl.concat(parts).cast(COUNTS)
