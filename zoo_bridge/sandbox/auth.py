"""Signing in to the sandbox's Panoptes: the web form, tokens, and who is calling."""

from __future__ import annotations

import hmac
import secrets
from typing import Any

from flask import Flask, Response, g, jsonify, request, session

from zoo_bridge.sandbox.state import State

TOKEN_SECONDS = 7200


class ApiError(Exception):
    """An answer with an error status and Panoptes' error body."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def install(app: Flask, state: State) -> None:
    """Add sign-in, tokens and the check of every /api call to a Flask application."""
    app.secret_key = state.secret
    app.config["SESSION_COOKIE_NAME"] = "_Panoptes_session"

    @app.get("/users/sign_in")
    def form() -> Response:
        session["csrf"] = session.get("csrf") or secrets.token_urlsafe(24)
        response = jsonify({})
        response.headers["X-CSRF-Param"] = "authenticity_token"
        response.headers["X-CSRF-Token"] = session["csrf"]
        return response

    @app.post("/users/sign_in")
    def sign_in() -> tuple[Response, int] | Response:
        body = request.get_json(silent=True) or {}
        user = state.one(
            "SELECT * FROM users WHERE login = ?", (body.get("user", {}).get("login"),)
        )
        password = str(body.get("user", {}).get("password"))
        token_is_ours = body.get("authenticity_token") == session.get("csrf", "")
        if not (user and token_is_ours and hmac.compare_digest(user["password"], password)):
            return jsonify({"error": "Invalid email or password."}), 401
        session["user_id"] = user["id"]
        return jsonify({"users": [{"id": str(user["id"]), "login": user["login"]}]})

    @app.post("/oauth/token")
    def token() -> tuple[Response, int] | Response:
        user_id = _grant(state)
        if user_id is None:
            return jsonify({"error": "invalid_grant"}), 401
        row = {
            "token": secrets.token_urlsafe(32),
            "refresh": secrets.token_urlsafe(32),
            "user_id": user_id,
            "expires": state.time() + TOKEN_SECONDS,
        }
        state.insert("tokens", **row)
        return jsonify(
            {
                "access_token": row["token"],
                "token_type": "Bearer",
                "expires_in": TOKEN_SECONDS,
                "refresh_token": row["refresh"],
                "scope": "user project group collection classification subject medium",
                "created_at": int(state.time()),
            }
        )

    @app.before_request
    def identify() -> Response | None:
        g.user = {}
        if not request.path.startswith("/api/"):
            return None
        if "application/vnd.api+json" not in request.headers.get("Accept", ""):
            raise ApiError(404, "Not found")
        scheme, _, text = request.headers.get("Authorization", "").partition(" ")
        if scheme == "Bearer" and text not in ("", "None"):
            row = state.one("SELECT * FROM tokens WHERE token = ?", (text,))
            expired = not row or row["expires"] < state.time()
            if expired and request.method != "GET":
                # The real server's answer: nothing, which the client takes for success.
                return Response("", 401)
            if row:
                g.user = state.one("SELECT * FROM users WHERE id = ?", (row["user_id"],))
        is_json = request.mimetype in ("application/json", "application/vnd.api+json")
        if request.method in ("POST", "PUT") and not is_json:
            raise ApiError(415, "Content-Type must be application/json")
        if request.method != "GET":
            need_login()
        return None


def _grant(state: State) -> int | None:
    """The user that a token is for, or None if the request has no right to one."""
    form = request.form
    kind = form.get("grant_type")
    if kind == "client_credentials":
        row = state.one("SELECT * FROM applications WHERE client_id = ?", (form.get("client_id"),))
        good = row and hmac.compare_digest(row["client_secret"], form.get("client_secret", ""))
        return row["user_id"] if good else None
    if kind == "refresh_token":
        row = state.one(
            "SELECT user_id FROM tokens WHERE refresh = ?", (form.get("refresh_token"),)
        )
        return row.get("user_id")
    return session.get("user_id") if kind == "password" else None


def need_login() -> dict[str, Any]:
    """The user who is calling; 401 for anonymous calls."""
    user: dict[str, Any] = g.user
    if not user:
        raise ApiError(401, "You must be logged in to access this resource.")
    return user


def may_change(state: State, project: dict[str, Any]) -> bool:
    """Whether the caller is the project's owner or a collaborator."""
    if not project or not g.user:
        return False
    collaborator = state.one(
        "SELECT 1 AS yes FROM collaborators WHERE project_id = ? AND user_id = ?",
        (project["id"], g.user["id"]),
    )
    return project["owner_id"] == g.user["id"] or bool(collaborator)
