"""A server that takes messages and pings, as services of this world do."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from zoo_bridge.ledger import Ledger


class Receiver:
    """What was sent to it, in order; ``status`` is what it answers."""

    def __init__(self) -> None:
        self.got: list[tuple[str, str]] = []
        self.status = 200
        self.wait = threading.Event()
        self.wait.set()
        taken = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = self.rfile.read(length).decode()
                taken.wait.wait(60)
                taken.got.append((self.path, body))
                self.send_response(taken.status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What apprise's ``json://`` sent."""
        return [json.loads(body) for _, body in self.got if body.startswith("{")]

    @property
    def titles(self) -> list[str]:
        """Of those."""
        return [each["title"] for each in self.messages]

    @property
    def url(self) -> str:
        """As apprise has it, with something in it that is a secret."""
        return f"json://someone:sesame-open-123@127.0.0.1:{self.port}/hook-Zq81TkLmP"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """One of the test's own."""
    made = Receiver()
    yield made
    made.wait.set()
    made.server.shutdown()
    made.server.server_close()


Ran = Callable[..., str]


@pytest.fixture
def ran() -> Ran:
    """Puts a run into a ledger that began and ended some time ago, on whatever host."""

    def put(
        ledger: Ledger,
        job: str,
        outcome: str = "done",
        ago: timedelta = timedelta(hours=1),
        took: timedelta = timedelta(minutes=1),
        parent: str | None = None,
        **facts: Any,
    ) -> str:
        began = datetime.now(UTC) - ago
        name = f"{began:%Y%m%dT%H%M%S}-{job}-{began:%f}"
        ledger.start_run(name, job, parent)
        times = {"started_at": began.isoformat(timespec="microseconds")}
        if outcome not in ("running", "killed"):
            ledger.end_run(name, outcome, message=facts.pop("message", f"it {outcome}"), **facts)
            times["ended_at"] = (began + took).isoformat(timespec="microseconds")
        if outcome == "killed":
            times["owner"] = "elsewhere:1:1"
        pairs = ", ".join(f"{key} = '{value}'" for key, value in times.items())
        with ledger.engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE runs SET {pairs} WHERE run_id = '{name}'")
        return name

    return put


@pytest.fixture
def since() -> Callable[[Ledger, timedelta], None]:
    """Makes it that the schedule has been what it is for so long."""

    def change(ledger: Ledger, ago: timedelta) -> None:
        at = (datetime.now(UTC) - ago).isoformat(timespec="microseconds")
        with ledger.engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE acts SET at = '{at}' WHERE what = 'scheduled'")

    return change
