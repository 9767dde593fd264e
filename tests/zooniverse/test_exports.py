"""Exports: one a day, never waited for without end, whole or not at all."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from zoo_bridge.errors import InputError, StaleError
from zoo_bridge.sandbox.server import Sandbox
from zoo_bridge.zooniverse.content import COLUMNS, inspect
from zoo_bridge.zooniverse.exports import Export, Patience, fetch
from zoo_bridge.zooniverse.session import Session

HOUR = 3600.0
PATIENCE = Patience(max_age=20 * HOUR, stale_after=14 * 24 * HOUR, wait=10, poll=0.05)
HASTY = Patience(max_age=20 * HOUR, stale_after=14 * 24 * HOUR, wait=0.3, poll=0.05)


@pytest.fixture
def get(box: Sandbox, tmp_path: Path) -> Callable[..., Export]:
    """Fetches the workflows export with a log-in of its own."""

    def fetch_it(patience: Patience = PATIENCE, kind: str = "workflows", **how: Any) -> Export:
        session = Session(box.urls["panoptes"], timeout=5, pause=0.01)
        return fetch(session, "projects/1", kind, tmp_path / "exports", patience, **how)

    return fetch_it


def requests_made(box: Sandbox) -> float:
    return box.state.one("SELECT last_run FROM exports")["last_run"]


def fault(box: Sandbox, **rule: object) -> None:
    requests.post(f"{box.urls['panoptes']}/sandbox/faults", json=rule, timeout=5)


def test_the_first_export_is_asked_for_and_stored_under_its_digest(
    box: Sandbox, get: Callable[..., Export], tmp_path: Path
) -> None:
    export = get()
    assert export.content.rows == 1
    assert [path.name for path in (tmp_path / "exports").iterdir()] == [
        f"workflows-{export.digest}.csv.gz"
    ]
    assert gzip.decompress(export.path.read_bytes()).startswith(b"workflow_id")


def test_a_fresh_export_is_used_and_an_old_one_is_made_anew(
    box: Sandbox, get: Callable[..., Export]
) -> None:
    first = get()
    began = requests_made(box)
    box.state.advance(10 * HOUR)
    assert get().age_seconds == pytest.approx(10 * HOUR, abs=60)
    assert requests_made(box) == began
    box.state.advance(30 * HOUR)
    again = get()
    assert requests_made(box) > began
    assert again.digest == first.digest
    assert again.age_seconds < 60
    assert again.updated_at > first.updated_at


def test_within_a_day_nothing_is_asked_for_in_vain(
    box: Sandbox, get: Callable[..., Export]
) -> None:
    get()
    box.state.advance(22 * HOUR)
    export = get()
    assert "22 hours old" in export.note
    assert box.state.one("SELECT state FROM exports")["state"] == "ready"


def test_an_export_that_never_comes_falls_back_to_the_last(
    box: Sandbox, get: Callable[..., Export]
) -> None:
    get()
    box.state.advance(3 * 24 * HOUR)
    # Somebody else asked within the day: ours is accepted and dropped.
    with box.state.write() as db:
        db.execute("UPDATE exports SET last_run = ?, state = 'creating'", (box.state.time(),))
    export = get(HASTY)
    assert (export.days, export.overdue) == (pytest.approx(3, abs=0.01), True)
    assert export.note == "no new one came in time, and its state is creating"
    box.state.advance(20 * 24 * HOUR)
    with box.state.write() as db:
        db.execute("UPDATE exports SET last_run = ?", (box.state.time(),))
    with pytest.raises(StaleError, match=r"workflows export is 23\.0 days old"):
        get(HASTY)


def test_a_failed_export_ends_the_wait_at_once(box: Sandbox, get: Callable[..., Export]) -> None:
    get()
    box.state.advance(3 * 24 * HOUR)
    with box.state.write() as db:
        db.execute(
            "UPDATE exports SET last_run = ?, state = 'failed'", (box.state.time() - 13 * HOUR,)
        )
    patience = Patience(PATIENCE.max_age, PATIENCE.stale_after, 0.5, 0.05)
    # Asking resets the state; that the new one failed, too, is told at once.
    assert "no new one came in time" in get(patience).note

    def fail(*asked: Any) -> Any:
        with box.state.write() as db:
            later = box.state.stamp(box.state.time() + 5)
            db.execute("UPDATE exports SET state = 'failed', updated_at = ?", (later,))
        return box.exports.describe(*asked)

    box.exports.request = fail  # type: ignore[method-assign]
    box.state.advance(2 * 24 * HOUR)
    began = time.monotonic()
    assert "Zooniverse says that making a new one failed" in get(PATIENCE).note
    assert time.monotonic() - began < PATIENCE.wait / 2


@pytest.mark.parametrize(
    "rule", [{"what": "cut"}, {"what": "status", "status": 403}, {"what": "reset"}]
)
def test_a_body_that_breaks_off_is_fetched_again(
    box: Sandbox, get: Callable[..., Export], tmp_path: Path, rule: dict[str, object]
) -> None:
    fault(box, server="media", method="GET", path="_export/", times=2, **rule)
    assert get().content.rows == 1
    assert len(list((tmp_path / "exports").iterdir())) == 1


def test_a_broken_body_goes_on_where_it_broke_off(
    box: Sandbox, get: Callable[..., Export], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo_bridge.zooniverse.download.BLOCK_BYTES", 64)
    whole: list[int] = []
    first = get(tick=whole.append)
    fault(box, server="media", method="GET", path="_export/", times=2, what="cut")
    parts: list[int] = []
    again = get(tick=parts.append)
    assert again.digest == first.digest
    # Each byte came once, whatever broke.
    assert sum(parts) == sum(whole) == first.path.stat().st_size
    assert box.state.one("SELECT fired FROM faults")["fired"] == 2


def test_a_part_of_another_file_is_not_taken(
    box: Sandbox, get: Callable[..., Export], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = get()
    fault(box, server="media", method="GET", path="_export/", times=1, what="cut")
    row = box.state.one("SELECT * FROM exports")
    path = box.state.folder / "exports" / row["file"].rpartition("/")[2]

    new = gzip.compress(gzip.decompress(path.read_bytes()) + b"1,2\n")
    monkeypatch.setattr("zoo_bridge.zooniverse.download.BLOCK_BYTES", 64)
    # The first attempt ends with a warning: the moment when a new run replaces the file.
    monkeypatch.setattr("zoo_bridge.retry.log.warning", lambda *args: path.write_bytes(new))
    again = get()
    assert again.content.rows == first.content.rows + 1
    assert gzip.decompress(again.path.read_bytes()).endswith(b"1,2\n")


def test_the_file_of_last_time_is_not_fetched_again(
    box: Sandbox, get: Callable[..., Export]
) -> None:
    first = get()
    ticks: list[int] = []
    again = get(known=first, tick=ticks.append)
    assert again.again
    assert (again.digest, ticks) == (first.digest, [])
    first.path.unlink()
    assert not get(known=first).again


def test_waiting_is_told_and_has_an_end(box: Sandbox, get: Callable[..., Export]) -> None:
    get()
    box.state.advance(3 * 24 * HOUR)
    told: list[str] = []
    get(say=told.append)
    assert told == ["asked Zooniverse for a new export; waiting 0 minutes at most"]


@pytest.mark.parametrize("cut", ["\n", "0,1\n", ""])
def test_an_export_that_ends_in_the_middle_of_a_row_is_not_whole(tmp_path: Path, cut: str) -> None:
    header = ",".join(COLUMNS["classifications"])
    row = "1,ann,1,x,7,W,1.1,2026-11-01 12:00:00 UTC,,,{},[],{},10"
    path = tmp_path / "e.csv"
    path.write_text(f"{header}\n{row}\n{row[: len(row) - len(cut)] if cut else row}")
    with pytest.raises(EOFError, match="cut short"):
        inspect(path, "classifications")


def test_what_is_in_an_export(tmp_path: Path) -> None:
    header = ",".join(COLUMNS["classifications"])
    hours = ["2026-11-01 09", "2026-11-01 10", "2026-11-01 10", "2026-11-01 12", "2026-11-02 01"]
    rows = [f"{n},a,1,x,7,W,1.1,{hour}:00:00 UTC,,,{{}},[],{{}},10" for n, hour in enumerate(hours)]
    path = tmp_path / "e.csv"
    path.write_text("\n".join([header, *rows, ""]))
    content = inspect(path, "classifications")
    assert (content.rows, content.newest) == (5, "2026-11-02 01:00:00 UTC")
    # The last three hours may still get rows with lesser numbers.
    assert content.frontier.last_id == 0
    assert content.frontier.recent == {1, 2, 3, 4}
    subjects = tmp_path / "s.csv"
    lines = [f'{n},1,1,2,"{{}}","{{}}",2026-11-01 12:00:00 UTC' for n in (1, 1, 2)]
    subjects.write_text("\n".join([",".join(COLUMNS["subjects"]), *lines, ""]))
    assert (inspect(subjects, "subjects").rows, inspect(subjects, "subjects").size) == (3, 2)


def test_an_empty_export_is_an_error_and_leaves_nothing(
    box: Sandbox, get: Callable[..., Export], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"subjects export .* is empty"):
        get(kind="subjects")
    assert list((tmp_path / "exports").iterdir()) == []
