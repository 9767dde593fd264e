"""The sandbox's servers: Panoptes, its blob store and S3, each on a port of loopback.

Ports are kept in the folder, so that a sandbox that starts again has the same addresses.
"""

from __future__ import annotations

import json
import logging
import os
import random
import socket
import threading
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any, Self

from zoo_bridge.errors import SettingsError
from zoo_bridge.files import write_json
from zoo_bridge.progress import Progress
from zoo_bridge.sandbox import control, media, panoptes, world
from zoo_bridge.sandbox.exports import Exports
from zoo_bridge.sandbox.parts import Parts
from zoo_bridge.sandbox.state import State
from zoo_bridge.sandbox.volunteers import Crowd, Volunteers

HOST = "127.0.0.1"
NAMES = ("panoptes", "media", "s3")
PORTS = range(15_000, 32_000)
REBIND_ATTEMPTS = 20


class Sandbox:
    """One sandbox: made if its folder is new, taken up again if it is not.

    Parameters
    ----------
    folder : Path
        Where everything about it lies.
    plan : Plan
        What a new one is filled with.
    progress : Progress, optional
        To tell how far the filling is.
    export_seconds : float
        How long an export takes.
    crowd : Crowd, optional
        Simulated volunteers; without them nobody votes.
    """

    def __init__(
        self,
        folder: Path,
        plan: world.Plan,
        progress: Progress | None = None,
        export_seconds: float = 0.5,
        crowd: Crowd | None = None,
    ) -> None:
        self.folder = folder.resolve()
        self.plan = plan
        world.build(self.folder, plan, progress or Progress())
        self.state = State(self.folder / "panoptes")
        self._sockets = _listen(self.folder / "ports.json")
        self.urls = {
            name: f"http://{HOST}:{sock.getsockname()[1]}" for name, sock in self._sockets.items()
        }
        self.media = media.Media(self.state, self.urls["media"])
        self.parts = Parts(self.state, self.media)
        self.exports = Exports(self.parts, export_seconds)
        # Nothing that is due now is left to be done after the clock was put forward.
        self.state.before_advance = [self.exports.work, self.parts.workers.run]
        truth = json.loads((self.folder / "survey" / "truth.json").read_text())
        self.volunteers = Volunteers(self.parts.workers, truth, plan.seed, crowd)
        self._servers: list[Any] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Serve, in threads of this process."""
        from moto.server import DomainDispatcherApplication, create_backend_app

        api = panoptes.create_app(self.parts, self.exports)
        control.install(api, self.parts, self.volunteers)
        blobs = media.create_app(self.state, self.media, self.exports.work)
        self._fill_bucket()
        s3 = DomainDispatcherApplication(create_backend_app)
        for name, app in zip(NAMES, (api, blobs, s3), strict=True):
            self._serve(name, app)

    def stop(self) -> None:
        """Stop serving; everything but the bucket's objects is on disk, and they are read anew."""
        for server in self._servers:
            server.shutdown()
            server.server_close()
        for sock in self._sockets.values():
            sock.close()
        self._servers = []

    def settings(self, folder: Path | None = None, **changes: Any) -> Path:
        """Write the settings file for this sandbox; see `world.write_settings`."""
        return world.write_settings(
            folder or self.folder, self.plan, self.urls["panoptes"], self.urls["s3"], **changes
        )

    def add_fault(self, rule: dict[str, Any]) -> None:
        """Make the servers fail by a rule: see `faults`."""
        self.state.insert("faults", rule=json.dumps(rule))

    def _serve(self, name: str, app: Any) -> None:
        from moto.server import MotoRequestHandler
        from werkzeug.serving import WSGIRequestHandler, make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        state = self.state

        class OnSandboxTime(WSGIRequestHandler):
            """Says what time it is in the sandbox; the API says nothing of it, as the real one."""

            def date_time_string(self, timestamp: float | None = None) -> str:
                return formatdate(state.time() if timestamp is None else timestamp, usegmt=True)

            def send_header(self, keyword: str, value: str) -> None:
                if name != "panoptes" or keyword != "Date":
                    super().send_header(keyword, value)

        handler = MotoRequestHandler if name == "s3" else OnSandboxTime
        sock = self._sockets[name]
        port = sock.getsockname()[1]
        server = make_server(
            HOST, port, app, threaded=True, request_handler=handler, fd=sock.fileno()
        )
        server.daemon_threads = True  # type: ignore[attr-defined]
        self._servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def _fill_bucket(self) -> None:
        """Put the survey's files into S3. Moto keeps objects in memory: they come from disk."""
        from moto.core import DEFAULT_ACCOUNT_ID
        from moto.s3.models import s3_backends

        os.environ.setdefault("MOTO_S3_DEFAULT_KEY_BUFFER_SIZE", str(2**20))
        backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
        if self.plan.bucket not in backend.buckets:
            backend.create_bucket(self.plan.bucket, "us-east-1")
        survey = self.folder / "survey"
        for path in sorted(survey.rglob("*")):
            if path.is_file() and path.suffix != ".json":
                key = path.relative_to(survey).as_posix()
                backend.put_object(self.plan.bucket, key, path.read_bytes())


def _listen(path: Path) -> dict[str, socket.socket]:
    """A listening socket for each server: on last time's ports, or on free ones."""
    known = json.loads(path.read_text()) if path.exists() else {}
    sockets = {}
    for name in NAMES:
        try:
            sockets[name] = _bind_again(known[name]) if name in known else _bind_anywhere()
        except OSError as error:
            for sock in sockets.values():
                sock.close()
            raise SettingsError(
                f"Port {known.get(name)} of the sandbox in {path.parent} is taken: {error}.",
                f"Is it running already? If not, remove {path} to have other ports.",
            ) from None
    write_json(path, {name: sock.getsockname()[1] for name, sock in sockets.items()})
    return sockets


def _bind(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((HOST, port))
        sock.listen(128)
    except OSError:
        sock.close()
        raise
    return sock


def _bind_again(port: int) -> socket.socket:
    """A port that was ours before: one that has just been let go may take a moment to be free."""
    for _ in range(REBIND_ATTEMPTS):
        try:
            return _bind(port)
        except OSError:
            time.sleep(0.1)
    return _bind(port)


def _bind_anywhere() -> socket.socket:
    """A free port below those that the system hands to clients: free next time as well."""
    for port in random.SystemRandom().sample(PORTS, 50):
        try:
            return _bind(port)
        except OSError:
            continue
    return _bind(0)
