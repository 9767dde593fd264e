"""What is watched, on SQLite and PostgreSQL: incidents, acts, what runs measured."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path

from zoo_bridge.ledger import Ledger, Scope

SCOPE = Scope("https://server", "owner/project", 1)


def test_an_incident_is_claimed_by_one_of_many(url: str, tmp_path: Path) -> None:
    ledgers = [Ledger(url, tmp_path, SCOPE) for _ in range(6)]
    gate = threading.Barrier(len(ledgers))
    won: list[bool] = []

    def claim(ledger: Ledger) -> None:
        gate.wait()
        won.append(ledger.claim_incident("failed pull", "no server", None))

    threads = [threading.Thread(target=claim, args=(each,)) for each in ledgers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 5 + [True]
    first = ledgers[0]
    first.told_incidents(["failed pull"], datetime.now(UTC))
    told = first.list_incidents()["failed pull"]
    # Whoever has not seen that it was told does not tell again; whoever has may remind.
    assert not first.claim_incident("failed pull", "no server", None)
    assert first.claim_incident("failed pull", "still none", told)
    first.release_incidents(["failed pull"])
    assert not first.claim_incident("failed pull", "still none", told)
    first.close_incidents(["failed pull"])
    assert first.list_incidents() == {}
    # What is over is not opened by somebody who still has it in mind.
    assert not first.claim_incident("failed pull", "recovered", told)


def test_workflows_of_one_ledger_have_incidents_and_pauses_of_their_own(
    url: str, tmp_path: Path
) -> None:
    one, two = (Ledger(url, tmp_path, Scope("https://s", "a/b", number)) for number in (1, 2))
    assert one.claim_incident("failed pull", "x", None)
    assert two.claim_incident("failed pull", "x", None)
    one.note_act("paused", "cycle", "why not")
    assert set(one.paused()) == {"cycle"}
    assert two.paused() == {}
    one.note_act("resumed", "cycle")
    assert one.paused() == {}
    assert [act.what for act in one.list_acts("paused", "resumed")] == ["resumed", "paused"]


def test_since_when_a_line_is_what_it_is(url: str, tmp_path: Path) -> None:
    ledger = Ledger(url, tmp_path, SCOPE)
    first = ledger.note_schedule({"pull": "0 3 * * *", "cycle": "0 10 * * thu"})
    assert ledger.note_schedule({"pull": "0 3 * * *", "cycle": "0 10 * * thu"}) == first
    second = ledger.note_schedule({"pull": "0 4 * * *"})
    assert second["pull"] > first["pull"]
    # One that was left out for a while begins anew.
    third = ledger.note_schedule({"pull": "0 4 * * *", "cycle": "0 10 * * thu"})
    assert third["pull"] == second["pull"]
    assert third["cycle"] > second["pull"]


def test_runs_know_their_cycle_and_what_they_measured(url: str, tmp_path: Path) -> None:
    ledger = Ledger(url, tmp_path, SCOPE)
    for name, job, parent, measures in (
        ("20260101T000000-cycle-aa", "cycle", None, {}),
        ("20260101T000001-pull-ab", "pull", "20260101T000000-cycle-aa", {"votes_a_day": 9}),
        ("20260101T000002-upload-ac", "upload", "20260101T000000-cycle-aa", {"quota_left": 90}),
        ("20260102T000000-upload-ad", "upload", None, {"quota_left": 50.5}),
    ):
        ledger.start_run(name, job, parent)
        ledger.end_run(name, "done", measures=measures)
    parts = ledger.list_parts("20260101T000000-cycle-aa")
    assert [part.job for part in parts] == ["pull", "upload"]
    assert ledger.measures() == {"votes_a_day": 9, "quota_left": 50.5}
    assert ledger.find_run("20260102").run_id == "20260102T000000-upload-ad"  # type: ignore[union-attr]
    assert ledger.find_run("20260101") is None
    assert ledger.find_run("2026010_") is None
