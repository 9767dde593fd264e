"""What a workflow's answers are called in each of its versions: the workflows export."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from zoo_bridge.rows import read_rows
from zoo_bridge.votes.rules import Texts, read_json

COLUMNS = ("workflow_id", "version", "minor_version", "tasks", "strings")


def read_texts(paths: Sequence[Path], workflow: int) -> tuple[Texts, list[dict[str, str]]]:
    """Answer texts by task and version.

    Parameters
    ----------
    paths : sequence of Path
        Workflows exports, or versions in their form.
    workflow : int
        Whose rows.

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
    found: dict[str, dict[tuple[int, int], dict[str, str]]] = {}
    read: set[tuple[int, int]] = set()
    unreadable: set[tuple[int, int]] = set()
    rejects: list[dict[str, str]] = []
    for path in paths:
        for line, row in _rows(path, rejects):
            if row["workflow_id"].strip() != str(workflow):
                continue
            version = None
            try:
                version = int(row["version"]), int(row["minor_version"] or 0)
                by_task = _texts(read_json(row["tasks"]), read_json(row["strings"]))
            except (ValueError, TypeError, AttributeError) as error:
                if version:
                    unreadable.add(version)
                rejects.append(_reject(path, line, str(error)))
                continue
            read.add(version)
            for task, texts in by_task.items():
                found.setdefault(task, {})[version] = texts
    newest = max(read) if read else None
    return Texts(found, frozenset(unreadable - read), newest), rejects


def _rows(path: Path, rejects: list[dict[str, str]]) -> Iterator[tuple[int, dict[str, str]]]:
    for piece in read_rows(path, COLUMNS, "workflows"):
        rejects += [_reject(path, reject.line, reject.detail) for reject in piece.rejects]
        yield from zip(piece.lines, piece.table.to_pylist(), strict=True)


def _reject(path: Path, line: int, why: str) -> dict[str, str]:
    uri = f"{path.name}:{line}"
    return {"object_id": "", "uri": uri, "reason": "workflows export", "detail": why[:200]}


def _texts(tasks: dict[str, Any], strings: dict[str, Any]) -> dict[str, dict[str, str]]:
    """The answers' texts of each task that has any."""
    found = {}
    for task, body in tasks.items():
        texts = {raw: str(strings.get(label, label)) for raw, label in answer_labels(body)}
        if texts:
            found[task] = texts
    return found


def answer_labels(task: Any) -> Iterator[tuple[str, str]]:
    """(what a raw annotation holds, label) of a task's answers, or of its one dropdown."""
    if not isinstance(task, dict):
        return
    for index, answer in enumerate(task.get("answers") or []):
        yield str(index), str(answer.get("label", ""))
    selects = task.get("selects") or []
    if len(selects) == 1:
        options = selects[0].get("options") or {}
        flat = [option for part in options.values() for option in part]
        for index, option in enumerate(flat):
            yield str(index), str(option.get("label", ""))
            yield str(option.get("value", index)), str(option.get("label", ""))
