"""Scoring on a Dask cluster: the same catalogue as on one machine, whatever happens to workers."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import polars as pl
import pytest
from distributed import LocalCluster

from tests.commands import run_command
from zoo_bridge.errors import RefusedError, SettingsError
from zoo_bridge.tables import SCORES, read_table

MakeProject = Callable[..., Any]


@pytest.fixture
def trained(make_after: MakeProject) -> Any:
    """A project with a model and many parts to score."""
    return make_after("retrain", {"galaxies": 120})


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    ) as made:
        yield made


def settle(project: Any, **score: Any) -> None:
    project.change(cutouts={"size": 32}, score={"part_objects": 8, "batch_size": 8, **score})


def catalogue(project: Any) -> pl.DataFrame:
    folder = project.ledger.newest("scores").path
    return pl.DataFrame(read_table(folder, SCORES)).sort("object_id", "question", "answer")


def best(scores: pl.DataFrame) -> list[str]:
    ranked = scores.filter("target").sort(["bald", "object_id"], descending=[True, False])
    return list(ranked["object_id"])


def test_a_killed_worker_costs_a_part_and_changes_nothing(
    trained: Any, cluster: LocalCluster
) -> None:
    settle(trained)
    trained.done("score")
    alone = catalogue(trained)
    settle(trained, cluster=cluster.scheduler_address)
    pids = [worker.process.pid for worker in cluster.workers.values()]
    killed = []

    def kill() -> None:
        folder = trained.settings.work / "scores"
        while len(list(folder.glob(".work-*/part-*.parquet"))) < 3:
            time.sleep(0.002)
        os.kill(pids[0], signal.SIGKILL)
        killed.append(pids[0])

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    run = trained.done("score", force=True)
    killer.join(10)
    assert killed
    assert run.counts == {"listed": 120, "taken_over": 0, "scored": 120, "rejected": 0}
    together = catalogue(trained)
    assert together.drop("mean", "lo", "hi", "bald").equals(alone.drop("mean", "lo", "hi", "bald"))
    for name in ("mean", "lo", "hi", "bald"):
        assert (together[name] - alone[name]).abs().max() < 1e-5, name
    assert best(together) == best(alone)


def test_a_cluster_of_this_machine_starts_and_ends_with_the_run(trained: Any) -> None:
    settle(trained, cluster=2)
    ended = run_command("run", "score", config=trained.settings.path)
    assert ended.returncode == 0, ended.stderr
    assert "2 Dask workers" in ended.stderr
    assert len(catalogue(trained)) == 3 * 120
    assert "Traceback" not in ended.stderr


def test_when_all_workers_are_gone_the_run_ends_and_can_go_on(
    trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo_bridge.steps.scoring.cluster.LOST_SECONDS", 1)
    with LocalCluster(
        n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        settle(trained, cluster=cluster.scheduler_address)

        def stop() -> None:
            folder = trained.settings.work / "scores"
            while not list(folder.glob(".work-*/part-*.parquet")):
                time.sleep(0.002)
            cluster.scale(0)

        stopper = threading.Thread(target=stop, daemon=True)
        stopper.start()
        run = trained.run("score")
        stopper.join(30)
    assert run.exit_code == 1
    assert "are gone" in run.message
    settle(trained)
    assert trained.done("score").counts["scored"] == 120


def test_what_a_cluster_cannot_do_is_said(
    trained: Any, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(trained, cluster="tcp://127.0.0.1:9")
    run = trained.run("score")
    assert run.exit_code == SettingsError.exit_code
    assert run.message.startswith("There is no Dask scheduler at tcp://127.0.0.1:9")
    # A worker of another version, as after an upgrade of one machine.
    settle(trained, cluster=cluster.scheduler_address)
    with monkeypatch.context() as other:
        other.setattr("zoo_bridge.steps.scoring.cluster.__version__", "9.9")
        run = trained.run("score")
    assert run.exit_code == SettingsError.exit_code
    assert "not 9.9" in run.message
    # What a part raises on a worker reaches the run: here a model for other preprocessing.
    trained.change(cutouts={"size": 32, "crop": 0.5}, score={"cluster": cluster.scheduler_address})
    assert trained.run("score").exit_code == RefusedError.exit_code
