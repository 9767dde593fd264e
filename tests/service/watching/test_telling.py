"""Who is told: of what is new, once; of what lasts, again; of what is over, once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from typer.testing import CliRunner

from zoo_bridge.ledger import Ledger
from zoo_bridge.redact import redact
from zoo_bridge.service.cli import app
from zoo_bridge.service.watching import channels as channels_module
from zoo_bridge.service.watching.channels import PING, URLS, Channels
from zoo_bridge.service.watching.telling import tell_news

HOUR = timedelta(hours=1)


@pytest.fixture
def quiet(make_project: Callable[..., Any]) -> Any:
    """A project of few galaxies."""
    return make_project({"galaxies": 12}, upload={"per_run": 5})


@pytest.fixture
def tell(quiet: Any, receiver: Any) -> Callable[..., Any]:
    """Looks and tells, at some time from now."""

    def do(later: timedelta = timedelta(0), ledger: Ledger | None = None) -> Any:
        at = datetime.now(UTC) + later
        to = Channels((receiver.url,))
        return tell_news(quiet.settings, ledger or quiet.ledger, to, at=at)

    return do


def test_a_failure_is_told_once_then_daily_then_its_end(
    quiet: Any, receiver: Any, ran: Any, tell: Any
) -> None:
    for hour in range(30):
        # Hourly, as a job that fails does; each begins a little later than the last.
        ran(quiet.ledger, "pull", "failed", timedelta(minutes=30 - hour), message="no server")
        tell(hour * HOUR)
    assert receiver.titles == ["[sandbox/galaxies] pull: failed"] * 2
    assert "(since " in receiver.messages[1]["message"]
    assert "(since " not in receiver.messages[0]["message"]
    ran(quiet.ledger, "pull", "done", timedelta(seconds=1))
    tell(31 * HOUR)
    assert receiver.titles[2:] == ["[sandbox/galaxies] pull: recovered"]
    assert receiver.messages[2]["type"] == "success"
    tell(99 * HOUR)
    assert len(receiver.got) == 3
    # Once more is news again.
    ran(quiet.ledger, "pull", "failed", timedelta(0))
    tell(99 * HOUR)
    assert receiver.titles[3:] == ["[sandbox/galaxies] pull: failed"]


def test_what_turns_into_something_else_is_no_recovery(
    quiet: Any, receiver: Any, ran: Any, tell: Any
) -> None:
    ran(quiet.ledger, "pull", "failed", 2 * HOUR)
    tell()
    ran(quiet.ledger, "pull", "refused", HOUR)
    tell()
    assert [title.split("] ")[1] for title in receiver.titles] == ["pull: failed", "pull: refused"]


def test_a_problem_that_is_only_out_of_sight_has_not_recovered(
    quiet: Any, receiver: Any, ran: Any, tell: Any
) -> None:
    ran(quiet.ledger, "pull", "failed", 2 * HOUR)
    tell()
    # Stopped by a person: told if nobody goes on with it, and no recovery.
    ran(quiet.ledger, "pull", "stopped", timedelta(minutes=5))
    assert tell() is None
    ran(quiet.ledger, "score", "failed", HOUR)
    tell()
    # Failed again, as a part of a cycle that tells for it.
    cycle = ran(quiet.ledger, "cycle", "failed", timedelta(minutes=3))
    ran(quiet.ledger, "score", "failed", timedelta(minutes=2), parent=cycle)
    tell()
    assert [title.split("] ")[1] for title in receiver.titles] == [
        "pull: failed",
        "score: failed",
        "cycle: failed",
    ]
    assert not any("recovered" in title for title in receiver.titles)


def test_what_was_stopped_and_gone_on_with_has_recovered_once_it_ends_well(
    quiet: Any, receiver: Any, ran: Any, tell: Any
) -> None:
    ran(quiet.ledger, "pull", "failed", 2 * HOUR)
    tell()
    ran(quiet.ledger, "pull", "stopped", timedelta(minutes=5))
    tell()
    assert "failed pull" in quiet.ledger.list_incidents()
    ran(quiet.ledger, "pull", "done", timedelta(seconds=5), took=timedelta(seconds=60))
    tell()
    told = [title.split("] ")[1] for title in receiver.titles]
    assert told == ["pull: failed", "pull: recovered"]
    assert quiet.ledger.list_incidents() == {}


def test_a_message_leads_to_the_page_on_which_it_is_decided(
    quiet: Any, receiver: Any, ran: Any, tell: Any
) -> None:
    quiet.change(console={"public_url": "https://bridge.example.org"}, schedule={"timezone": "UTC"})
    run = quiet.done("upload")
    failed = ran(quiet.ledger, "pull", "failed", HOUR)
    tell()
    (message,) = receiver.messages
    base = "https://bridge.example.org/w/1"
    assert f"{base}/batches/{run.artifact}" in message["message"]
    assert f"{base}/runs/{failed}" in message["message"]


def test_all_of_one_moment_stand_in_one_message(
    quiet: Any, receiver: Any, ran: Any, tell: Any
) -> None:
    for job in ("pull", "score", "upload"):
        ran(quiet.ledger, job, "failed", HOUR, message=f"{job} broke, " + "x" * 900)
    tell()
    (message,) = receiver.messages
    assert message["title"].startswith("[sandbox/galaxies] 3 things (")
    assert all(f"{job} broke" in message["message"] for job in ("pull", "score", "upload"))
    # It must be readable on a phone.
    assert len(message["message"]) < 1600
    assert "zoo-bridge runs " in message["message"]


def test_several_who_look_at_once_tell_once(quiet: Any, receiver: Any, ran: Any, tell: Any) -> None:
    ran(quiet.ledger, "pull", "failed", HOUR)
    settings = quiet.settings
    others = [Ledger.of(settings) for _ in range(6)]
    for state in ("failed", "recovered"):
        gate = threading.Barrier(len(others))

        def look(ledger: Ledger, gate: threading.Barrier = gate) -> None:
            gate.wait()
            for _ in range(3):
                tell(ledger=ledger)

        threads = [threading.Thread(target=look, args=(each,)) for each in others]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert receiver.titles[-1] == f"[sandbox/galaxies] pull: {state}"
        ran(quiet.ledger, "pull", "done", timedelta(0))
    assert len(receiver.got) == 2


def test_what_reached_nobody_is_noted_and_told_a_little_later(
    quiet: Any, receiver: Any, ran: Any, tell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran(quiet.ledger, "pull", "failed", HOUR)
    receiver.status = 500
    assert tell() is None
    (act,) = quiet.ledger.list_acts("not told")
    assert "1 of 1 addresses did not take it: 1 (json)" in act.text
    assert "500" in act.text
    receiver.status = 200
    # Not at once: a server in trouble is given some minutes.
    assert tell() is None
    with quiet.ledger.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE incidents SET claimed_until = '2026-01-01T00:00:00'")
    assert tell() is not None
    assert quiet.ledger.list_acts("told")


def test_one_address_of_two_is_enough_and_the_other_is_named(
    quiet: Any, receiver: Any, ran: Any
) -> None:
    ran(quiet.ledger, "pull", "failed", HOUR)
    closed = "json://127.0.0.1:9/hook-WrongOne77"
    to = Channels((closed, "nonsense", receiver.url))
    assert tell_news(quiet.settings, quiet.ledger, to) is not None
    (act,) = quiet.ledger.list_acts("not told")
    assert "2 of 3 addresses did not take it: 1 (json)" in act.text
    assert "2 (no address) is none that apprise knows" in act.text
    assert tell_news(quiet.settings, quiet.ledger, to) is None
    assert len(receiver.got) == 1


def test_a_claim_whose_process_died_runs_out(
    quiet: Any, receiver: Any, ran: Any, tell: Any
) -> None:
    ran(quiet.ledger, "pull", "failed", HOUR)
    assert quiet.ledger.claim_incident("failed pull", "of a process that died", None)
    assert tell() is None
    with quiet.ledger.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE incidents SET claimed_until = '2026-01-01T00:00:00'")
    assert tell() is not None
    assert len(receiver.got) == 1


def test_a_service_that_hangs_holds_nothing_up(
    quiet: Any, receiver: Any, ran: Any, tell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels_module, "SECONDS", 0.5)
    receiver.wait.clear()
    ran(quiet.ledger, "pull", "failed", HOUR)
    began = datetime.now(UTC)
    assert tell() is None
    assert datetime.now(UTC) - began < timedelta(seconds=10)
    assert "no answer within" in quiet.ledger.list_acts("not told")[0].text


def test_only_what_is_asked_for_is_told(quiet: Any, receiver: Any, ran: Any, tell: Any) -> None:
    quiet.change(upload={"per_run": 5}, notify={"kinds": ["refused"]})
    ran(quiet.ledger, "pull", "failed", HOUR)
    assert tell_news(quiet.settings, quiet.ledger, Channels((receiver.url,))) is None
    ran(quiet.ledger, "score", "refused", HOUR)
    assert tell_news(quiet.settings, quiet.ledger, Channels((receiver.url,))) is not None


def test_a_link_to_the_report_is_one_that_people_can_open(
    quiet: Any, receiver: Any, ran: Any
) -> None:
    quiet.change(notify={"report_url": "https://host/reports/{run}/report.html"})
    name = ran(quiet.ledger, "pull", "failed", HOUR)
    tell_news(quiet.settings, quiet.ledger, Channels((receiver.url,)))
    assert f"https://host/reports/{name}/report.html" in receiver.messages[0]["message"]


# a run of its own, without serve


def test_a_run_pings_and_tells_how_it_ended(
    quiet: Any, receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URLS, f"  {receiver.url}\n")
    monkeypatch.setenv(PING, f"http://127.0.0.1:{receiver.port}/ping/{{job}}?key=abc")
    assert quiet.run("score").exit_code == 1
    paths = [path for path, _ in receiver.got]
    assert paths == ["/ping/score/start?key=abc", "/ping/score/fail?key=abc", "/hook-Zq81TkLmP"]
    assert "There is no model" in receiver.got[1][1]
    # Done, with a batch that waits; nothing of this is told again by the next.
    quiet.done("upload")
    assert [path for path, _ in receiver.got[3:]] == [
        "/ping/upload/start?key=abc",
        "/ping/upload?key=abc",
        "/hook-Zq81TkLmP",
    ]
    batch = quiet.ledger.list_batches()[0].name
    assert receiver.titles[-1] == f"[sandbox/galaxies] {batch}: approval"
    quiet.done("upload")
    assert len(receiver.titles) == 2
    # A dry run is nobody's business.
    count = len(receiver.got)
    quiet.run("upload", dry_run=True)
    assert len(receiver.got) == count


def test_a_cycle_without_its_new_model_and_one_that_found_another_alarm_nobody(
    quiet: Any, receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoo_bridge.service import runner
    from zoo_bridge.steps.context import Result

    monkeypatch.setenv(PING, f"http://127.0.0.1:{receiver.port}/ping")

    def step(job: str) -> Any:
        outcome = "refused" if job == "retrain" else "done"
        artifact = "20261127T000000-abc" if job == "retrain" else None
        return lambda ctx: Result(outcome, f"{job} as it is", artifact=artifact)

    monkeypatch.setattr(runner, "find_step", step)
    quiet.ledger.promote("20261120T000000-old", "promote", "the first model")
    assert quiet.run("cycle").exit_code == 3
    assert [path for path, _ in receiver.got] == ["/ping/start", "/ping"]
    with quiet.ledger.lock("cycle"):
        busy = threading.Thread(target=lambda: quiet.run("cycle"))
        busy.start()
        busy.join()
    assert len(receiver.got) == 2


def test_without_a_place_for_the_job_only_the_cycle_pings(
    quiet: Any, receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PING, f"http://127.0.0.1:{receiver.port}/ping/")
    quiet.run("score")
    assert receiver.got == []
    quiet.run("cycle")
    assert [path for path, _ in receiver.got] == ["/ping/start", "/ping/fail"]


def test_what_cannot_be_told_fails_no_run(
    quiet: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(URLS, "json://127.0.0.1:9/hook-WrongOne77 nonsense")
    monkeypatch.setenv(PING, "http://127.0.0.1:9/{job}/hook-WrongOne77")
    run = quiet.run("upload")
    assert run.exit_code == 0
    log = (quiet.settings.work / "runs" / run.run_id / "log.jsonl").read_text()
    assert "was not taken: ConnectionError" in log
    assert "not told: 2 of 2 addresses" in log
    assert "WrongOne77" not in log
    assert {act.subject for act in quiet.ledger.list_acts("not told")} == {"notify", "ping"}


def test_secrets_in_a_file_that_cannot_be_read_fail_no_run(
    quiet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{URLS}_FILE", "/nowhere/urls")
    run = quiet.run("upload")
    assert run.exit_code == 0
    log = (quiet.settings.work / "runs" / run.run_id / "log.jsonl").read_text()
    assert f"{URLS}_FILE names /nowhere/urls" in log


def test_addresses_are_secrets_whole_and_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        URLS,
        "slack://tokenA1234567/tokenB1234567/tokenC1234567 mailto://me:geheim%40pass@mail.example.org",
    )
    for text in (
        "POST https://hooks.slack.com/services/tokenA1234567/tokenB1234567/tokenC1234567 failed",
        "login of me with geheim@pass was refused",
        "slack://tokenA1234567/tokenB1234567/tokenC1234567",
    ):
        shown = redact(text)
        assert "token" not in shown
        assert "geheim" not in shown


# the command


def command(project: Any, *words: str) -> Any:
    return CliRunner().invoke(app, ["notify", *words, "--config", str(project.settings.path)])


def test_the_command_sends_a_test_and_looks(
    quiet: Any, receiver: Any, ran: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "is not set" in str(command(quiet, "--test").exception)
    monkeypatch.setenv(URLS, receiver.url)
    ended = command(quiet, "--test")
    assert "Sent to 1 address(es)" in ended.output
    assert receiver.titles == ["[sandbox/galaxies] a test"]
    assert "nothing new" in command(quiet).output
    ran(quiet.ledger, "pull", "killed", HOUR)
    assert "pull: killed" in command(quiet).output
    assert "nothing new" in command(quiet).output
    receiver.status = 403
    ran(quiet.ledger, "score", "failed", HOUR)
    assert "it reached nobody" in str(command(quiet).exception)
    assert "did not take it" in str(command(quiet, "--test").exception)
