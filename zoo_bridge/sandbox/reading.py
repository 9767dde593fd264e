"""GETs of users, projects, workflows, roles and statuses."""

from __future__ import annotations

from flask import Flask, Response, g, request

from zoo_bridge.sandbox import pages, views
from zoo_bridge.sandbox.auth import need_token
from zoo_bridge.sandbox.parts import Parts, Row, not_found


def install(app: Flask, parts: Parts) -> None:
    """Add these addresses to a Flask application."""
    state = parts.state

    def user(row: Row) -> Row:
        return parts.shown("users", row, "own", lambda: views.user(row))

    @app.get("/api/me")
    def me() -> Response:
        row = need_token()
        headers = {"Last-Modified": pages.http_date(row["updated_at"])}
        return pages.answer("users", [user(row)], headers=headers)

    @app.get("/api/users")
    def users() -> Response:
        wanted = request.args.get("login", "").lower().split(",")
        marks = ",".join("?" * len(wanted))
        rows = state.all(f"SELECT * FROM users WHERE lower(login) IN ({marks})", wanted)
        mine = g.user.get("id")
        shown = [user(row) if row["id"] == mine else views.user(row, False) for row in rows]
        # Volunteers have no accounts here, only what they did.
        others = state.all(
            "SELECT DISTINCT user_id AS id, user_name AS login, '' AS created_at,"
            f" '' AS updated_at FROM classifications WHERE lower(user_name) IN ({marks})"
            " AND user_id IS NOT NULL ORDER BY 1",
            wanted,
        )
        known = {row["id"] for row in rows}
        shown += [views.user(row, False) for row in others if row["id"] not in known]
        return pages.page(
            "users", len(shown), lambda size, skip: shown[skip : skip + size], known=("login",)
        )

    @app.get("/api/users/<int:user_id>")
    def one_user(user_id: int) -> Response:
        row = need_token()
        if row["id"] != user_id:
            raise not_found("users", user_id)
        return pages.shown_one("users", user(row), row)

    def project(row: Row) -> Row:
        return parts.shown("projects", row, "show", lambda: views.project(state, row))

    @app.get("/api/projects")
    def projects() -> Response:
        slug = request.args.get("slug", "")
        rows = state.all("SELECT * FROM projects WHERE ? IN (slug, '') ORDER BY id", (slug,))
        roles = set(request.args.get("current_user_roles", "").split(",")) - {""}
        if roles:
            mine = g.user.get("id", 0)
            held = {row["id"]: views.roles_of(state, row, mine) for row in rows}
            rows = [
                row for row in rows if any(roles & set(each["roles"]) for each in held[row["id"]])
            ]
        rows = [row for row in rows if parts.may_see(row)]
        return pages.page(
            "projects",
            len(rows),
            lambda size, skip: [project(row) for row in rows[skip : skip + size]],
            known=("slug",),
        )

    @app.get("/api/projects/<int:row_id>")
    def one_project(row_id: int) -> Response:
        row = parts.find("projects", row_id)
        return pages.shown_one("projects", project(row), row)

    @app.get("/api/project_roles")
    def roles() -> Response:
        project_id = request.args.get("project_id", 0, type=int)
        row = state.one("SELECT * FROM projects WHERE id = ?", (project_id,))
        user_id = request.args.get("user_id", type=int)
        shown = views.roles_of(state, row, user_id) if parts.may_see(row) else []
        return pages.page(
            "project_roles",
            len(shown),
            lambda size, skip: shown[skip : skip + size],
            known=("project_id", "user_id"),
        )

    @app.get("/api/workflows")
    def workflows() -> Response:
        seen = parts.shown_projects()
        rows = state.all(
            "SELECT * FROM workflows WHERE ? IN (project_id, 0) ORDER BY id",
            (request.args.get("project_id", 0, type=int),),
        )
        rows = [row for row in rows if row["project_id"] in seen]
        return pages.page(
            "workflows",
            len(rows),
            lambda size, skip: [workflow(row) for row in rows[skip : skip + size]],
            known=("project_id",),
        )

    def workflow(row: Row) -> Row:
        return parts.shown("workflows", row, "show", lambda: views.workflow(state, row))

    @app.get("/api/workflows/<int:row_id>")
    def one_workflow(row_id: int) -> Response:
        row = parts.find("workflows", row_id)
        return pages.shown_one("workflows", workflow(row), row)

    @app.get("/api/workflow_versions")
    def workflow_versions() -> Response:
        rows = state.all(
            "SELECT rowid AS number, * FROM workflow_versions WHERE workflow_id = ?"
            " ORDER BY major, minor",
            (request.args.get("workflow_id", 0, type=int),),
        )
        return pages.page(
            "workflow_versions",
            len(rows),
            lambda size, skip: [
                views.workflow_version(row, row["number"]) for row in rows[skip : skip + size]
            ],
            known=("workflow_id",),
        )

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
        return pages.page(
            "subject_workflow_statuses",
            len(rows),
            lambda size, skip: [views.status(row) for row in rows[skip : skip + size]],
            counted=False,
            known=("subject_ids", "subject_id", "workflow_id"),
            named={"subject_ids": "subject_id"},
        )
