"""The sandbox's blob store, on a port of its own: signed addresses to PUT to, public to GET."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from pathlib import Path

from flask import Flask, Response, request, send_file

from zoo_bridge.sandbox import faults
from zoo_bridge.sandbox.state import State

SIGNED_SECONDS = 20 * 60
EXPORT_SECONDS = 5 * 60
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


class Media:
    """Addresses of one blob store.

    Parameters
    ----------
    state : State
        The sandbox.
    base : str
        Such as ``http://127.0.0.1:3001``.
    """

    def __init__(self, state: State, base: str) -> None:
        self.state = state
        self.base = base

    def new_path(self, mime: str) -> str:
        """A name for a new file of a type."""
        return f"subject_location/{secrets.token_hex(16)}.{EXTENSIONS[mime]}"

    def signed(self, path: str, verb: str = "PUT", seconds: int = SIGNED_SECONDS) -> str:
        """An address that is good for one verb, for a while."""
        expires = int(self.state.time()) + seconds
        return f"{self.base}/{path}?se={expires}&sig={self._signature(path, verb, expires)}"

    def public(self, path: str) -> str:
        """The address that everybody may read."""
        return f"{self.base}/{path}"

    def allows(self, path: str, verb: str) -> bool:
        """Whether the current request carries a signature that is good now."""
        expires = request.args.get("se", "0")
        if not expires.isdigit() or int(expires) < self.state.time():
            return False
        expected = self._signature(path, verb, int(expires))
        return hmac.compare_digest(expected, request.args.get("sig", ""))

    def _signature(self, path: str, verb: str, expires: int) -> str:
        text = f"{verb}\n{path}\n{expires}".encode()
        return hmac.new(self.state.secret.encode(), text, hashlib.sha256).hexdigest()


def create_app(state: State, media: Media) -> Flask:
    """The blob store as a Flask application."""
    app = Flask("zoo_bridge.sandbox.media")
    faults.install(app, state, "media")

    @app.put("/subject_location/<name>")
    def put(name: str) -> Response:
        path = f"subject_location/{name}"
        if not media.allows(path, "PUT"):
            return Response("<Error><Code>AuthenticationFailed</Code></Error>", 403)
        if request.headers.get("x-ms-blob-type") != "BlockBlob":
            return Response("<Error><Code>MissingRequiredHeader</Code></Error>", 400)
        target = state.folder / "media" / name
        scratch = target.with_suffix(f".{secrets.token_hex(4)}")
        scratch.write_bytes(request.get_data())
        scratch.replace(target)
        return Response("", 201)

    @app.get("/subject_location/<name>")
    def get(name: str) -> Response:
        return _file(state.folder / "media" / name)

    @app.get("/exports/<name>")
    def export(name: str) -> Response:
        if not media.allows(f"exports/{name}", "GET"):
            return Response("<Error><Code>AuthenticationFailed</Code></Error>", 403)
        response = _file(state.folder / "exports" / name)
        if response.status_code in (200, 206):
            response.headers["Content-Type"] = "text/csv"
            response.headers["Content-Encoding"] = "gzip"
        return response

    return app


def _file(path: Path) -> Response:
    if not path.is_file():
        return Response("<Error><Code>BlobNotFound</Code></Error>", 404)
    return send_file(path.resolve())
