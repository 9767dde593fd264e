"""What a workflow's answers are called in each of its versions: the workflows export."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zoo_bridge.rows import read_rows
from zoo_bridge.votes.rules import Texts, Version, read_json

COLUMNS = ("workflow_id", "version", "minor_version", "tasks", "strings")


@dataclass
class _Found:
    """What a workflows export says of one workflow."""

    places: dict[str, dict[Version, dict[str, str]]] = field(default_factory=dict)
    values: dict[str, dict[Version, dict[str, str]]] = field(default_factory=dict)
    read: set[Version] = field(default_factory=set)
    unreadable: set[Version] = field(default_factory=set)
    tasks: dict[Version, tuple[str, ...]] = field(default_factory=dict)

    def texts(self) -> Texts:
        """The same as `Texts`."""
        newest = max(self.read) if self.read else None
        return Texts(
            self.places,
            frozenset(self.unreadable - self.read),
            newest,
            self.values,
            newest_tasks=self.tasks.get(newest, ()) if newest else (),
        )


def read_texts(
    paths: Sequence[Path], workflow: int, more: Sequence[int] = ()
) -> tuple[Texts, list[dict[str, str]]]:
    """Answer texts by task and version.

    Parameters
    ----------
    paths : sequence of Path
        Workflows exports, or versions in their form.
    workflow : int
        The workflow's number: rows of others are passed over.
    more : sequence of int
        Other workflows, whose texts are kept in ``others``.

    Returns
    -------
    texts : Texts
    rejects : list of dict
        The rows that cannot be read.
    Raises
    ------
    InputError
        If one is not a workflows export.
    """
    found = {str(number): _Found() for number in (workflow, *more)}
    rejects: list[dict[str, str]] = []
    rows = 0
    for path in paths:
        for line, row in _rows(path, rejects):
            rows += 1
            mine = found.get(row["workflow_id"].strip().removesuffix(".0"))
            if mine is None:
                continue
            version = None
            try:
                version = _number(row["version"]), _number(row["minor_version"] or "0")
                tasks, strings = read_json(row["tasks"]), read_json(row["strings"])
                by_task = [(task, *_texts(body, strings)) for task, body in tasks.items()]
            except (ValueError, TypeError, AttributeError) as error:
                if version:
                    mine.unreadable.add(version)
                rejects.append(_reject(path, line, str(error)))
                continue
            mine.read.add(version)
            mine.tasks[version] = tuple(tasks)
            for task, places, values in by_task:
                if places:
                    mine.places.setdefault(task, {})[version] = places
                if values:
                    mine.values.setdefault(task, {})[version] = values
    texts = found.pop(str(workflow)).texts()
    others = {int(number): each.texts() for number, each in found.items()}
    return replace(texts, others=others, rows=rows), rejects


def _number(text: str) -> int:
    """A number, as a program that saved the file anew may have written it."""
    return int(text.strip().removesuffix(".0"))


def _rows(path: Path, rejects: list[dict[str, str]]) -> Iterator[tuple[int, dict[str, str]]]:
    for piece in read_rows(path, COLUMNS, "workflows"):
        rejects += [_reject(path, reject.line, reject.detail) for reject in piece.rejects]
        yield from zip(piece.lines, piece.table.to_pylist(), strict=True)


def _reject(path: Path, line: int, why: str) -> dict[str, str]:
    uri = f"{path.name}:{line}"
    return {"object_id": "", "uri": uri, "reason": "workflows export", "detail": why[:200]}


def _texts(task: Any, strings: dict[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """The texts of a task's answers by their place, and by the values of a dropdown's options."""
    places, values = {}, {}
    for place, value, label in _answers(task):
        text = str(strings.get(label, label))
        places[str(place)] = text
        if value is not None:
            values[value] = text
    return places, values


def answer_labels(task: Any) -> Iterator[str]:
    """The labels of a task's answers, or of its one dropdown's options."""
    for _, _, label in _answers(task):
        yield label


def _answers(task: Any) -> Iterator[tuple[int, str | None, str]]:
    """(place, value of a dropdown's option, label) of a task's answers, or of its one dropdown."""
    if not isinstance(task, dict):
        return
    for index, answer in enumerate(task.get("answers") or []):
        yield index, None, str(answer.get("label", ""))
    selects = task.get("selects") or []
    if len(selects) == 1:
        options = selects[0].get("options") or {}
        flat = [option for part in options.values() for option in part]
        for index, option in enumerate(flat):
            label = str(option.get("label", ""))
            yield index, str(option.get("value", index)), label
