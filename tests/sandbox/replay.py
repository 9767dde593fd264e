"""Putting recorded calls to a sandbox, and holding its answers against the recorded ones.

The sandbox's clock stands where the recording's stood, so that times, the server's cache and its
lagging counts can be compared. What differs by nature (tokens, ETags, the names of files) is
carried over from one to the other as it comes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import requests

from zoo_bridge.sandbox import contract
from zoo_bridge.sandbox.server import Sandbox

RECORDINGS = Path(__file__).parent / "recordings"
TELLING = ("etag", "last-modified", "location", "www-authenticate")
CHANGING = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z|https?://[^\s\"]+|[0-9a-f]{8}-[0-9a-f-]{27}|\d+")
FILE = re.compile(r"/(public|private)/[a-z_]+/([0-9a-f-]+\.[a-z]+)")
# What zoo_bridge, or anybody else, decides by: these are compared as they are.
VALUES = {
    "set_member_subjects_count",
    "subjects_count",
    "retired_set_member_subjects_count",
    "uploaded_subjects_count",
    "subject_limit",
    "upload_whitelist",
    "roles",
    "retirement_reason",
    "seen_before",
    "version",
    "display_name",
    "subject_sets",
    "workflows",
    "next_href",
    "count",
    "page_count",
    "value",
    "private",
    "live",
    "scope",
    "expires_in",
    "token_type",
    "content_type",
    "media_type",
    "href",
}
# Its own number tells which object it is, and so the order of lists.
NUMBERED = {
    "subjects",
    "subject_sets",
    "workflows",
    "projects",
    "classifications",
    "subject_workflow_statuses",
    "media",
}


def load(name: str) -> list[dict[str, Any]]:
    """A recording."""
    with (RECORDINGS / name).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@dataclass
class Replay:
    """One sandbox that is asked what the real server was asked."""

    box: Sandbox
    tokens: dict[str, dict[str, str]] = field(default_factory=dict)
    who: str | None = "owner"
    sessions: dict[str, requests.Session] = field(default_factory=dict)
    csrf: str = ""
    # From the recording to the sandbox: ETags, names of files; and what was last seen of an object.
    etags: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    seen: dict[tuple[str, str], tuple[Any, Any]] = field(default_factory=dict)

    def control(self, path: str, **body: Any) -> None:
        """Use one of the sandbox's own addresses."""
        url = f"{self.box.urls['panoptes']}/sandbox/{path}"
        requests.post(url, json=body, timeout=10).raise_for_status()

    def go_to(self, row: dict[str, Any]) -> None:
        """Set the clock to when the recorded answer was made, as far as it tells."""
        if (moment := moment_of(row)) is not None and moment > self.box.state.time():
            self.box.state.advance(0)
            self.box.state.stop_clock(moment)
            self.box.state.advance(0)

    def log_in(self, login: str, password: str | None = None) -> None:
        """A token for somebody, for the calls that follow."""
        form = {
            "grant_type": "password",
            "login": login,
            "password": password or contract.PASSWORDS[login],
            "client_id": contract.PASSWORD_APPLICATIONS[0],
        }
        url = f"{self.box.urls['panoptes']}/oauth/token"
        self.tokens[login] = requests.post(url, data=form, timeout=10).json()

    def ask(self, row: dict[str, Any]) -> requests.Response:
        """Send a recorded call."""
        self.go_to(row)
        headers = dict(row["headers"])
        path, body, form = row["path"], row["body"], None
        if "Authorization" in headers:
            token = "nonsense" if row["name"].startswith("bad token") else self._token(row)
            headers["Authorization"] = f"Bearer {token}"
        for name in headers:
            if name.lower() == "if-match":
                headers[name] = self.etags.get(headers[name], headers[name])
        # requests adds headers that the recorded calls did not have.
        headers.setdefault("Accept", None)
        base = self.box.urls["panoptes"]
        if path.startswith(("/users/", "/oauth/")):
            return self._sign(row, base + path, headers)
        url = self._blob(row) if path.startswith("https://") else f"{base}/api{path}"
        data: Any = None
        if isinstance(body, str):
            data = body.encode("utf-8", "replace") if not body.startswith("{") else body
        elif body is not None:
            data = json.dumps(body)
        return requests.request(row["method"], url, data=data or form, headers=headers, timeout=30)

    def _token(self, row: dict[str, Any]) -> str:
        who = "application" if row["name"] == "me by client credentials" else self.who or "owner"
        return self.tokens[who]["access_token"]

    def _sign(self, row: dict[str, Any], url: str, headers: dict[str, str]) -> requests.Response:
        """Signing in: what was masked in the recording is filled in."""
        name, given = row["name"], row["body"] or {}
        who = "volunteer" if name.startswith("stranger") else "owner"
        session = self.sessions.setdefault(who, requests.Session())
        if "wrong password" in name or "not signed in" in name or name.startswith("by wrong"):
            session = requests.Session()
        if row["method"] == "GET":
            answer = session.get(url, headers=headers, timeout=10)
            self.csrf = answer.headers["X-CSRF-Token"]
            self.sessions["last"] = session
            return answer
        if url.endswith("/users/sign_in"):
            session = self.sessions["last"]
            password = contract.PASSWORDS[given["user"]["login"]]
            user = {
                **given["user"],
                "password": "no" if "wrong password" in name else password,
            }
            return session.post(
                url,
                json={"authenticity_token": self.csrf, "user": user},
                headers=headers,
                timeout=10,
            )
        form = dict(given)
        secret = given.get("grant_type") == "client_credentials"
        unknown = name == "unknown client"
        form["client_id"] = contract.CLIENT_ID if secret else contract.PASSWORD_APPLICATIONS[0]
        if unknown:
            form["client_id"] = "nobody"
        if secret:
            form["client_secret"] = "no" if "wrong" in name else contract.CLIENT_SECRET
        if "password" in given:
            right = contract.PASSWORDS[given["login"]]
            form["password"] = "no" if "wrong" in name else right
        if "refresh_token" in given:
            known = self.tokens.get(self.who or "owner", {}).get("refresh_token", "")
            form["refresh_token"] = "nonsense" if "nonsense" in name else known
        answer = session.post(url, data=form, headers=headers, timeout=10)
        if answer.ok and "refresh" not in name and "not signed in" not in name:
            self.tokens["application" if secret else who] = answer.json()
        return answer

    def _blob(self, row: dict[str, Any]) -> str:
        """The sandbox's address of what was a file of the recorded server."""
        path = row["path"]
        ours = self.addresses[FILE.search(path)[2]]  # type: ignore[index]
        if "bad signature" in row["name"]:
            return re.sub("sig=[^&]+", "sig=AAAA", ours)
        return ours if "?" in path else ours.partition("?")[0]

    def differences(self, row: dict[str, Any], answer: requests.Response) -> list[str]:
        """How an answer differs from the recorded one; and remember what both told."""
        found = parsed(answer)
        expected = row.get("answer")
        if row["status"] != answer.status_code:
            return [f"status {row['status']} expected, {answer.status_code} found: {found}"]
        if "/queued" in row.get("path", "") and found:
            # Volunteers are served in no order.
            expected, found = (in_order(each) for each in (expected, found))
        lines = list(compare(plain(expected), plain(found), ""))
        recorded = row.get("answer_headers", {})
        signing = row.get("path", "").startswith(("/users/", "/oauth/"))
        for name in TELLING:
            if (name in recorded) != (name in answer.headers) and not (
                signing and name in ("etag", "last-modified")
            ):
                lines.append(f"header {name}: {name in recorded} there, {name in answer.headers}")
        there = recorded.get("content-type", "").split(";")[0]
        here = answer.headers.get("Content-Type", "").split(";")[0]
        if there != here:
            lines.append(f"content type {there!r} expected, {here!r} found")
        lines += self._moved(row, expected, answer, found)
        return lines

    def _moved(
        self, row: dict[str, Any], expected: Any, answer: requests.Response, found: Any
    ) -> Iterator[str]:
        """Whether times, ETags and files moved where the recorded ones did."""
        pairs: list[tuple[str, str, Any, Any]] = []
        recorded = row.get("answer_headers", {})
        if "etag" in recorded and "ETag" in answer.headers:
            self.etags[recorded["etag"]] = answer.headers["ETag"]
        where = FILE.search(row.get("path", ""))
        place = row.get("path", "") if where is None else where[2]
        if row.get("method") == "GET" or where:
            pairs.append(("ETag of", place, recorded.get("etag"), answer.headers.get("ETag")))
        changed = row.get("method") in ("POST", "PUT") and not where
        if changed and "last-modified" in recorded:
            pairs.append(
                (
                    "Last-Modified of",
                    place.partition("/links")[0],
                    recorded["last-modified"],
                    answer.headers.get("Last-Modified"),
                )
            )
        for theirs, ours in both(expected, found):
            if "updated_at" in theirs and "id" in theirs:
                name = str(theirs.get("href") or theirs["id"])
                pairs.append(("updated_at of", name, theirs["updated_at"], ours.get("updated_at")))
        for kind, name, theirs, ours in pairs:
            if theirs is None or ours is None:
                continue
            before = self.seen.get((kind, name))
            self.seen[kind, name] = (theirs, ours)
            if before and (before[0] != theirs) != (before[1] != ours):
                yield f"{kind} {name} moved: {before[0] != theirs} there, {before[1] != ours} here"
        yield from self._files(expected, found)

    def _files(self, expected: Any, found: Any) -> Iterator[str]:
        for theirs, ours in zip(addresses(expected), addresses(found), strict=False):
            there, here = FILE.search(theirs), FILE.search(ours)
            if (there is None) != (here is None):
                yield f"address {theirs} there, {ours} here"
            if there is None or here is None:
                continue
            known = self.files.setdefault(there[2], here[2])
            if known != here[2] or list(self.files.values()).count(here[2]) > 1:
                yield f"the file of {theirs} is another one here"
            if "sig=" in ours or there[2] not in self.addresses:
                self.addresses[there[2]] = ours
            if ("sig=" in theirs) != ("sig=" in ours):
                yield f"signed: {'sig=' in theirs} there, {'sig=' in ours} here"


