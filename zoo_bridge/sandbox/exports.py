"""The sandbox's data exports: their states, their daily limit, and the CSV files themselves."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from io import TextIOWrapper
from typing import Any

from zoo_bridge.sandbox.media import EXPORT_SECONDS, Media
from zoo_bridge.sandbox.state import State

DAY = 24 * 3600.0
KINDS = {
    "projects": ("classifications", "subjects", "workflows"),
    "workflows": ("classifications",),
    "subject_sets": ("classifications",),
}
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
    "aggregation",
    "strings",
    "minor_version",
]


class Exports:
    """All exports of one sandbox.

    Parameters
    ----------
    state : State
        The sandbox.
    media : Media
        Where files are served.
    seconds : float
        How long a run takes (by the wall clock, so that waiting for it is real).
    """

    def __init__(self, state: State, media: Media, seconds: float = 0.5) -> None:
        self.state = state
        self.media = media
        self.seconds = seconds

    def describe(self, resource: str, resource_id: int, kind: str) -> dict[str, Any] | None:
        """The API's view of an export, or None if none was ever asked for."""
        row = self._row(resource, resource_id, kind)
        if not row:
            return None
        if row["state"] == "creating" and row["ready_at"] and row["ready_at"] <= self.state.time():
            self._run(row)
            row = self._row(resource, resource_id, kind)
        src = ""
        if row["file"]:
            src = self.media.signed(f"exports/{row['file']}", "GET", EXPORT_SECONDS)
        return {
            "id": str(row["id"]),
            "href": f"/{resource}/{resource_id}/{kind}_export",
            "src": src,
            "content_type": "text/csv",
            "media_type": f"{resource[:-1]}_{kind}_export",
            "created_at": row["created_at"],
            "updated_at": row["updated_at"],
            "metadata": {"state": row["state"]},
            "links": {"linked": {"href": f"/{resource}/{resource_id}"}},
        }

    def request(self, resource: str, resource_id: int, kind: str) -> dict[str, Any]:
        """Ask for a new run: always accepted, and silently cancelled within a day of the last."""
        state, now = self.state, self.state.time()
        with state.write() as db:
            row = self._row(resource, resource_id, kind)
            if not row:
                stamp = state.stamp()
                db.execute(
                    "INSERT INTO exports (resource, resource_id, kind, state, created_at, "
                    "updated_at) VALUES (?, ?, ?, 'creating', ?, ?)",
                    (resource, resource_id, kind, stamp, stamp),
                )
                row = self._row(resource, resource_id, kind)
            allowed = row["last_run"] is None or now - row["last_run"] >= DAY
            running = row["state"] == "creating" and row["ready_at"]
            ready_at = now + self.seconds if allowed else (row["ready_at"] if running else None)
            last_run = now if allowed else row["last_run"]
            db.execute(
                "UPDATE exports SET state = 'creating', ready_at = ?, last_run = ? WHERE id = ?",
                (ready_at, last_run, row["id"]),
            )
        description = self.describe(resource, resource_id, kind)
        assert description is not None
        return description

    def _row(self, resource: str, resource_id: int, kind: str) -> dict[str, Any]:
        return self.state.one(
            "SELECT * FROM exports WHERE resource = ? AND resource_id = ? AND kind = ?",
            (resource, resource_id, kind),
        )

    def _run(self, row: dict[str, Any]) -> None:
        """Write the file and call the export ready."""
        name = f"{row['kind']}-{secrets.token_hex(8)}.csv"
        header, rows = self._content(row)
        path = self.state.folder / "exports" / name
        with gzip.open(path, "wb", compresslevel=5) as raw:
            text = TextIOWrapper(raw, encoding="utf-8", newline="")
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(rows)
            text.flush()
        with self.state.write() as db:
            db.execute(
                "UPDATE exports SET state = 'ready', file = ?, updated_at = ?, ready_at = NULL "
                "WHERE id = ?",
                (name, self.state.stamp(), row["id"]),
            )

    def _content(self, row: dict[str, Any]) -> tuple[list[str], Iterator[list[Any]]]:
        if row["kind"] == "subjects":
            return SUBJECT_COLUMNS, self._subjects(row["resource_id"])
        if row["kind"] == "workflows":
            return WORKFLOW_COLUMNS, self._workflows(row["resource_id"])
        return CLASSIFICATION_COLUMNS, self._classifications(row["resource"], row["resource_id"])

    def _classifications(self, resource: str, resource_id: int) -> Iterator[list[Any]]:
        state = self.state
        condition = {
            "projects": "project_id = ?",
            "workflows": "workflow_id = ?",
            "subject_sets": "subject_id IN "
            "(SELECT subject_id FROM set_subjects WHERE subject_set_id = ?)",
        }[resource]
        names = {row["id"]: row["display_name"] for row in state.all("SELECT * FROM workflows")}
        versions = {
            (row["workflow_id"], row["major"], row["minor"]): (
                json.loads(row["tasks"]),
                json.loads(row["strings"]),
            )
            for row in state.all("SELECT * FROM workflow_versions")
        }
        subjects = {row["id"]: row["metadata"] for row in state.all("SELECT * FROM subjects")}
        statuses = {
            (row["subject_id"], row["workflow_id"]): row
            for row in state.all("SELECT * FROM statuses WHERE retired_at IS NOT NULL")
        }
        salt = secrets.token_hex(8)
        cursor = state.db.execute(
            f"SELECT * FROM classifications WHERE {condition} ORDER BY id", (resource_id,)
        )
        for row in cursor:
            # Anonymous names and addresses are hashed anew for each export.
            address = hashlib.sha256((salt + row["user_ip"]).encode()).hexdigest()[:20]
            tasks, strings = versions[row["workflow_id"], row["major"], row["minor"]]
            retired = statuses.get((row["subject_id"], row["workflow_id"]))
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
                row["metadata"],
                json.dumps(_with_texts(json.loads(row["annotations"]), tasks, strings)),
                json.dumps(
                    {
                        str(row["subject_id"]): {
                            "retired": retired,
                            **json.loads(subjects[row["subject_id"]]),
                        }
                    }
                ),
                row["subject_id"],
            ]

    def _subjects(self, project_id: int) -> Iterator[list[Any]]:
        rows = self.state.all(
            "SELECT s.*, m.subject_set_id AS set_id, w.workflow_id,"
            " t.classifications_count AS count, t.retired_at, t.retirement_reason FROM subjects s"
            " JOIN set_subjects m ON m.subject_id = s.id"
            " LEFT JOIN workflow_sets w ON w.subject_set_id = m.subject_set_id"
            " LEFT JOIN statuses t ON t.subject_id = s.id AND t.workflow_id = w.workflow_id"
            " WHERE s.project_id = ? ORDER BY s.id",
            (project_id,),
        )
        for row in rows:
            urls = {
                str(index): location.get("url") or self.media.public(location["path"])
                for index, location in enumerate(json.loads(row["locations"]))
            }
            yield [
                row["id"],
                project_id,
                row["workflow_id"] or "",
                row["set_id"],
                row["metadata"],
                json.dumps(urls),
                row["count"] or 0,
                _export_time(row["retired_at"]) if row["retired_at"] else "",
                row["retirement_reason"] or "",
                _export_time(row["created_at"]),
                _export_time(row["updated_at"]),
            ]

    def _workflows(self, project_id: int) -> Iterator[list[Any]]:
        rows = self.state.all(
            "SELECT w.display_name, w.retirement, v.* FROM workflow_versions v"
            " JOIN workflows w ON w.id = v.workflow_id WHERE w.project_id = ?"
            " ORDER BY v.workflow_id, v.major, v.minor",
            (project_id,),
        )
        for row in rows:
            first = next(iter(json.loads(row["tasks"])), "")
            known = {
                "workflow_id": row["workflow_id"],
                "display_name": row["display_name"],
                "version": row["major"],
                "active": "true",
                "classifications_count": 0,
                "pairwise": "false",
                "grouped": "false",
                "prioritized": "false",
                "primary_language": "en",
                "first_task": first,
                "retired_set_member_subjects_count": 0,
                "tasks": row["tasks"],
                "retirement": row["retirement"],
                "aggregation": "{}",
                "strings": row["strings"],
                "minor_version": row["minor"],
            }
            yield [known.get(name, "") for name in WORKFLOW_COLUMNS]


def _export_time(stamp: str) -> str:
    moment = datetime.fromisoformat(stamp).astimezone(UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def _with_texts(
    annotations: list[dict[str, Any]], tasks: dict[str, Any], strings: dict[str, str]
) -> list[dict[str, Any]]:
    """Annotations as exports show them: label texts in place of indexes."""
    return [
        {
            "task": annotation["task"],
            "task_label": strings.get(f"{annotation['task']}.question"),
            "value": _text(annotation["value"], tasks.get(annotation["task"], {}), strings),
        }
        for annotation in annotations
    ]


def _text(value: Any, task: dict[str, Any], strings: dict[str, str]) -> Any:
    if isinstance(value, list):
        return [_text(item, task, strings) for item in value]
    if value is None:
        return None
    answers = task.get("answers", [])
    if not 0 <= int(value) < len(answers):
        return "unknown answer label"
    return strings[answers[int(value)]["label"]]
