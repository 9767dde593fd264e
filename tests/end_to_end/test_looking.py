"""What people look at: runs as they are, tables to copy from, what was set aside, no secrets."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests

from tests.commands import Command, run_command
from tests.conftest import FAST_MODEL
from zoo_bridge.config import load

MakeProject = Callable[..., Any]
SLUG = "sandbox/galaxies"


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "zoo_bridge", *words]


def zoo_bridge(project: Any, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return run_command(*words, config=project.settings.path, env=env)


def clear_faults(project: Any) -> None:
    requests.delete(f"{project.box.urls['panoptes']}/sandbox/faults", timeout=10)


def test_a_killed_run_is_known_at_once(project: Any) -> None:
    project.fault(method="GET", path="/projects", what="delay", seconds=30, times=None)
    child = Command("run", "pull", config=project.settings.path)
    while not project.ledger.list_runs("pull"):
        time.sleep(0.05)
    (row,) = json.loads(zoo_bridge(project, "runs", "--json").stdout)
    assert row["outcome"] == "running"
    assert zoo_bridge(project, "status").returncode == 0
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    clear_faults(project)
    (row,) = json.loads(zoo_bridge(project, "runs", "--json").stdout)
    assert row["outcome"] == "failed"
    assert "ended without a word" in row["message"]
    ended = zoo_bridge(project, "status")
    assert ended.returncode == 1
    assert "running" not in ended.stdout


def test_status_exits_as_the_last_cycle_did(labelled: Any) -> None:
    assert zoo_bridge(labelled, "status").returncode == 0
    labelled.fault(method="GET", path="/projects", what="status", status=404, times=None)
    assert labelled.run("cycle").exit_code == 1
    ended = zoo_bridge(labelled, "status", "--json")
    assert (ended.returncode, json.loads(ended.stdout)["exit_code"]) == (1, 1)
    clear_faults(labelled)
    labelled.done("cycle")
    assert zoo_bridge(labelled, "status").returncode == 0
    # A refusal is a refusal.
    labelled.show()
    labelled.done("pull")
    labelled.done("aggregate")
    labelled.change(cutouts={"size": 32}, upload={"per_week": 1})
    assert labelled.run("upload").exit_code == 3
    assert zoo_bridge(labelled, "status").returncode == 3


def test_names_can_be_copied_at_eighty_columns(labelled: Any) -> None:
    labelled.run("upload", force=True)
    names = [row.name for row in labelled.ledger.list_batches()]
    shown = zoo_bridge(labelled, "batches", COLUMNS="80").stdout
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert [line.split()[0] for line in shown.splitlines()[1:]] == names
    shown = zoo_bridge(labelled, "runs", COLUMNS="80").stdout
    lines = [line for line in shown.splitlines() if not line.startswith("  ")]
    assert [line.split()[0] for line in lines] == [
        row.run_id for row in labelled.ledger.list_runs()
    ]
    assert all(len(line) <= 80 for line in shown.splitlines())
    # In a file or a pipe, every run is still a line that starts with its name.
    assert re.search(r"^\d{8}T\d{6}-upload-\w+ +done", zoo_bridge(labelled, "runs").stdout, re.M)


def test_no_line_advises_what_was_done_or_undone(labelled: Any) -> None:
    first = labelled.done("retrain").artifact
    name = labelled.done("score") and labelled.done("upload").artifact
    second = labelled.run("retrain", force=True).artifact
    for words in (("promote", second), ("rollback",), ("publish", name)):
        assert zoo_bridge(labelled, *words).returncode == 0
    for words in (("status",), ("runs",), ("batches",), ("models", "--history")):
        shown = zoo_bridge(labelled, *words).stdout
        assert f"zoo-bridge publish {name}" not in shown
        assert f"model {second} in use" not in shown
    assert labelled.ledger.model_in_use() == first


def test_rollback_speaks_json(labelled: Any) -> None:
    first = labelled.done("retrain").artifact
    second = labelled.run("retrain", force=True).artifact
    zoo_bridge(labelled, "promote", second)
    ended = zoo_bridge(labelled, "rollback", "--json")
    assert json.loads(ended.stdout) == {"model": first, "before": second}


@pytest.fixture
def with_rejects(make_after: MakeProject) -> Any:
    """A scored project: one row of its export cannot be read, one of its cutouts is no image."""
    project = make_after("aggregate", {"galaxies": 80})
    rows = project.box.state.all("SELECT id FROM classifications ORDER BY id")
    with project.box.state.write() as db:
        db.execute("UPDATE classifications SET annotations = '{' WHERE id = ?", (rows[5]["id"],))
    project.change(cutouts={"size": 32}, votes={"max_reject_share": 0.5})
    files = project.ledger.newest("exports").facts["files"]
    import gzip

    path = project.settings.work / files["classifications"]
    lines = gzip.decompress(path.read_bytes()).split(b"\n")
    broken = project.settings.work / "broken.csv"
    broken.write_bytes(b"\n".join([*lines[:5], b"17,cut short", *lines[5:]]))
    project.done("aggregate", exports=(broken,))
    s3 = boto3.session.Session().client("s3", endpoint_url=project.box.urls["s3"])
    bucket = project.box.plan.bucket
    keys = [each["Key"] for each in s3.list_objects_v2(Bucket=bucket)["Contents"]]
    bad = next(key for key in keys if "ZB000070" in key)
    s3.put_object(Bucket=bucket, Key=bad, Body=b"no image")
    project.change(
        cutouts={"size": 32},
        model=FAST_MODEL,
    )
    project.done("retrain")
    project.done("score")
    return project


def test_what_was_set_aside_is_listed_with_reasons(with_rejects: Any, tmp_path: Path) -> None:
    shown = zoo_bridge(with_rejects, "rejects").stdout
    assert "1 by aggregate: cut short" in shown
    assert re.search(r"^broken.csv:6 +aggregate +cut short", shown, re.M)
    assert re.search(r"^ZB000070 +score ", shown, re.M)
    found = json.loads(zoo_bridge(with_rejects, "rejects", "--json").stdout)
    assert len(found["rejects"]) == sum(each["count"] for each in found["counts"]) == 2
    one = json.loads(zoo_bridge(with_rejects, "rejects", "--json", "--object", "ZB000070").stdout)
    assert [each["by"] for each in one["rejects"]] == ["score"]
    path = tmp_path / "rejects.csv"
    assert "2 rows" in zoo_bridge(with_rejects, "rejects", "--csv", str(path)).stdout
    assert path.read_text().splitlines()[0] == "by,object_id,uri,reason,detail"
    shown = zoo_bridge(with_rejects, "rejects", "--reason", "nothing").stdout
    assert shown == "Nothing was set aside.\n"


def test_scores_say_why_an_object_has_none(with_rejects: Any) -> None:
    ended = zoo_bridge(with_rejects, "scores", "--object", "ZB000070", "--object", "ZB000001")
    assert ended.returncode == 0
    assert "ZB000070 was set aside: " in ended.stdout
    assert "ZB000001" in ended.stdout
    words = ("scores", "--object", "ZB000070", "--json")
    (row,) = json.loads(zoo_bridge(with_rejects, *words).stdout)["rejected"]
    assert row["reason"]
    ended = zoo_bridge(with_rejects, "scores", "--object", "nothing")
    assert ended.returncode == 1
    assert "nothing: not in the survey that" in ended.stderr
    # One that a condition leaves out is no riddle.
    words = ("scores", "--object", "ZB000001", "--where", "bald > 1000")
    assert zoo_bridge(with_rejects, *words).returncode == 0


def test_addresses_with_secrets_are_never_shown_or_written(labelled: Any) -> None:
    secret = "swordfish-4711"
    path = labelled.settings.path
    text = path.read_text()
    signed = f"http://127.0.0.1:9/c.csv?X-Amz-Signature={secret}"
    path.write_text(re.sub(r'catalogue = ".*"', f'catalogue = "{signed}"', text))
    labelled.settings = load(path)
    said = []
    for words in (("check",), ("run", "retrain"), ("run", "upload", "--json"), ("runs",)):
        ended = zoo_bridge(labelled, *words)
        said.append(ended.stdout + ended.stderr)
    # What the server says may carry one, too.
    message = f"see https://somebody:{secret}@host/x?sig={secret}"
    labelled.fault(method="GET", path="/me", what="status", status=404, message=message, times=None)
    ended = zoo_bridge(labelled, "run", "pull")
    said.append(ended.stdout + ended.stderr)
    assert "see https://***@host/x?***" in said[-1]
    path.write_text(
        re.sub(r'ledger = ".*"', f'ledger = "postgresql+psycopg://u:{secret}@127.0.0.1:9/l"', text)
    )
    ended = zoo_bridge(labelled, "status")
    said.append(ended.stdout + ended.stderr)
    assert "127.0.0.1:9/l cannot be opened" in said[-1]
    assert not [each for each in said if secret in each]
    for file in labelled.settings.work.rglob("*"):
        if file.is_file():
            assert secret.encode() not in file.read_bytes(), file
