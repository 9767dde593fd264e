"""Subject sets: listing, making, changing, and what is in them."""

from __future__ import annotations

import json
import time
from typing import Any

from flask import Flask, Response, request

from zoo_bridge.sandbox import pages, views
from zoo_bridge.sandbox.auth import ApiError, may_change, need_login
from zoo_bridge.sandbox.parts import Parts, Row, body_of, dumped, lacks

TAKEN = "Validation failed: Display name has already been taken"
NO_PROJECT = "Couldn't find linked project for current user"
NOT_ALL = "Error: check the subject set and all the subjects exist."
# Listings that nobody asked to be sorted come in an order of their own.
ORDERS = {
    "id": "id",
    "-id": "id DESC",
    "display_name": "display_name, id",
    "-display_name": "display_name DESC, id",
    "": "id % 4, id",
}


def install(app: Flask, parts: Parts) -> None:
    """Add these addresses to a Flask application."""
    state = parts.state

    def show(row: Row) -> Row:
        return parts.shown("subject_sets", row, "", lambda: views.subject_set(state, row))

    @app.get("/api/subject_sets")
    def sets() -> Response:
        seen = parts.shown_projects()
        sort = request.args.get("sort", "")
        sort = sort if sort in ORDERS else ""
        rows = state.all(
            "SELECT * FROM subject_sets WHERE ? IN (project_id, 0) AND ? IN (display_name, '')"
            f" ORDER BY {ORDERS[sort]}",
            (request.args.get("project_id", 0, type=int), request.args.get("display_name", "")),
        )
        rows = [row for row in rows if row["project_id"] in seen]
        if workflow := request.args.get("workflow_id", type=int):
            linked = {
                row["subject_set_id"]
                for row in state.all(
                    "SELECT * FROM workflow_sets WHERE workflow_id = ?", (workflow,)
                )
            }
            rows = [row for row in rows if row["id"] in linked]
        for key, value in request.args.items():
            if key.startswith("metadata."):
                name = key.removeprefix("metadata.")
                rows = [r for r in rows if str(json.loads(r["metadata"]).get(name)) == value]
        return pages.page(
            "subject_sets",
            len(rows),
            lambda size, skip: [show(row) for row in rows[skip : skip + size]],
            sort=sort,
            known=("display_name", "project_id", "workflow_id"),
        )

    @app.post("/api/subject_sets")
    def make_set() -> Response:
        need_login("project")
        given = body_of("subject_sets")
        if isinstance(given, list):
            return pages.broken()
        name, links = given.get("display_name"), given.get("links") or {}
        if not isinstance(name, str) or not name:
            raise ApiError(422, lacks("schema", "display_name"))
        if "project" not in links:
            raise ApiError(422, lacks("links", "project"))
        project = state.one("SELECT * FROM projects WHERE id = ?", (links["project"],))
        if not may_change(state, project):
            raise ApiError(422, NO_PROJECT)
        _check_name(name, project)
        # A check, and no lock: two at the same moment can both get the name.
        time.sleep(parts.overlaps.seconds)
        stamp = state.stamp()
        row_id = state.insert(
            "subject_sets",
            project_id=project["id"],
            display_name=name,
            metadata=dumped(given.get("metadata") or {}),
            created_at=stamp,
            updated_at=stamp,
        )
        row = parts.find("subject_sets", row_id)
        response = pages.made("subject_sets", show(row), row, f"/subject_sets/{row_id}")
        parts.workers.ask("set", row_id)
        return response

    def _check_name(name: str, project: Row, but: int = 0) -> None:
        taken = state.one(
            "SELECT id FROM subject_sets WHERE project_id = ? AND lower(display_name) = ?"
            " AND id <> ?",
            (project["id"], name.lower(), but),
        )
        if taken:
            raise ApiError(400, TAKEN)

    @app.get("/api/subject_sets/<int:row_id>")
    def one_set(row_id: int) -> Response:
        row = parts.find("subject_sets", row_id)
        return pages.shown_one("subject_sets", show(row), row)

    @app.put("/api/subject_sets/<int:row_id>")
    def change_set(row_id: int) -> Response:
        need_login("project")
        row = parts.find_mine("subject_sets", row_id)
        given = body_of("subject_sets")
        if not isinstance(given, dict):
            return pages.broken()
        new: dict[str, Any] = {
            "display_name": given.get("display_name", row["display_name"]),
            "metadata": dumped(given["metadata"]) if "metadata" in given else row["metadata"],
        }
        _check_name(new["display_name"], parts.project_of("subject_sets", row), row_id)
        if any(row[name] != value for name, value in new.items()):
            with state.write() as db:
                db.execute(
                    "UPDATE subject_sets SET display_name = ?, metadata = ?, updated_at = ?"
                    " WHERE id = ?",
                    (*new.values(), state.moved(row["updated_at"]), row_id),
                )
        parts.workers.ask("set", row_id)
        row = parts.find("subject_sets", row_id)
        return pages.changed("subject_sets", show(row), row)

    @app.delete("/api/subject_sets/<int:row_id>")
    def delete_set(row_id: int) -> Response:
        need_login("project")
        row = parts.find_mine("subject_sets", row_id)
        pages.check_etag("subject_sets", row)
        with state.write() as db:
            db.execute("DELETE FROM set_subjects WHERE subject_set_id = ?", (row_id,))
            db.execute("DELETE FROM workflow_sets WHERE subject_set_id = ?", (row_id,))
            db.execute("DELETE FROM subject_sets WHERE id = ?", (row_id,))
        return pages.nothing()

    @app.get("/api/set_member_subjects")
    def members() -> Response:
        rows = state.all(
            "SELECT * FROM set_subjects WHERE subject_set_id = ? AND ? IN (subject_id, 0)"
            " ORDER BY id",
            (
                request.args.get("subject_set_id", 0, type=int),
                request.args.get("subject_id", 0, type=int),
            ),
        )
        return pages.page(
            "set_member_subjects",
            len(rows),
            lambda size, skip: [views.member(row) for row in rows[skip : skip + size]],
            known=("subject_id", "subject_set_id"),
        )

    @app.post("/api/subject_sets/<int:row_id>/links/subjects")
    def link(row_id: int) -> Response:
        row = parts.find_mine("subject_sets", row_id)
        ids = body_of("subjects")
        if not isinstance(ids, list):
            return pages.broken()
        with parts.overlaps.changing("subject_sets", row_id, "SubjectSet"), state.write() as db:
            for ident in _all_there(ids):
                db.execute(
                    "INSERT OR IGNORE INTO set_subjects (subject_set_id, subject_id, created_at)"
                    " VALUES (?, ?, ?)",
                    (row_id, ident, state.stamp()),
                )
            _touch(db, row)
        row = parts.find_mine("subject_sets", row_id)
        return pages.changed("subject_sets", show(row), row)

    def _all_there(ids: list[Any]) -> list[int]:
        known = {str(ident) for ident in ids}
        marks = ",".join("?" * len(known))
        rows = state.all(
            f"SELECT id FROM subjects WHERE id IN ({marks}) AND NOT deleted", sorted(known)
        )
        if len(rows) != len(ids):
            raise ApiError(422, NOT_ALL)
        return [row["id"] for row in rows]

    def _touch(db: Any, row: Row) -> None:
        row_id = row["id"]
        db.execute(
            "UPDATE subject_sets SET updated_at = ?, lock_version = lock_version + 1 WHERE id = ?",
            (state.moved(row["updated_at"]), row_id),
        )
        for shown in state.all(
            "SELECT workflow_id FROM workflow_sets WHERE subject_set_id = ?", (row_id,)
        ):
            db.execute(
                "UPDATE workflows SET finished_at = NULL WHERE id = ?", (shown["workflow_id"],)
            )
        parts.workers.ask("set", row_id)

    @app.delete("/api/subject_sets/<int:row_id>/links/subjects/<ids>")
    def unlink(row_id: int, ids: str) -> Response:
        row = parts.find_mine("subject_sets", row_id)
        with parts.overlaps.changing("subject_sets", row_id, "SubjectSet"), state.write() as db:
            for ident in ids.split(","):
                db.execute(
                    "DELETE FROM set_subjects WHERE subject_set_id = ? AND subject_id = ?",
                    (row_id, ident),
                )
            _touch(db, row)
        return pages.nothing()
