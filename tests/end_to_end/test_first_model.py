"""A model that never learned is not put in use, and says why; volunteers go on all the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from zoo_bridge.acquisition.evaluate import beats
from zoo_bridge.errors import InputError
from zoo_bridge.steps import retrain as module
from zoo_bridge.steps.training.labelled import Labelled, check_images

MakeProject = Callable[..., Any]
MODEL = {"epochs": 3, "batch_size": 32, "min_labels": 20, "heldout_share": 0.3}


def test_a_loss_that_is_no_number_ends_the_training(make_after: MakeProject) -> None:
    project = make_after("aggregate")
    project.change(cutouts={"size": 32}, model={**MODEL, "learning_rate": 1e6})
    run = project.run("retrain")
    assert run.exit_code == 1
    assert "loss is no number" in run.message
    assert "model.learning_rate" in run.hint
    assert project.ledger.list_artifacts("model") == []
    assert project.ledger.model_in_use() is None
    # With another rate it begins anew.
    project.change(cutouts={"size": 32}, model={**MODEL, "first_model": "any"})
    project.done("retrain")


def test_a_first_model_that_did_not_learn_is_kept_out_and_the_loop_goes_on(
    make_after: MakeProject,
) -> None:
    project = make_after("aggregate")
    slow = {"cutouts": {"size": 32}, "model": {**MODEL, "learning_rate": 1e-9}}
    project.change(**slow, upload={"per_run": 20})
    run = project.run("retrain")
    assert (run.outcome, run.exit_code) == ("refused", 3)
    assert "than the mean vote fraction" in run.message
    assert "batches are drawn at random" in run.message
    assert project.ledger.model_in_use() is None
    # New votes make another batch, at random; without any, there is none.
    assert project.run("upload").outcome in ("done", "unchanged")
    project.show()
    cycle = project.run("cycle")
    assert cycle.outcome == "refused"
    assert "score left out" in cycle.message
    batches = project.ledger.list_batches()
    assert {batch.kind for batch in batches} == {"start"}
    assert len(batches) >= 2
    # By hand it can be put in use, as any model.
    project.ledger.promote(run.artifact, "promote", "by hand")
    project.done("score")


def test_better_than_the_mean_is_better_with_confidence() -> None:
    rng = np.random.default_rng(0)
    good = beats(rng.normal(0.3, 1, 200), 0.9, 0)
    assert good.promote
    assert "90 % interval +" in good.reason
    same = beats(rng.normal(0.0, 1, 200) - 0.01, 0.9, 0)
    assert not same.promote
    assert "not surely better" in same.reason


def galaxies(images: np.ndarray) -> Labelled:
    count = len(images)
    votes = np.ones((count, 3), np.float32)
    held = np.arange(count) >= count - 2
    return Labelled(
        [f"G{n}" for n in range(count)], images, votes, votes[:, :1], votes[:, 2:], held
    )


def test_images_in_which_there_is_nothing_to_learn_are_refused_by_name() -> None:
    rng = np.random.default_rng(0)
    good = rng.random((12, 16, 16, 1)).astype("f4")
    check_images(galaxies(good))
    for value, name in ((np.nan, "G3"), (0.5, "G3")):
        bad = good.copy()
        bad[3] = value
        with pytest.raises(InputError, match=name):
            check_images(galaxies(bad))
    with pytest.raises(InputError, match="look the same, such as that of G0"):
        check_images(galaxies(np.repeat(good[:1], 12, axis=0)))
    # What is held out is not learned from.
    held = good.copy()
    held[-1] = 0
    check_images(galaxies(held))
    assert module.check_images is check_images
