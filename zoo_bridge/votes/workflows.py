"""What a workflow's answers are called in each of its versions: the workflows export."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from zoo_bridge.rows import read_rows
from zoo_bridge.votes.rules import Texts, read_json

COLUMNS = ("workflow_id", "version", "minor_version", "tasks", "strings")


def read_texts(paths: Sequence[Path], workflow: int) -> Texts:
    """Answer texts by task and version.

    Parameters
    ----------
    paths : sequence of Path
        Workflows exports, or versions in their form.
    workflow : int
        Whose rows.

    Returns
    -------
    Texts

    Raises
    ------
    InputError
        If one is not a workflows export.
    """
    found: dict[str, dict[tuple[int, int], dict[str, str]]] = {}
    for path in paths:
        for row in _rows(path):
            if row["workflow_id"].strip() != str(workflow):
                continue
            try:
                version = int(row["version"]), int(row["minor_version"] or 0)
                tasks, strings = read_json(row["tasks"]), read_json(row["strings"])
            except ValueError:
                # A version that cannot be read leaves its index answers unmatched, and counted.
                continue
            for task, body in tasks.items():
                texts = {raw: str(strings.get(label, label)) for raw, label in _answers(body)}
                if texts:
                    found.setdefault(task, {})[version] = texts
    return Texts(found)


def _rows(path: Path) -> Iterator[dict[str, str]]:
    for piece in read_rows(path, COLUMNS, "workflows"):
        yield from piece.table.to_pylist()


def _answers(task: Any) -> Iterator[tuple[str, str]]:
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
