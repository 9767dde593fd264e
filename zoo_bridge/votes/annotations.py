"""What volunteers answered: annotations become numbers, each different text read once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from zoo_bridge.votes.rules import (
    NOT_ANSWERED,
    UNMATCHED,
    Question,
    Texts,
    answers_of,
    hangs_on_version,
    in_words,
    match,
    read_json,
    shape_of,
    strays,
)
from zoo_bridge.votes.tally import Tally

MOST_CACHED = 20_000
MOST_SHOWN = 120
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class _Parsed:
    """What a text of annotations says, for each question; and other tasks.

    ``shown`` is the value as a person reads it, ``strays`` labels beside others that stand for an
    answer.
    """

    values: tuple[Any, ...]
    codes: tuple[int, ...]
    versioned: bool
    others: tuple[tuple[str, str], ...]
    shown: tuple[str, ...]
    strays: tuple[tuple[str, ...], ...]
    error: str = ""


class Annotations:
    """Reads annotations, each different text once: volunteers often say the same."""

    def __init__(self, questions: list[Question], texts: Texts, tally: Tally) -> None:
        self.questions = questions
        self.texts = texts
        self.tally = tally
        self.tasks = {question.task for question in questions}
        self._cache: dict[str, _Parsed] = {}
        self._parsed: list[_Parsed] = []
        self._index: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._codes: list[Codes] = []

    def read(
        self, texts: pa.Array, frame: pl.DataFrame, bad: dict[int, tuple[str, str]]
    ) -> list[Codes]:
        """A code for each row and question; rows that cannot be read are bad.

        ``texts`` are the different annotations; the column of the frame says which each row has.
        """
        if len(self._cache) > MOST_CACHED:
            self._cache.clear()
        used, index = np.unique(frame["annotations"].to_numpy(), return_inverse=True)
        self._parsed = [self._parse(texts[int(place)].as_py()) for place in used]
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

    def _parse(self, text: str) -> _Parsed:
        known = self._cache.get(text)
        if known is None:
            known = self._cache[text] = self._parse_anew(text)
        return known

    def _parse_anew(self, text: str) -> _Parsed:
        try:
            return self._interpret(read_json(text))
        except ValueError as error:
            why = str(error)
        except RecursionError:
            why = "nested too deeply"
        none = (NOT_ANSWERED,) * len(self.questions)
        return _Parsed((), none, False, (), (), (), why)

    def _interpret(self, annotations: Any) -> _Parsed:
        answers = answers_of(annotations)
        values = tuple(answers.get(question.task) for question in self.questions)
        pairs = list(zip(values, self.questions, strict=True))
        versioned = bool(self.texts.by_version) and any(
            hangs_on_version(value, question) for value, question in pairs
        )
        return _Parsed(
            values=values,
            codes=tuple(_code(match(value, question)) for value, question in pairs),
            versioned=versioned,
            others=tuple(
                (task, shape_of(value)) for task, value in answers.items() if task not in self.tasks
            ),
            shown=tuple(in_words(value)[:MOST_SHOWN] for value in values),
            strays=tuple(strays(value, question) for value, question in pairs),
        )

    def _resolve(self, frame: pl.DataFrame, rows: NDArray[np.int64]) -> None:
        """Codes of the rows whose answers are indexes in some version of the workflow."""
        found: dict[tuple[int, int, int], list[int]] = {}
        majors, minors = frame["major"].to_numpy(), frame["minor"].to_numpy()
        for row in rows:
            key = int(self._index[row]), int(majors[row]), int(minors[row])
            if key not in found:
                values = self._parsed[key[0]].values
                found[key] = [
                    _code(match(value, question, key[1:], self.texts))
                    for value, question in zip(values, self.questions, strict=True)
                ]
            for place, code in enumerate(found[key]):
                self._codes[place][row] = code

    def count(self, counted: NDArray[np.bool_]) -> None:
        """Count other tasks and texts that stand for nothing, in the rows that count."""
        rows = np.bincount(self._index[counted], minlength=len(self._parsed))
        for parsed, number in zip(self._parsed, rows, strict=True):
            if number:
                for task in parsed.others:
                    self.tally.other_tasks[task] += int(number)
        for place, question in enumerate(self.questions):
            missed = counted & (self._codes[place] == UNMATCHED)
            numbers = np.bincount(self._index[missed], minlength=len(self._parsed))
            for text in np.flatnonzero(numbers):
                shown = self._parsed[text].shown[place]
                self.tally.miss(question.name, shown, int(numbers[text]))
            if question.multiple:
                voted = counted & (self._codes[place] >= 0)
                numbers = np.bincount(self._index[voted], minlength=len(self._parsed))
                for text in np.flatnonzero(numbers):
                    for stray in self._parsed[text].strays[place]:
                        self.tally.miss(question.name, stray, int(numbers[text]))


def _code(matched: int | None) -> int:
    return NOT_ANSWERED if matched is None else matched
