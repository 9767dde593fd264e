"""The sandbox's blob store, on a port of its own: signed addresses to PUT to, public to GET."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flask import Flask, Response, request, send_file

from zoo_bridge.sandbox import faults
from zoo_bridge.sandbox.state import State

SIGNED_SECONDS = 5 * 60
EXTENSIONS = {
    "image/jpeg": "jpeg",
    "image/png": "png",
    "image/gif": "gif",
    "image/svg+xml": "svg",
    "audio/mpeg": "mpga",
    "video/mpeg": "mpeg",
    "audio/mp4": "m4a",
    "video/mp4": "mp4",
    "text/plain": "txt",
    "application/json": "json",
}
_XML = (
    '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n<Error>\n  <Code>{}</Code>\n</Error>'
)


class Media:
    """Addresses of one blob store.

    Parameters
    ----------
    state : State
        The sandbox's database and clock.
    base : str
        Such as ``http://127.0.0.1:3001``.
    """

    def __init__(self, state: State, base: str) -> None:
        self.state = state
        self.base = base

    def new_path(self, mime: str) -> str:
        """A name for a new file of a subject."""
        name = f"{uuid.uuid4()}.{EXTENSIONS[mime]}"
        self.state.insert("media", name=name, mime=mime)
        return f"public/subject_location/{name}"

    def new_external(self, mime: str) -> None:
        """A file that lies elsewhere has a number all the same."""
        self.state.insert("media", name=str(uuid.uuid4()), mime=mime)

    def new_export(self, kind: str, shown_as: str) -> tuple[int, str]:
        """A number and a name for the file of an export, which has them before it is written."""
        name = f"{uuid.uuid4()}.csv"
        ident = self.state.insert("media", name=name, mime="text/csv", shown_as=shown_as)
        return ident, f"private/{kind}/{name}"

    def written(self, path: str, at: float | None = None) -> None:
        """Note that a file was written: now, if not at another time."""
        with self.state.write() as db:
            db.execute(
                "UPDATE media SET written_at = ?, etag = ? WHERE name = ?",
                (
                    self.state.time() if at is None else at,
                    secrets.token_hex(8).upper(),
                    path.rpartition("/")[2],
                ),
            )

    def locations(self, row: dict[str, Any], upload: bool) -> list[dict[str, str]]:
        """Where a subject's files are, or are to be PUT."""

        def address(item: dict[str, str]) -> str:
            if "url" in item:
                return item["url"]
            return self.to_put(item["path"], item["mime"]) if upload else self.public(item["path"])

        return [{item["mime"]: address(item)} for item in json.loads(row["locations"])]

    def to_put(self, path: str, mime: str) -> str:
        """An address that is good for a PUT, for a while."""
        return self._signed(path, "cw", f"&rsct={quote(mime, safe='')}")

    def to_get(self, path: str) -> str:
        """An address of a private file that is good for a GET, for a while."""
        return self._signed(path, "r", "")

    def public(self, path: str) -> str:
        """The address that everybody may read."""
        return f"{self.base}/{path}"

    def allows(self, path: str, right: str) -> bool:
        """Whether the current request carries a signature that is good now."""
        until = request.args.get("se", "")
        good = hmac.compare_digest(self._signature(path, right, until), request.args.get("sig", ""))
        try:
            return good and datetime.fromisoformat(until).timestamp() >= self.state.time()
        except ValueError:
            return False

    def _signed(self, path: str, right: str, more: str) -> str:
        moment = datetime.fromtimestamp(self.state.time() + SIGNED_SECONDS, UTC)
        until = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
        signature = self._signature(path, right, until)
        return (
            f"{self.base}/{path}?sp={right}&sv=2018-11-09&se={quote(until, safe='')}{more}"
            f"&sr=b&sig={signature}"
        )

    def _signature(self, path: str, right: str, until: str) -> str:
        text = f"{right}\n{path}\n{until}".encode()
        return hmac.new(self.state.secret.encode(), text, hashlib.sha256).hexdigest()


def create_app(state: State, media: Media, work: Callable[[], None]) -> Flask:
    """The blob store as a Flask application.

    Parameters
    ----------
    state : State
        The sandbox's database and clock.
    media : Media
        Gives out addresses, and knows which have ended.
    work : callable
        Writes the files of exports that are due.
    """
    app = Flask("zoo_bridge.sandbox.media")
    faults.install(app, state, "media")
    app.before_request(work)

    @app.put("/public/subject_location/<name>")
    def put(name: str) -> Response:
        path = f"public/subject_location/{name}"
        if not media.allows(path, "cw"):
            return _refused(403, "AuthorizationFailure")
        if request.headers.get("x-ms-blob-type") != "BlockBlob":
            return _bare(400)
        target = state.folder / "media" / name
        scratch = target.with_suffix(f".{secrets.token_hex(4)}")
        scratch.write_bytes(request.get_data())
        scratch.replace(target)
        media.written(path)
        response = _bare(201)
        response.headers.update(_telling(state, name))
        return response

    @app.get("/public/subject_location/<name>")
    def get(name: str) -> Response:
        return _file(state, state.folder / "media" / name, name)

    @app.get("/private/<kind>/<name>")
    def export(kind: str, name: str) -> Response:
        if not media.allows(f"private/{kind}/{name}", "r"):
            return _refused(403, "AuthorizationFailure")
        response = _file(state, state.folder / "exports" / name, name)
        if response.status_code in (200, 206):
            row = state.one("SELECT shown_as FROM media WHERE name = ?", (name,))
            response.headers["Content-Encoding"] = "gzip"
            response.headers["Content-Disposition"] = f'attachment; filename="{row["shown_as"]}"'
        return response

    return app


def _file(state: State, path: Path, name: str) -> Response:
    if not path.is_file():
        return _refused(404, "BlobNotFound")
    row = state.one("SELECT mime FROM media WHERE name = ?", (name,))
    told = _telling(state, name)
    # Range is the library's to honour; what the file is, ours to say.
    response = send_file(path.resolve(), mimetype=row["mime"], etag=told["ETag"].strip('"'))
    response.headers.update(told)
    response.headers["Content-Type"] = row["mime"]
    return response


def _telling(state: State, name: str) -> dict[str, str]:
    """ETag and Last-Modified: of when the file was written last, on the sandbox's clock."""
    row = state.one("SELECT written_at, etag FROM media WHERE name = ?", (name,))
    written = formatdate(row["written_at"] or 0.0, usegmt=True)
    return {"ETag": f'"0x{row["etag"]}"', "Last-Modified": written}


def _bare(status: int) -> Response:
    response = Response("", status)
    del response.headers["Content-Type"]
    return response


def _refused(status: int, code: str) -> Response:
    return Response(_XML.format(code), status, content_type="application/xml")
