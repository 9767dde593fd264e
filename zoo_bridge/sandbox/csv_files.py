"""The CSV files of the sandbox's data exports, as the real server writes them."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from zoo_bridge.sandbox.media import Media
from zoo_bridge.sandbox.state import State

Row = dict[str, Any]
CLASSIFICATION_COLUMNS = [
    "classification_id",
    "user_name",
    "user_id",
    "user_ip",
    "workflow_id",
    "workflow_name",
    "workflow_version",
    "created_at",
    "gold_standard",
    "expert",
    "metadata",
    "annotations",
    "subject_data",
    "subject_ids",
]
SUBJECT_COLUMNS = [
    "subject_id",
    "project_id",
    "workflow_id",
    "subject_set_id",
    "metadata",
    "locations",
    "classifications_count",
    "retired_at",
    "retirement_reason",
    "created_at",
    "updated_at",
]
WORKFLOW_COLUMNS = [
    "workflow_id",
    "display_name",
    "version",
    "active",
    "classifications_count",
    "pairwise",
    "grouped",
    "prioritized",
    "primary_language",
    "first_task",
    "tutorial_subject_id",
    "retired_set_member_subjects_count",
    "tasks",
    "retirement",
    "strings",
    "minor_version",
]


def content(
    state: State, media: Media, resource: str, resource_id: int, kind: str
) -> tuple[list[str], Iterator[list[Any]]]:
    """The header and the rows of an export.

    Parameters
    ----------
    state, media : State, Media
        What is exported.
    resource : str
        projects, workflows or subject_sets.
    resource_id : int
        Number of the project or workflow.
    kind : str
        classifications, subjects or workflows.
    """
    if kind == "subjects":
        return SUBJECT_COLUMNS, _subjects(state, media, resource_id)
    if kind == "workflows":
        return WORKFLOW_COLUMNS, _workflows(state, resource_id)
    return CLASSIFICATION_COLUMNS, _classifications(state, resource, resource_id)


def _classifications(state: State, resource: str, resource_id: int) -> Iterator[list[Any]]:
    condition = {
        "projects": "project_id = ?",
        "workflows": "workflow_id = ?",
        "subject_sets": "subject_id IN "
        "(SELECT subject_id FROM set_subjects WHERE subject_set_id = ?)",
    }[resource]
    names = {row["id"]: row["display_name"] for row in state.all("SELECT * FROM workflows")}
    versions = _Versions(state)
    subjects = {row["id"]: row["metadata"] for row in state.all("SELECT * FROM subjects")}
    statuses = {
        (row["subject_id"], row["workflow_id"]): row
        for row in state.all("SELECT * FROM statuses WHERE retired_at IS NOT NULL")
    }
    salt = secrets.token_hex(8)
    cursor = state.db.execute(
        # What was never completed is left out.
        f"SELECT * FROM classifications WHERE {condition} AND completed ORDER BY id",
        (resource_id,),
    )
    for row in cursor:
        # Anonymous names and addresses are hashed anew for each export.
        address = hashlib.sha256((salt + row["user_ip"]).encode()).hexdigest()[:20]
        ids = [row["subject_id"], *json.loads(row["more_subjects"])]
        told = {
            str(ident): {
                "retired": _retired(statuses.get((ident, row["workflow_id"]))),
                **json.loads(subjects.get(ident, "{}")),
            }
            for ident in ids
        }
        texts = versions.texts(row)
        yield [
            row["id"],
            row["user_name"] or f"not-logged-in-{address}",
            row["user_id"] or "",
            address,
            row["workflow_id"],
            names[row["workflow_id"]],
            f"{row['major']}.{row['minor']}",
            _export_time(row["created_at"]),
            row["gold_standard"],
            "",
            _compact(json.loads(row["metadata"])),
            _compact([texts.annotation(each) for each in json.loads(row["annotations"])]),
            _compact(told),
            ";".join(str(ident) for ident in ids),
        ]


def _retired(row: Row | None) -> Row | None:
    names = (
        "id",
        "workflow_id",
        "classifications_count",
        "created_at",
        "updated_at",
        "retired_at",
        "subject_id",
        "retirement_reason",
    )
    return None if row is None else {name: row[name] for name in names}


def _subjects(state: State, media: Media, project_id: int) -> Iterator[list[Any]]:
    rows = state.all(
        "SELECT s.*, m.subject_set_id AS set_id, w.workflow_id,"
        " t.classifications_count AS count, t.retired_at, t.retirement_reason FROM subjects s"
        " JOIN set_subjects m ON m.subject_id = s.id"
        " LEFT JOIN workflow_sets w ON w.subject_set_id = m.subject_set_id"
        " LEFT JOIN statuses t ON t.subject_id = s.id AND t.workflow_id = w.workflow_id"
        " WHERE s.project_id = ? ORDER BY s.id, m.subject_set_id",
        (project_id,),
    )
    for row in rows:
        urls = {
            str(index): next(iter(location.values()))
            for index, location in enumerate(media.locations(row, upload=False))
        }
        yield [
            row["id"],
            project_id,
            row["workflow_id"] or "",
            row["set_id"],
            _compact(json.loads(row["metadata"])),
            _compact(urls),
            row["count"] or 0,
            _export_time(row["retired_at"]) if row["retired_at"] else "",
            row["retirement_reason"] or "",
            _export_time(row["created_at"]),
            _export_time(row["updated_at"]),
        ]


def _workflows(state: State, project_id: int) -> Iterator[list[Any]]:
    rows = state.all(
        "SELECT w.display_name, w.retirement, w.retired_count, v.*, (SELECT"
        " COALESCE(SUM(classifications_count), 0) FROM statuses t WHERE t.workflow_id = w.id)"
        " AS votes FROM workflow_versions v JOIN workflows w ON w.id = v.workflow_id"
        " WHERE w.project_id = ? ORDER BY v.workflow_id, v.major, v.minor",
        (project_id,),
    )
    for row in rows:
        tasks = json.loads(row["tasks"])
        known = {
            "workflow_id": row["workflow_id"],
            "display_name": row["display_name"],
            "version": row["major"],
            "active": "true",
            "classifications_count": row["votes"],
            "pairwise": "false",
            "grouped": "false",
            "prioritized": "false",
            "primary_language": "en",
            "first_task": next(iter(tasks), ""),
            "retired_set_member_subjects_count": row["retired_count"],
            "tasks": _compact(tasks),
            "retirement": _compact(json.loads(row["retirement"])),
            "strings": _compact(json.loads(row["strings"])),
            "minor_version": row["minor"],
        }
        yield [known.get(name, "") for name in WORKFLOW_COLUMNS]


class _Versions:
    """Which tasks and texts a classification was made with."""

    def __init__(self, state: State) -> None:
        self._known: dict[tuple[int, int, int], _Texts] = {}
        self._newest: dict[int, _Texts] = {}
        for row in state.all("SELECT * FROM workflow_versions ORDER BY major, minor"):
            texts = _Texts(json.loads(row["tasks"]), json.loads(row["strings"]))
            self._known[row["workflow_id"], row["major"], row["minor"]] = texts
            self._known.setdefault((row["workflow_id"], row["major"], 0), texts)
            self._newest[row["workflow_id"]] = texts

    def texts(self, row: Any) -> _Texts:
        """Of the version that the classification names, or of the newest if there is none such."""
        key = (row["workflow_id"], row["major"], row["minor"])
        return self._known.get(key, self._newest[row["workflow_id"]])


class _Texts:
    """Annotations as exports show them: label texts in place of indexes, by kind of task."""

    def __init__(self, tasks: Row, strings: dict[str, str]) -> None:
        self.tasks = tasks
        self.strings = strings

    def annotation(self, given: Row) -> Row:
        """One annotation."""
        task = self.tasks.get(given["task"])
        kind = given.get("taskType") or (task or {}).get("type")
        value: Any = given.get("value")
        if task is None:
            return given
        if kind in ("single", "multiple", "shortcut"):
            told = self._answers(task, value)
        elif kind == "combo":
            told = [self.annotation(each) for each in value]
        elif kind == "text":
            return {**_plain(given), "task_label": self._label(task, "instruction")}
        elif kind == "dropdown":
            told = [self._choice(task, each) for each in value]
            return {"task": given["task"], "value": told}
        elif kind == "dropdown-simple":
            told = self._selection(task, value)
            return {"task": given["task"], "task_type": kind, "value": told}
        elif kind == "drawing":
            told = [self._mark(task, each) for each in value]
            label = self._label(task, "instruction")
            return {"task": given["task"], "task_label": label, "value": told}
        else:
            return given
        return {"task": given["task"], "task_label": self._label(task, "question"), "value": told}

    def _label(self, task: Row, name: str) -> str | None:
        return self._text(task[name]) if name in task else None

    def _text(self, key: str) -> str:
        return self.strings.get(key, key)

    def _answers(self, task: Row, value: Any) -> Any:
        if isinstance(value, list):
            return [self._answers(task, item) for item in value]
        if value is None:
            return None
        answers = task.get("answers", [])
        if not isinstance(value, int) or not 0 <= value < len(answers):
            return "unknown answer label"
        return self._text(answers[value]["label"])

    def _choice(self, task: Row, value: Row) -> Row:
        select = task["selects"][0]
        told = {"select_label": self._text(select["title"])}
        for option in (each for many in select["options"].values() for each in many):
            if value.get("option") and option["value"] == value["value"]:
                return {
                    **told,
                    "option": True,
                    "value": option["value"],
                    "label": self._text(option["label"]),
                }
        return told

    def _selection(self, task: Row, value: Row | None) -> Row:
        select = task["selects"][0]
        told = {"select_label": self._text(select["title"])}
        options = [each for many in select["options"].values() for each in many]
        index = (value or {}).get("selection")
        if index is None or not 0 <= index < len(options):
            return told
        option = options[index]
        return {
            **told,
            "option": True,
            "option_index": index,
            "value": option["value"],
            "label": self._text(option["label"]),
        }

    def _mark(self, task: Row, mark: Row) -> Row:
        tool = mark.get("tool", mark.get("toolIndex", 0))
        return {**mark, "tool_label": self._text(task["tools"][tool]["label"])}


def _plain(given: Row) -> Row:
    return {name: value for name, value in given.items() if name != "taskType"}


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _export_time(stamp: str) -> str:
    moment = datetime.fromisoformat(stamp).astimezone(UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")
