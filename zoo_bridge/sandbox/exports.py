"""The sandbox's data exports: asking for them, their states, and the daily limit.

A run is asked for by a call that always succeeds, resets the state and forgets the last job; within
a day of the last run, or when exports are switched off, nothing else happens, and the state stays
"creating" for ever. Where the file is to be is said from the start; when it was written, the file
says itself.
"""

from __future__ import annotations

import csv
import gzip
import json
import secrets
from io import TextIOWrapper
from typing import Any

from flask import Flask, Response

from zoo_bridge.sandbox import csv_files, pages
from zoo_bridge.sandbox.auth import LOG_IN, ApiError, may_change, need_token
from zoo_bridge.sandbox.parts import Parts, body_of
from zoo_bridge.sandbox.state import State

DAY = 24 * 3600.0
# Until a worker takes a job up.
START_SECONDS = 0.015
KINDS = {
    "projects": ("classifications", "subjects", "workflows"),
    "workflows": ("classifications",),
    "subject_sets": ("classifications",),
}
NO_TYPE = "Validation failed: Content type Content-Type for exports must be one of text/csv"


class Exports:
    """All exports of one sandbox.

    Parameters
    ----------
    parts : Parts
        The sandbox's state, media and workers.
    seconds : float
        How long a run takes, on the sandbox's clock.
    """

    def __init__(self, parts: Parts, seconds: float = 0.5) -> None:
        self.parts = parts
        self.state = parts.state
        self.media = parts.media
        self.seconds = seconds

    def describe(self, resource: str, resource_id: int, kind: str) -> dict[str, Any] | None:
        """The API's view of an export, or None if none was ever asked for."""
        self.work()
        row = self.row(resource, resource_id, kind)
        if not row:
            return None
        shown = self.parts.shown("media", row, "", lambda: _show(row))
        # The address is signed anew each time.
        return {**shown, "src": self.media.to_get(row["file"])}

    def request(self, resource: str, resource_id: int, kind: str) -> dict[str, Any]:
        """Ask for a new run: always accepted, and dropped without a word when it may not be."""
        state, now = self.state, self.state.time()
        self.work()
        with state.write() as db:
            row = self.row(resource, resource_id, kind)
            if not row:
                self._make(resource, resource_id, kind)
                row = self.row(resource, resource_id, kind)
            allowed = row["last_run"] is None or now - row["last_run"] >= DAY
            allowed = allowed and state.is_on("exports")
            db.execute(
                "UPDATE exports SET state = 'creating', job_id = NULL, updated_at = ?,"
                " starts_at = ?, ready_at = ?, last_run = ? WHERE id = ?",
                (
                    state.stamp(),
                    now + min(START_SECONDS, self.seconds / 2) if allowed else None,
                    now + self.seconds if allowed else None,
                    now if allowed else row["last_run"],
                    row["id"],
                ),
            )
        row = self.row(resource, resource_id, kind)
        return {**_show(row), "src": self.media.to_get(row["file"])}

    def _make(self, resource: str, resource_id: int, kind: str) -> None:
        named = self.state.one(f"SELECT * FROM {resource} WHERE id = ?", (resource_id,))
        words = named.get("slug", named["display_name"]).rpartition("/")[2].lower()
        slug = "-".join("".join(c if c.isalnum() else " " for c in words).split())
        folder = f"{resource[:-1]}_{kind}_export"
        ident, path = self.media.new_export(folder, f"{slug}-{kind}.csv")
        stamp = self.state.stamp()
        self.state.insert(
            "exports",
            id=ident,
            resource=resource,
            resource_id=resource_id,
            kind=kind,
            state="creating",
            file=path,
            created_at=stamp,
            updated_at=stamp,
        )

    def row(self, resource: str, resource_id: int, kind: str) -> dict[str, Any]:
        """An export as it is kept, whatever its description says."""
        return self.state.one(
            "SELECT * FROM exports WHERE resource = ? AND resource_id = ? AND kind = ?",
            (resource, resource_id, kind),
        )

    def work(self) -> None:
        """Take up jobs that are due, and end them."""
        now = self.state.time()
        due = "SELECT 1 AS yes FROM exports WHERE starts_at <= ? OR ready_at <= ?"
        if not self.state.one(due, (now, now)):
            return
        with self.state.write() as db:
            for row in self.state.all("SELECT * FROM exports WHERE starts_at <= ?", (now,)):
                db.execute(
                    "UPDATE exports SET job_id = ?, starts_at = NULL, updated_at = ? WHERE id = ?",
                    (secrets.token_hex(12), self.state.stamp(row["starts_at"]), row["id"]),
                )
            for row in self.state.all("SELECT * FROM exports WHERE ready_at <= ?", (now,)):
                if self._can_make(row):
                    self._write(row)
                    db.execute(
                        "UPDATE exports SET state = 'ready', updated_at = ?, ready_at = NULL"
                        " WHERE id = ?",
                        (self.state.stamp(row["ready_at"]), row["id"]),
                    )
                else:
                    # It fails and is tried again, for weeks; nobody is told.
                    db.execute("UPDATE exports SET ready_at = NULL WHERE id = ?", (row["id"],))

    def _can_make(self, row: dict[str, Any]) -> bool:
        """Two dropdowns in one task, answered on the newer classifier, are more than it can."""
        if row["kind"] != "classifications":
            return True
        two = {
            (version["workflow_id"], name)
            for version in self.state.all("SELECT * FROM workflow_versions")
            for name, task in json.loads(version["tasks"]).items()
            if len(task.get("selects", ())) > 1
        }
        column = "project_id" if row["resource"] == "projects" else "workflow_id"
        return not two or not any(
            (vote["workflow_id"], each.get("task")) in two
            and each.get("taskType") == "dropdown-simple"
            for vote in self.state.all(
                f"SELECT * FROM classifications WHERE {column} = ?", (row["resource_id"],)
            )
            for each in json.loads(vote["annotations"])
        )

    def _write(self, row: dict[str, Any]) -> None:
        header, rows = csv_files.content(
            self.state, self.media, row["resource"], row["resource_id"], row["kind"]
        )
        path = self.state.folder / "exports" / row["file"].rpartition("/")[2]
        scratch = path.with_suffix(".part")
        with gzip.open(scratch, "wb", compresslevel=5) as raw:
            text = TextIOWrapper(raw, encoding="utf-8", newline="")
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(rows)
            text.flush()
        scratch.replace(path)
        self.media.written(row["file"], row["ready_at"])


