"""Artifacts in S3: machines without a disk of their own run the loop, each step on another one."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import polars as pl
import pytest
from typer.testing import CliRunner

from tests.test_trouble import MAY_MOUNT
from zoo_bridge.config import load
from zoo_bridge.errors import StorageError
from zoo_bridge.ledger import Ledger
from zoo_bridge.service.cli import app
from zoo_bridge.service.tidy import tidy
from zoo_bridge.steps import shelf
from zoo_bridge.steps.shelf import LISTS, open_ledger
from zoo_bridge.tables import SCORES, read_table

PREFIX = "artifacts/of/ours"


class Cloud:
    """A project whose artifacts are in S3, and whose ledger is a database of its own."""

    def __init__(self, project: Any, ledger: str) -> None:
        self.project = project
        self.bucket = project.box.plan.bucket
        address = f"s3://{self.bucket}/{PREFIX}"
        project.edit(
            'work_dir = "data"',
            f'work_dir = "data"\nartifacts = "{address}"\n'
            f'artifacts_endpoint_url = "{project.box.urls["s3"]}"',
        )
        project.edit('"sqlite:///data/ledger.sqlite3"', json.dumps(ledger))
        self.s3 = boto3.client("s3", endpoint_url=project.box.urls["s3"])
        self.machines = 0
        self.next_machine()

    def next_machine(self) -> None:
        """Another machine goes on, whose disk is empty."""
        if self.project.ledger is not None:
            self.project.ledger.close()
        self.machines += 1
        # Connections and lists of names are of one process.
        shelf._shelf.cache_clear()
        shutil.rmtree(self.project.settings.work, ignore_errors=True)
        self.project.settings = load(self.project.settings.path)
        self.project.ledger = open_ledger(self.project.settings)

    def objects(self, below: str = "") -> list[str]:
        pages = self.s3.get_paginator("list_objects_v2")
        found = pages.paginate(Bucket=self.bucket, Prefix=f"{PREFIX}/{below}")
        names = [item["Key"] for page in found for item in page.get("Contents", [])]
        return [name.removeprefix(f"{PREFIX}/") for name in names]


@pytest.fixture
def cloud(make_project: Callable[..., Any], postgresql_url: str) -> Cloud:
    project = make_project({"galaxies": 80}, upload={"per_run": 60})
    project.ledger.close()
    return Cloud(project, postgresql_url)


@pytest.fixture
def near(make_after: Callable[..., Any], tmp_path: Path) -> Cloud:
    """The same with a model, and an SQLite ledger beside the disk that goes."""
    project = make_after("aggregate")
    project.ledger.close()
    ledger = tmp_path / "ledger.sqlite3"
    shutil.copy(project.settings.work / "ledger.sqlite3", ledger)
    # What was made before there was a shelf is not on it: it is made anew.
    made = Cloud(project, f"sqlite:///{ledger}")
    for job in ("pull", "aggregate"):
        project.done(job)
    return made


def test_every_step_on_another_machine_closes_the_loop(cloud: Cloud) -> None:
    project = cloud.project
    project.done("upload")
    cloud.next_machine()
    project.show()
    for job in ("pull", "aggregate", "retrain", "score", "upload"):
        cloud.next_machine()
        run = project.done(job)
        assert run.outcome == "done", (job, run.message)
    # Nothing has changed: no step has anything to do, wherever it runs.
    for job in ("pull", "aggregate", "retrain", "score"):
        cloud.next_machine()
        assert project.done(job).outcome == "unchanged", job
    assert cloud.machines > 10
    kinds = {key.partition("/")[0] for key in cloud.objects()}
    made = {"exports", "labels", "models", "scores", "features", "batches", "runs"}
    assert kinds == {LISTS, *made}
    # What waits for a run to end is no part of a catalogue.
    assert not [key for key in cloud.objects("scores/") if "todo" in key or "made-by" in key]
    # And it can be looked at from anywhere.
    cloud.next_machine()
    config = ["--config", str(project.settings.path)]
    looked = CliRunner().invoke(app, ["check", *config]).output
    assert "written, read and taken away" in looked
    assert not [key for key in cloud.objects() if ".check-" in key]
    for words in (["status"], ["models"], ["labels"], ["scores", "--limit", "3"], ["rejects"]):
        ended = CliRunner().invoke(app, [*words, *config])
        assert ended.exception is None or isinstance(ended.exception, SystemExit), words
        assert ended.output.strip(), words
    # What needs no pixel reads none, on any machine: another N, from the features on the shelf.
    cloud.next_machine()
    text = project.settings.path.read_text()
    project.settings.path.write_text(text + "\n[score]\nexpected_votes = 7\n")
    project.settings = load(project.settings.path)
    for item in cloud.s3.list_objects_v2(Bucket=cloud.bucket, Prefix="cutouts/")["Contents"]:
        cloud.s3.delete_object(Bucket=cloud.bucket, Key=item["Key"])
    run = project.done("score")
    assert run.counts["from_features"] == run.counts["scored"] == 80
    last = project.ledger.list_runs("score")[0].run_id
    assert "The end of its log" in CliRunner().invoke(app, ["runs", last, *config]).output


def test_a_batch_that_one_machine_began_another_finishes(cloud: Cloud) -> None:
    project = cloud.project
    project.fault(method="POST", path="/api/subjects[?]", what="status", status=422, after=25)
    run = project.run("upload")
    assert run.exit_code
    (batch,) = project.ledger.list_batches()
    assert batch.state == "staging"
    with project.box.state.write() as db:
        db.execute("DELETE FROM faults")
    cloud.next_machine()
    assert project.done("upload").artifact == batch.name
    subjects = project.subjects()
    assert len(subjects) == 60
    assert max(len(rows) for rows in subjects.values()) == 1
    assert all(project.has_image(rows[0]) for rows in subjects.values())


def test_what_was_put_half_is_not_there(near: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    project = near.project
    before = len(near.objects())
    count = 0

    from zoo_bridge.cutouts.store import Store

    real = Store.put

    def killed(self: Store, path: Path, uri: str) -> None:
        nonlocal count
        count += "/models/" in uri
        if count > 2 and "/models/" in uri:
            raise KeyboardInterrupt
        real(self, path, uri)

    monkeypatch.setattr(Store, "put", killed)
    run = project.run("retrain")
    assert run.outcome == "stopped"
    monkeypatch.setattr(Store, "put", real)
    assert near.objects("models/")
    assert near.objects(f"{LISTS}/models/") == []
    assert project.ledger.list_artifacts("model") == []
    assert project.ledger.model_in_use() is None
    near.next_machine()
    assert project.done("retrain").outcome == "done"
    near.next_machine()
    assert project.done("score").counts["scored"] == 80
    assert len(near.objects()) > before


def test_what_has_changed_on_the_shelf_is_not_taken(near: Cloud) -> None:
    project = near.project
    labels = project.ledger.newest("labels")
    key = next(key for key in near.objects("labels/") if key.endswith("labels.parquet"))
    near.s3.put_object(Bucket=near.bucket, Key=f"{PREFIX}/{key}", Body=b"something else")
    near.next_machine()
    run = project.run("retrain")
    assert run.exit_code == StorageError.exit_code
    assert "its content has changed" in run.message
    assert not labels.home.exists()
    assert not list(labels.home.parent.glob(".coming-*"))


@pytest.mark.parametrize("inside", ["../../../escaped", "/tmp/escaped-of-zoo-bridge"])
def test_a_list_cannot_name_what_is_elsewhere(near: Cloud, inside: str) -> None:
    project = near.project
    name = project.ledger.newest("labels").name
    path = f"{PREFIX}/{LISTS}/labels/{name}.json"
    text = json.dumps({"files": {"labels.parquet": "x", inside: "y"}})
    near.s3.put_object(Bucket=near.bucket, Key=path, Body=text.encode())
    near.next_machine()
    run = project.run("retrain")
    assert run.exit_code == StorageError.exit_code
    assert not list(project.settings.path.parent.parent.rglob("escaped*"))
    assert not Path("/tmp/escaped-of-zoo-bridge").exists()


def test_tidying_takes_it_from_both(near: Cloud) -> None:
    project = near.project
    project.done("aggregate", force=True)
    project.done("aggregate", force=True)
    names = [artifact.name for artifact in project.ledger.list_artifacts("labels")]
    assert len(names) == 3
    near.next_machine()
    keep = project.settings.keep.model_copy(update={"labels": 1})
    project.settings = project.settings.model_copy(update={"keep": keep})
    gone = tidy(project.settings, project.ledger)
    assert {each.path.name for each in gone} == set(names[1:])
    left = {key.split("/")[1] for key in near.objects("labels/")}
    assert left == {names[0]}
    assert [artifact.name for artifact in project.ledger.list_artifacts("labels")] == names[:1]
    near.next_machine()
    assert [artifact.name for artifact in project.ledger.list_artifacts("labels")] == names[:1]


@pytest.fixture
def far_workers(near: Cloud, tmp_path: Path) -> Iterator[str]:
    """A Dask scheduler, and workers to whom the driver's disk is another, empty one."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    dask = [sys.executable, "-m", "distributed.cli."]
    started = []
    words = ["--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    started.append(subprocess.Popen([*dask[:2], "distributed.cli.dask_scheduler", *words]))
    hidden = near.project.settings.path.parent
    worker = (
        f"mount -t tmpfs none '{hidden}' && exec '{sys.executable}' -m "
        f"distributed.cli.dask_worker {address} --nthreads 1 --no-dashboard --no-nanny "
        f"--local-directory '{tmp_path}/dask'"
    )
    for _ in range(2):
        started.append(subprocess.Popen(["unshare", "-rm", "sh", "-c", worker]))
    yield address
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.skipif(not MAY_MOUNT, reason="this user may not mount a disk")
def test_workers_of_a_cluster_need_no_disk_that_all_share(near: Cloud, far_workers: str) -> None:
    project = near.project
    project.done("retrain")
    project.done("score")
    alone = catalogue(project.ledger)
    project.edit("[cutouts]", f'[score]\npart_objects = 8\ncluster = "{far_workers}"\n\n[cutouts]')
    near.next_machine()
    run = project.done("score", force=True)
    assert run.counts["scored"] == 80
    together = catalogue(project.ledger)
    assert together["object_id"].equals(alone["object_id"])
    for name in ("mean", "lo", "hi", "bald"):
        assert (together[name] - alone[name]).abs().max() < 1e-5, name
    # Parts on their way are not left behind.
    assert not [key for key in near.objects() if ".work-" in key]


def catalogue(ledger: Ledger) -> pl.DataFrame:
    newest = ledger.newest("scores")
    assert newest is not None
    frame = pl.DataFrame(read_table(newest.path, SCORES))
    return frame.sort("object_id", "question", "answer")


def test_a_bucket_that_cannot_be_written_ends_the_run_before_it_counts(near: Cloud) -> None:
    project = near.project
    before = project.ledger.newest("labels").name
    near.project.edit(f"s3://{near.bucket}/{PREFIX}", "s3://no-such-bucket-of-ours/x")
    project.ledger.close()
    project.ledger = open_ledger(project.settings)
    run = project.run("aggregate", force=True)
    assert run.exit_code
    assert "no-such-bucket-of-ours" in run.message
    rows = Ledger.of(project.settings).list_artifacts("labels")
    assert before in [row.name for row in rows]
    began = time.monotonic()
    assert run.run_id not in [row.name for row in rows]
    assert time.monotonic() - began < 60
