"""The sandbox's Panoptes: the part of the Zooniverse API that zoo_bridge and panoptes-client use.

What is public on the real server is public here, what needs a log-in or rights needs them, and the
same mistakes get the same answers: a test holds it against what the real server answered.
"""

from __future__ import annotations

from flask import Flask, Response

from zoo_bridge.sandbox import (
    auth,
    classifications,
    exports,
    faults,
    pages,
    reading,
    sets,
    subjects,
    views,
    workflow_links,
)
from zoo_bridge.sandbox.auth import ApiError
from zoo_bridge.sandbox.parts import Parts


def create_app(parts: Parts, made: exports.Exports) -> Flask:
    """The API as a Flask application.

    Parameters
    ----------
    parts : Parts
        What it remembers, and what works for it.
    made : Exports
        The data exports.
    """
    app = Flask("zoo_bridge.sandbox.panoptes")
    app.json.sort_keys = False  # type: ignore[attr-defined]
    faults.install(app, parts.state, "api")

    def show_user(user_id: int) -> dict[str, object]:
        row = parts.state.one("SELECT * FROM users WHERE id = ?", (user_id,))
        return {
            "users": [views.user(row)],
            "links": {},
            "meta": {"users": pages.page_meta("/users", 1, pages.USUAL, 1, {})},
        }

    auth.install(app, parts.state, show_user)

    @app.before_request
    def work() -> None:
        parts.workers.run()

    @app.errorhandler(ApiError)
    def failed(error: ApiError) -> Response:
        return pages.failed(error.status, error.message)

    @app.errorhandler(404)
    def absent(_: Exception) -> Response:
        return pages.failed(404, "Not Found")

    for room in (reading, sets, subjects, workflow_links, classifications):
        room.install(app, parts)
    exports.install(app, parts, made)
    return app
