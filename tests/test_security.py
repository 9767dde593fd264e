"""Secrets that stand nowhere, and inputs that are made to do harm."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.service.conftest import Receiver
from zoo_bridge.errors import InputError
from zoo_bridge.rows import read_rows
from zoo_bridge.service.watching.channels import PING, URLS
from zoo_bridge.service.watching.metrics import as_text

# Each is what somebody would search a leak for; none is a word.
PASSWORD = "pw-Kq7zVtR2mX9"
CLIENT_SECRET = "cs-Lw8yUsQ3nY0"
AWS_SECRET = "aws-Mx9xTrP4oZ1/abc"
HOOK = "hook-Ny0wSqO5pA2"
PING_KEY = "ping-Oz1vRpN6qB3"
URL_PASSWORD = "url-Pa2uQoM7rC4"
SIGNATURE = "sig0Qb3tPnL8sD5"
SECRETS = (PASSWORD, CLIENT_SECRET, AWS_SECRET, HOOK, PING_KEY, URL_PASSWORD, SIGNATURE)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


def texts(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every file below a folder as text, unpacked where it is packed."""
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            if data[:2] == b"\x1f\x8b":
                data = gzip.decompress(data)
            yield path, data.decode("utf-8", errors="replace")


def run(project: Any, job: str, environment: dict[str, str]) -> tuple[str, list[str]]:
    """Run a job in a process; what it said, and the titles that it had meanwhile."""
    command = [sys.executable, "-m", "zoo_bridge", "run", job]
    child = subprocess.Popen(
        [*command, "--config", str(project.settings.path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    titles: set[str] = set()
    while child.poll() is None:
        for each in [psutil.Process(), *psutil.Process().children(recursive=True)]:
            try:
                titles.add(" ".join(each.cmdline()))
            except psutil.Error:
                continue
        time.sleep(0.05)
    assert child.stdout is not None
    return child.stdout.read(), sorted(titles)


@pytest.fixture
def leaky(make_project: Callable[..., Any]) -> Any:
    """A project in which everything that has a secret fails, and says so."""
    project = make_project({"galaxies": 12}, report={"every_run": True}, upload={"per_run": 5})
    project.done("upload")
    return project


def test_no_secret_stands_anywhere_after_jobs_that_failed(leaky: Any, receiver: Receiver) -> None:
    path = leaky.settings.path
    signed = f"http://127.0.0.1:9/catalogue.csv?X-Amz-Signature={SIGNATURE}&token={SIGNATURE}"
    text = path.read_text()
    secret = f"http://user:{URL_PASSWORD}@127.0.0.1:9/hook"
    environment = {
        **os.environ,
        "PANOPTES_PASSWORD": PASSWORD,
        "AWS_SECRET_ACCESS_KEY": AWS_SECRET,
        URLS: f"json://127.0.0.1:{receiver.port}/{HOOK} json://x:{URL_PASSWORD}@127.0.0.1:9/{HOOK}",
        PING: f"http://127.0.0.1:9/{PING_KEY}/{{job}}",
        "HTTP_PROXY_OF_TESTS": secret,
    }
    said = ""
    # A wrong password; then a wrong application; a survey behind a signed address; a bucket that
    # gives no access; a server that says the password back.
    output, titles = run(leaky, "pull", environment)
    said += output
    application = {k: v for k, v in environment.items() if k != "PANOPTES_PASSWORD"}
    application.pop("PANOPTES_USERNAME", None)
    application |= {"PANOPTES_CLIENT_ID": "nobody", "PANOPTES_CLIENT_SECRET": CLIENT_SECRET}
    output, more = run(leaky, "upload", application)
    said, titles = said + output, titles + more
    path.write_text(re.sub(r'catalogue = "[^"]*"', f'catalogue = "{signed}"', text))
    output, more = run(leaky, "score", environment)
    said, titles = said + output, titles + more
    path.write_text(text)
    echo = {"what": "status", "status": 422, "message": f"no such login with {PASSWORD}"}
    leaky.fault(path="/users/sign_in", method="POST", times=None, **echo)
    output, more = run(leaky, "pull", environment)
    said, titles = said + output, titles + more
    assert said.count("zoo-bridge: ") >= 3
    found = {
        "the terminal": said,
        "process titles": "\n".join(titles),
        "notifications": json.dumps(receiver.messages),
        "metrics": as_text([(leaky.settings, leaky.ledger)]).decode(),
    }
    found |= {str(name): text for name, text in texts(leaky.settings.work)}
    assert any("log.jsonl" in name for name in found)
    assert any("report.html" in name for name in found)
    assert any("ledger.sqlite3" in name for name in found)
    assert "failed" in found["notifications"]
    leaks = [(name, secret) for name, text in found.items() for secret in SECRETS if secret in text]
    assert leaks == []


def test_secrets_come_from_files_as_well(leaky: Any, tmp_path: Path) -> None:
    files = {}
    for name, value in (("PANOPTES_PASSWORD", PASSWORD), (URLS, f"json://127.0.0.1:9/{HOOK}")):
        path = tmp_path / name
        path.write_text(f"{value}\n")
        files[f"{name}_FILE"] = str(path)
    environment = {k: v for k, v in os.environ.items() if k != "PANOPTES_PASSWORD"} | files
    said, _ = run(leaky, "pull", environment)
    assert "log-in" in said or "logged in" in said.lower() or "password" in said.lower()
    whole = said + "".join(text for _, text in texts(leaky.settings.work))
    assert PASSWORD not in whole
    assert HOOK not in whole


def test_settings_take_no_secret(project: Any) -> None:
    from zoo_bridge.config import load
    from zoo_bridge.errors import SettingsError

    path = project.settings.path
    path.write_text(path.read_text() + '\n[notify]\nurls = ["slack://a/b/c"]\n')
    with pytest.raises(SettingsError, match="urls is not a setting"):
        load(path)


def test_a_line_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.csv.gz"
    with gzip.open(path, "wb", 6) as file:
        file.write(b"subject_id,metadata\n1,")
        for _ in range(400):
            file.write(b"0" * 2**20)
    assert path.stat().st_size < 2**20
    before = psutil.Process().memory_info().rss
    with pytest.raises(InputError, match="a line of more than 64 MiB, beginning on line 2"):
        for _ in read_rows(path, ["subject_id"], "subjects"):
            pass
    assert psutil.Process().memory_info().rss - before < 400 * 2**20


def test_an_export_without_an_end_is_given_up(
    project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.change(upload={"per_run": 5})
    project.done("upload")
    project.show()
    with monkeypatch.context() as small:
        small.setattr("zoo_bridge.zooniverse.download.MOST_BYTES", 100)
        run = project.run("pull")
    assert run.exit_code == 1
    assert "and does not end" in run.message
    assert project.ledger.list_artifacts("exports") == []
    project.done("pull")


def test_weights_bring_no_code(labelled: Any) -> None:
    """A model's folder is read as numbers: nothing in it is unpickled or run."""
    labelled.done("retrain")
    version = labelled.ledger.model_in_use()
    folder = labelled.settings.work / "models" / version
    weights = next(folder.glob("*.weights.h5"))
    mark = labelled.settings.work / "somebody-was-here"
    code = f"cos\nsystem\n(S'touch {mark}'\ntR."
    weights.write_bytes(code.encode())
    run = labelled.run("score")
    assert run.exit_code == 1
    assert "damaged" in run.message or "cannot be read" in run.message
    assert not mark.exists()
