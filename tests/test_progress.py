"""What people are told while they wait: how much is done, how fast, how long it will take."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from zoo_bridge.progress import LineProgress, RichProgress


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
