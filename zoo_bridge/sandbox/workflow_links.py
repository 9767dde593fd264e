"""What volunteers see: sets linked to a workflow, and subjects retired from it."""

from __future__ import annotations

import sqlite3

from flask import Flask, Response, g, request

from zoo_bridge.sandbox import pages, views
from zoo_bridge.sandbox.auth import ApiError, need_token
from zoo_bridge.sandbox.parts import Parts, Row, body_of, not_found
from zoo_bridge.sandbox.subjects import NO_SETS

REASONS = (
    "classification_count",
    "flagged",
    "blank",
    "nothing_here",
    "consensus",
    "other",
    "human",
)


def install(app: Flask, parts: Parts) -> None:
    """Add these addresses to a Flask application."""
    state = parts.state

    def show(row: Row) -> Row:
        # Another kind of answer than a GET's, and so another entry of the cache.
        return parts.shown("workflows", row, "change", lambda: views.workflow(state, row))

    @app.post("/api/workflows/<int:row_id>/links/subject_sets")
    def publish(row_id: int) -> Response:
        row = parts.find_mine("workflows", row_id)
        ids = body_of("subject_sets")
        ids = ids if isinstance(ids, list) else [ids]
        with parts.overlaps.changing("workflows", row_id, "Workflow"), state.write() as db:
            for ident in ids:
                found = state.one(
                    "SELECT id FROM subject_sets WHERE id = ? AND project_id = ?",
                    (ident, row["project_id"]),
                )
                if not found:
                    raise ApiError(422, NO_SETS)
                try:
                    db.execute("INSERT INTO workflow_sets VALUES (?, ?)", (row_id, found["id"]))
                except sqlite3.IntegrityError:
                    raise ApiError(
                        400, "Validation failed: Workflow has already been taken"
                    ) from None
            _touch(row)
        row = parts.find_mine("workflows", row_id)
        return pages.changed("workflows", show(row), row)

    @app.delete("/api/workflows/<int:row_id>/links/subject_sets/<ids>")
    def withdraw(row_id: int, ids: str) -> Response:
        row = parts.find_mine("workflows", row_id)
        with parts.overlaps.changing("workflows", row_id, "Workflow"), state.write() as db:
            for ident in ids.split(","):
                gone = db.execute(
                    "DELETE FROM workflow_sets WHERE workflow_id = ? AND subject_set_id = ?",
                    (row_id, ident),
                )
                if not gone.rowcount:
                    where = '[WHERE "subject_sets_workflows"."workflow_id" = $1]'
                    raise ApiError(404, f"Couldn't find SubjectSet with 'id'={ident} {where}")
            _touch(row)
        return pages.nothing()

    def _touch(row: Row) -> None:
        with state.write() as db:
            db.execute(
                "UPDATE workflows SET updated_at = ?, lock_version = lock_version + 1 WHERE id = ?",
                (state.moved(row["updated_at"]), row["id"]),
            )
        parts.workers.ask("refresh", row["id"])

    @app.post("/api/workflows/<int:row_id>/retired_subjects")
    def retire(row_id: int) -> Response:
        return _retire(row_id, True)

    @app.post("/api/workflows/<int:row_id>/unretire_subjects")
    def unretire(row_id: int) -> Response:
        return _retire(row_id, False)

    def _retire(row_id: int, retired: bool) -> Response:
        if not g.user:
            raise not_found("workflows", row_id)
        need_token("project")
        parts.find_mine("workflows", row_id)
        body = request.get_json(silent=True) or {}
        reason = body.get("retirement_reason")
        if reason is not None and reason not in REASONS:
            raise ApiError(422, "Retirement reason is not included in the list")
        ids = body.get("subject_ids") or [body.get("subject_id")]
        stamp = state.stamp()
        with state.write() as db:
            for ident in ids:
                if not state.one("SELECT id FROM subjects WHERE id = ?", (ident,)):
                    continue
                db.execute(
                    "INSERT OR IGNORE INTO statuses (subject_id, workflow_id, created_at,"
                    " updated_at) VALUES (?, ?, ?, ?)",
                    (ident, row_id, stamp, stamp),
                )
                # The first reason given stays.
                change = (
                    "retired_at = COALESCE(retired_at, :now),"
                    " retirement_reason = COALESCE(retirement_reason, :reason)"
                    if retired
                    else "retired_at = NULL, retirement_reason = NULL"
                )
                db.execute(
                    f"UPDATE statuses SET {change}, updated_at = :now"
                    " WHERE subject_id = :subject AND workflow_id = :workflow",
                    {
                        "now": stamp,
                        "reason": reason or "other",
                        "subject": ident,
                        "workflow": row_id,
                    },
                )
        parts.workers.ask("retired", row_id)
        return pages.nothing()
