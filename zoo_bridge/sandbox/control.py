"""The sandbox's own addresses: volunteers, clock, faults, and what people change on a server."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from flask import Flask, Response, jsonify, request

from zoo_bridge.sandbox import faults
from zoo_bridge.sandbox.parts import Parts
from zoo_bridge.sandbox.volunteers import Volunteers


def install(app: Flask, parts: Parts, volunteers: Volunteers) -> None:
    """Add these addresses to the API's application.

    ``POST /sandbox/server`` takes any of these keys::

        {"role": {"login": "helper", "project": 1, "role": "expert"},   his only one; or "none"
         "quota": {"login": "owner", "limit": 20, "unlimited": false, "uploaded": 18},
         "switch": {"uploads": false, "exports": true},
         "tokens": {"expired": true} or {"revoked": true},    all that were given out
         "export": "again",                                   the day's run may be made again
         "private": {"project": 2, "private": true}}
    """
    state = parts.state

    @app.post("/sandbox/volunteers")
    def vote() -> Response:
        return jsonify(volunteers.classify(request.args.get("workflow", 1, type=int)))

    @app.post("/sandbox/clock")
    def clock() -> Response:
        """Put the clock forward, or let it stand: {"seconds": 60}, {"stop": time or null}."""
        asked = request.get_json()
        if "stop" in asked:
            stop = asked["stop"]
            moment = None if stop is None else datetime.fromisoformat(stop).timestamp()
            state.stop_clock(moment)
        else:
            state.advance(float(asked["seconds"]))
        return jsonify({"time": state.stamp()})

    @app.post("/sandbox/server")
    def change_server() -> tuple[Response, int] | Response:
        asked: dict[str, Any] = request.get_json()
        for what, how in asked.items():
            if what not in _CHANGES:
                return jsonify({"error": f"what can be changed is {sorted(_CHANGES)}"}), 422
            _CHANGES[what](parts, how)
        return jsonify(asked)

    @app.get("/sandbox/faults")
    def list_faults() -> Response:
        rows = state.all("SELECT * FROM faults ORDER BY id")
        return jsonify([{**row, "rule": json.loads(row["rule"])} for row in rows])

    @app.post("/sandbox/faults")
    def set_fault() -> tuple[Response, int] | Response:
        rule = request.get_json()
        if rule.get("what") not in faults.ACTIONS:
            return jsonify({"error": f"what must be one of {list(faults.ACTIONS)}"}), 422
        return jsonify({"id": state.insert("faults", rule=json.dumps(rule))})

    @app.delete("/sandbox/faults")
    def clear_faults() -> Response:
        with state.write() as db:
            db.execute("DELETE FROM faults")
        return jsonify([])


def _role(parts: Parts, how: dict[str, Any]) -> None:
    state, role = parts.state, how["role"]
    project = int(how.get("project", 1))
    user = state.one("SELECT id FROM users WHERE login = ?", (how["login"],))["id"]
    with state.write() as db:
        for table in ("roles", "collaborators"):
            db.execute(f"DELETE FROM {table} WHERE project_id = ? AND user_id = ?", (project, user))
    if role == "collaborator":
        state.insert("collaborators", project_id=project, user_id=user)
    elif role != "none":
        state.insert("roles", project_id=project, user_id=user, role=role)


def _quota(parts: Parts, how: dict[str, Any]) -> None:
    names = {
        "limit": "subject_limit",
        "unlimited": "upload_whitelist",
        "uploaded": "uploaded_subjects_count",
    }
    with parts.state.write() as db:
        for key, column in names.items():
            if key in how:
                db.execute(
                    f"UPDATE users SET {column} = ? WHERE login = ?", (int(how[key]), how["login"])
                )
    parts.cache.forget("users")


def _switch(parts: Parts, how: dict[str, bool]) -> None:
    for name, on in how.items():
        parts.state.switch(name, on)


def _tokens(parts: Parts, how: dict[str, bool]) -> None:
    with parts.state.write() as db:
        if how.get("expired"):
            db.execute("UPDATE tokens SET expires = ?", (parts.state.time() - 3600,))
        if how.get("revoked"):
            db.execute("UPDATE tokens SET revoked = 1")


def _export(parts: Parts, how: str) -> None:
    with parts.state.write() as db:
        db.execute("UPDATE exports SET last_run = NULL")


def _private(parts: Parts, how: dict[str, Any]) -> None:
    with parts.state.write() as db:
        db.execute(
            "UPDATE projects SET private = ? WHERE id = ?", (int(how["private"]), how["project"])
        )
    parts.cache.forget("projects")


_CHANGES: dict[str, Callable[[Parts, Any], None]] = {
    "role": _role,
    "quota": _quota,
    "switch": _switch,
    "tokens": _tokens,
    "export": _export,
    "private": _private,
}
