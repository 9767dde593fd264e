"""The web port of ``zoo-bridge serve``: health and metrics, and the console's pages."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from zoo_bridge.config.tables import Serve
from zoo_bridge.errors import SettingsError
from zoo_bridge.redact import redact_all
from zoo_bridge.service.watching import metrics
from zoo_bridge.service.watching.health import STALE_SECONDS, readiness
from zoo_bridge.trouble import unexpected

if TYPE_CHECKING:
    from zoo_bridge.service.serving.service import Workflow

START_SECONDS = 20.0
# Served workflows, and the application without pages: the one with them, and what ends it.
Pages = Callable[[Sequence[Any], Starlette], tuple[ASGIApp, Callable[[], None]]]


class Web:
    """Answers at an address while the block runs.

    Parameters
    ----------
    config : Serve
        Where it listens.
    served : sequence of Workflow
        Those that are told of.
    pages : callable, optional
        Makes the pages beside health and metrics, and what is to be called at the end: see
        `zoo_bridge.console.serving`.

    Raises
    ------
    SettingsError
        If the address cannot be listened at.
    """

    def __init__(
        self, config: Serve, served: Sequence[Workflow], pages: Pages | None = None
    ) -> None:
        self._socket = _listen(config)
        host, port = self._socket.getsockname()[:2]
        self.address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        base = make_app(served)
        app: ASGIApp = base
        self._close: Callable[[], None] = lambda: None
        if pages is not None:
            app, self._close = pages(served, base)
        # What it would log of itself is not of runs; and whom to believe about addresses is said by
        # the settings: left to itself it believes everything on this machine.
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                proxy_headers=False,
                timeout_keep_alive=60,
            )
        )
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), daemon=True
        )

    def __enter__(self) -> Web:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(START_SECONDS)
        self._socket.close()
        self._close()


def make_app(served: Sequence[Workflow]) -> Starlette:
    """The pages.

    Parameters
    ----------
    served : sequence of Workflow
        Those that are told of.

    Returns
    -------
    Starlette
        ``/healthz`` says whether the process lives, and how the loops are; its status tells of the
        first alone: whoever asks restarts what does not live. ``/healthz/ready`` has the status 503
        while a loop does not do what it should.
    """

    # Whoever looks at pages must not keep a probe waiting: it would be taken for dead.
    own = anyio.CapacityLimiter(4)

    async def healthz(request: Request) -> Response:
        def look() -> Response:
            return _health(served, lambda live, ready: live)

        return await anyio.to_thread.run_sync(look, limiter=own)

    async def ready(request: Request) -> Response:
        def look() -> Response:
            return _health(served, lambda live, ready: live and ready)

        return await anyio.to_thread.run_sync(look, limiter=own)

    async def numbers(request: Request) -> Response:
        return await anyio.to_thread.run_sync(_metrics, limiter=own)

    def _metrics() -> Response:
        try:
            text = metrics.as_text([(each.settings, each.ledger) for each in served])
        except Exception as error:
            return Response(unexpected(error, "metrics").message, 503, media_type="text/plain")
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/healthz/ready", ready),
            Route("/metrics", numbers),
        ]
    )


def _health(served: Sequence[Workflow], is_well: Callable[[bool, bool], bool]) -> Response:
    told = []
    for each in served:
        facts: dict[str, Any] = {
            "state": each.state,
            "live": each.is_alive and each.heartbeat.age < STALE_SECONDS,
        }
        try:
            facts |= readiness(each.settings, each.ledger)
        except Exception as error:
            # The ledger cannot be read: that is no life.
            known = unexpected(error, "health")
            facts |= {"live": False, "ready": False, "trouble": known.message}
        told.append(facts)
    live, ready = (all(facts[name] for facts in told) for name in ("live", "ready"))
    status = 200 if is_well(live, ready) else 503
    body = redact_all({"live": live, "ready": ready, "workflows": told})
    return JSONResponse(body, status, headers={"Cache-Control": "no-store"})


def _listen(config: Serve) -> socket.socket:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, proto)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(128)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise SettingsError(
            f"Port {config.port} of {config.host} cannot be listened at: {error.strerror}.",
            "Set another with [serve] port (0: any that is free); is zoo-bridge serve running "
            "already?",
        ) from None
    return listening
