"""Disks that are full or read-only: said as what they are, in two lines, and noted if it can be."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.test_trouble import MAY_MOUNT

MakeProject = Callable[..., Any]
UNSHARE = ["unshare", "-rm", "sh", "-c"]
ZOO_BRIDGE = [sys.executable, "-m", "zoo_bridge"]
# A disk of 3 MiB with the project on it, of which so many KiB are left; then the command.
PREPARE = (
    'mount -t tmpfs -o size=3m none "$0" && cp -r "$1"/. "$0" && '
    'left=$(df -k --output=avail "$0" | tail -1) && '
    'head -c $(((left - {left}) * 1024)) /dev/zero > "$0"/filler; shift; {then}'
)


pytestmark = pytest.mark.skipif(not MAY_MOUNT, reason="this user may not mount a disk")


@pytest.fixture
def voted(make_project: MakeProject) -> Any:
    project = make_project({"galaxies": 40}, upload={"per_run": 30})
    project.done("upload")
    project.show()
    shutil.rmtree(project.settings.work / "batches")
    project.ledger.close()
    return project


def on_disk(
    project: Any, tmp_path: Path, left: int, then: str, *words: str
) -> subprocess.CompletedProcess[str]:
    """Run a shell's lines where ``$0`` is a disk with the project, ``$@`` is a command."""
    disk = tmp_path / "disk"
    disk.mkdir(exist_ok=True)
    script = PREPARE.format(left=left, then=then)
    command = [*UNSHARE, script, str(disk), str(project.settings.path.parent)]
    config = ["--config", str(disk / "zoo_bridge.toml")]
    return subprocess.run(
        [*command, *ZOO_BRIDGE, *words, *config],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_a_disk_that_fills_up_is_said_and_noted(voted: Any, tmp_path: Path) -> None:
    then = 'shift 0; "$@"; echo "exit code $?" >&2; {runs}'
    runs = f'{" ".join(ZOO_BRIDGE)} runs --json --limit 1 --config "$0"/zoo_bridge.toml'
    ended = on_disk(voted, tmp_path, 290, then.format(runs=runs), "run", "pull")
    assert "exit code 1" in ended.stderr, ended.stderr
    assert "There is no space left to write" in ended.stderr
    assert "Free some space on that disk" in ended.stderr
    assert "fault of zoo_bridge" not in ended.stderr
    assert "Traceback" not in ended.stderr
    (row,) = json.loads(ended.stdout)
    assert row["outcome"] == "failed"
    assert "There is no space left" in row["message"]
    assert row["ended_at"]


def test_a_disk_that_is_full_from_the_start_is_said(voted: Any, tmp_path: Path) -> None:
    for words in (("run", "pull"), ("run", "upload")):
        ended = on_disk(voted, tmp_path, 0, '"$@"; exit $?', *words)
        assert ended.returncode == 1, ended.stderr
        assert "There is no space left to write" in ended.stderr
        assert "Correct ledger in the settings" not in ended.stderr
        assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "words", [("run", "pull"), ("status",), ("check",), ("runs",), ("batches",), ("promote", "m")]
)
def test_a_read_only_folder_is_no_traceback(
    voted: Any, tmp_path: Path, words: tuple[str, ...]
) -> None:
    then = 'mount -o remount,ro "$0"; "$@"; exit $?'
    ended = on_disk(voted, tmp_path, 2000, then, *words)
    said = ended.stdout + ended.stderr
    assert ended.returncode == 1, said
    assert "read-only file system" in said or "this user may not" in said
    assert "Correct ledger in the settings" not in said
    assert "Traceback" not in said
