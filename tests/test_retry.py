"""The one rule for trying again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from zoo_bridge.retry import Pause, doubling, growing, jittered, retry


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds: list[float] = []
    monkeypatch.setattr("zoo_bridge.retry.time.sleep", seconds.append)
    return seconds


def failing(*errors: Exception) -> Callable[[], str]:
    left = list(errors)

    def call() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return call


@pytest.mark.parametrize(
    ("pause", "expected"),
    [
        (doubling(1.0), [1.0, 2.0, 4.0]),
        (doubling(1.0, most=3.0), [1.0, 2.0, 3.0]),
        (growing(0.5), [0.5, 1.0, 1.5]),
    ],
)
def test_it_waits_longer_each_time_and_never_after_the_last(
    waited: list[float], pause: Pause, expected: list[float]
) -> None:
    assert retry(failing(OSError(), OSError(), OSError()), 4, pause, OSError) == "done"
    assert waited == expected
    waited.clear()
    last = OSError("the last")
    with pytest.raises(OSError, match="the last"):
        retry(failing(OSError(), last, OSError()), 2, pause, OSError)
    assert waited == expected[:1]


def test_what_does_not_pass_is_raised_at_once(waited: list[float]) -> None:
    with pytest.raises(KeyError):
        retry(failing(KeyError()), 4, growing(1), OSError)
    with pytest.raises(OSError, match="settled"):
        retry(
            failing(OSError("settled")), 4, growing(1), OSError, lambda e: "settled" not in str(e)
        )
    assert waited == []


def test_jitter_keeps_threads_apart(waited: list[float]) -> None:
    for _ in range(50):
        retry(failing(OSError()), 2, jittered(doubling(1.0)), OSError)
    assert all(0 <= seconds <= 1 for seconds in waited)
    assert len(set(waited)) == 50


def test_each_is_told_in_the_log(waited: list[float], caplog: pytest.LogCaptureFixture) -> None:
    retry(failing(OSError("away")), 2, growing(1), OSError, what="GET /projects")
    assert [record.getMessage() for record in caplog.records] == [
        "GET /projects failed (away), trying again"
    ]
