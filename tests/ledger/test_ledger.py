"""The ledger: locks that exclude and expire, objects that are there once, promotions in order."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from zoo_bridge.errors import BusyError, SettingsError
from zoo_bridge.ledger import Ledger, locks, now


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite3", tmp_path)
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


def test_a_lock_of_a_dead_process_is_taken_over(ledger: Ledger, tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from zoo_bridge.ledger import Ledger\n"
        f"ledger = Ledger('sqlite:///{tmp_path}/ledger.sqlite3', Path('.'))\n"
        "held = ledger.lock('pull'); held.__enter__(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    with ledger.engine.connect() as connection:
        assert connection.execute(sa.select(locks)).fetchall()
    with ledger.lock("pull"):
        pass


def test_a_lock_from_another_host_ends_when_it_expires(ledger: Ledger) -> None:
    def held_until(moment: str) -> None:
        with ledger.engine.begin() as connection:
            connection.execute(sa.delete(locks))
            row = {"name": "pull", "owner": "elsewhere:1:1", "expires_at": moment}
            connection.execute(sa.insert(locks).values(row))

    held_until("9999")
    with pytest.raises(BusyError, match="elsewhere"), ledger.lock("pull"):
        pass
    held_until(now())
    with ledger.lock("pull"):
        pass


def batch(name: str) -> dict[str, object]:
    return {
        "name": name,
        "project": "a/b",
        "workflow": 1,
        "state": "staging",
        "kind": "active",
        "path": "batches/x",
        "size": 1,
    }


def member(object_id: str) -> dict[str, object]:
    return {
        "project": "a/b",
        "object_id": object_id,
        "reason": "bald",
        "state": "planned",
        "subject_id": None,
    }


def test_an_object_is_planned_once_or_the_whole_batch_is_not(ledger: Ledger) -> None:
    ledger.add_batch(batch("one"), [member("G1")])
    with pytest.raises(sa.exc.IntegrityError):
        ledger.add_batch(batch("two"), [member("G2"), member("G1")])
    assert [row["name"] for row in ledger.list_batches("a/b")] == ["one"]
    assert [row["object_id"] for row in ledger.list_objects("a/b")] == ["G1"]


def test_promotions_are_kept_and_the_last_one_counts(ledger: Ledger) -> None:
    assert ledger.model_in_use() is None
    ledger.promote("m1", "promote", "the first")
    ledger.promote("m2", "promote", "better")
    ledger.promote("m1", "rollback", "m2")
    assert ledger.model_in_use() == "m1"
    assert [row["version"] for row in ledger.list_promotions()] == ["m1", "m2", "m1"]


def test_a_killed_run_is_closed_by_the_next(ledger: Ledger) -> None:
    ledger.start_run("r1", "pull")
    ledger.start_run("r2", "pull")
    ledger.end_abandoned("pull", "r2")
    rows = {row["run_id"]: row for row in ledger.list_runs("pull")}
    assert rows["r1"]["outcome"] == "failed"
    assert "killed" in rows["r1"]["message"]
    assert rows["r2"]["outcome"] == "running"


def test_a_ledger_that_cannot_be_opened_is_a_setting_to_correct(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be opened"):
        Ledger("nonsense://host/db", tmp_path)
