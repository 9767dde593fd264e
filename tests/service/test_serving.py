"""``zoo-bridge serve`` as a process: its web port, its lock, its settings, what it tells."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from tests.service.conftest import Receiver
from zoo_bridge.service.cli import app
from zoo_bridge.service.serving import service
from zoo_bridge.service.watching.channels import URLS

LONG = 60.0


class Serving:
    """A ``serve`` under way, and what it said so far."""

    def __init__(self, *paths: Path) -> None:
        words = [word for path in paths for word in ("--config", str(path))]
        command = [sys.executable, "-m", "zoo_bridge", "serve", *words]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ}
        )
        self.said: list[str] = []
        self._url = ""
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)

    def hear(self, words: str) -> str:
        """Wait until it has said something."""
        until = time.monotonic() + LONG
        while time.monotonic() < until:
            if found := next((line for line in list(self.said) if words in line), None):
                return found
            if self.process.poll() is not None:
                time.sleep(0.2)
                break
            time.sleep(0.02)
        pytest.fail(f"{words!r} was not said, but: {''.join(self.said)}")

    @property
    def url(self) -> str:
        if not self._url:
            found = re.search(r"http://[\d.:]+", self.hear("health and metrics"))
            assert found is not None
            self._url = found[0]
        return self._url

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, timeout=20)

    def end(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(LONG)


@pytest.fixture
def serve() -> Iterator[Callable[..., Serving]]:
    """Starts what is killed at the test's end."""
    started: list[Serving] = []

    def start(*paths: Path) -> Serving:
        started.append(Serving(*paths))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()


@pytest.fixture
def yearly(make_project: Callable[..., Any]) -> Any:
    """A project whose cycle is due once a year, and not now."""
    month = (datetime.now(UTC) + timedelta(days=90)).month
    return make_project({"galaxies": 12}, schedule={"cycle": f"0 0 1 {month} *"})


Labels = frozenset[tuple[str, str]]


def numbers(text: str) -> dict[str, dict[Labels, float]]:
    """What Prometheus' own reader makes of metrics: by name and labels."""
    found: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = frozenset(sample.labels.items())
            found.setdefault(sample.name.removeprefix("zoo_bridge_"), {})[key] = sample.value
    return found


def of(workflow: int = 1, **labels: str) -> Labels:
    """The labels of a number of the sandbox's project."""
    whole = {"project": "sandbox/galaxies", "workflow": str(workflow), **labels}
    return frozenset(whole.items())


def test_health_says_whether_it_lives_and_whether_the_loop_is_well(
    yearly: Any, serve: Any, ran: Any
) -> None:
    serving = serve(yearly.settings.path)
    serving.hear("runs next at")
    answer = serving.get("/healthz")
    told = answer.json()
    assert (answer.status_code, told["live"], told["ready"]) == (200, True, True)
    (workflow,) = told["workflows"]
    assert workflow["state"] == "at work"
    assert workflow["jobs"]["cycle"]["last_success"] is None
    assert workflow["jobs"]["cycle"]["next"]
    ran(yearly.ledger, "cycle", "failed", timedelta(hours=1), message="no server")
    # It lives: nobody is to restart it for a failure of the loop.
    assert serving.get("/healthz").status_code == 200
    answer = serving.get("/healthz/ready")
    assert answer.status_code == 503
    assert answer.json()["workflows"][0]["findings"][0]["text"] == "cycle failed: no server"
    assert serving.get("/nothing").status_code == 404


def test_metrics_are_those_of_the_ledger(yearly: Any, serve: Any, ran: Any) -> None:
    run = yearly.done("upload")
    ran(yearly.ledger, "pull", "failed", timedelta(hours=1))
    serving = serve(yearly.settings.path)
    answer = serving.get("/metrics")
    found = numbers(answer.text)
    assert found["problems"][of()] == 1
    assert found["decisions"][of()] == 1
    ended = datetime.fromisoformat(yearly.ledger.find_run(run.run_id).ended_at).timestamp()
    last = found["job_last_success_timestamp_seconds"]
    assert last[of(job="upload")] == pytest.approx(ended, abs=0.01)
    assert of(job="pull") not in last
    outcomes = found["job_last_outcome"]
    assert outcomes[of(job="pull", outcome="failed")] == 1
    assert outcomes[of(job="upload", outcome="done")] == 1
    created = found["job_last_count"][of(job="upload", what="created")]
    assert created == run.counts["created"] == len(yearly.subjects())
    assert found["batches"][of(state="staged")] == 1
    account = yearly.box.state.one("SELECT * FROM users WHERE login = 'sandbox'")
    assert found["quota_left"][of()] == account["subject_limit"] - len(yearly.subjects())
    assert found["job_overdue"][of(job="cycle")] == 0


def test_a_run_without_serve_leaves_metrics_in_a_file(yearly: Any) -> None:
    yearly.edit("[serve]", '[serve]\ntextfile = "metrics/zoo.prom"')
    yearly.run("score")
    path = yearly.settings.path.parent / "metrics" / "zoo.prom"
    found = numbers(path.read_text())
    assert found["job_last_outcome"][of(job="score", outcome="failed")] == 1
    assert list(path.parent.iterdir()) == [path]


def test_one_is_at_work_and_another_takes_over_when_it_is_killed(yearly: Any, serve: Any) -> None:
    first = serve(yearly.settings.path)
    first.hear("runs next at")
    second = serve(yearly.settings.path)
    second.hear("stands by to take over")
    told = second.get("/healthz")
    assert (told.status_code, told.json()["workflows"][0]["state"]) == (200, "standing by")
    first.process.kill()
    second.hear("runs next at")
    assert second.end() == 143
    with yearly.ledger.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT * FROM locks").fetchall() == []


