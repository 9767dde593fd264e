"""Trouble on demand: rules that make the sandbox's servers fail as the real ones do.

A rule is a dictionary::

    {"server": "api" | "media" | "any",    which of the two (default api)
     "method": "POST", "path": "regex",    what it applies to (default: everything)
     "after": 3, "times": 1,               skip so many matching calls, then fire so often
                                           (times: null = for ever)
     "share": 0.05,                        fire on this share of the calls, by chance (seeded)
     "what": "status", "status": 503,      see `ACTIONS`
     "seconds": 0.5,                       for "delay", "late" and "latency"
     "pid": 4711}                          for "kill"

Rules are kept with the sandbox's state and can be set while it runs: ``POST /sandbox/faults``.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import time
from typing import Any

from flask import Flask, Request, Response, g, request

from zoo_bridge.sandbox.state import State

ACTIONS = {
    "status": "answer with a status and an error body, before anything is done",
    "committed": "do what was asked, then answer with a status all the same",
    "html": "answer with an HTML maintenance page and 503",
    "empty": "answer with a status and no body at all (a 401 of an expired token, say)",
    "reset": "break the connection before anything is done",
    "reset-after": "do what was asked, then break the connection",
    "delay": "wait, then go on as usual",
    "latency": "wait, and let the rules after this one have their turn too",
    "late": "break the connection at once, and do what was asked only some seconds later",
    "kill": "do what was asked, then kill the process that asked (kill -9) before it is answered",
    "cut": "send the answer's head and half of its body, then break the connection",
    "lose": "answer 201 and store nothing (media)",
}
MAINTENANCE = "<!DOCTYPE html><html><body><h1>Zooniverse is down for maintenance</h1></body></html>"


def install(app: Flask, state: State, server: str) -> None:
    """Make a Flask application obey the rules of its sandbox.

    Parameters
    ----------
    app : Flask
        The API or the blob store that is to misbehave.
    state : State
        Where the rules are kept.
    server : str
        ``api`` or ``media``.
    """

    @app.before_request
    def before() -> Response | None:
        g.fault = None
        if request.path.startswith("/sandbox"):
            return None
        g.fault = fault = _take(state, server, request)
        if fault is None:
            return None
        what = fault["what"]
        if what == "delay":
            time.sleep(fault.get("seconds", 1.0))
        elif what == "late":
            _hang_up(request)
            time.sleep(fault.get("seconds", 1.0))
        elif what == "status":
            return _failure(fault)
        elif what == "html":
            return Response(MAINTENANCE, 503, content_type="text/html")
        elif what == "empty":
            return Response("", fault.get("status", 401))
        elif what == "lose":
            return Response("", 201)
        elif what == "reset":
            _hang_up(request)
            # Nobody reads this, but without it the request would be carried out.
            return Response("", 503)
        return None

    @app.after_request
    def after(response: Response) -> Response:
        fault = getattr(g, "fault", None)
        if fault is None:
            return response
        if fault["what"] == "committed":
            return _failure(fault)
        if fault["what"] == "kill":
            os.kill(fault["pid"], signal.SIGKILL)
        if fault["what"] in ("reset-after", "kill"):
            _hang_up(request)
        if fault["what"] == "cut":
            return _cut(response)
        return response


def _take(state: State, server: str, call: Request) -> dict[str, Any] | None:
    """The first rule that applies to this call and is due; each match is counted."""
    waits, chosen = 0.0, None
    if not state.one("SELECT 1 AS yes FROM faults"):
        return None
    with state.write() as db:
        for row in state.all("SELECT * FROM faults ORDER BY id"):
            rule = json.loads(row["rule"])
            if (
                rule.get("server", "api") not in (server, "any")
                or rule.get("method", call.method).upper() != call.method
                or not re.search(rule.get("path", ""), call.full_path)
            ):
                continue
            db.execute("UPDATE faults SET seen = seen + 1 WHERE id = ?", (row["id"],))
            if rule["what"] == "latency":
                waits += rule.get("seconds", 0.05)
                continue
            times = rule.get("times", 1)
            if "share" in rule and not _by_chance(row, rule["share"]):
                continue
            if row["seen"] < rule.get("after", 0) or (times is not None and row["fired"] >= times):
                continue
            db.execute("UPDATE faults SET fired = fired + 1 WHERE id = ?", (row["id"],))
            chosen = rule
            break
    # Not while the database is held: other calls must go on meanwhile.
    time.sleep(waits)
    return chosen


def _by_chance(row: dict[str, Any], share: float) -> bool:
    return random.Random(f"{row['id']}:{row['seen']}").random() < share


def _failure(fault: dict[str, Any]) -> Response:
    status = fault.get("status", 500)
    message = fault.get("message", f"sandbox fault: {status}")
    body = json.dumps({"errors": [{"message": message}]})
    return Response(body, status, content_type="application/vnd.api+json")


def _hang_up(call: Request) -> None:
    connection: socket.socket = call.environ["werkzeug.socket"]
    connection.shutdown(socket.SHUT_RDWR)


def _cut(response: Response) -> Response:
    """Keep the announced length, send half, and let the connection end there."""
    response.direct_passthrough = False
    body = response.get_data()
    cut = Response(body[: len(body) // 2], response.status_code)
    for name, value in response.headers.items():
        cut.headers[name] = value
    cut.headers["Content-Length"] = str(len(body))
    cut.headers["Connection"] = "close"
    return cut
