"""Classifications: what a volunteer's browser posts, and reading them by number."""

from __future__ import annotations

import json
from typing import Any

from flask import Flask, Response, g, request

from zoo_bridge.sandbox import pages, views
from zoo_bridge.sandbox.auth import ApiError, may_change, need_token
from zoo_bridge.sandbox.parts import Parts, Row, body_of, dumped
from zoo_bridge.sandbox.state import State

PATH = "/classifications/project"
SEEN_SECONDS = 10.0


def install(app: Flask, parts: Parts) -> None:
    """Add these addresses to a Flask application."""
    state = parts.state

    @app.get("/api/classifications/project")
    def listed() -> Response:
        need_token("classification")
        last_id = request.args.get("last_id", type=int)
        if "project_id" not in request.args:
            raise ApiError(422, "Project ID required if last_id is included")
        project_id = request.args.get("project_id", 0, type=int)
        project = state.one("SELECT * FROM projects WHERE id = ?", (project_id,))
        # Without rights there is simply nothing.
        mine = may_change(state, project)
        number, size = pages.page_asked()
        # By number only if a number is given.
        order = "id % 4, id" if last_id is None else "id"
        rows = state.all(
            f"SELECT * FROM classifications WHERE project_id = ? AND id > ? AND ?"
            f" ORDER BY {order} LIMIT ? OFFSET ?",
            (project_id, last_id or 0, mine, size, (number - 1) * size),
        )
        meta = _meta(number, size, rows, last_id, project_id)
        shown = [views.classification(row) for row in rows]
        headers = {"ETag": pages.digest_tag(json.dumps([meta, shown]))}
        return pages.answer("classifications", shown, meta=meta, headers=headers)

    @app.post("/api/classifications")
    def post() -> Response:
        given = body_of("classifications")
        annotations, metadata = given.get("annotations"), given.get("metadata", {})
        if not annotations:
            raise ApiError(400, "Validation failed: Annotations can't be blank")
        row_id = record(
            state,
            given["links"],
            annotations,
            metadata,
            user=g.user,
            completed=bool(given.get("completed", True)),
        )
        parts.workers.ask("retired", int(given["links"]["workflow"]))
        row = state.one("SELECT * FROM classifications WHERE id = ?", (row_id,))
        place = f"/classifications/{row_id}"
        return pages.made(
            "classifications",
            views.classification(row),
            {**row, "updated_at": row["created_at"]},
            place,
            pages.uncounted_meta("/classifications", 1, pages.USUAL, True, {}),
        )


def record(
    state: State,
    links: Row,
    annotations: list[Any],
    metadata: Row,
    user: Row,
    completed: bool,
) -> int:
    """Keep one classification, and count it to its subjects unless it is a second look.

    Parameters
    ----------
    state : State
        The sandbox's database.
    links : dict
        project, workflow, subjects.
    annotations, metadata : list, dict
        As the browser sent them.
    user : dict
        The volunteer's row, empty for an anonymous one.
    completed : bool
        False for one that was given up halfway.

    Returns
    -------
    int
        Its number.
    """
    kept = dict(metadata)
    version = str(kept.pop("workflow_version", "1.1"))
    major, _, minor = version.partition(".")
    kept["live_project"] = True
    if user:
        kept["user_group_ids"] = []
    first, *more = [int(ident) for ident in links["subjects"]]
    stamp = state.stamp()
    if user and _has_seen(state, user["id"], int(links["workflow"]), first):
        kept["seen_before"] = True
    with state.write() as db:
        row_id = state.insert(
            "classifications",
            created_at=stamp,
            project_id=int(links["project"]),
            workflow_id=int(links["workflow"]),
            major=int(major),
            minor=int(minor or 0),
            user_id=user.get("id"),
            user_name=user.get("login", ""),
            user_ip="127.0.0.1",
            subject_id=first,
            annotations=dumped(annotations),
            metadata=dumped(kept),
            completed=completed,
            more_subjects=json.dumps(more),
        )
        if completed and not kept.get("seen_before"):
            for ident in (first, *more):
                _count(db, state, ident, int(links["workflow"]), stamp)
    return row_id


def _has_seen(state: State, user: int, workflow: int, subject: int) -> bool:
    """Whether somebody has seen a subject before; known some seconds after the first time."""
    until = state.stamp(state.time() - SEEN_SECONDS)
    return bool(
        state.one(
            "SELECT 1 AS yes FROM classifications WHERE user_id = ? AND workflow_id = ?"
            " AND subject_id = ? AND created_at <= ?",
            (user, workflow, subject, until),
        )
    )


def _count(db: Any, state: State, subject: int, workflow: int, stamp: str) -> None:
    limit = json.loads(
        state.one("SELECT retirement FROM workflows WHERE id = ?", (workflow,))["retirement"]
    )["options"]["count"]
    db.execute(
        "INSERT OR IGNORE INTO statuses (subject_id, workflow_id, created_at, updated_at)"
        " VALUES (?, ?, ?, ?)",
        (subject, workflow, stamp, stamp),
    )
    db.execute(
        "UPDATE statuses SET classifications_count = classifications_count + 1, updated_at = :now,"
        " retirement_reason = CASE WHEN retired_at IS NULL AND classifications_count + 1 >= :limit"
        " THEN 'classification_count' ELSE retirement_reason END,"
        " retired_at = CASE WHEN classifications_count + 1 >= :limit"
        " THEN COALESCE(retired_at, :now) ELSE retired_at END"
        " WHERE subject_id = :subject AND workflow_id = :workflow",
        {"now": stamp, "limit": limit, "subject": subject, "workflow": workflow},
    )


def _meta(number: int, size: int, rows: list[Row], last_id: int | None, project_id: int) -> Row:
    """Nothing is counted; with a number to start from, the next page starts from a number, too."""
    asked = {"page_size": str(size)} if "page_size" in request.args else {}
    query = {**asked, "project_id": str(project_id)}
    meta = pages.uncounted_meta(PATH, number, size, bool(rows), query)
    if last_id is not None:
        start = {"last_id": str(last_id)}
        meta["previous_href"] = pages.href(PATH, 1, {**start, **query})
        if rows:
            start = {"last_id": str(rows[-1]["id"])}
            meta["next_href"] = pages.href(PATH, 1, {**start, **query})
    return meta
