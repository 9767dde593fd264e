"""Signing in with Zooniverse on other sites: answered as the real server was recorded."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import pytest
import requests

from tests.sandbox.replay import load
from zoo_bridge.sandbox import contract
from zoo_bridge.sandbox.server import Sandbox
from zoo_bridge.sandbox.world import Plan

SCENE = "sign in with Zooniverse"
BACK = "http://localhost:8080/callback"
APP, SECRET = "application-of-a-console", "its-secret-of-some-length"
VERIFIER = "v" * 60
API = {"Accept": "application/vnd.api+json; version=1"}


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Sandbox]:
    with Sandbox(tmp_path / "sandbox", Plan(contract=True)) as box:
        owner = box.state.one("SELECT id FROM users WHERE login = 'owner'")["id"]
        box.state.add_application(APP, SECRET, owner, "public user project")
        box.state.add_redirect(APP, BACK)
        # One that has no secret: nobody trusts it with people.
        box.state.add_application("no-trust")
        yield box


def challenge() -> str:
    digest = hashlib.sha256(VERIFIER.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def filled(row: dict[str, Any]) -> str:
    """A recorded address, with what was masked."""
    path, _, query = row["path"].partition("?")
    asked = dict(parse_qsl(query))
    if "code_challenge" in asked:
        asked["code_challenge"] = challenge()
    if "client_id" in asked:
        unknown = "unknown application" in row["name"]
        asked["client_id"] = "nobody" if unknown else APP
        if "no trust" in row["name"]:
            asked["client_id"] = "no-trust"
    return f"{path}?{urlencode(asked)}" if asked else path


def form_of(row: dict[str, Any], known: dict[str, str]) -> dict[str, str]:
    """A recorded form, the same way."""
    name, form = row["name"], dict(row["body"])
    masked = {
        "client_id": "no-trust" if "no trust" in name else APP,
        "client_secret": "no" if "wrong secret" in name else SECRET,
        "password": contract.PASSWORDS["owner"],
        "code": known.get("code", ""),
        "code_verifier": "w" * 60 if "wrong verifier" in name else VERIFIER,
        "token": known.get("token", ""),
    }
    return {key: masked.get(key, value) for key, value in form.items()}


def test_every_step_is_answered_as_recorded(box: Sandbox) -> None:
    rows = [row for row in load("oauth.jsonl") if row["scene"] == SCENE]
    assert len(rows) == 23
    base, browser = box.urls["panoptes"], requests.Session()
    known: dict[str, str] = {}
    csrf = ""
    wrong = []
    for row in rows:
        path = filled(row)
        headers = {"Accept": row["headers"].get("Accept", "*/*")}
        if path.startswith(("/oauth/token", "/oauth/revoke")):
            answer = browser.post(base + path, data=form_of(row, known), headers=headers)
        elif path.startswith("/users/sign_in") and row["method"] == "POST":
            user = {"login": "owner", "password": contract.PASSWORDS["owner"]}
            body = {"authenticity_token": csrf, "user": user}
            answer = browser.post(base + path, json=body, headers=headers)
        elif path.startswith(("/oauth/", "/users/")):
            answer = browser.get(base + path, headers=headers, allow_redirects=False)
            csrf = answer.headers.get("X-CSRF-Token", csrf)
        else:
            headers |= {"Authorization": f"Bearer {known.get('token', '')}"}
            answer = browser.get(f"{base}/api{path}", headers=headers)
        if answer.status_code != row["status"]:
            wrong.append(f"{row['name']}: {row['status']} expected, {answer.status_code} found")
        expected = row["answer_headers"].get("location")
        if expected and urlsplit(expected).path != urlsplit(answer.headers["Location"]).path:
            wrong.append(f"{row['name']}: to {answer.headers['Location']}")
        if expected and "code=" in expected:
            back = parse_qs(urlsplit(answer.headers["Location"]).query)
            assert back["state"] == ["xyz"]
            known["code"] = back["code"][0]
        if isinstance(row["answer"], dict) and ("error" in row["answer"]):
            assert answer.json() == row["answer"], row["name"]
        if row["name"] == "code":
            assert set(answer.json()) == set(row["answer"])
            assert answer.json()["scope"] == row["answer"]["scope"]
            known["token"] = answer.json()["access_token"]
        if row["name"] == "roles of mine":
            (found,), (there,) = answer.json()["project_roles"], row["answer"]["project_roles"]
            assert (found["roles"], found["links"]) == (there["roles"], there["links"])
    assert wrong == []


def test_a_person_agrees_on_a_page_and_comes_back(box: Sandbox) -> None:
    base, browser = box.urls["panoptes"], requests.Session()
    asked = {
        "client_id": APP,
        "redirect_uri": BACK,
        "response_type": "code",
        "state": "abc",
        "scope": "public user project",
        "code_challenge": challenge(),
        "code_challenge_method": "S256",
    }
    html = {"Accept": "text/html"}
    page = browser.get(f"{base}/oauth/authorize?{urlencode(asked)}", headers=html)
    token = re.search(r'name="authenticity_token" value="([^"]+)"', page.text)
    assert token is not None
    form = {"authenticity_token": token[1], "login": "volunteer"}
    form["password"] = contract.PASSWORDS["volunteer"]
    page = browser.post(f"{base}/users/sign_in", data=form, headers=html)
    assert "Authorize" in page.text
    answer = browser.post(
        f"{base}/oauth/authorize", data={**asked, "answer": "yes"}, allow_redirects=False
    )
    assert answer.headers["Location"].startswith(f"{BACK}?code=")
