"""The whole loop, through real servers: pull, aggregate, retrain, score, upload, and again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from zoo_bridge.files import read_json
from zoo_bridge.steps.inputs import read_labels
from zoo_bridge.tables import SCORES, read_table

MakeProject = Callable[..., Any]


def test_two_rounds_of_the_loop(make_project: MakeProject) -> None:
    project = make_project({"galaxies": 160}, upload={"per_run": 60})
    first = project.done("upload")
    assert first.counts == {
        "planned": 60,
        "created": 60,
        "linked": 0,
        "skipped": 0,
        "failed": 0,
        "calls": first.counts["calls"],
        "media_calls": 120,
    }
    # Nothing is shown before it is published.
    assert project.box.volunteers.classify(1)["subjects"] == 0
    votes = project.show()
    assert votes["retired"] == 60

    cycle = project.done("cycle")
    outcomes = {row.job: row for row in project.ledger.list_runs(limit=6)}
    assert {job: row.outcome for job, row in outcomes.items()} == dict.fromkeys(
        ("pull", "aggregate", "retrain", "score", "upload", "cycle"), "done"
    )
    counts = cycle.counts
    assert counts["pull"]["classifications"] == votes["classifications"]
    assert counts["aggregate"]["rows"] == votes["classifications"]
    assert counts["aggregate"]["votes"] == 60 * 12
    assert counts["retrain"]["labelled"] == 60
    assert counts["score"] == {"listed": 160, "taken_over": 0, "scored": 160, "rejected": 0}
    assert counts["upload"]["created"] == 60

    scores = pl.DataFrame(read_table(project.ledger.newest("scores").path, SCORES))
    assert len(scores) == 3 * 160
    targets = scores.filter("target")
    assert len(targets) == 160
    assert set(targets["answer"]) == {"featured"}
    # A volunteer gives one answer: their expected shares add up.
    shares = scores.group_by("object_id").agg(pl.col("mean").sum())["mean"]
    assert (shares - 1).abs().max() < 1e-6
    assert (scores["n_expected"] == 12).all()
    assert (
        (scores["lo"] <= scores["mean"] + 1 / 12) & (scores["mean"] - 1 / 12 <= scores["hi"])
    ).all()
    assert (scores["bald"] > 0).all()
    objects = project.ledger.list_objects()
    assert len(objects) == 120
    assert {row.state for row in objects} == {"staged"}
    for rows in project.subjects().values():
        assert len(rows) == 1
        assert project.has_image(rows[0])
        # Neither score nor model nor reason stands in what Zooniverse holds.
        assert set(json.loads(rows[0]["metadata"])) == {"#zoo_bridge_id"}

    project.show()
    project.run("cycle")
    assert len(project.ledger.list_objects()) == 160
    assert project.run("upload").outcome == "unchanged"


def test_a_step_without_news_says_unchanged(labelled: Any) -> None:
    assert labelled.done("retrain").outcome == "done"
    assert labelled.done("score").outcome == "done"
    assert labelled.done("upload").outcome == "done"
    before = sorted(path for path in labelled.settings.work.rglob("*.parquet"))
    for job in ("pull", "aggregate", "retrain", "score", "upload"):
        run = labelled.done(job)
        assert run.outcome == "unchanged", job
    assert sorted(path for path in labelled.settings.work.rglob("*.parquet")) == before
    assert labelled.done("score", force=True).outcome == "done"
    labelled.change(votes={"anonymous_repeats": "first"}, cutouts={"size": 32})
    assert labelled.done("aggregate").outcome == "done"


def test_runs_leave_a_row_a_record_and_a_log(labelled: Any) -> None:
    run = labelled.done("retrain")
    folder = labelled.settings.work / "runs" / run.run_id
    record = read_json(folder / "run.json")
    assert (record["outcome"], record["exit_code"], record["artifact"]) == ("done", 0, run.artifact)
    assert record["counts"] == run.counts
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert {line["run"] for line in lines} == {run.run_id}
    assert lines[-1]["message"].startswith("done: model ")
    row = labelled.ledger.list_runs("retrain")[0]
    assert (row.run_id, row.outcome) == (run.run_id, "done")
    assert row.inputs_digest
    assert row.settings_digest


def test_no_secret_stands_in_anything_written(labelled: Any) -> None:
    for path in labelled.settings.work.rglob("*"):
        if path.is_file():
            assert b"sandbox-password" not in path.read_bytes(), path


@pytest.mark.parametrize("job", ["pull", "aggregate", "retrain", "score", "upload", "cycle"])
def test_a_dry_run_changes_nothing(labelled: Any, job: str) -> None:
    labelled.done("retrain")
    labelled.done("score")

    def state() -> tuple[Any, ...]:
        kinds = ("exports", "labels", "model", "scores", "batch")
        artifacts = [a.name for kind in kinds for a in labelled.ledger.list_artifacts(kind)]
        rows = labelled.box.state.all("SELECT COUNT(*) AS n FROM subjects")
        exports = labelled.box.state.all("SELECT last_run FROM exports")
        work = labelled.settings.work
        files = [
            path
            for path in work.rglob("*")
            if path.is_file() and path.parts[len(work.parts)] not in ("runs", "cache")
        ]
        files = [path for path in files if "ledger" not in path.name]
        objects = labelled.ledger.list_objects()
        return artifacts, rows, exports, sorted(files), objects

    before = state()
    run = labelled.run(job, dry_run=True, force=True)
    assert run.exit_code == 0, run.message
    assert run.outcome in ("planned", "done")
    assert state() == before


def test_the_same_seed_gives_the_same_labels_scores_and_batch(make_project: MakeProject) -> None:
    results = []
    for name in ("one", "two"):
        project = make_project({"name": f"box-{name}"}, name, upload={"per_run": 40})
        project.done("upload")
        project.show()
        project.done("cycle")
        scores = pl.DataFrame(read_table(project.ledger.newest("scores").path, SCORES))
        batch = project.ledger.list_objects()
        results.append(
            (
                # But for the subjects' numbers: created side by side, who comes first is chance.
                read_labels(project.ledger.newest("labels"))
                .select("object_id", "question", "answer", "k", "n")
                .sort("object_id", "question", "answer")
                .rows(),
                scores.select("object_id", "mean", "bald").rows(),
                sorted((row.object_id, row.reason) for row in batch),
            )
        )
    assert results[0] == results[1]
