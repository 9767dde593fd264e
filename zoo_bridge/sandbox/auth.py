"""Signing in to the sandbox's Panoptes: the web form, tokens, who is calling, and what they may.

A token that has expired or was revoked is refused, with nothing in the answer, by calls that look
at its scopes; other reads and links go on under it as if nothing were.
"""

from __future__ import annotations

import hmac
import json
import secrets
from typing import Any

from flask import Flask, Response, g, request, session

from zoo_bridge.sandbox import sign_in_pages
from zoo_bridge.sandbox.state import EVERY_SCOPE, State

TOKEN_SECONDS = 7200
REALM = 'Bearer realm="Panoptes", error="{}", error_description="{}"'
INVALID_GRANT = (
    "The provided authorization grant is invalid, expired, revoked, does not match the redirection "
    "URI used in the authorization request, or was issued to another client."
)
INVALID_CLIENT = (
    "Client authentication failed due to unknown client, no client authentication included, or "
    "unsupported authentication method."
)
ABSENT = (
    "<!DOCTYPE html>\n<html>\n<head>\n  <title>The page you were looking for doesn't exist (404)"
    "</title>"
)
LOG_IN = "You must be logged in to access this resource."


class ApiError(Exception):
    """An answer with an error status and Panoptes' error body."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Refusal(Exception):
    """An answer with an error status and nothing in it, or with an OAuth error."""

    def __init__(self, status: int, error: str = "", description: str = "") -> None:
        super().__init__(status)
        self.status = status
        self.challenge = REALM.format(error, description) if error else ""
        self.body = {"error": error, "error_description": description}


def plain_json(value: Any, status: int = 200) -> Response:
    """An answer outside the API."""
    return Response(json.dumps(value), status, content_type="application/json; charset=utf-8")


def install(app: Flask, state: State, show_user: Any) -> None:
    """Add sign-in, tokens and the check of every /api call to a Flask application.

    Parameters
    ----------
    app : Flask
        The API, which asks for tokens from then on.
    state : State
        Where accounts are.
    show_user : callable
        A user's row as the API shows it.
    """
    app.secret_key = state.secret
    app.config["SESSION_COOKIE_NAME"] = "_Panoptes_session"

    @app.errorhandler(Refusal)
    def refused(error: Refusal) -> Response:
        response = Response("", error.status, content_type="text/html")
        if error.challenge and request.path == "/oauth/token":
            response = plain_json(error.body, error.status)
        if error.challenge:
            response.headers["WWW-Authenticate"] = error.challenge
        return response

    sign_in_pages.install(app, state)

    @app.get("/users/sign_in")
    def form() -> Response:
        session["csrf"] = session.get("csrf") or secrets.token_urlsafe(24)
        if "text/html" in request.headers.get("Accept", ""):
            return sign_in_pages.form(session["csrf"])
        response = plain_json({"login": "/users/sign_in"})
        response.headers["X-CSRF-Param"] = "authenticity_token"
        response.headers["X-CSRF-Token"] = session["csrf"]
        return response

    @app.post("/users/sign_in")
    def sign_in() -> Response:
        if not request.is_json:
            return sign_in_pages.signed_in(state, _by_password)
        body = request.get_json(silent=True) or {}
        given = body.get("user", {})
        user = _by_password(state, given.get("login"), given.get("password"))
        if not user or body.get("authenticity_token") != session.get("csrf", ""):
            return plain_json({"error": "Invalid email or password."}, 401)
        session["user_id"] = user["id"]
        with state.write() as db:
            db.execute("UPDATE users SET updated_at = ? WHERE id = ?", (state.stamp(), user["id"]))
        return plain_json(show_user(user["id"]))

    @app.post("/oauth/token")
    def token() -> Response:
        user_id, scopes, refreshed = _grant(state)
        row = {
            "token": secrets.token_urlsafe(32),
            "refresh": refreshed,
            "user_id": user_id,
            "expires": state.time() + TOKEN_SECONDS,
            "scopes": scopes,
        }
        state.insert("tokens", **row)
        answer = {
            "access_token": row["token"],
            "token_type": "Bearer",
            "expires_in": TOKEN_SECONDS,
            "refresh_token": refreshed,
            "scope": scopes,
            "created_at": int(state.time()),
        }
        return plain_json({name: value for name, value in answer.items() if value is not None})

    @app.post("/oauth/revoke")
    def revoke() -> Response:
        with state.write() as db:
            db.execute(
                "UPDATE tokens SET revoked = 1 WHERE token = ?", (request.form.get("token"),)
            )
        return plain_json({})

    @app.before_request
    def identify() -> Response | None:
        g.user, g.token, g.trouble, g.challenge = {}, {}, "", ""
        if not request.path.startswith("/api/"):
            return None
        accept = request.headers.get("Accept", "")
        if "application/vnd.api+json" not in accept:
            if "application/json" in accept:
                return plain_json({"errors": [{"message": "Not Found"}]}, 404)
            return Response(ABSENT, 404, content_type="text/html; charset=UTF-8")
        scheme, _, text = request.headers.get("Authorization", "").partition(" ")
        _know(state, text if scheme == "Bearer" else "")
        is_json = request.mimetype in ("application/json", "application/vnd.api+json")
        if request.method in ("POST", "PUT") and not is_json:
            raise ApiError(
                415,
                "Only requests with Content-Type: application/json or application/vnd.api+json "
                "are allowed",
            )
        return None


def _know(state: State, text: str) -> None:
    """Who is calling, and what is wrong with the token, if anything."""
    row = state.one("SELECT * FROM tokens WHERE token = ?", (text,))
    g.token = row
    if not row:
        g.trouble = "The access token is invalid"
        return
    g.user = state.one("SELECT * FROM users WHERE id = ?", (row["user_id"],))
    if row["revoked"]:
        g.trouble = "The access token was revoked"
    elif row["expires"] < state.time():
        g.trouble = "The access token expired"


def need_token(scope: str | None = None) -> dict[str, Any]:
    """The user who is calling, with a token that is good, and good for something."""
    if g.trouble:
        raise Refusal(401, "invalid_token", g.trouble)
    if scope is not None and scope not in g.token["scopes"].split():
        raise Refusal(403)
    user: dict[str, Any] = g.user
    return user


def need_login(scope: str) -> dict[str, Any]:
    """As `need_token`, of calls that tell somebody who is nobody so."""
    if not g.user:
        raise ApiError(401, LOG_IN)
    return need_token(scope)


def _by_password(state: State, login: Any, password: Any) -> dict[str, Any] | None:
    user = state.one("SELECT * FROM users WHERE login = ?", (str(login),))
    good = user and hmac.compare_digest(user["password"].encode(), str(password).encode())
    return user if good else None


def _grant(state: State) -> tuple[int, str, str | None]:
    """Whom a token is for, what it is good for, and what it is renewed with."""
    form = request.form
    kind, client_id = form.get("grant_type"), form.get("client_id", "")
    application = state.one("SELECT * FROM applications WHERE client_id = ?", (client_id,))
    secret = application.get("client_secret", "")
    if not application or (
        (kind in ("password", "client_credentials"))
        and bool(secret) != (kind == "client_credentials")
    ):
        # Nobody knows it, or it may not sign in in this way.
        raise Refusal(422)
    if kind == "client_credentials":
        if not hmac.compare_digest(secret.encode(), form.get("client_secret", "").encode()):
            raise Refusal(401, "invalid_client", INVALID_CLIENT)
        # Whoever made it agreed to it by that.
        sign_in_pages.agree(state, client_id, application["user_id"])
        return application["user_id"], application["scopes"], None
    if kind == "authorization_code":
        if not hmac.compare_digest(secret.encode(), form.get("client_secret", "").encode()):
            raise Refusal(401, "invalid_client", INVALID_CLIENT)
        found = sign_in_pages.spend(state, form)
        if found is None:
            raise Refusal(401, "invalid_grant", INVALID_GRANT)
        return *found, secrets.token_urlsafe(32)
    if kind == "refresh_token":
        row = state.one(
            "SELECT * FROM tokens WHERE refresh = ? AND NOT revoked", (form.get("refresh_token"),)
        )
        if not row:
            raise Refusal(401, "invalid_grant", INVALID_GRANT)
        # The same one works again and again.
        return row["user_id"], row["scopes"], secrets.token_urlsafe(32)
    user_id = session.get("user_id")
    if "password" in form:
        user_id = (_by_password(state, form.get("login"), form["password"]) or {}).get("id")
    if kind != "password" or not user_id:
        raise Refusal(401, "invalid_grant", INVALID_GRANT)
    return user_id, EVERY_SCOPE, secrets.token_urlsafe(32)


def may_change(state: State, project: dict[str, Any]) -> bool:
    """Whether the caller is the project's owner or a collaborator."""
    if not project or not g.user:
        return False
    collaborator = state.one(
        "SELECT 1 AS yes FROM collaborators WHERE project_id = ? AND user_id = ?",
        (project["id"], g.user["id"]),
    )
    return project["owner_id"] == g.user["id"] or bool(collaborator)