def moment_of(row: dict[str, Any]) -> float | None:
    """When a recorded answer was made, at the earliest: the newest time in it."""
    found = [
        datetime.fromisoformat(text).timestamp()
        for text in re.findall(
            r'"(?:created|updated|selected)_at": "([^"]+)"', json.dumps(row.get("answer"))
        )
    ]
    if date := row.get("answer_headers", {}).get("date"):
        found.append(parsedate_to_datetime(date).timestamp())
    return max(found, default=None)


def parsed(answer: requests.Response) -> Any:
    """The body as the recording has it."""
    if not answer.content:
        return None
    try:
        return answer.json()
    except ValueError:
        return answer.content.decode("utf-8", "replace")[:120]


def in_order(value: dict[str, Any]) -> dict[str, Any]:
    """An answer whose subjects come in no order, without telling which they are."""
    rows = [{**each, "id": "1", "href": ""} for each in value["subjects"]]
    return {**value, "subjects": [{**each, "updated_at": ""} for each in rows]}


def plain(value: Any) -> Any:
    """Without the templates of links, which nobody reads."""
    if isinstance(value, dict):
        return {key: each for key, each in value.items() if key != "links"}
    return value


def compare(real: Any, ours: Any, where: str) -> Iterator[str]:
    """Lines that say how one value differs from the other."""
    if kind(real) != kind(ours):
        yield f"{where or 'body'}: {kind(real)} expected, {kind(ours)} found"
    elif isinstance(real, dict):
        for key in sorted(real.keys() - ours.keys()):
            yield f"{where}.{key}: missing"
        for key in sorted(ours.keys() - real.keys()):
            yield f"{where}.{key}: the real server has no such key"
        for key in sorted(real.keys() & ours.keys()):
            yield from compare(real[key], ours[key], f"{where}.{key}")
    elif isinstance(real, list):
        if len(real) != len(ours):
            yield f"{where}: {len(real)} items expected, {len(ours)} found"
        for index, (one, other) in enumerate(zip(real, ours, strict=False)):
            yield from compare(one, other, f"{where}[{index}]")
    elif isinstance(real, str) and where.endswith((".message", ".error", ".error_description")):
        if CHANGING.sub("#", real) != CHANGING.sub("#", ours):
            yield f"{where}: {real!r} expected, {ours!r} found"
    elif real != ours and matters(where):
        yield f"{where}: {real!r} expected, {ours!r} found"


