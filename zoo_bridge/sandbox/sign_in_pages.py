"""Signing in with the sandbox's Zooniverse, as other sites offer it: OAuth's code with PKCE.

Refused as the real server refuses it: an unknown application, another redirect, plain PKCE, scopes
that the application lacks. Its pages are made for a browser, and say no more than they must.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable, Mapping
from html import escape
from typing import Any
from urllib.parse import urlencode

from flask import Flask, Response, redirect, request, session

from zoo_bridge.sandbox.state import State

CODE_SECONDS = 600
PAGE = '<!DOCTYPE html>\n<html>\n<head>\n  <title>{}</title>\n  <meta charset="utf-8">\n  {}\n'
REFRESH = '<meta http-equiv="x-ua-compatible" content="ie=edge">'
BROKEN = (
    "<!DOCTYPE html>\n<html>\n<head>\n  <title>We're sorry, but something went wrong (500)</title>"
    '\n  <meta name="viewport" content="width=device-width">\n</head></html>'
)
Row = dict[str, Any]


def install(app: Flask, state: State) -> None:
    """Add the addresses that a browser is sent to.

    Parameters
    ----------
    app : Flask
        The API.
    state : State
        Where applications, consents and codes are.
    """

    @app.get("/oauth/authorize")
    def authorize() -> Any:
        user_id = session.get("user_id")
        asked = request.args
        if (refused := _refused(state, asked)) is not None:
            return refused
        if not user_id:
            session["return_to"] = request.full_path
            return redirect("/users/sign_in")
        known = state.one(
            "SELECT 1 AS yes FROM consents WHERE client_id = ? AND user_id = ?",
            (asked["client_id"], user_id),
        )
        return _back(state, asked, user_id) if known else _consent(asked)

    @app.post("/oauth/authorize")
    def agreed() -> Any:
        user_id = session.get("user_id")
        asked = request.form
        if (refused := _refused(state, asked)) is not None:
            return refused
        if not user_id:
            return redirect("/users/sign_in")
        if asked.get("answer") != "yes":
            more = {"error": "access_denied", "state": asked.get("state", "")}
            return redirect(f"{asked['redirect_uri']}?{urlencode(more)}")
        agree(state, asked["client_id"], user_id)
        return _back(state, asked, user_id)


def _refused(state: State, asked: Mapping[str, str]) -> Response | None:
    client_id = asked.get("client_id", "")
    application = state.one("SELECT * FROM applications WHERE client_id = ?", (client_id,))
    if not application:
        return _page(BROKEN, 500)
    if not application["client_secret"]:
        # Nobody may sign in with it on other sites.
        return Response("", 422, content_type="text/html")
    uri = state.one(
        "SELECT 1 AS yes FROM redirects WHERE client_id = ? AND uri = ?",
        (client_id, asked.get("redirect_uri", "")),
    )
    method = asked.get("code_challenge_method", "plain" if asked.get("code_challenge") else "S256")
    if not uri or asked.get("response_type") != "code" or method != "S256":
        return _page(PAGE.format("OAuth authorization required", REFRESH), 400)
    allowed = set(application["scopes"].split())
    if set(asked.get("scope", "").split()) - allowed:
        return Response("", 422, content_type="text/html")
    return None


def _page(text: str, status: int = 200) -> Response:
    return Response(text, status, content_type="text/html; charset=utf-8")


def _consent(asked: Mapping[str, str]) -> Response:
    fields = "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in asked.items()
    )
    head = PAGE.format("OAuth authorization required", '<meta http-equiv="x-ua-compatible">')
    return _page(
        f'{head}</head><body><form method="post" action="/oauth/authorize">{fields}'
        '<button name="answer" value="yes">Authorize</button>'
        '<button name="answer" value="no">Deny</button></form></body></html>'
    )


def _back(state: State, asked: Mapping[str, str], user_id: int) -> Any:
    """With a code that is good once."""
    code = secrets.token_urlsafe(32)
    state.insert(
        "codes",
        code=code,
        client_id=asked["client_id"],
        user_id=user_id,
        uri=asked["redirect_uri"],
        scopes=asked.get("scope", ""),
        challenge=asked.get("code_challenge", ""),
        expires=state.time() + CODE_SECONDS,
    )
    more = {"code": code, "state": asked.get("state", "")}
    return redirect(f"{asked['redirect_uri']}?{urlencode(more)}")


def agree(state: State, client_id: str, user_id: int) -> None:
    """Note that somebody lets an application know who they are."""
    with state.write() as db:
        db.execute("INSERT OR IGNORE INTO consents VALUES (?, ?)", (client_id, user_id))


def spend(state: State, form: Mapping[str, str]) -> tuple[int, str] | None:
    """Whose code this is, and for what; a code that was asked for with a secret needs it."""
    code = form.get("code", "")
    row = state.one("SELECT * FROM codes WHERE code = ?", (code,))
    good = (
        bool(row)
        and row["client_id"] == form.get("client_id")
        and row["uri"] == form.get("redirect_uri")
        and row["expires"] > state.time()
        and (not row["challenge"] or row["challenge"] == _challenge(form.get("code_verifier", "")))
    )
    if not good:
        return None
    with state.write() as db:
        db.execute("DELETE FROM codes WHERE code = ?", (code,))
    return row["user_id"], row["scopes"]


def _challenge(verifier: str) -> str:
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def form(csrf: str) -> Response:
    """Where a person signs in."""
    head = PAGE.format("Sign in", '<meta name="viewport" content="width=device-width">')
    return _page(
        f'{head}</head><body><form method="post" action="/users/sign_in">'
        f'<input type="hidden" name="authenticity_token" value="{escape(csrf)}">'
        '<input name="login" aria-label="login"><input name="password" type="password" '
        'aria-label="password"><button>Sign in</button></form></body></html>'
    )


def signed_in(state: State, by_password: Callable[..., Row | None]) -> Any:
    """A person signs in by that form, and goes on to where they were going."""
    given = request.form
    user = by_password(state, given.get("login"), given.get("password"))
    if not user or given.get("authenticity_token") != session.get("csrf", ""):
        return redirect("/users/sign_in")
    session["user_id"] = user["id"]
    return redirect(session.pop("return_to", "/"))
