"""From export files to votes: every row is used or set aside under a reason, none is lost."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from zoo_bridge.errors import CountsError, InputError
from zoo_bridge.files import open_text
from zoo_bridge.votes.rules import (
    Question,
    Rules,
    answers_of,
    drop_reason,
    find_object_id,
    is_training,
    match,
    parse_version,
    read_json,
)

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
EXAMPLES = 5
VOTE_TYPES: dict[str, Any] = {
    "classification_id": pl.Int64,
    "created_at": pl.Datetime("us", "UTC"),
    "major": pl.Int32,
    "minor": pl.Int32,
    "user_key": pl.String,
    "anonymous": pl.Boolean,
    "subject_id": pl.Int64,
    "question": pl.String,
    "answer": pl.String,
}


@dataclass
class Tally:
    """What became of the rows, and of the answers in those that count.

    ``rows == used + sum(dropped.values())``; for each question,
    ``used == answered + absent + unmatched`` before repeats are taken out.
    """

    rows: int = 0
    used: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    absent: Counter[str] = field(default_factory=Counter)
    unmatched: Counter[str] = field(default_factory=Counter)
    unmatched_examples: dict[str, list[str]] = field(default_factory=dict)
    repeats: Counter[str] = field(default_factory=Counter)
    rejects: list[dict[str, Any]] = field(default_factory=list)

    def check(self) -> None:
        """Raise `CountsError` unless everything adds up."""
        if self.rows != self.used + sum(self.dropped.values()):
            raise CountsError(
                f"{self.rows} rows were read, {self.used} used and "
                f"{sum(self.dropped.values())} set aside: that does not add up.",
                "This is a fault of zoo_bridge; please report it with the run's log.",
            )


@dataclass(frozen=True)
class Votes:
    """Votes, the object that each subject shows, and what became of every row.

    ``table`` has the columns of `VOTE_TYPES`; ``objects`` maps subject ids to object ids.
    """

    table: pl.DataFrame
    objects: dict[int, str]
    tally: Tally


def read_votes(
    paths: Sequence[Path],
    questions: Sequence[Question],
    rules: Rules,
    labels: dict[tuple[int, int, str, int], str] | None = None,
    objects: dict[int, str] | None = None,
) -> Votes:
    """Read classifications exports.

    Parameters
    ----------
    paths : sequence of Path
        CSV files, gzipped or not; a classification that stands in several counts once.
    questions : sequence of Question
        What is asked.
    rules : Rules
        Which votes count.
    labels : dict, optional
        See `read_labels`.
    objects : dict, optional
        Object ids known from a subjects export, by subject id.

    Returns
    -------
    Votes

    Raises
    ------
    InputError
        If a file is not a classifications export.
    CountsError
        If the rows do not add up.
    """
    reader = _Reader(questions, rules, labels or {}, dict(objects or {}))
    for path in paths:
        for line, row in _rows(path):
            reader.take(path, line, row)
    table = pl.DataFrame(reader.votes, schema=VOTE_TYPES, orient="row")
    table = _without_repeats(table, rules, reader.tally)
    reader.tally.check()
    return Votes(table, reader.objects, reader.tally)


class _Reader:
    """Takes rows one by one; keeps votes, objects and the tally."""

    def __init__(
        self,
        questions: Sequence[Question],
        rules: Rules,
        labels: dict[tuple[int, int, str, int], str],
        objects: dict[int, str],
    ) -> None:
        self.questions = questions
        self.rules = rules
        self.labels = labels
        self.objects = objects
        self.tally = Tally()
        self.votes: list[tuple[Any, ...]] = []
        self.seen: set[int] = set()

    def take(self, path: Path, line: int, row: dict[str, str] | None) -> None:
        """Use a row or set it aside."""
        self.tally.rows += 1
        try:
            reason = self._use(row)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            reason = "unreadable"
            detail = "the row has too few or too many columns" if row is None else str(error)
            ident = (row or {}).get("classification_id", "")
            self.tally.rejects.append(
                {
                    "object_id": ident,
                    "uri": f"{path.name}:{line}",
                    "reason": reason,
                    "detail": detail[:200],
                }
            )
        if reason is None:
            self.tally.used += 1
        else:
            self.tally.dropped[reason] += 1

    def _use(self, row: dict[str, str] | None) -> str | None:
        if row is None:
            raise ValueError("cut short")
        metadata = read_json(row["metadata"])
        ident = int(row["classification_id"])
        if reason := drop_reason(row, self.rules, metadata):
            return reason
        if ident in self.seen:
            return "classification twice"
        subject_id = int(row["subject_ids"])
        subject = read_json(row["subject_data"]).get(str(subject_id), {})
        if not self.rules.training_subjects and is_training(subject):
            return "training subject"
        created = datetime.strptime(row["created_at"], "%Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC)
        version = parse_version(row["workflow_version"])
        answers = answers_of(read_json(row["annotations"]))
        anonymous = not row["user_id"].strip()
        person = row["user_ip"] if anonymous else row["user_id"]
        key = f"{'ip' if anonymous else 'user'}:{person}"
        self.seen.add(ident)
        if subject_id not in self.objects:
            found = find_object_id(subject, self.rules.object_id_keys)
            self.objects[subject_id] = found or str(subject_id)
        for question in self.questions:
            if (answer := self._answer(answers, question, version)) is not None:
                vote = (ident, created, *version, key, anonymous, subject_id, question.name, answer)
                self.votes.append(vote)
        return None

    def _answer(
        self, answers: dict[str, Any], question: Question, version: tuple[int, int]
    ) -> str | None:
        """The answer to a question in this row, counted either way."""
        value = answers.get(question.task)
        if value is None or value == []:
            self.tally.absent[question.name] += 1
            return None
        answer = match(value, question, version, self.labels)
        if answer is None:
            self.tally.unmatched[question.name] += 1
            examples = self.tally.unmatched_examples.setdefault(question.name, [])
            shown = value if isinstance(value, str) else json.dumps(value)
            if shown not in examples and len(examples) < EXAMPLES:
                examples.append(shown[:120])
            return None
        self.tally.answered[question.name] += 1
        return answer


def _without_repeats(table: pl.DataFrame, rules: Rules, tally: Tally) -> pl.DataFrame:
    """One vote a person, subject and question, whatever the order of the rows."""
    table = table.sort("classification_id", "question")
    if rules.repeats == "all" and rules.anonymous_repeats == "all":
        return table
    one_each = (
        pl.when(pl.col("anonymous"))
        .then(rules.anonymous_repeats == "first")
        .otherwise(rules.repeats == "first")
    )
    seen = pl.struct("user_key", "subject_id", "question").is_first_distinct()
    kept = table.filter(seen | ~one_each)
    before, after = (dict(part["question"].value_counts().iter_rows()) for part in (table, kept))
    tally.repeats.update({name: count - after.get(name, 0) for name, count in before.items()})
    return kept


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str] | None]]:
    """Each row with its line number; None for one with the wrong number of cells."""
    with open_text(path) as file:
        reader = csv.reader(_without_nul(file))
        header = next(reader, [])
        missing = [name for name in NEEDED if name not in header]
        if missing:
            raise InputError(
                f"{path} is not a classifications export: it lacks the column "
                f"{', '.join(missing)}.",
                "Download it from the project's Data Exports page, and do not save it from a "
                "spreadsheet.",
            )
        for cells in reader:
            fits = len(cells) == len(header)
            yield reader.line_num, dict(zip(header, cells, strict=True)) if fits else None


def _without_nul(lines: Iterator[str]) -> Iterator[str]:
    return (line.replace("\x00", "") for line in lines)


def read_labels(path: Path, workflow: int) -> dict[tuple[int, int, str, int], str]:
    """Label texts by version, task and index, from a workflows export.

    Parameters
    ----------
    path : Path
        The CSV.
    workflow : int
        Whose rows.

    Returns
    -------
    dict
        From (major, minor, task, index) to the label.

    Raises
    ------
    InputError
        If it is not a workflows export.
    """
    labels: dict[tuple[int, int, str, int], str] = {}
    with open_text(path) as file:
        reader = csv.DictReader(_without_nul(file))
        needed = {"workflow_id", "version", "minor_version", "tasks", "strings"}
        if missing := needed - set(reader.fieldnames or []):
            raise InputError(
                f"{path} is not a workflows export: it lacks {', '.join(sorted(missing))}.",
                "Download it from the project's Data Exports page.",
            )
        for row in reader:
            if row["workflow_id"] != str(workflow):
                continue
            version = int(row["version"]), int(row["minor_version"] or 0)
            strings = read_json(row["strings"])
            for task, body in read_json(row["tasks"]).items():
                for index, answer in enumerate(body.get("answers") or []):
                    label = answer.get("label", "")
                    labels[(*version, task, index)] = strings.get(label, label)
    return labels


def read_objects(path: Path, keys: Sequence[str]) -> dict[int, str]:
    """Object ids by subject id, from a subjects export.

    Parameters
    ----------
    path : Path
        The CSV.
    keys : sequence of str
        Metadata keys, the first that is there counts.

    Returns
    -------
    dict

    Raises
    ------
    InputError
        If it is not a subjects export.
    """
    objects: dict[int, str] = {}
    with open_text(path) as file:
        reader = csv.DictReader(_without_nul(file))
        if missing := {"subject_id", "metadata"} - set(reader.fieldnames or []):
            raise InputError(
                f"{path} is not a subjects export: it lacks {', '.join(sorted(missing))}.",
                "Download it from the project's Data Exports page.",
            )
        for row in reader:
            found = find_object_id(read_json(row["metadata"]), keys)
            if found:
                objects[int(row["subject_id"])] = found
    return objects
