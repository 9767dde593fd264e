"""The console's addresses, and what every answer says of itself to browsers."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from zoo_bridge.config.tables import Console
from zoo_bridge.console.pages import (
    audit,
    batches,
    catalogue,
    entrance,
    galaxy,
    models,
    overview,
    runs,
)
from zoo_bridge.console.people import Role
from zoo_bridge.console.places import Served
from zoo_bridge.console.site import Site, Visit

# A script of another page cannot be loaded, nothing is sent elsewhere, nobody frames it. A hub of
# SAMP, which hands tables to TOPCAT and Aladin, listens on the machine of whoever looks.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self' http://localhost:21012 http://127.0.0.1:21012; form-action 'self'{login}; "
    "frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}


class Guarded:
    """Puts on every answer what it does not say itself.

    Parameters
    ----------
    app : ASGI application
        That answers.
    policy : str
        What a page may load, and from where.
    """

    def __init__(self, app: ASGIApp, policy: str) -> None:
        self.app = app
        self.headers = {**HEADERS, "content-security-policy": policy}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                said = {name.lower() for name, _ in message["headers"]}
                more = [
                    (name.encode(), value.encode())
                    for name, value in self.headers.items()
                    if name.encode() not in said
                ]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        await self.app(scope, receive, guarded if scope["type"] == "http" else send)


class Immutable(StaticFiles):
    """Files of ours: kept by browsers for an hour."""

    def file_response(self, *given: Any, **named: Any) -> Response:
        """See `StaticFiles.file_response`."""
        answer = super().file_response(*given, **named)
        answer.headers["Cache-Control"] = "public, max-age=3600"
        return answer


def make_console(served: Sequence[Served], config: Console) -> tuple[Site, list[BaseRoute]]:
    """The console of some workflows.

    Parameters
    ----------
    served : sequence of Served
        The workflows.
    config : Console
        Who may see it.

    Returns
    -------
    tuple of Site, list of Route
        To be closed at the end; and its addresses.
    """
    site = Site(served, config)
    page, act = site.page, site.act

    def show(path: str, handler: Any, **how: Any) -> Route:
        return Route(path, page(handler, **how), methods=["GET"])

    def change(path: str, handler: Any, **how: Any) -> Route:
        return Route(path, act(handler, **how), methods=["POST"])

    w = "/w/{workflow}"
    routes: list[BaseRoute] = [
        show("/", entrance.home),
        show("/login", entrance.log_in_form, open_to_all=True),
        change("/login", entrance.log_in, open_to_all=True),
        change("/logout", entrance.log_out, role=Role.NOBODY),
        show("/login/zooniverse", entrance.to_zooniverse, open_to_all=True),
        show("/login/callback", entrance.from_zooniverse, open_to_all=True),
        show("/lent/{key}/{name}", catalogue.lent, open_to_all=True),
        show(f"{w}/", overview.overview),
        show(f"{w}/running", overview.running),
        show(f"{w}/figures/{{figure}}", models.drawn),
        show(f"{w}/batches", batches.list_batches),
        show(f"{w}/following", batches.follow),
        show(f"{w}/batches/{{batch}}", batches.batch_page),
        show(f"{w}/batches/{{batch}}/galaxies", batches.galaxies),
        show(f"{w}/batches/{{batch}}/strips", batches.strips),
        show(f"{w}/batches/{{batch}}/picture", batches.picture),
        change(f"{w}/batches/{{batch}}/leave-out", batches.leave_out),
        show(f"{w}/batches/{{batch}}/{{what}}", batches.confirm, role=Role.ADMINISTRATOR),
        change(f"{w}/batches/{{batch}}/{{what}}", batches.decide),
        show(f"{w}/galaxy", galaxy.galaxy_page),
        show(f"{w}/galaxy/picture", galaxy.galaxy_picture),
        show(f"{w}/galaxy/posterior", galaxy.posterior),
        show(f"{w}/models", models.list_models),
        show(f"{w}/models/{{version}}", models.model_page),
        show(f"{w}/models/{{version}}/figures/{{figure}}", models.figure),
        change(f"{w}/models/{{what}}", models.decide),
        show(f"{w}/asks", models.asks),
        show(f"{w}/catalogue", catalogue.catalogue_page),
        show(f"{w}/catalogue/moc.fits", catalogue.moc),
        show(f"{w}/catalogue/lend", catalogue.lend),
        show(f"{w}/catalogue/scores.{{kind}}", catalogue.export),
        show(f"{w}/runs", runs.list_runs),
        change(f"{w}/runs", runs.run_job),
        show(f"{w}/runs/{{run}}", runs.run_page),
        show(f"{w}/runs/{{run}}/report", runs.report),
        change(f"{w}/runs/{{run}}/stop", runs.stop),
        change(f"{w}/schedule/{{what}}", runs.on_schedule),
        show(f"{w}/acts/{{act}}", runs.act_page),
        change(f"{w}/acts/{{act}}/stop", runs.stop_act),
        show(f"{w}/audit", audit.audit),
    ]

    def whole(request: Request) -> Response:
        return RedirectResponse(f"{request.url.path}/", 308)

    routes.append(Route(w, whole))
    return site, routes


def static_files() -> Immutable:
    """Styles and scripts."""
    return Immutable(directory=Path(str(files("zoo_bridge.console") / "static")))


def guarded(app: ASGIApp, site: Site) -> ASGIApp:
    """An application whose answers say what browsers may do with them."""
    login = f" {site.sign_in.endpoint}" if site.doors.takes_zooniverse else ""
    return Guarded(app, POLICY.format(login=login))


def not_found(site: Site) -> Any:
    """What is shown where there is nothing."""

    async def absent(request: Request, error: Exception) -> Response:
        def answer(visit: Visit) -> Response:
            return site.sorry(visit, 404, "There is no such page.")

        return await site.page(answer, open_to_all=True)(request)

    return absent
