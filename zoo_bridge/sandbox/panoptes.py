"""The sandbox's Panoptes: the part of the Zooniverse API that zoo_bridge and panoptes-client use.

What is public on the real server is public here, what needs a log-in or rights needs them, and the
same mistakes get the same statuses.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from flask import Flask, Response, g, request

from zoo_bridge.sandbox import auth, faults, views
from zoo_bridge.sandbox.auth import ApiError, may_change, need_login
from zoo_bridge.sandbox.exports import KINDS, Exports
from zoo_bridge.sandbox.media import EXTENSIONS, Media
from zoo_bridge.sandbox.state import State

Row = dict[str, Any]


def create_app(state: State, media: Media, exports: Exports) -> Flask:
    """The API as a Flask application.

    Parameters
    ----------
    state : State
        What it remembers.
    media : Media
        The blob store's addresses.
    exports : Exports
        The data exports.
    """
    app = Flask("zoo_bridge.sandbox.panoptes")
    faults.install(app, state, "api")
    auth.install(app, state)

    @app.errorhandler(ApiError)
    def failed(error: ApiError) -> Response:
        body = json.dumps({"errors": [{"message": error.message}]})
        return Response(body, error.status, content_type=views.CONTENT_TYPE)

    @app.errorhandler(404)
    def absent(_: Exception) -> Response:
        return failed(ApiError(404, "Not found"))

    _reading(app, state, media)
    _exporting(app, state, exports)
    _subject_sets(app, state)
    _subjects(app, state, media)
    _workflow_links(app, state)
    return app


def _find(state: State, table: str, row_id: int | str) -> Row:
    """A row that the caller may see; 404 otherwise."""
    row = state.one(f"SELECT * FROM {table} WHERE id = ?", (row_id,))
    project = row if table == "projects" else _project_of(state, row)
    if not row or (project["private"] and not may_change(state, project)):
        raise ApiError(404, f"Could not find {table[:-1]} with id='{row_id}'")
    return row


def _find_mine(state: State, table: str, row_id: int | str) -> Row:
    """A row that the caller may change; 404 otherwise, as if it were not there."""
    row = _find(state, table, row_id)
    if not may_change(state, row if table == "projects" else _project_of(state, row)):
        raise ApiError(404, f"Could not find {table[:-1]} with id='{row_id}'")
    return row


def _project_of(state: State, row: Row) -> Row:
    return state.one("SELECT * FROM projects WHERE id = ?", (row.get("project_id"),))


def _body(key: str) -> Any:
    body = request.get_json(silent=True)
    if not isinstance(body, dict) or key not in body:
        raise ApiError(422, f"The request body must hold {key!r}")
    return body[key]


def _reading(app: Flask, state: State, media: Media) -> None:
    """GETs of users, projects, workflows, statuses and classifications."""

    def user(row: Row) -> Row:
        names = ("login", "uploaded_subjects_count", "subject_limit")
        whitelisted = bool(row["upload_whitelist"])
        shown = {name: row[name] for name in names}
        return {"id": str(row["id"]), **shown, "upload_whitelist": whitelisted}

    @app.get("/api/me")
    def me() -> Response:
        return views.answer("users", [user(need_login())])

    @app.get("/api/users")
    def users() -> Response:
        wanted = request.args.get("login", "").lower().split(",")
        marks = ",".join("?" * len(wanted))
        rows = state.all(
            f"SELECT id, login FROM users WHERE lower(login) IN ({marks}) UNION SELECT DISTINCT"
            f" user_id, user_name FROM classifications WHERE lower(user_name) IN ({marks})"
            " AND user_id IS NOT NULL ORDER BY 1",
            (*wanted, *wanted),
        )
        shown = [{"id": str(row["id"]), "login": row["login"]} for row in rows]
        return views.page("users", len(rows), lambda size, skip: shown[skip : skip + size])

    @app.get("/api/users/<int:user_id>")
    def one_user(user_id: int) -> Response:
        if need_login()["id"] != user_id:
            raise ApiError(404, f"Could not find user with id='{user_id}'")
        return views.answer("users", [user(g.user)])

    @app.get("/api/projects")
    def projects() -> Response:
        rows = state.all(
            "SELECT * FROM projects WHERE ? IN (slug, '') ORDER BY id",
            (request.args.get("slug", ""),),
        )
        rows = [row for row in rows if not row["private"] or may_change(state, row)]
        return views.page(
            "projects",
            len(rows),
            lambda size, skip: [views.project(state, row) for row in rows[skip : skip + size]],
        )

    @app.get("/api/projects/<int:row_id>")
    def project(row_id: int) -> Response:
        row = _find(state, "projects", row_id)
        return views.answer(
            "projects", [views.project(state, row)], etag=views.etag("projects", row)
        )

    @app.get("/api/workflows")
    def workflows() -> Response:
        rows = state.all(
            "SELECT w.* FROM workflows w JOIN projects p ON p.id = w.project_id"
            " WHERE p.private = 0 AND ? IN (w.project_id, '') ORDER BY w.id",
            (request.args.get("project_id", 0, type=int) or "",),
        )
        return views.page(
            "workflows",
            len(rows),
            lambda size, skip: [views.workflow(state, row) for row in rows[skip : skip + size]],
        )

    @app.get("/api/workflows/<int:row_id>")
    def workflow(row_id: int) -> Response:
        row = _find(state, "workflows", row_id)
        return views.answer(
            "workflows", [views.workflow(state, row)], etag=views.etag("workflows", row)
        )

    @app.get("/api/workflow_versions")
    def workflow_versions() -> Response:
        rows = state.all(
            "SELECT * FROM workflow_versions WHERE workflow_id = ? ORDER BY major, minor",
            (request.args.get("workflow_id", 0, type=int),),
        )
        return views.page(
            "workflow_versions",
            len(rows),
            lambda size, skip: [views.workflow_version(row) for row in rows[skip : skip + size]],
        )

    @app.get("/api/project_roles")
    def roles() -> Response:
        project_id = request.args.get("project_id", 0, type=int)
        user_id = request.args.get("user_id", 0, type=int)
        rows = state.all(
            "SELECT 'owner' AS role FROM projects WHERE id = ? AND owner_id = ? UNION"
            " SELECT 'collaborator' FROM collaborators WHERE project_id = ? AND user_id = ?",
            (project_id, user_id, project_id, user_id),
        )
        links = {"project": str(project_id), "owner": {"id": str(user_id), "type": "users"}}
        shown = [{"id": "1", "roles": [row["role"] for row in rows], "links": links}]
        return views.page("project_roles", len(rows), lambda size, skip: shown if rows else [])

    @app.get("/api/subject_workflow_statuses")
    def statuses() -> Response:
        ids = request.args.get("subject_ids") or request.args.get("subject_id") or ""
        wanted = [int(text) for text in ids.split(",") if text.strip().isdigit()]
        workflow_id = request.args.get("workflow_id", 0, type=int)
        marks = ",".join("?" * len(wanted))
        rows = state.all(
            f"SELECT * FROM statuses WHERE workflow_id = ? AND subject_id IN ({marks}) ORDER BY id",
            (workflow_id, *wanted),
        )
        return views.page(
            "subject_workflow_statuses",
            len(rows),
            lambda size, skip: [views.status(row) for row in rows[skip : skip + size]],
        )

    @app.get("/api/classifications/project")
    def classifications() -> Response:
        need_login()
        project_id = request.args.get("project_id", 0, type=int)
        _find_mine(state, "projects", project_id)
        size = max(1, min(100, request.args.get("page_size", 20, type=int)))
        rows = state.all(
            "SELECT * FROM classifications WHERE project_id = ? AND id > ? ORDER BY id LIMIT ?",
            (project_id, request.args.get("last_id", 0, type=int), size),
        )
        return views.answer("classifications", [views.classification(row) for row in rows])


def _exporting(app: Flask, state: State, exports: Exports) -> None:
    """Describing and asking for exports: for owners and collaborators alone."""

    def known(resource: str, row_id: int, kind: str) -> None:
        if kind not in KINDS.get(resource, ()):
            raise ApiError(404, "Not found")
        _find_mine(state, resource, row_id)

    @app.get("/api/<resource>/<int:row_id>/<kind>_export")
    def describe(resource: str, row_id: int, kind: str) -> Response:
        known(resource, row_id, kind)
        medium = exports.describe(resource, row_id, kind)
        if medium is None:
            raise ApiError(404, f"No {resource[:-1]}_{kind}_export exists for {row_id}")
        return views.answer("media", [medium])

    @app.post("/api/<resource>/<int:row_id>/<kind>_export")
    def ask(resource: str, row_id: int, kind: str) -> Response:
        known(resource, row_id, kind)
        if not isinstance(_body("media"), dict) or _body("media").get("content_type") != "text/csv":
            raise ApiError(422, "media.content_type must be text/csv")
        return views.answer("media", [exports.request(resource, row_id, kind)], 201)


def _subject_sets(app: Flask, state: State) -> None:
    """Subject sets: listing, creating, membership."""

    @app.get("/api/subject_sets")
    def sets() -> Response:
        rows = state.all(
            "SELECT s.* FROM subject_sets s JOIN projects p ON p.id = s.project_id"
            " WHERE p.private = 0 AND ? IN (s.project_id, '') AND ? IN (s.display_name, '')"
            " ORDER BY s.id",
            (
                request.args.get("project_id", 0, type=int) or "",
                request.args.get("display_name", ""),
            ),
        )
        for key, value in request.args.items():
            if key.startswith("metadata."):
                name = key.removeprefix("metadata.")
                rows = [r for r in rows if str(json.loads(r["metadata"]).get(name)) == value]
        return views.page(
            "subject_sets",
            len(rows),
            lambda size, skip: [views.subject_set(state, row) for row in rows[skip : skip + size]],
        )

    @app.post("/api/subject_sets")
    def create_set() -> Response:
        given = _body("subject_sets")
        name = given.get("display_name") if isinstance(given, dict) else None
        if not isinstance(name, str) or not name or "project" not in given.get("links", {}):
            raise ApiError(422, "display_name and links.project are needed")
        project = _find_mine(state, "projects", given["links"]["project"])
        try:
            row_id = state.insert(
                "subject_sets",
                project_id=project["id"],
                display_name=name,
                metadata=json.dumps(given.get("metadata") or {}),
                created_at=state.stamp(),
            )
        except sqlite3.IntegrityError:
            raise ApiError(400, "Validation failed: Display name has already been taken") from None
        row = _find(state, "subject_sets", row_id)
        return views.answer("subject_sets", [views.subject_set(state, row)], 201)

    @app.get("/api/subject_sets/<int:row_id>")
    def one_set(row_id: int) -> Response:
        row = _find(state, "subject_sets", row_id)
        tag = views.etag("subject_sets", row)
        return views.answer("subject_sets", [views.subject_set(state, row)], etag=tag)

    @app.delete("/api/subject_sets/<int:row_id>")
    def delete_set(row_id: int) -> Response:
        row = _find_mine(state, "subject_sets", row_id)
        views.check_etag("subject_sets", row)
        with state.write() as db:
            db.execute("DELETE FROM set_subjects WHERE subject_set_id = ?", (row_id,))
            db.execute("DELETE FROM workflow_sets WHERE subject_set_id = ?", (row_id,))
            db.execute("DELETE FROM subject_sets WHERE id = ?", (row_id,))
        return Response("", 204)

    @app.get("/api/set_member_subjects")
    def members() -> Response:
        rows = state.all(
            "SELECT rowid AS id, * FROM set_subjects WHERE subject_set_id = ?"
            " AND ? IN (subject_id, '') ORDER BY rowid",
            (
                request.args.get("subject_set_id", 0, type=int),
                request.args.get("subject_id", 0, type=int) or "",
            ),
        )

        def show(row: Row) -> Row:
            links = {"subject_set": str(row["subject_set_id"]), "subject": str(row["subject_id"])}
            return {"id": str(row["id"]), "links": links}

        return views.page(
            "set_member_subjects",
            len(rows),
            lambda size, skip: [show(row) for row in rows[skip : skip + size]],
        )

    @app.post("/api/subject_sets/<int:row_id>/links/subjects")
    def link_subjects(row_id: int) -> Response:
        row = _find_mine(state, "subject_sets", row_id)
        ids = _body("subjects")
        if not isinstance(ids, list) or len(set(map(str, ids))) < len(ids):
            raise ApiError(422, "subjects must be a list of different ids")
        with state.write() as db:
            for subject_id in ids:
                found = state.one(
                    "SELECT id FROM subjects WHERE id = ? AND project_id = ?",
                    (subject_id, row["project_id"]),
                )
                if not found:
                    raise ApiError(422, f"Couldn't find linked subjects with id='{subject_id}'")
                db.execute(
                    "INSERT OR IGNORE INTO set_subjects VALUES (?, ?)", (row_id, found["id"])
                )
            db.execute(
                "UPDATE subject_sets SET lock_version = lock_version + 1 WHERE id = ?", (row_id,)
            )
            db.execute(
                "UPDATE workflows SET finished_at = NULL WHERE id IN"
                " (SELECT workflow_id FROM workflow_sets WHERE subject_set_id = ?)",
                (row_id,),
            )
        return one_set(row_id)

    @app.delete("/api/subject_sets/<int:row_id>/links/subjects/<ids>")
    def unlink_subjects(row_id: int, ids: str) -> Response:
        _find_mine(state, "subject_sets", row_id)
        with state.write() as db:
            for subject_id in ids.split(","):
                db.execute(
                    "DELETE FROM set_subjects WHERE subject_set_id = ? AND subject_id = ?",
                    (row_id, subject_id),
                )
        return Response("", 204)


def _subjects(app: Flask, state: State, media: Media) -> None:
    """Subjects: listing, creating in one transaction, and fresh addresses for their media."""

    @app.get("/api/subjects")
    def subjects() -> Response:
        if "id" in request.args:
            wanted = [int(text) for text in request.args["id"].split(",") if text.isdigit()]
            marks = ",".join("?" * len(wanted))
            named = state.all(f"SELECT * FROM subjects WHERE id IN ({marks}) ORDER BY id", wanted)
            return views.page(
                "subjects",
                len(named),
                lambda size, skip: [views.subject(media, row) for row in named[skip : skip + size]],
            )
        set_id = request.args.get("subject_set_id", 0, type=int)
        count = state.one(
            "SELECT COUNT(*) AS n FROM set_subjects WHERE subject_set_id = ?", (set_id,)
        )["n"]

        def fetch(size: int, skip: int) -> list[Row]:
            rows = state.all(
                "SELECT s.* FROM subjects s JOIN set_subjects m ON m.subject_id = s.id"
                " WHERE m.subject_set_id = ? ORDER BY s.id LIMIT ? OFFSET ?",
                (set_id, size, skip),
            )
            return [views.subject(media, row) for row in rows]

        return views.page("subjects", count, fetch)

    @app.get("/api/subjects/<int:row_id>")
    def one_subject(row_id: int) -> Response:
        row = _find(state, "subjects", row_id)
        return views.answer(
            "subjects", [views.subject(media, row)], etag=views.etag("subjects", row)
        )

    @app.post("/api/subjects")
    def create_subjects() -> Response:
        given = _body("subjects")
        many = given if isinstance(given, list) else [given]
        with state.write() as db:
            rows = [_create(item) for item in many]
            db.execute(
                "UPDATE users SET uploaded_subjects_count = uploaded_subjects_count + ?"
                " WHERE id = ?",
                (len(rows), g.user["id"]),
            )
        return views.answer("subjects", [views.subject(media, row, True) for row in rows], 201)

    def _create(given: Any) -> Row:
        if not isinstance(given, dict) or not isinstance(given.get("metadata", {}), dict):
            raise ApiError(422, "A subject is an object with locations, metadata and links")
        links = given.get("links", {})
        locations = _locations(media, given.get("locations"))
        if "project" not in links:
            raise ApiError(422, "links.project is needed")
        project = _find_mine(state, "projects", links["project"])
        user = state.one("SELECT * FROM users WHERE id = ?", (g.user["id"],))
        ours = state.one("SELECT COUNT(*) AS n FROM subjects WHERE uploader_id = ?", (user["id"],))
        used = max(user["uploaded_subjects_count"], ours["n"])
        if not user["upload_whitelist"] and used >= user["subject_limit"]:
            limit = user["subject_limit"]
            raise ApiError(403, f"User has uploaded {used} subjects of {limit} maximum")
        stamp = state.stamp()
        row_id = state.insert(
            "subjects",
            project_id=project["id"],
            uploader_id=user["id"],
            metadata=json.dumps(given.get("metadata") or {}),
            locations=json.dumps(locations),
            created_at=stamp,
            updated_at=stamp,
        )
        for set_id in links.get("subject_sets", []):
            found = state.one(
                "SELECT id FROM subject_sets WHERE id = ? AND project_id = ?",
                (set_id, project["id"]),
            )
            if not found:
                raise ApiError(422, f"Couldn't find linked subject_sets with id='{set_id}'")
            state.insert("set_subjects", subject_set_id=found["id"], subject_id=row_id)
        return _find(state, "subjects", row_id)

    @app.put("/api/subjects/<int:row_id>")
    def update_subject(row_id: int) -> Response:
        row = _find_mine(state, "subjects", row_id)
        views.check_etag("subjects", row)
        given = _body("subjects")
        metadata = json.dumps(given["metadata"]) if "metadata" in given else row["metadata"]
        fresh = "locations" in given
        locations = json.dumps(_locations(media, given["locations"])) if fresh else row["locations"]
        with state.write() as db:
            db.execute(
                "UPDATE subjects SET metadata = ?, locations = ?, updated_at = ?,"
                " lock_version = lock_version + 1 WHERE id = ?",
                (metadata, locations, state.stamp(), row_id),
            )
        row = _find(state, "subjects", row_id)
        weak = "W/" + views.etag("subjects", row)
        return views.answer("subjects", [views.subject(media, row, fresh)], etag=weak)


def _locations(media: Media, given: Any) -> list[Row]:
    """Locations as they are kept: a path to be filled by a PUT, or an external address."""
    if not isinstance(given, list) or not given:
        raise ApiError(422, "locations must be a list with at least one entry")
    kept: list[Row] = []
    for item in given:
        mime, url = (item, None) if isinstance(item, str) else next(iter(item.items()), ("", None))
        if mime not in EXTENSIONS:
            raise ApiError(422, f"locations: {mime!r} is not an accepted type")
        kept.append(
            {"mime": mime, "url": url} if url else {"mime": mime, "path": media.new_path(mime)}
        )
    return kept


def _workflow_links(app: Flask, state: State) -> None:
    """What volunteers see: sets linked to a workflow, and subjects retired from it."""

    @app.post("/api/workflows/<int:row_id>/links/subject_sets")
    def link_sets(row_id: int) -> Response:
        row = _find_mine(state, "workflows", row_id)
        ids = _body("subject_sets")
        ids = ids if isinstance(ids, list) else [ids]
        with state.write() as db:
            for set_id in ids:
                found = state.one(
                    "SELECT id FROM subject_sets WHERE id = ? AND project_id = ?",
                    (set_id, row["project_id"]),
                )
                if not found:
                    raise ApiError(422, f"Couldn't find linked subject_sets with id='{set_id}'")
                try:
                    db.execute("INSERT INTO workflow_sets VALUES (?, ?)", (row_id, found["id"]))
                except sqlite3.IntegrityError:
                    raise ApiError(
                        400, "Validation failed: Subject set has already been taken"
                    ) from None
            db.execute(
                "UPDATE workflows SET finished_at = NULL, lock_version = lock_version + 1"
                " WHERE id = ?",
                (row_id,),
            )
        row = _find(state, "workflows", row_id)
        return views.answer("workflows", [views.workflow(state, row)])

    @app.delete("/api/workflows/<int:row_id>/links/subject_sets/<ids>")
    def unlink_sets(row_id: int, ids: str) -> Response:
        _find_mine(state, "workflows", row_id)
        with state.write() as db:
            for set_id in ids.split(","):
                db.execute(
                    "DELETE FROM workflow_sets WHERE workflow_id = ? AND subject_set_id = ?",
                    (row_id, set_id),
                )
        return Response("", 204)

    @app.post("/api/workflows/<int:row_id>/retired_subjects")
    def retire(row_id: int) -> Response:
        _find_mine(state, "workflows", row_id)
        body = request.get_json(silent=True) or {}
        ids = body.get("subject_ids", [])
        with state.write() as db:
            for subject_id in ids:
                db.execute(
                    "INSERT INTO statuses (subject_id, workflow_id, retired_at, retirement_reason)"
                    " VALUES (?, ?, ?, ?) ON CONFLICT (subject_id, workflow_id)"
                    " DO UPDATE SET retired_at = excluded.retired_at,"
                    " retirement_reason = excluded.retirement_reason",
                    (subject_id, row_id, state.stamp(), body.get("retirement_reason", "other")),
                )
        return Response("", 204)