def matters(where: str) -> bool:
    """Whether a value counts, or only its type."""
    name = re.sub(r"\[\d+\]", "", where).rpartition(".")[2]
    if where.endswith((".metadata.state", ".projects[0].state")):
        return True
    if name == "id":
        return re.sub(r"\[\d+\]", "", where)[1:].split(".")[0] in NUMBERED
    return name in VALUES and ".media[0].href" not in where


def kind(value: Any) -> str:
    """The JSON type of a value."""
    names = {bool: "boolean", int: "number", float: "number", str: "text"}
    return names.get(type(value), {list: "list", dict: "object"}.get(type(value), "null"))


def both(real: Any, ours: Any) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Objects of an answer, side by side."""
    if isinstance(real, dict) and isinstance(ours, dict):
        yield real, ours
        for key in real.keys() & ours.keys():
            yield from both(real[key], ours[key])
    elif isinstance(real, list) and isinstance(ours, list):
        for one, other in zip(real, ours, strict=False):
            yield from both(one, other)


def addresses(value: Any) -> Iterator[str]:
    """Every address of a file in an answer, in order."""
    if isinstance(value, dict):
        for key in sorted(value):
            yield from addresses(value[key])
    elif isinstance(value, list):
        for item in value:
            yield from addresses(item)
    elif isinstance(value, str) and value.startswith("http"):
        yield value


def stamp(text: str) -> float:
    """A time of a recording in seconds since 1970."""
    return datetime.fromisoformat(text).astimezone(UTC).timestamp()
