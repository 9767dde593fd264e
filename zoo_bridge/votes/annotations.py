"""What volunteers answered: annotations become numbers, each different text read once."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from zoo_bridge.votes.rules import (
    NO_TEXTS,
    NOT_ANSWERED,
    NOT_ASKED,
    UNMATCHED,
    Question,
    Texts,
    Version,
    answers_of,
    hangs_on_version,
    in_words,
    match,
    picked,
    read_json,
    shape_of,
    strays,
)
from zoo_bridge.votes.tally import Tally

MOST_CACHED = 20_000
MOST_SHOWN = 120
Codes = NDArray[np.int64]
# Other tasks and their shapes; questions, and texts that stand for none of their answers.
Note = tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]


# The values of a question in a row, and of which of its tasks each is; None where it is not asked.
Given = tuple[tuple[Any, str], ...] | None


@dataclass(frozen=True)
class _Parsed:
    """What a text of annotations says, for each question; and other tasks.

    ``values`` has for each question its values and their tasks, ``picks`` what was picked where
    galaxies are shown in a grid: their subjects or places, or None where that is not the question.
    ``shown`` is the value as a person reads it, ``strays`` labels beside others that stand for an
    answer.
    """

    values: tuple[Given, ...]
    codes: tuple[int, ...]
    versioned: bool
    others: tuple[tuple[str, str], ...]
    shown: tuple[str, ...]
    strays: tuple[tuple[str, ...], ...]
    picks: tuple[frozenset[int | str] | None, ...] = ()
    error: str = ""


# The tasks by which each question may be answered in some rows.
Regime = tuple[tuple[str, ...], ...]


class Annotations:
    """Reads annotations, each different text once: volunteers often say the same."""

    def __init__(self, questions: list[Question], texts: Texts, tally: Tally) -> None:
        self.questions = questions
        self.texts = texts
        self.tally = tally
        self.tasks = frozenset(task for question in questions for task in question.all_tasks)
        self._cache: dict[tuple[str, Regime], _Parsed] = {}
        self._parsed: list[_Parsed] = []
        self._index: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._codes: list[Codes] = []
        self._regimes: dict[tuple[int, int, int], Regime] = {}
        ranges = [
            {(place.workflow, place.first, place.last) for place in question.places}
            for question in questions
        ]
        same = all(each == ranges[0] and len(each) == 1 for each in ranges)
        tasks = tuple(tuple(place.task for place in question.places) for question in questions)
        # Where all are asked in the same versions of one workflow, as is usual.
        self._everywhere = tasks if same else None

    def read(
        self, texts: pa.Array, frame: pl.DataFrame, bad: dict[int, tuple[str, str]]
    ) -> list[Codes]:
        """A code for each row and question; rows that cannot be read are bad.

        ``texts`` are the different annotations; the column of the frame says which each row has.
        """
        if len(self._cache) > MOST_CACHED:
            self._cache.clear()
        regimes, regime_of = self._find_regimes(frame)
        pair = frame["annotations"].to_numpy().astype(np.int64) * len(regimes) + regime_of
        used, index = np.unique(pair, return_inverse=True)
        self._parsed = [
            self._parse(texts[int(each // len(regimes))].as_py(), regimes[each % len(regimes)])
            for each in used
        ]
        self._index = index = index.astype(np.int64)
        table = np.array([parsed.codes for parsed in self._parsed], dtype=np.int64)
        self._codes = [table[index, place] for place in range(len(self.questions))]
        if any(parsed.error for parsed in self._parsed):
            for row, place in enumerate(index):
                if error := self._parsed[place].error:
                    bad.setdefault(row, ("bad JSON", f"annotations: {error}"))
        versioned = np.array([parsed.versioned for parsed in self._parsed])[index]
        if versioned.any():
            self._resolve(frame, np.flatnonzero(versioned))
        return self._codes

    def _find_regimes(self, frame: pl.DataFrame) -> tuple[list[Regime], NDArray[np.int64]]:
        """The different regimes of some rows, and which of these each row has."""
        if self._everywhere is not None:
            # Rows of other versions do not count, whatever they answer.
            return [self._everywhere], np.zeros(len(frame), dtype=np.int64)
        keys = frame.select("workflow", "major", "minor")
        different = keys.unique(maintain_order=True)
        known: dict[Regime, int] = {}
        number = []
        for workflow, major, minor in different.iter_rows():
            key = workflow, major, minor
            if key not in self._regimes:
                self._regimes[key] = tuple(
                    tuple(
                        place.task
                        for place in question.places
                        if place.holds(workflow, (major, minor))
                    )
                    for question in self.questions
                )
            number.append(known.setdefault(self._regimes[key], len(known)))
        if len(known) == 1:
            return list(known), np.zeros(len(frame), dtype=np.int64)
        different = different.with_columns(regime=pl.Series(number, dtype=pl.Int64))
        joined = keys.join(different, on=keys.columns, how="left", maintain_order="left")
        return list(known), joined["regime"].to_numpy()

    def picks(self, row: int) -> tuple[frozenset[int | str] | None, ...]:
        """For each question, what was picked in a row that shows a grid."""
        return self._parsed[self._index[row]].picks

    def _parse(self, text: str, regime: Regime) -> _Parsed:
        known = self._cache.get((text, regime))
        if known is None:
            known = self._cache[text, regime] = self._parse_anew(text, regime)
        return known

    def _parse_anew(self, text: str, regime: Regime) -> _Parsed:
        try:
            return self._interpret(read_json(text), regime)
        except ValueError as error:
            why = str(error)
        except RecursionError:
            why = "nested too deeply"
        none = (NOT_ANSWERED,) * len(self.questions)
        return _Parsed((), none, False, (), (), (), (), why)

    def _interpret(self, annotations: Any, regime: Regime) -> _Parsed:
        answers = answers_of(annotations)
        values = tuple(_given(answers, tasks) for tasks in regime)
        pairs = list(zip(values, self.questions, strict=True))
        # What is shown of it, where it stands for nothing.
        first = [given[0][0] if given else None for given in values]
        shown = list(zip(first, self.questions, strict=True))
        return _Parsed(
            values=values,
            codes=tuple(_code(given, question) for given, question in pairs),
            versioned=self.texts.known
            and any(
                hangs_on_version(value, question)
                for given, question in pairs
                for value, _ in given or ()
            ),
            others=tuple(
                (task, shape_of(value)) for task, value in answers.items() if task not in self.tasks
            ),
            shown=tuple(in_words(value)[:MOST_SHOWN] for value in first),
            strays=tuple(strays(value, question) for value, question in shown),
            picks=tuple(picked(value) if question.is_grid else None for value, question in shown),
        )

    def _resolve(self, frame: pl.DataFrame, rows: NDArray[np.int64]) -> None:
        """Codes of the rows whose answers are indexes in some version of the workflow."""
        found: dict[tuple[int, int, int, int], list[int]] = {}
        columns = (frame[name].to_numpy() for name in ("workflow", "major", "minor"))
        workflows, majors, minors = columns
        for row in rows:
            place = int(self._index[row])
            key = place, int(workflows[row]), int(majors[row]), int(minors[row])
            if key not in found:
                texts = self.texts.of(key[1])
                found[key] = [
                    _code(given, question, key[2:], texts)
                    for given, question in zip(
                        self._parsed[place].values, self.questions, strict=True
                    )
                ]
            for place, code in enumerate(found[key]):
                self._codes[place][row] = code

    def notes(self) -> tuple[list[Note], NDArray[np.int64]]:
        """What rows have to be counted for, if they count; and which of these each row has.

        Other tasks, and texts that stand for no answer.
        """
        missed = np.zeros(len(self._index), dtype=np.int64)
        for place, codes in enumerate(self._codes):
            missed |= (codes == UNMATCHED).astype(np.int64) << place
        kinds, kind = np.unique(missed, return_inverse=True)
        pair = self._index * len(kinds) + kind
        used, first, index = np.unique(pair, return_index=True, return_inverse=True)
        notes = [
            self._note(
                self._parsed[int(each) // len(kinds)],
                [int(codes[row]) for codes in self._codes],
            )
            for each, row in zip(used, first, strict=True)
        ]
        return notes, index

    def _note(self, parsed: _Parsed, codes: list[int]) -> Note:
        missed = []
        for place, (question, code) in enumerate(zip(self.questions, codes, strict=True)):
            if parsed.error:
                continue
            if code == UNMATCHED:
                missed.append((question.name, parsed.shown[place]))
            elif question.multiple and code >= 0:
                missed += [(question.name, stray) for stray in parsed.strays[place]]
        return parsed.others, tuple(missed)


def _given(answers: dict[str, Any], tasks: tuple[str, ...]) -> Given:
    """What was answered to the tasks by which a question may be answered in a row."""
    if not tasks:
        return None
    return tuple((answers[task], task) for task in tasks if answers.get(task) is not None)


def _code(
    given: Given, question: Question, version: Version = (0, 0), texts: Texts = NO_TEXTS
) -> int:
    """A question's code in a row: of several tasks, those that answer it."""
    if given is None:
        return NOT_ASKED
    codes = [match(value, question, version, texts, task) for value, task in given]
    known = [code for code in codes if code is not None]
    good = [code for code in known if code >= 0]
    if not good:
        # Unmatched before what the server itself did not know.
        return max(known, default=NOT_ANSWERED)
    if not question.multiple:
        return good[0]
    return functools.reduce(operator.or_, good)
