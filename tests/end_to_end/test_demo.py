"""The demo, small: what it leaves behind, and what it refuses to overwrite."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

# The command, but for fewer steps of training.
QUICK = """
from zoo_bridge.model import design
from zoo_bridge.service.cli import main
design.LEAST_BATCHES = 2
main()
"""


def demo(folder: Path, *words: str, quick: bool = False) -> list[str]:
    program = ["-c", QUICK] if quick else ["-m", "zoo_bridge"]
    command = [sys.executable, *program, "demo", "--folder", str(folder)]
    return [*command, "--rounds", "1", "--galaxies", "300", *words]


@pytest.mark.slow
def test_a_round_leaves_everything_and_keeps_serving_until_told(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    # What a person has set for the real Zooniverse must not matter.
    environment = {**os.environ, "PANOPTES_PASSWORD": "mine", "AWS_PROFILE": "mine"}
    child = subprocess.Popen(
        demo(folder, "--keep-serving", quick=True),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert child.stdout is not None
    lines = []
    for line in child.stdout:
        lines.append(line)
        if "Ctrl-C stops it" in line:
            break
    assert "Another" not in "".join(lines)
    status = subprocess.run(demo(folder), capture_output=True, text=True, check=False)
    assert status.returncode == 75
    assert "A demo is running" in status.stderr
    child.send_signal(signal.SIGTERM)
    _, told = child.communicate(timeout=60)
    assert child.returncode == 143, told

    story = json.loads((folder / "summary.json").read_text())
    (only,) = story["rounds"]
    assert only["labelled"] == only["trained_on"] + only["held_out"] == 48
    assert only["uploaded"] == 150
    assert 0 < only["rmse"] < 0.6
    assert only["log_likelihood"] < 0
    assert only["seconds"] > 0
    assert story["votes_kept"] == story["shown"] * 40 == 198 * 40
    assert story["classifications"] == story["votes_kept"] + story["repeats"]
    report = (folder / "report.html").read_text()
    assert report.count("data:image/png;base64,") == 3
    assert "http" not in report.replace("http-equiv", "")
    for name in ("exports", "labels", "models", "scores", "batches", "runs"):
        assert any((folder / "data" / name).iterdir())
    # A look at it from Python, with the sandbox gone: everything that is needed is kept.
    script = Path(__file__).parents[2] / "docs" / "first_look.py"
    command = [sys.executable, str(script), str(folder / "zoo_bridge.toml")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "'bald': 'nats'" in ended.stdout
    assert (folder / "data" / "posterior.png").stat().st_size > 5000
    closing = "".join(lines)
    assert str(folder / "report.html") in closing
    assert "Held-out RMSE" in closing


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    ended = subprocess.run(demo(tmp_path), capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "holds something that is no demo" in ended.stderr
    assert (tmp_path / "thesis.tex").exists()
