"""What holds the house together: imports that point one way, a light start, a clean wheel."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from zoo_bridge.config import Settings, load

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "zoo_bridge"
BASE = {
    "balance",
    "config",
    "cron",
    "errors",
    "files",
    "ledger",
    "memory",
    "progress",
    "redact",
    "retry",
    "rows",
    "tables",
    "trouble",
    "version",
}
# What each room may import, beside itself and the base.
ROOMS = {
    "config": set(),
    "ledger": set(),
    "votes": set(),
    "cutouts": set(),
    "model": {"acquisition"},
    "acquisition": set(),
    "zooniverse": set(),
    "sandbox": set(),
    "report": set(),
    "steps": {"votes", "cutouts", "model", "acquisition", "zooniverse", "report"},
    "console": {"service", "steps", "report", "cutouts", "model"},
    # Of the console, its command line alone: see below.
    "service": {
        "console",
        "steps",
        "report",
        "sandbox",
        "votes",
        "cutouts",
        "model",
        "acquisition",
        "zooniverse",
    },
}
STEPS = ("pull", "aggregate", "retrain", "score", "upload")
OWNERS = {
    "boto3": {"cutouts"},
    "keras": {"model"},
    "tensorflow": {"model"},
    "panoptes_client": {"zooniverse"},
    "flask": {"sandbox"},
    "moto": {"sandbox"},
    "sqlalchemy": {"ledger"},
    "alembic": {"ledger"},
    "apprise": {"service"},
    "prometheus_client": {"service"},
    "starlette": {"service", "console"},
    "jinja2": {"console"},
    "authlib": {"console"},
    "argon2": {"console"},
    "mocpy": {"report"},
    "apscheduler": {"service"},
}


def imports() -> list[tuple[str, str]]:
    """(module, imported name) of every import in the package."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        module = path.relative_to(PACKAGE).with_suffix("").as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found += [(module, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                found += [(module, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def test_rooms_import_only_what_lies_below_them() -> None:
    wrong = []
    for module, name in imports():
        room = module.split("/")[0]
        if room not in ROOMS or not name.startswith("zoo_bridge."):
            continue
        target = name.split(".")[1]
        if target not in BASE | {room} | ROOMS[room]:
            wrong.append(f"{module} imports {name}")
    assert not wrong


def test_the_service_knows_of_no_pages_but_where_it_is_put_together() -> None:
    found = {module for module, name in imports() if name.startswith("zoo_bridge.console")}
    assert {each for each in found if each.startswith("service")} == {"service/cli/run"}


def test_every_room_is_known() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == set(ROOMS)


def test_outside_libraries_have_one_door() -> None:
    wrong = [
        f"{module} imports {name}"
        for module, name in imports()
        if (owners := OWNERS.get(name.split(".")[0])) and module.split("/")[0] not in owners
    ]
    assert not wrong


def test_the_package_never_imports_jobs() -> None:
    assert not [name for _, name in imports() if name.split(".")[0] == "jobs"]


HEAVY = {"tensorflow", "keras", "panoptes_client", "boto3", "polars", "matplotlib"}


def loaded(modules: str) -> list[str]:
    """Of the heavy libraries, those that come with some modules."""
    code = f"import sys, {modules}\nprint(*sorted({HEAVY!r} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return ended.stdout.split()


def test_help_loads_nothing_heavy() -> None:
    assert loaded("zoo_bridge.service.cli") == []


def test_a_step_that_has_nothing_to_do_does_not_wait_for_tensorflow() -> None:
    steps = ", ".join(f"zoo_bridge.steps.{step}" for step in STEPS)
    assert not {"tensorflow", "keras", "panoptes_client", "matplotlib"} & set(loaded(steps))


def test_the_example_settings_are_the_defaults() -> None:
    example = PACKAGE / "example.toml"
    assert example.read_text() == (ROOT / "deploy" / "zoo_bridge.example.toml").read_text()
    shown = load(example).model_dump()
    needed = {name: shown[name] for name in ("project", "question", "survey")}
    defaults = Settings.model_validate(needed).model_dump()
    assert shown == defaults
    # Every key is there to be found, also those that are not set.
    text = example.read_text()
    known = {key for table in defaults.values() if isinstance(table, dict) for key in table}
    jobs = {"pull", "aggregate", "retrain", "score", "upload"}
    assert not [key for key in known - jobs if key not in text]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built as ``make wheel`` does."""
    folder = tmp_path_factory.mktemp("wheel")
    uv = Path(sys.prefix) / "bin" / "uv"
    if not uv.exists():
        pytest.skip("uv, which make setup installs, is not here")
    command = [str(uv), "build", "--wheel", "--no-build-isolation", "--python", sys.executable]
    subprocess.run([*command, "-o", str(folder), str(ROOT)], check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_the_package_alone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"zoo_bridge"}
    for needed in ("example.toml", "report/report.html", "py.typed", "sandbox/panoptes.py"):
        assert f"zoo_bridge/{needed}" in names


def test_the_wheel_runs_where_it_is_installed(wheel: Path, tmp_path: Path) -> None:
    uv = str(Path(sys.prefix) / "bin" / "uv")
    target = tmp_path / "site"
    command = [uv, "pip", "install", "--no-deps", "--offline", "--target", str(target), str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    script = target / "bin" / "zoo-bridge"
    code = (
        f"import sys; sys.path.insert(0, {str(target)!r}); sys.argv = ['zoo-bridge', 'init']\n"
        "import zoo_bridge; print(zoo_bridge.__file__)\n"
        "from zoo_bridge.service.cli import main; main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert script.exists()
    assert str(target) in ended.stdout
    assert load(tmp_path / "zoo_bridge.toml").project.slug == "owner/project-name"


def test_the_lock_covers_every_dependency_and_names_no_host() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    # openvino is 180 MB that few want: whoever does installs it beside.
    wanted = {**declared["optional-dependencies"]}
    del wanted["openvino"]
    extras = wanted.values()
    for text in [*declared["dependencies"], *(item for extra in extras for item in extra)]:
        name = text.replace("[", " ").replace(">", " ").split()[0].lower()
        assert f"\n{name}==" in f"\n{lock}" or f"\n{name}[" in f"\n{lock}", name


def pins(path: Path) -> dict[str, str]:
    """Versions in a lock file, by the name of the package."""
    lines = (line for line in path.read_text().splitlines() if "==" in line)
    parts = (line.replace(";", " ").split()[0].partition("==") for line in lines)
    return {name.partition("[")[0]: version for name, _, version in parts}


def test_the_image_has_the_same_versions_and_no_test_tools() -> None:
    everything = pins(ROOT / "requirements.lock")
    service = pins(ROOT / "deploy" / "requirements.lock")
    assert service.items() <= everything.items()
    tools = {"pytest", "mypy", "ruff", "moto", "flask", "hypothesis", "sphinx", "furo"}
    assert tools <= set(everything)
    assert not tools & set(service)
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in declared["dependencies"]:
        assert text.replace("[", " ").replace(">", " ").split()[0].lower() in service, text
    image = (ROOT / "deploy" / "Dockerfile").read_text()
    assert "COPY deploy/uv.lock.txt deploy/requirements.lock ./\n" in image
