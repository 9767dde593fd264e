"""Subjects: listing, creating one a call, in its sets by the same transaction, and changing."""

from __future__ import annotations

import json
from typing import Any

from flask import Flask, Response, g, request

from zoo_bridge.sandbox import pages, views
from zoo_bridge.sandbox.auth import ApiError, may_change, need_login
from zoo_bridge.sandbox.media import EXTENSIONS, Media
from zoo_bridge.sandbox.parts import Parts, Row, body_of, dumped, lacks, not_found
from zoo_bridge.sandbox.sets import NO_PROJECT

KEYS = {"locations", "metadata", "links"}
NO_SETS = "Couldn't find linked subject_sets for current user"
SWITCHED_OFF = "Feature has been temporarily disabled"


def install(app: Flask, parts: Parts) -> None:
    """Add these addresses to a Flask application."""
    state, media = parts.state, parts.media

    @app.get("/api/subjects")
    def subjects() -> Response:
        sort = "-id" if request.args.get("sort") == "-id" else "id"
        # `metadata.KEY` is no filter here: everything comes back.
        where, values = _filters(parts)
        count = state.one(f"SELECT COUNT(*) AS n FROM subjects s WHERE {where}", values)["n"]

        def fetch(size: int, skip: int) -> list[Row]:
            order = "s.id DESC" if sort == "-id" else "s.id"
            rows = state.all(
                f"SELECT s.* FROM subjects s WHERE {where} ORDER BY {order} LIMIT ? OFFSET ?",
                (*values, size, skip),
            )
            return [views.subject(state, media, row) for row in rows]

        names = ("id", "project_id", "subject_set_id")
        return pages.page("subjects", count, fetch, sort=sort, known=names)

    @app.get("/api/subjects/queued")
    def queued() -> Response:
        rows = state.all(
            "SELECT DISTINCT s.* FROM subjects s JOIN set_subjects m ON m.subject_id = s.id"
            " JOIN workflow_sets w ON w.subject_set_id = m.subject_set_id"
            " LEFT JOIN statuses t ON t.subject_id = s.id AND t.workflow_id = w.workflow_id"
            " WHERE w.workflow_id = ? AND ? IN (m.subject_set_id, 0) AND t.retired_at IS NULL"
            " AND NOT s.deleted ORDER BY random()",
            (
                request.args.get("workflow_id", 0, type=int),
                request.args.get("subject_set_id", 0, type=int),
            ),
        )
        # What is served does not depend on whether the picture is there.
        _, size = pages.page_asked()
        now = state.stamp()
        shown = [views.queued(media, row, now) for row in rows[:size]]
        meta = pages.uncounted_meta("/subjects", 1, size, bool(shown), {"page_size": str(size)})
        answer = pages.answer("subjects", shown, meta=meta)
        answer.headers["ETag"] = 'W/"queued"'
        # This one answer comes without the templates of links.
        body = json.loads(answer.get_data())
        del body["links"]
        answer.set_data(json.dumps(body))
        return answer

    @app.get("/api/subjects/selection")
    def selection() -> Response:
        raise ApiError(503, SWITCHED_OFF)

    @app.get("/api/subjects/<int:row_id>")
    def one_subject(row_id: int) -> Response:
        row = _there("find", row_id)
        return pages.shown_one("subjects", views.subject(state, media, row), row)

    @app.post("/api/subjects")
    def create() -> Response:
        need_login("subject")
        given = body_of("subjects")
        if not isinstance(given, dict):
            # A list, even of one: nothing is created.
            return pages.broken()
        if not state.is_on("uploads"):
            raise ApiError(503, SWITCHED_OFF)
        with state.write() as db:
            row_id = _create(given)
            db.execute(
                "UPDATE users SET uploaded_subjects_count = uploaded_subjects_count + 1"
                " WHERE id = ?",
                (g.user["id"],),
            )
        row = parts.find("subjects", row_id)
        shown = views.subject(state, media, row, upload=True)
        return pages.made("subjects", shown, row, f"/subjects/{row_id}")

    def _create(given: Row) -> int:
        links = given.get("links")
        if unknown := sorted(set(given) - KEYS):
            names = ", ".join(f'\\"{name}\\"' for name in unknown)
            raise ApiError(
                422,
                f'{{"schema"=>"contains additional properties [{names}] outside of the schema when '
                'none are allowed"}',
            )
        if not isinstance(links, dict) or "project" not in links:
            raise ApiError(422, lacks("links", "project"))
        project = state.one("SELECT * FROM projects WHERE id = ?", (links["project"],))
        if not may_change(state, project):
            raise ApiError(422, NO_PROJECT)
        _check_quota()
        set_ids = list(dict.fromkeys(str(ident) for ident in links.get("subject_sets") or []))
        for ident in set_ids:
            row = state.one("SELECT * FROM subject_sets WHERE id = ?", (ident,))
            if not row or not may_change(state, parts.project_of("subject_sets", row)):
                raise ApiError(422, NO_SETS)
        stamp = state.stamp()
        row_id = state.insert(
            "subjects",
            project_id=project["id"],
            uploader_id=g.user["id"],
            metadata=dumped(_lowered(given.get("metadata") or {})),
            locations=json.dumps(_locations(media, given.get("locations") or [])),
            created_at=stamp,
            updated_at=stamp,
        )
        for ident in set_ids:
            state.insert(
                "set_subjects", subject_set_id=int(ident), subject_id=row_id, created_at=stamp
            )
        return row_id

    def _check_quota() -> None:
        user = state.one("SELECT * FROM users WHERE id = ?", (g.user["id"],))
        used, limit = user["uploaded_subjects_count"], user["subject_limit"]
        if not user["upload_whitelist"] and used >= limit:
            raise ApiError(403, f"User has uploaded {used} subjects of {limit} maximum")

    @app.put("/api/subjects/<int:row_id>")
    def change(row_id: int) -> Response:
        need_login("subject")
        row = _there("find_mine", row_id)
        pages.check_etag("subjects", row)
        given = body_of("subjects")
        if not isinstance(given, dict):
            return pages.broken()
        with state.write() as db:
            if "locations" in given:
                # New files; what was there is no longer shown, and nothing else tells of it.
                files = json.dumps(_locations(media, given["locations"]))
                db.execute("UPDATE subjects SET locations = ? WHERE id = ?", (files, row_id))
            if "metadata" in given:
                metadata = dumped(_lowered(given["metadata"]))
                same = metadata == row["metadata"]
                stamp = row["updated_at"] if same else state.moved(row["updated_at"])
                db.execute(
                    "UPDATE subjects SET metadata = ?, updated_at = ? WHERE id = ?",
                    (metadata, stamp, row_id),
                )
        row = parts.find("subjects", row_id)
        return pages.changed("subjects", views.subject(state, media, row, upload=True), row)

    @app.delete("/api/subjects/<int:row_id>")
    def delete(row_id: int) -> Response:
        need_login("subject")
        row = _there("find_mine", row_id)
        pages.check_etag("subjects", row)
        with state.write() as db:
            # It is shown no more; exports and counts go on telling of it.
            db.execute("UPDATE subjects SET deleted = 1 WHERE id = ?", (row_id,))
        return pages.nothing()

    def _there(how: str, row_id: int) -> Row:
        row: Row = getattr(parts, how)("subjects", row_id)
        if row["deleted"]:
            raise not_found("subjects", row_id)
        return row


