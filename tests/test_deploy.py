"""What stands in ``deploy/``: executed, or validated by the tools that are made for it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
import pytest
import typer
import yaml
from cronsim import CronSim
from prometheus_client.parser import text_string_to_metric_families

from zoo_bridge.service.cli import app
from zoo_bridge.service.watching.metrics import as_text

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent


def needs(program: str) -> str:
    """A program of the system; the test is left out where it is not installed."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def passes(*command: str | Path, folder: Path | None = None) -> str:
    ended = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, cwd=folder
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def test_the_dockerfile_has_nothing_that_hadolint_would_have_otherwise() -> None:
    passes(BIN / "hadolint", "--no-color", DEPLOY / "Dockerfile")


def test_compose_is_what_compose_reads() -> None:
    path = DEPLOY / "compose.yaml"
    passes(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", path)
    found = yaml.safe_load(path.read_text())
    declared = set(found["secrets"])
    for service in found["services"].values():
        assert set(service.get("secrets", ())) <= declared
        # Secrets come as files: nothing in the environment of a container is one.
        for name, value in service.get("environment", {}).items():
            if value.startswith("/run/secrets/"):
                assert Path(value).name in service["secrets"], name


@pytest.mark.parametrize("name", ["cronjob.yaml", "deployment.yaml"])
def test_manifests_are_what_kubernetes_reads(name: str) -> None:
    path = DEPLOY / "kubernetes" / name
    passes(BIN / "kubernetes-validate", "--strict", path)
    for manifest in yaml.safe_load_all(path.read_text()):
        for pod in pods_of(manifest):
            assert pod["securityContext"]["runAsNonRoot"]
            for container in pod["containers"]:
                inside = container["securityContext"]
                assert inside["readOnlyRootFilesystem"]
                assert inside["capabilities"] == {"drop": ["ALL"]}
                # With its root read-only, these are all that it can write to.
                mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
                assert mounted == {"/project", "/tmp"}
                if container["args"][0] == "serve":
                    for probe in ("livenessProbe", "readinessProbe"):
                        assert container[probe]["httpGet"]["path"] == "/healthz"


def pods_of(value: Any) -> Iterator[dict[str, Any]]:
    """Every pod's specification, however deep in a manifest."""
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        for each in value.values():
            yield from pods_of(each)


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, in a root where what they start is there."""
    program = tmp_path / "srv/zoo_bridge/.venv/bin/zoo-bridge"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    folder = tmp_path / "units"
    folder.mkdir()
    for path in (DEPLOY / "systemd").iterdir():
        text = path.read_text().replace("/srv/zoo_bridge", str(tmp_path / "srv/zoo_bridge"))
        (folder / path.name).write_text(text)
    return folder


def test_units_are_what_systemd_reads(units: Path) -> None:
    analyze = needs("systemd-analyze")
    paths = sorted(units.iterdir())
    assert {path.suffix for path in paths} == {".service", ".timer"}
    said = passes(analyze, "verify", "--man=no", *paths)
    assert "Unknown" not in said
    for path in paths:
        if path.suffix == ".service":
            # The scale goes to 10, and a unit without any care has 9.6.
            words = ("security", "--offline=true", "--threshold=25", "--no-pager", path)
            assert "OK" in passes(analyze, *words)
    assert "Thu" in passes(analyze, "calendar", "Thu *-*-* 10:00:00")


def test_lines_of_the_crontab_are_what_cron_reads() -> None:
    lines = (DEPLOY / "cron.example").read_text().splitlines()
    jobs = [line for line in lines if re.match(r"[\d*]", line)]
    assert len(jobs) == 3
    for line in jobs:
        fields, command = line.split("  ", 1)
        CronSim(fields, __import__("datetime").datetime(2026, 1, 1))
        # A per cent sign is a new line to cron.
        assert "%" not in command
        passes(needs("sh"), "-n", "-c", command)


def commands() -> Iterator[tuple[str, str]]:
    """Every call of ``zoo-bridge`` in what starts it: units, crontab, containers."""
    for path in sorted(DEPLOY.rglob("*")):
        if path.suffix == ".service" or path.name == "cron.example":
            for found in re.findall(r"bin/zoo-bridge ([^\n|>&]*)", path.read_text()):
                yield path.name, found.strip()
        elif path.suffix == ".yaml" or path.name == "Dockerfile":
            for found in re.findall(r'(?:args: |CMD )(\["(?:run|serve).*?\])', path.read_text()):
                yield path.name, " ".join(json.loads(found))


@pytest.mark.parametrize(("name", "words"), sorted(set(commands())))
def test_commands_are_those_that_there_are(name: str, words: str) -> None:
    first, *rest = words.split()
    command: Any = typer.main.get_command(app).commands[first]  # type: ignore[attr-defined]
    command.make_context(first, rest)


def test_every_way_to_start_it_is_looked_at() -> None:
    names = {name for name, _ in commands()}
    assert names >= {
        "Dockerfile",
        "cron.example",
        "cronjob.yaml",
        "deployment.yaml",
        "zoo-bridge.service",
        "zoo-bridge-cycle.service",
    }


def test_alerts_fire_when_they_should() -> None:
    promtool = needs("promtool")
    folder = DEPLOY / "prometheus"
    assert "SUCCESS" in passes(promtool, "check", "rules", "alerts.yaml", folder=folder)
    passes(promtool, "test", "rules", "alerts_test.yaml", folder=folder)
    rules = yaml.safe_load((folder / "alerts.yaml").read_text())["groups"][0]["rules"]
    tested = (folder / "alerts_test.yaml").read_text()
    assert all(f"alertname: {rule['alert']}" in tested for rule in rules)


def test_alerts_and_dashboard_ask_for_metrics_that_there_are(
    make_after: Callable[..., Any],
) -> None:
    project = make_after("score")
    project.done("upload")
    project.run("pull")
    text = as_text([(project.settings, project.ledger)]).decode()
    there = {
        sample.name for family in text_string_to_metric_families(text) for sample in family.samples
    }
    dashboard = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())
    asked += [rule["expr"] for rule in rules["groups"][0]["rules"]]
    names = {name for expression in asked for name in re.findall(r"zoo_bridge_\w+", expression)}
    assert len(names) > 10
    assert names <= there
    # And the page for those who operate it.
    page = (ROOT / "docs" / "unattended.md").read_text()
    for name in re.findall(r"`([a-z_]+)`", page.partition("| metric")[2]):
        assert f"zoo_bridge_{name}" in there or name.startswith("serve"), name


def test_the_dashboard_is_one_that_grafana_lays_out() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells)
        taken |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


# The rights that are enough, against servers that look at them.


@pytest.fixture
def strict_s3() -> Iterator[Callable[[str, dict[str, Any]], dict[str, str]]]:
    """A process with moto's server that obeys IAM policies; makes users with one."""
    code = (
        "import sys; from moto.server import ThreadedMotoServer as Server; "
        "server = Server(port=0, verbose=False); server.start(); "
        "print(server.get_host_and_port()[1], flush=True); sys.stdin.read()"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    address = f"http://127.0.0.1:{server.stdout.readline().strip()}"
    root = {
        "endpoint_url": address,
        "region_name": "us-east-1",
        "aws_access_key_id": "root-key-for-tests",
        "aws_secret_access_key": "root-secret-for-tests",
    }

    def user(bucket: str, policy: dict[str, Any]) -> dict[str, str]:
        s3, iam = boto3.client("s3", **root), boto3.client("iam", **root)
        s3.create_bucket(Bucket=bucket)
        s3.put_object(Bucket=bucket, Key="a.jpg", Body=b"x")
        iam.create_user(UserName="bridge")
        text = json.dumps(policy).replace("SURVEY-BUCKET", bucket)
        iam.put_user_policy(UserName="bridge", PolicyName="p", PolicyDocument=text)
        keys = iam.create_access_key(UserName="bridge")["AccessKey"]
        import requests

        # From now on nobody is let in without rights.
        requests.post(f"{address}/moto-api/reset-auth", data=b"0", timeout=10)
        return {
            **root,
            "aws_access_key_id": keys["AccessKeyId"],
            "aws_secret_access_key": keys["SecretAccessKey"],
        }

    yield user
    server.kill()
    server.wait()


def test_the_policy_for_s3_is_enough_and_no_more(strict_s3: Any) -> None:
    policy = json.loads((DEPLOY / "aws" / "policy.json").read_text())
    s3 = boto3.client("s3", **strict_s3("survey", policy))
    assert s3.get_object(Bucket="survey", Key="a.jpg")["Body"].read() == b"x"
    assert s3.list_objects_v2(Bucket="survey")["KeyCount"] == 1
    for forbidden in (
        lambda: s3.put_object(Bucket="survey", Key="b.jpg", Body=b"y"),
        lambda: s3.delete_object(Bucket="survey", Key="a.jpg"),
        lambda: s3.list_buckets(),
    ):
        with pytest.raises(botocore.exceptions.ClientError, match=r"AccessDenied|Forbidden|403"):
            forbidden()


def test_the_environment_of_these_tests_names_nobody() -> None:
    assert "ZOO_BRIDGE_NOTIFY_URLS" not in os.environ
