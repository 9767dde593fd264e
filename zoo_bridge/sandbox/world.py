"""What a sandbox is filled with: a survey (invented or your own), a project, its volunteers.

Everything lies in one folder and is made once; a sandbox that starts again finds it there.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo_bridge.errors import InputError, SettingsError
from zoo_bridge.files import write_json, write_text
from zoo_bridge.progress import Progress
from zoo_bridge.sandbox import contract
from zoo_bridge.sandbox.state import State
from zoo_bridge.sandbox.volunteers import STRINGS, TASKS, truth_from_fractions

LOGIN, PASSWORD = "sandbox", "sandbox-password"
CLIENT_ID, CLIENT_SECRET = "sandbox-application", "sandbox-application-secret"
SLUG = "sandbox/galaxies"
BUCKET = "survey"
ANSWERS = ("smooth", "featured", "artifact")
# What a person may have set for the real Zooniverse and the real Amazon.
FOREIGN = (
    "PANOPTES_USERNAME",
    "PANOPTES_PASSWORD",
    "PANOPTES_CLIENT_ID",
    "PANOPTES_CLIENT_SECRET",
    "AWS_PROFILE",
    "AWS_SESSION_TOKEN",
    # Nobody is to be told of what goes wrong in here.
    "ZOO_BRIDGE_NOTIFY_URLS",
    "ZOO_BRIDGE_CONSOLE_PASSWORD",
    "ZOO_BRIDGE_CONSOLE_READER_PASSWORD",
    "ZOO_BRIDGE_CONSOLE_TOKEN",
    "ZOO_BRIDGE_CONSOLE_CLIENT_SECRET",
    "ZOO_BRIDGE_PING_URL",
    "no_proxy",
)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".fits")


@dataclass(frozen=True)
class Plan:
    """What to fill a new sandbox with.

    Parameters
    ----------
    galaxies : int
        Size of the invented survey, or the most images to take from a folder.
    seed : int
        For the survey and the votes.
    votes : int
        Classifications that retire a subject.
    bucket : str
        The bucket's name.
    images, catalogue : Path, optional
        A survey of one's own: a folder of images and a CSV with a row for each.
    id_column : str
        The catalogue's column that holds object ids; an image is called after its id.
    fractions : dict
        For each answer (smooth, featured, artifact), the catalogue column that holds the fraction
        of volunteers who give it.
    size : int
        Side of the network's input in the settings that the sandbox writes.
    contract : bool
        In place of all this, the world in which the real server was recorded: see `contract`.
    """

    galaxies: int = 1500
    seed: int = 0
    votes: int = 20
    bucket: str = BUCKET
    images: Path | None = None
    catalogue: Path | None = None
    id_column: str = "object_id"
    fractions: dict[str, str] = field(default_factory=dict)
    size: int = 64
    contract: bool = False


def build(folder: Path, plan: Plan, progress: Progress) -> None:
    """Fill a sandbox's folder, unless that was done before.

    Parameters
    ----------
    folder : Path
        The sandbox's folder.
    plan : Plan
        Galaxies, votes, seed and images of the world.
    progress : Progress
        To tell of it.

    Raises
    ------
    SettingsError
        If the folder was filled to another plan, or the plan names columns that are not there.
    InputError
        If no image matches the catalogue.
    """
    marker = folder / "plan.json"
    described = {name: str(value) for name, value in vars(plan).items() if value is not False}
    if marker.exists():
        if json.loads(marker.read_text()) != described:
            raise SettingsError(
                f"{folder} already holds another sandbox.",
                "Name another folder, or remove that one.",
            )
        return
    survey = folder / "survey"
    shutil.rmtree(survey, ignore_errors=True)
    if plan.contract:
        survey.mkdir(parents=True)
        write_json(survey / "truth.json", {})
    elif plan.images is None:
        from zoo_bridge.sandbox import survey as invented

        with progress.bar("inventing a survey", plan.galaxies) as advance:
            invented.write(survey, plan.galaxies, plan.seed, advance)
    else:
        _copy_own(survey, plan)
    state = State(folder / "panoptes")
    if not state.one("SELECT id FROM projects"):
        if plan.contract:
            contract.found(state)
        else:
            _found_project(state, plan)
    write_json(marker, described)


def _found_project(state: State, plan: Plan) -> None:
    owner = state.add_user(LOGIN, PASSWORD)
    state.add_user("somebody-else", "another-password")
    state.add_application(CLIENT_ID, CLIENT_SECRET, owner)
    for client_id in contract.PASSWORD_APPLICATIONS:
        state.add_application(client_id)
    project = state.add_project(SLUG, "Sandbox Galaxies", owner)
    state.add_workflow(project, "How is this galaxy shaped?", TASKS, STRINGS, plan.votes)


def _copy_own(survey: Path, plan: Plan) -> None:
    """Lay a folder of images out as the sandbox's survey."""
    assert plan.images is not None
    if plan.catalogue is None:
        raise SettingsError("--images needs --catalogue.", "Name a CSV with a row for each image.")
    rows = _read_rows(plan.catalogue, plan.id_column)
    if unknown := set(plan.fractions) - set(ANSWERS):
        raise SettingsError(
            f"--fraction {', '.join(sorted(unknown))}: no such answer.",
            f"The sandbox's workflow asks for {', '.join(ANSWERS)}.",
        )
    found = {
        path.stem: path
        for path in sorted(plan.images.iterdir())
        if path.suffix.lower() in IMAGE_SUFFIXES and path.stem in rows
    }
    if not found:
        raise InputError(
            f"No image in {plan.images} is called after an id of {plan.catalogue}.",
            f"Images are matched as <{plan.id_column}>.jpg (or .png, .fits); see --id-column.",
        )
    chosen = dict(list(found.items())[: plan.galaxies])
    (survey / "cutouts").mkdir(parents=True)
    for path in chosen.values():
        shutil.copyfile(path, survey / "cutouts" / path.name)
    with (survey / "catalogue.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["object_id", "key"])
        writer.writerows([name, f"cutouts/{path.name}"] for name, path in chosen.items())
    truth = {}
    if plan.fractions:
        try:
            numbers = {
                name: {column: float(rows[name][column]) for column in plan.fractions.values()}
                for name in chosen
            }
        except (KeyError, ValueError) as error:
            raise SettingsError(
                f"--fraction: {plan.catalogue} has no column of numbers {error}.",
                "Columns there: " + ", ".join(list(next(iter(rows.values())))[:12]) + " ...",
            ) from None
        truth = truth_from_fractions(numbers, plan.fractions, ANSWERS.index)
    write_json(survey / "truth.json", truth)


def _read_rows(path: Path, id_column: str) -> dict[str, dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if id_column not in (reader.fieldnames or []):
                raise SettingsError(
                    f"{path} has no column {id_column!r}.",
                    f"Name the one with object ids: --id-column, one of {reader.fieldnames}.",
                )
            return {row[id_column]: row for row in reader}
    except OSError as error:
        raise SettingsError(
            f"The catalogue {path} cannot be read: {error.strerror}.", "Correct --catalogue."
        ) from None


def write_settings(folder: Path, plan: Plan, endpoint: str, s3: str, **changes: Any) -> Path:
    """Write the settings file that runs zoo_bridge against this sandbox.

    Parameters
    ----------
    folder : Path
        Where ``zoo_bridge.toml`` goes.
    plan : Plan
        What the sandbox holds.
    endpoint, s3 : str
        The addresses of its Panoptes and its S3.
    **changes
        Tables in place of, or on top of, the ones here: ``model={"epochs": 3}``.

    Returns
    -------
    Path
        The file.
    """
    tables: dict[str, dict[str, Any]] = {
        "project": {"slug": SLUG, "workflow": 1, "endpoint": endpoint},
        "pull": {"poll_seconds": 0.2, "wait_minutes": 2},
        "votes": {"from_version": "1.1"},
        "survey": {
            "catalogue": f"s3://{plan.bucket}/catalogue.csv",
            "uri_column": "key",
            "endpoint_url": s3,
        },
        "cutouts": {"size": plan.size},
        "model": {"network": "small"},
        "upload": {"per_run": 200, "per_week": 100000},
        "schedule": {"timezone": "UTC", "cycle": "0 10 * * thu"},
    }
    for name, table in changes.items():
        tables[name] = {**tables.get(name, {}), **table}
    lines = [
        "# Settings for this sandbox, written by zoo-bridge.",
        'work_dir = "data"',
        'ledger = "sqlite:///data/ledger.sqlite3"',
        f"seed = {plan.seed}",
        "",
        "[[question]]",
        'name = "smooth-or-featured"',
        'task = "T0"',
        'answers = { smooth = ["Smooth"], featured = ["Features or Disk"], '
        'artifact = ["Star or Artifact"] }',
        'target = "featured"',
    ]
    for name, table in tables.items():
        lines += ["", f"[{name}]"]
        lines += [f"{key} = {_toml(value)}" for key, value in table.items()]
    path = folder / "zoo_bridge.toml"
    write_text(path, "\n".join(lines) + "\n")
    return path


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        inside = ", ".join(f"{json.dumps(key)} = {_toml(each)}" for key, each in value.items())
        return f"{{ {inside} }}"
    return json.dumps(value)


@contextmanager
def enter() -> Iterator[None]:
    """Speak to the sandbox alone: its credentials in the environment, and nobody else's."""
    before = dict(os.environ)
    for name in (*FOREIGN, *(f"{secret}_FILE" for secret in FOREIGN)):
        os.environ.pop(name, None)
    os.environ.update(environment())
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def environment() -> dict[str, str]:
    """The credentials that the sandbox's servers accept, as environment variables."""
    return {
        # A proxy for the world outside must not be asked for loopback.
        "NO_PROXY": "127.0.0.1,localhost",
        "PANOPTES_USERNAME": LOGIN,
        "PANOPTES_PASSWORD": PASSWORD,
        "AWS_ACCESS_KEY_ID": "sandbox",
        "AWS_SECRET_ACCESS_KEY": "sandbox-secret-key",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
