"""A console over real sockets, browsers that look at it, and batches to look at."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import requests
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.service.test_serving import Serving
from zoo_bridge.config.tables import Console, Serve
from zoo_bridge.console.people import PASSWORD, READER_PASSWORD, TOKEN
from zoo_bridge.console.serving import pages_of
from zoo_bridge.ledger import Batch, BatchState, NewObject, ObjectState
from zoo_bridge.service.serving.web import Web
from zoo_bridge.tables import BATCH, write_table

OPEN, READ, KEY = "open-sesame-4711", "only-to-look-4711", "token-for-programs-4711"


@dataclass
class Served:
    """A workflow, as ``serve`` has it."""

    settings: Any
    ledger: Any
    state: str = "at work"
    is_alive: bool = True
    heartbeat: Any = field(default_factory=lambda: type("Beat", (), {"age": 0.0})())


class Client:
    """A browser without a window."""

    def __init__(self, url: str, **headers: str) -> None:
        self.url = url
        self.session = requests.Session()
        self.session.headers.update(headers)

    def get(self, path: str, **named: Any) -> requests.Response:
        return self.session.get(self.url + path, allow_redirects=False, timeout=30, **named)

    def csrf(self, path: str = "/login") -> str:
        """The token that a page's forms carry."""
        found = re.search(r'name="csrf" value="([^"]+)"', self.get(path).text)
        return found[1] if found else ""

    def post(self, path: str, csrf: str | None = None, **form: Any) -> requests.Response:
        """Send a form, with the token of the log-in page unless another is given."""
        headers = form.pop("headers", {})
        if csrf is None:
            csrf = self.csrf(form.pop("page", "/login"))
        data = {**form, **({"csrf": csrf} if csrf else {})}
        return self.session.post(
            self.url + path, data=data, allow_redirects=False, timeout=30, headers=headers
        )

    def log_in(self, password: str = OPEN, name: str = "anna", **more: Any) -> requests.Response:
        return self.post("/login", name=name, password=password, **more)


@pytest.fixture
def secrets_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords and a token for the console."""
    for name, value in ((PASSWORD, OPEN), (READER_PASSWORD, READ), (TOKEN, KEY)):
        monkeypatch.setenv(name, value)


@pytest.fixture
def open_console(secrets_set: None) -> Iterator[Callable[..., Client]]:
    """Opens consoles of projects in this process; gives clients of them."""
    running: list[Web] = []

    def start(*projects: Any, **settings: Any) -> Client:
        served = [Served(each.settings, each.ledger) for each in projects]
        web = Web(Serve(port=0), served, pages_of(Console(**settings)))  # type: ignore[arg-type]
        running.append(web.__enter__())
        return Client(web.address)

    yield start
    for web in running:
        web.__exit__()


# browsers


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The system's browser."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()


@dataclass
class Window:
    """A page of a browser at a console, and what went wrong in it."""

    page: Page
    url: str
    context: BrowserContext
    errors: list[str]

    def go(self, path: str) -> None:
        self.page.goto(self.url + path)

    def log_in(self, password: str = OPEN, name: str = "anna") -> None:
        self.go("/login")
        self.page.fill("[name=name]", name)
        self.page.fill("[name=password]", password)
        self.page.click("main button:has-text('Log in')")

    def until(self, condition: str) -> None:
        """Wait until a condition in JavaScript holds.

        By looking again and again from outside: `wait_for_function` has the page itself evaluate a
        string if it does not hold at once, which the console's pages forbid.
        """
        for _ in range(600):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(100)
        raise AssertionError(f"after a minute it does not hold that {condition}")

    def ended(self, words: str) -> str:
        """Wait until the act on the page has ended so; what it said."""
        self.page.wait_for_selector("text=Go on", timeout=90_000)
        told = self.page.inner_text("#act")
        assert told.startswith(words), told
        return told


@pytest.fixture
def look(chromium: Browser) -> Iterator[Callable[..., Window]]:
    """Opens windows; a page that logs an error of its own fails the test."""
    opened: list[Window] = []

    def at(url: str, wide: int = 1200, high: int = 900, **how: Any) -> Window:
        context = chromium.new_context(viewport={"width": wide, "height": high}, **how)
        context.set_default_timeout(60_000)
        page = context.new_page()
        window = Window(page, url, context, [])
        page.on("pageerror", lambda error: window.errors.append(str(error)))
        page.on("dialog", lambda dialog: window.errors.append(f"dialog {dialog.message}"))
        opened.append(window)
        return window

    yield at
    errors = [error for window in opened for error in window.errors]
    for window in opened:
        window.context.close()
    assert errors == []


@pytest.fixture
def serve(secrets_set: None) -> Iterator[Callable[..., Serving]]:
    """Starts ``zoo-bridge serve``, and kills what is left of it."""
    started: list[Serving] = []

    def start(*paths: Path) -> Serving:
        started.append(Serving(*paths))
        started[-1].hear("console at")
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()


# what there is to look at


def put_batch(
    project: Any, names: list[str], state: BatchState = BatchState.STAGED, **facts: Any
) -> str:
    """A batch in ledger and folder, of which no server knows."""
    name = facts.pop("name", "batch-of-a-test")
    folder = project.settings.work / "batches" / name
    (folder / "previews").mkdir(parents=True)
    rows = [
        {
            "rank": rank,
            "object_id": each,
            "uri": f"s3://survey/{rank}.fits",
            "reason": "bald" if rank % 5 else "random",
            "action": "create",
            "bald": 1 / rank,
            "subject_id": None,
            "why": facts.get("why", f"rank {rank} by BALD"),
        }
        for rank, each in enumerate(names, 1)
    ]
    write_table(folder / "plan.parquet", pa.Table.from_pylist(rows, schema=BATCH), BATCH)
    random = np.random.default_rng(0)
    pictures = []
    for _ in range(20):
        kept = io.BytesIO()
        grey = random.integers(0, 255, (64, 64), dtype=np.uint8)
        Image.fromarray(grey).resize((424, 424)).save(kept, "JPEG")
        pictures.append(kept.getvalue())
    for rank in range(1, len(names) + 1):
        (folder / "previews" / f"{rank:06d}-1.jpg").write_bytes(pictures[rank % 20])
    path = folder.relative_to(project.settings.work).as_posix()
    scores = facts.get("scores")
    batch = Batch(name, BatchState.STAGING, "active", "99", scores, None, path, len(names), "")
    project.ledger.add_batch(batch, [NewObject(each, "bald") for each in names], {"run": "r"})
    subjects: dict[str, str | None] = {each: str(7000 + at) for at, each in enumerate(names)}
    project.ledger.set_objects(name, subjects, ObjectState.STAGED)
    if state != BatchState.STAGING:
        project.ledger.move_batch(name, BatchState.STAGED)
    if state not in (BatchState.STAGING, BatchState.STAGED):
        project.ledger.move_batch(name, state)
    return name