def _filters(parts: Parts) -> tuple[str, tuple[Any, ...]]:
    """What a listing of subjects is narrowed by, in SQL."""
    clauses, values = ["NOT s.deleted"], []
    if "id" in request.args:
        wanted = [int(text) for text in request.args["id"].split(",") if text.isdigit()]
        clauses.append(f"s.id IN ({','.join('?' * len(wanted))})")
        values += wanted
    if "subject_set_id" in request.args:
        clauses.append("s.id IN (SELECT subject_id FROM set_subjects WHERE subject_set_id = ?)")
        values.append(request.args.get("subject_set_id", 0, type=int))
    if "project_id" in request.args:
        clauses.append("s.project_id = ?")
        values.append(request.args.get("project_id", 0, type=int))
    seen = sorted(parts.shown_projects())
    clauses.append(f"s.project_id IN ({','.join('?' * len(seen))})")
    return " AND ".join(clauses), (*values, *seen)


def _lowered(metadata: Any) -> Row:
    """The one key that the server spells in its own way."""
    if not isinstance(metadata, dict):
        raise ApiError(422, '{"metadata"=>"was not of a valid type: object"}')
    return {"#priority" if key.lower() == "#priority" else key: metadata[key] for key in metadata}


def _locations(media: Media, given: Any) -> list[Row]:
    """Locations as they are kept: a path to be filled by a PUT, or an external address."""
    if not isinstance(given, list):
        raise ApiError(422, '{"locations"=>"was not of a valid type: array"}')
    kept: list[Row] = []
    for item in given:
        mime, url = (item, None) if isinstance(item, str) else next(iter(item.items()), ("", None))
        if mime not in EXTENSIONS:
            raise ApiError(400, "Validation failed: Locations is invalid")
        if url:
            media.new_external(mime)
            kept.append({"mime": mime, "url": url})
        else:
            kept.append({"mime": mime, "path": media.new_path(mime)})
    return kept
