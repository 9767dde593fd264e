"""The console as ``zoo-bridge serve`` takes it: pages beside health and metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp

from zoo_bridge.config.tables import Console
from zoo_bridge.console.app import guarded, make_console, not_found, static_files
from zoo_bridge.service.serving.web import Pages


def pages_of(config: Console) -> Pages:
    """What makes the pages.

    Parameters
    ----------
    config : Console
        Who may see them.

    Returns
    -------
    callable
        As `zoo_bridge.service.serving.web.Web` takes it.
    """

    def pages(served: Sequence[Any], base: Starlette) -> tuple[ASGIApp, Callable[[], None]]:
        site, routes = make_console(served, config)
        app = Starlette(
            routes=[*base.routes, Mount("/static", static_files()), *routes],
            exception_handlers={404: not_found(site), 405: not_found(site)},
        )
        return guarded(app, site), site.close

    return pages
