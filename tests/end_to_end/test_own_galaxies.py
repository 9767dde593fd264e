"""A survey of one's own in the sandbox: real galaxies, with votes drawn from real fractions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo_bridge.model.registry import read_record

FRACTIONS = {"smooth": "Class1.1", "featured": "Class1.2", "artifact": "Class1.3"}


def test_the_loop_runs_on_real_galaxies(make_project: Callable[..., Any], data: Path) -> None:
    plan = {
        "galaxies": 300,
        "images": data / "galaxies" / "images",
        "catalogue": data / "galaxies" / "fractions.csv",
        "id_column": "galaxy_id",
        "fractions": FRACTIONS,
        "votes": 20,
    }
    project = make_project(
        plan,
        cutouts={"size": 48, "crop": 0.5, "colour": "rgb"},
        model={"epochs": 30, "batch_size": 16, "patience": 30},
        upload={"per_run": 250},
    )
    project.done("upload")
    project.show()
    cycle = project.done("cycle")
    assert cycle.counts["retrain"]["labelled"] == 250
    assert cycle.counts["score"]["scored"] == 300
    assert cycle.counts["upload"]["created"] == 50
    # It learned: better on held-out galaxies than the mean of all votes.
    record = read_record(project.settings.work / "models" / project.ledger.model_in_use())
    ours = record.metrics["smooth-or-featured"]
    mean = record.baselines["smooth-or-featured"]["mean vote fraction"]
    assert ours["rmse"] < 0.95 * mean["rmse"]
    assert ours["log_likelihood"] > mean["log_likelihood"]
