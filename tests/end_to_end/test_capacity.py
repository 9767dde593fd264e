"""What this machine can do, measured on the configured survey."""

from __future__ import annotations

import json
import math
import re
import subprocess
from typing import Any

import boto3
import pytest

from tests.commands import run_command
from zoo_bridge.service.capacity import Capacity
from zoo_bridge.service.show import show_capacity


def run(project: Any, *words: str) -> subprocess.CompletedProcess[str]:
    return run_command("capacity", "--seconds", "4", *words, config=project.settings.path)


def test_capacity_says_how_many_machines_keep_pace(project: Any) -> None:
    """Before there is a model: networks like it, never trained, cost the same."""
    ended = run(project, "--json", "--per-day", "1000000")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    rates = [found[name] for name in ("fetching", "ready", "network", "whole")]
    assert min(rates) > 0
    assert found["objects"] == 80
    assert found["limit"] in ("fetching", "decoding", "the network")
    assert math.isclose(found["per_day"], 86_400 * found["whole"])
    assert math.isclose(found["survey_days"], 80 / found["per_day"])
    by_name = {need["survey"]: need for need in found["needs"]}
    assert set(by_name) == {"yours", "Euclid", "Roman", "Rubin LSST"}
    assert by_name["yours"]["machines"] == math.ceil(1_000_000 / found["per_day"])
    assert all(need["source"] for need in found["needs"])
    # Nothing of it is left in the ledger.
    assert project.ledger.list_artifacts("scores") == []


def test_capacity_is_told_in_words(
    project: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = Capacity("small-1", 3_000_000, 1, 400.0, 300.0, 20.0, 10.0, 0.25)
    monkeypatch.setattr("zoo_bridge.service.capacity.measure", lambda ctx, seconds: measured)
    show_capacity(project.context, 60, 2_000_000, False)
    told = capsys.readouterr().out
    assert "fetching and decoding (1 process)  300" in told
    assert "The limit is the network; the model: small-1." in told
    assert "25.0% of the cutouts cannot be used" in told
    assert "864,000 cutouts a day, and this survey of 3,000,000 objects in 3 days" in told
    assert re.search(r"yours +2,000,000 +3 ", told)


def test_capacity_of_a_survey_that_cannot_be_read_says_so(project: Any) -> None:
    s3 = boto3.client("s3", endpoint_url=project.box.urls["s3"], region_name="us-east-1")
    for number in range(80):
        s3.put_object(Bucket=project.box.plan.bucket, Key=f"cutouts/ZB{number:06d}.fits", Body=b"x")
    ended = run(project)
    assert ended.returncode == 1
    assert "No cutout of the sample can be used" in ended.stderr
    assert "Traceback" not in ended.stderr