def test_a_run_that_died_with_its_host_is_gone_on_with(yearly: Any, serve: Any, ran: Any) -> None:
    day = datetime.now(UTC) - timedelta(minutes=30)
    yearly.edit('cycle = "', f'score = "{day:%M %H} * * *"\ncycle = "')
    ran(yearly.ledger, "score", "killed", timedelta(minutes=20))
    # The other host's lock lasts a little longer than the scheduler's.
    soon = (datetime.now(UTC) + timedelta(seconds=30)).isoformat(timespec="microseconds")
    with yearly.ledger.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO locks VALUES ('score', (SELECT project_key FROM workflows), "
            f"(SELECT key FROM workflows), 'elsewhere:1:1', '{soon}')"
        )
    serving = serve(yearly.settings.path)
    serving.hear("runs next at")
    assert "score" not in "".join(line for line in serving.said if "started" in line)
    until = time.monotonic() + 3 * LONG
    while not any("was cut off: it goes on now" in line for line in serving.said):
        assert time.monotonic() < until
        time.sleep(0.1)
    serving.hear("score started")


def test_a_lock_of_a_host_that_died_is_free_within_two_minutes(yearly: Any) -> None:
    with yearly.ledger.lock(service.LOCK, seconds=service.LEASE_SECONDS):
        connection = yearly.ledger.engine.connect()
        row = connection.exec_driver_sql("SELECT expires_at FROM locks").one()
        connection.close()
    ends = datetime.fromisoformat(row.expires_at) - datetime.now(UTC)
    assert ends.total_seconds() + service.STAND_BY_SECONDS < 120


def test_several_workflows_are_served_at_once(serve: Any, yearly: Any) -> None:
    text = yearly.settings.path.read_text()
    assert "workflow = 1" in text
    other = yearly.settings.path.with_name("other.toml")
    other.write_text(text.replace("workflow = 1", "workflow = 2"))
    serving = serve(yearly.settings.path, other)
    serving.hear("runs next at")
    until = time.monotonic() + LONG
    while serving.get("/healthz").json()["workflows"][1]["state"] != "at work":
        assert time.monotonic() < until
    metrics = numbers(serving.get("/metrics").text)["problems"]
    assert set(metrics) == {of(1), of(2)}
    assert serving.end() == 143
    twice = serve(yearly.settings.path, yearly.settings.path)
    twice.hear("stands in two settings files")
    assert twice.process.wait(LONG) == 2


def test_a_port_that_is_taken_is_named(yearly: Any, serve: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        yearly.edit("port = 0", f"port = {port}")
        serving = serve(yearly.settings.path)
        serving.hear(f"Port {port} of 127.0.0.1 cannot be listened at: Address already in use")
        assert serving.process.wait(LONG) == 2


def test_settings_are_read_again_on_sighup(yearly: Any, serve: Any) -> None:
    serving = serve(yearly.settings.path)
    serving.hear("runs next at")
    assert serving.get("/healthz").json()["live"]
    before = yearly.settings.path.read_text()
    yearly.settings.path.write_text(before.replace('cycle = "0 0 1', 'cycle = "7 9 1'))
    serving.process.send_signal(signal.SIGHUP)
    assert ":07:00" in serving.hear("cycle (7 9 1")
    serving.said.clear()
    yearly.settings.path.write_text(before.replace("[schedule]", "[schedule]\nnonsense = 1"))
    serving.process.send_signal(signal.SIGHUP)
    assert "nonsense" in serving.hear("the settings stay as they were")
    yearly.settings.path.write_text(before.replace('work_dir = "data"', 'work_dir = "elsewhere"'))
    serving.process.send_signal(signal.SIGHUP)
    serving.hear("work_dir changed: restart")
    assert serving.get("/healthz").json()["live"]
    assert serving.end() == 143


def test_what_is_paused_is_passed_over(
    make_project: Callable[..., Any], serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A job that is late runs as soon as serve starts: its time passed an hour ago.
    minute = datetime.now(UTC) - timedelta(minutes=30)
    project = make_project({"galaxies": 12}, schedule={"score": f"{minute:%M %H} * * *"})
    config = ["--config", str(project.settings.path)]
    ended = CliRunner().invoke(app, ["pause", "score", "--why", "the bucket moves", *config])
    assert ended.output == "score is paused.\n"
    serving = serve(project.settings.path)
    serving.hear("score (")
    (act,) = project.ledger.paused().values()
    assert (act.what, act.text) == ("paused", "the bucket moves")
    shown = CliRunner().invoke(app, ["status", *config]).output
    assert "score: paused since" in shown
    assert "the bucket moves" in shown
    assert serving.get("/healthz").json()["workflows"][0]["jobs"]["score"]["paused"]
    assert project.ledger.list_runs("score") == []
    serving.end()
    assert CliRunner().invoke(app, ["resume", *config]).output == "score is resumed.\n"
    assert project.ledger.paused() == {}
    again = serve(project.settings.path)
    again.hear("score ended with exit code 1")


def test_what_goes_wrong_on_another_host_is_told_within_minutes(
    yearly: Any,
    serve: Any,
    receiver: Receiver,
    ran: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The watchdog's own pace is the product's: the first look comes after a minute.
    monkeypatch.setenv(URLS, receiver.url)
    serving = serve(yearly.settings.path)
    serving.hear("runs next at")
    ran(yearly.ledger, "upload", "killed", timedelta(minutes=1))
    until = time.monotonic() + 3 * LONG
    while not receiver.got:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert receiver.titles == ["[sandbox/galaxies] upload: killed"]
    serving.hear("told: [sandbox/galaxies] upload: killed")
    assert serving.end() == 143
