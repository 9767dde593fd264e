"""The ledger: locks that exclude and expire, objects that are there once, promotions in order."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from zoo_bridge.errors import BusyError, SettingsError
from zoo_bridge.ledger import Batch, BatchState, Ledger, NewObject, Scope, locks, now
from zoo_bridge.ledger.tables import batches, runs

SCOPE = Scope("https://server", "a/b", 1)


@pytest.fixture
def ledger(url: str, tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(url, tmp_path, SCOPE)
    yield ledger
    ledger.close()


def test_a_lock_keeps_others_out_and_is_free_afterwards(ledger: Ledger) -> None:
    with ledger.lock("pull"):
        with pytest.raises(BusyError, match="holds the lock pull"), ledger.lock("pull"):
            pass
        with ledger.lock("score"):
            pass
    with ledger.lock("pull"):
        pass


def test_a_lock_of_a_dead_process_is_taken_over(ledger: Ledger, url: str) -> None:
    code = (
        "import os, sys; from pathlib import Path; from zoo_bridge.ledger import Ledger, Scope\n"
        f"ledger = Ledger({url!r}, Path('.'), Scope('https://server', 'a/b', 1))\n"
        "held = ledger.lock('pull'); held.__enter__(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    with ledger.engine.connect() as connection:
        assert connection.execute(sa.select(locks)).fetchall()
    with ledger.lock("pull"):
        pass


def test_a_lock_from_another_host_ends_when_it_expires(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held_until(moment: str) -> None:
        with ledger.engine.begin() as connection:
            connection.execute(sa.delete(locks))
            row = {"name": "pull", "owner": "elsewhere:1:1", "expires_at": moment}
            keys = {"project_key": ledger.project_key, "workflow_key": ledger.workflow_key}
            connection.execute(sa.insert(locks).values(row | keys))

    def in_seconds(seconds: float) -> str:
        return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="microseconds")

    held_until(in_seconds(60))
    with pytest.raises(BusyError, match="elsewhere"), ledger.lock("pull"):
        pass
    held_until(now())
    with ledger.lock("pull"):
        pass
    # Nobody takes a lock for so long: it was taken under a wrong clock, and nobody renews it.
    monkeypatch.setattr("zoo_bridge.ledger.lock.LOCK_SECONDS", 1)
    held_until(in_seconds(300 * 24 * 3600))
    with ledger.lock("pull"):
        pass


def batch(name: str, size: int = 1) -> Batch:
    state = BatchState.STAGING
    return Batch(name, state, "active", None, None, None, "batches/x", size, created_at="")


def member(object_id: str) -> NewObject:
    return NewObject(object_id, "bald")


def test_an_object_is_planned_once_or_the_whole_batch_is_not(ledger: Ledger) -> None:
    ledger.add_batch(batch("one"), [member("G1")])
    with pytest.raises(sa.exc.IntegrityError):
        ledger.add_batch(batch("two"), [member("G2"), member("G1")])
    assert [row.name for row in ledger.list_batches()] == ["one"]
    assert [row.object_id for row in ledger.list_objects()] == ["G1"]


def test_promotions_are_kept_and_the_last_one_counts(ledger: Ledger) -> None:
    assert ledger.model_in_use() is None
    ledger.promote("m1", "promote", "the first")
    ledger.promote("m2", "promote", "better")
    ledger.promote("m1", "rollback", "m2")
    assert ledger.model_in_use() == "m1"
    assert [row.version for row in ledger.list_promotions()] == ["m1", "m2", "m1"]


def test_a_killed_run_is_closed_by_the_next(ledger: Ledger) -> None:
    ledger.start_run("r1", "pull")
    with ledger.lock("pull"):
        ledger.start_run("r2", "pull")
        ledger.end_abandoned("pull", "r2")
        rows = {row.run_id: row for row in ledger.list_runs("pull")}
    assert rows["r1"].outcome == "failed"
    assert "killed" in rows["r1"].message
    assert rows["r1"].ended_at
    assert rows["r2"].outcome == "running"


def test_what_runs_is_what_holds_a_lock(ledger: Ledger) -> None:
    """A killed run is known as such at once, not when its job is started again."""
    with ledger.lock("pull"):
        ledger.start_run("r1", "pull")
        assert ledger.list_runs()[0].outcome == "running"
    (row,) = ledger.list_runs()
    assert row.outcome == "failed"
    assert "It ended without a word" in row.message


def test_a_clock_that_was_ahead_does_not_decide_what_is_last(ledger: Ledger) -> None:
    for number, run_id in enumerate(("r1", "r2", "r3"), 1):
        ledger.start_run(run_id, "aggregate")
        ledger.end_run(run_id, "done", artifact=f"labels-{number}")
    ahead = "2099-01-01T00:00:00.000000+00:00"
    with ledger.engine.begin() as connection:
        row = sa.update(runs).where(runs.c.run_id == "r2").values(started_at=ahead)
        connection.execute(row)
    assert [row.run_id for row in ledger.list_runs()] == ["r3", "r2", "r1"]
    last = ledger.last_done("aggregate")
    assert last is not None
    assert last.artifact == "labels-3"
    ledger.add_batch(batch("one"), [])
    ledger.add_batch(batch("two"), [])
    with ledger.engine.begin() as connection:
        connection.execute(
            sa.update(batches).where(batches.c.name == "one").values(created_at=ahead)
        )
    assert [row.name for row in ledger.list_batches()] == ["two", "one"]


def test_the_weekly_cap_is_not_held_by_a_wrong_clock(ledger: Ledger) -> None:
    """A batch of the year to come counts until a later run shows that it is long past."""
    ledger.start_run("upload-1", "upload")
    ledger.add_batch(batch("one", 7), [], {"run": "upload-1"})
    with ledger.engine.begin() as connection:
        ahead = "2099-01-01T00:00:00.000000+00:00"
        connection.execute(sa.update(batches).values(created_at=ahead))
    assert ledger.planned_since(7) == 7
    ledger.start_run("pull-1", "pull")
    assert ledger.planned_since(7) == 7
    with ledger.engine.begin() as connection:
        past = sa.update(runs).where(runs.c.run_id == "pull-1")
        connection.execute(past.values(started_at="2020-01-01T00:00:00.000000+00:00"))
    assert ledger.planned_since(7) == 0


def test_a_ledger_that_cannot_be_opened_is_a_setting_to_correct(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be opened"):
        Ledger("nonsense://host/db", tmp_path, SCOPE)
