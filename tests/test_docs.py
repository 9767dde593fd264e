"""The pages: current, linked, short where they must be, and built without a warning."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from zoo_bridge.config import Settings
from zoo_bridge.service.cli import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md")), *sorted((ROOT / "deploy").rglob("*.md"))]
spec = importlib.util.spec_from_file_location("reference", DOCS / "reference.py")
assert spec is not None
assert spec.loader is not None
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)


@pytest.mark.parametrize("name", sorted(reference.PAGES))
def test_the_reference_is_that_of_the_code(name: str) -> None:
    written = (DOCS / "reference" / f"{name}.md").read_text(encoding="utf-8")
    assert written == reference.PAGES[name](), "run: make docs"


def test_every_command_and_setting_is_there_and_says_something() -> None:
    commands = (DOCS / "reference" / "commands.md").read_text()
    root = typer.main.get_command(app)
    for name in root.commands:  # type: ignore[attr-defined]
        assert f"`zoo-bridge {name}" in commands
    settings = (DOCS / "reference" / "settings.md").read_text()
    for name, field in Settings.model_fields.items():
        assert f"[{name}]" in settings or f"`{name}`" in settings
        model = reference._model(field.annotation)
        for key, inner in (model.model_fields if model else {}).items():
            assert inner.description, f"{name}.{key} has no meaning"
            assert f"| `{key}` |" in settings


def links() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                yield page, target


def test_every_link_and_picture_is_there() -> None:
    missing = [
        (page.name, target) for page, target in links() if not (page.parent / target).exists()
    ]
    assert not missing
    assert len(list(links())) > 15


def test_the_files_of_the_journey_exist() -> None:
    text = (DOCS / "journey.md").read_text()
    files = re.findall(r"`([a-z_/]+\.py)`", text)
    assert len(files) > 20
    assert not [name for name in files if not (ROOT / "zoo_bridge" / name).is_file()]


def test_the_readme_is_for_a_newcomer() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    shown = [ROOT / target for page, target in links() if page.name == "README.md"]
    pictures = [path for path in shown if path.suffix in (".png", ".svg")]
    assert len(pictures) == 3
    assert sum(path.stat().st_size for path in pictures) < 300_000


def test_the_pages_build_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", str(DOCS), str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "p(k of N" in (tmp_path / "notebook.html").read_text()