def _show(row: dict[str, Any]) -> dict[str, Any]:
    resource, kind = row["resource"], row["kind"]
    ident = str(row["resource_id"])
    place = f"/{resource}/{ident}"
    job = {"job_id": row["job_id"]} if row["job_id"] else {}
    return {
        "id": str(row["id"]),
        "href": f"{place}/{kind}_export",
        "src": "",
        "content_type": "text/csv",
        "media_type": f"{resource[:-1]}_{kind}_export",
        "external_link": False,
        "created_at": row["created_at"],
        "metadata": {"state": row["state"], **job, "recipients": [1]},
        "updated_at": row["updated_at"],
        "links": {"linked": {"href": place, "id": ident, "type": resource}},
    }


def install(app: Flask, parts: Parts, exports: Exports) -> None:
    """Add the addresses of exports to a Flask application: for owners and collaborators alone."""
    state: State = parts.state

    def known(resource: str, kind: str) -> None:
        if kind not in KINDS.get(resource, ()):
            raise ApiError(404, "Not Found")

    def is_mine(resource: str, row_id: int) -> bool:
        row = state.one(f"SELECT * FROM {resource} WHERE id = ?", (row_id,))
        return bool(row) and may_change(state, parts.project_of(resource, row))

    @app.get("/api/<resource>/<int:row_id>/<kind>_export")
    def describe(resource: str, row_id: int, kind: str) -> Response:
        known(resource, kind)
        medium = exports.describe(resource, row_id, kind) if is_mine(resource, row_id) else None
        if medium is None:
            raise ApiError(404, f"No {kind}_export exists for {resource[:-1]} #{row_id}")
        row = exports.row(resource, row_id, kind)
        return pages.answer("media", [medium], headers={"ETag": pages.etag("media", row)})

    @app.post("/api/<resource>/<int:row_id>/<kind>_export")
    def ask(resource: str, row_id: int, kind: str) -> Response:
        known(resource, kind)
        if not parts.caller():
            raise ApiError(401, LOG_IN)
        need_token("project")
        if not is_mine(resource, row_id):
            raise ApiError(404, f"Could not find {resource[:-1]} with id='{row_id}'")
        given = body_of("media")
        if not isinstance(given, dict) or given.get("content_type") != "text/csv":
            raise ApiError(400, NO_TYPE)
        medium = exports.request(resource, row_id, kind)
        row = exports.row(resource, row_id, kind)
        return pages.made("media", medium, row, f"/{resource}/{row_id}/{kind}_export")
