"""What people are told while they wait: how much is done, how fast, how long it will take."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from zoo_bridge.progress import LineProgress, NotedProgress, Progress, RichProgress


def test_lines_tell_the_rate_of_this_run_and_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 110.0, 130.0])
    monkeypatch.setattr("zoo_bridge.progress.time.monotonic", lambda: next(clock))
    # Six hundred were done before: they say nothing of how fast this run is.
    with LineProgress(every=10).bar("scoring", 1000, 600) as advance:
        advance(50)
        advance(100)
    assert capsys.readouterr().err.splitlines() == [
        "    scoring: 650 of 1000, 5 a second, 70 s left",
        "    scoring: 750 of 1000, 5 a second, 50 s left",
    ]


def test_a_bar_shows_count_rate_and_time_left() -> None:
    progress = RichProgress()
    progress.console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with progress.bar("scoring", 1000, 600) as advance:
        for _ in range(3):
            advance(100)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", progress.console.file.getvalue())  # type: ignore[attr-defined]
    assert "900/1000" in shown
    assert re.search(r"scoring.*[0-9.e+,]+/s", shown)


def test_how_far_something_is_stands_in_a_file_as_long_as_it_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    progress = NotedProgress(Progress(), path, every=0.0)
    with progress.bar("scoring", 10, 2) as advance:
        assert json.loads(path.read_text()) == {"title": "scoring", "done": 2, "total": 10}
        advance(3)
        assert json.loads(path.read_text())["done"] == 5
    assert not path.exists()


def test_a_disk_that_is_full_does_not_end_what_goes_on(tmp_path: Path) -> None:
    progress = NotedProgress(Progress(), tmp_path / "missing" / "progress.json", every=0.0)
    with progress.bar("scoring") as advance:
        advance(1)
