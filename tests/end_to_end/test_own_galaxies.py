"""A survey of one's own in the sandbox: real galaxies, with votes drawn from real fractions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from zoo_bridge.tables import SCORES, read_table

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
        cutouts={"size": 48, "crop": 0.5},
        model={"epochs": 25, "batch_size": 16, "patience": 25},
        upload={"per_run": 160},
    )
    project.done("upload")
    project.show()
    cycle = project.done("cycle")
    assert cycle.counts["retrain"]["labelled"] == 160
    assert cycle.counts["score"] == {"listed": 300, "scored": 300, "rejected": 0}
    model = project.ledger.list_artifacts("model")[0]
    metrics = model.facts["metrics"]["smooth-or-featured"]
    # It learned: better than knowing nothing but the mean.
    scores = pl.DataFrame(read_table(project.ledger.newest("scores").path, SCORES))
    truth = {name: row["T0"][1] for name, row in project.box.volunteers.truth.items()}
    voted = {row["object_id"] for row in project.ledger.list_objects("sandbox/galaxies")}
    fresh = scores.filter(~pl.col("object_id").is_in(sorted(voted)))
    expected = pl.Series([truth[name] for name in fresh["object_id"]])
    correlation = pl.select(pl.corr(expected, fresh["mean"])).item()
    assert metrics["rmse"] < 0.3
    assert correlation > 0.4
