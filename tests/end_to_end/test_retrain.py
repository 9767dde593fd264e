"""Retraining: what a model is made of, what keeps it out, and what it goes on from."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import polars as pl
import pytest
from scipy.special import expit

from tests.commands import Command
from tests.conftest import FAST_MODEL
from zoo_bridge.acquisition.logits import normal
from zoo_bridge.acquisition.posterior import Posterior
from zoo_bridge.files import read_json
from zoo_bridge.model import agreement
from zoo_bridge.model.registry import read_record
from zoo_bridge.report import figures
from zoo_bridge.steps.training import card_figures
from zoo_bridge.steps.training.gate import _lost_calibration
from zoo_bridge.steps.training.judge import CURVE, THIS, Judgement, Said
from zoo_bridge.tables import SCORES, read_table

MakeProject = Callable[..., Any]
QUESTION = "smooth-or-featured"


def labelled(make_after: MakeProject, galaxies: int = 130, **tables: Any) -> Any:
    """A project with votes that are aggregated, and nothing trained."""
    tables.setdefault("upload", {"per_run": galaxies - 10})
    return make_after("aggregate", {"galaxies": galaxies}, **tables)


def model_in_use(project: Any) -> Path:
    return project.settings.work / "models" / project.ledger.model_in_use()


def test_a_model_has_all_that_it_takes_to_trust_it(
    make_after: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = labelled(
        make_after, model={"ensemble": 2, "likelihood": "beta-binomial", "heldout_share": 0.4}
    )
    # The ranking is checked on as many galaxies as people's is.
    monkeypatch.setattr(agreement, "CHECKED", 3000)
    for name in ("draw_calibration", "draw_posteriors", "draw_predicted", "to_png"):
        monkeypatch.setattr(card_figures, name, getattr(figures, name))
    run = project.done("retrain")
    assert "inside 50/80/90 % intervals" in run.message
    folder = model_in_use(project)
    record = read_record(folder)
    assert {path.name for path in folder.iterdir()} == {
        *(
            "weights-0.weights.h5",
            "weights-1.weights.h5",
            "last-layer-0.npz",
            "last-layer-1.npz",
            "model.json",
            "card.md",
            "figures",
        )
    }
    assert {path.name for path in (folder / "figures").iterdir()} == {
        f"calibration-{QUESTION}.png",
        f"predicted-{QUESTION}.png",
        "posteriors.png",
        "misses.png",
    }
    assert all(path.stat().st_size > 5000 for path in (folder / "figures").iterdir())
    # Three answers: a softmax and its Dirichlet-multinomial.
    assert record.heads[0]["answers"] == ["smooth", "featured", "artifact"]
    assert record.design["likelihood"] == "beta-binomial"
    assert record.labels_digest == project.ledger.newest("labels").digest
    assert record.agreement["networks"] == 2 * 8192
    assert record.agreement["galaxies"] == run.counts["held_out"]
    assert record.agreement["drawn"] == 3000 - run.counts["held_out"]
    assert record.agreement["answer"].startswith(QUESTION)
    for known in (record.calibration, record.answers):
        assert set(known) == {QUESTION}
        assert set(known[QUESTION]) == {"smooth", "featured", "artifact"}
    metrics = record.metrics[QUESTION]
    assert metrics["galaxies"] == run.counts["held_out"]
    assert metrics["rmse_lo"] <= metrics["rmse"] <= metrics["rmse_hi"]
    assert set(record.baselines[QUESTION]) == {
        "mean vote fraction",
        "one network, no dropout",
        "the same, not calibrated",
    }
    card = (folder / "card.md").read_text()
    assert "2 network(s)" in card
    assert "of the top 5 %" in card
    # No training is left over, and the same labels train nothing.
    assert not (project.settings.work / "models" / ".training").exists()
    assert project.done("retrain").outcome == "unchanged"
    # It scores.
    assert project.done("score").counts["scored"] == 130
    scores = read_table(
        project.settings.work / "scores" / project.ledger.newest("scores").name, SCORES
    )
    frame = pl.DataFrame(scores)
    assert frame["bald"].min() >= 0
    assert (frame["lo"] <= frame["mean"]).mean() > 0.95


def test_a_second_training_reads_no_cutout_again(make_after: MakeProject) -> None:
    project = labelled(make_after)
    project.done("retrain")
    # Whoever asks for a cutout now is told that there is none.
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    bucket = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets[project.box.plan.bucket]
    for key in list(bucket.keys):
        if not key.endswith(".csv"):
            bucket.keys.pop(key)
    again = project.done("retrain", force=True)
    # The same galaxies and seed: the same model, which is not worse.
    assert "not worse than the model in use: +0.000" in again.message
    assert again.counts["bad_cutouts"] == 0
    assert again.counts["trained_on"] > 50


def test_volunteers_own_pictures_stand_in_for_what_the_survey_lacks(
    make_after: MakeProject, tmp_path: Path
) -> None:
    project = labelled(make_after)
    catalogue = tmp_path / "half.csv"
    names = sorted(project.subjects())
    bucket = project.box.plan.bucket
    survey = pl.read_csv(project.box.folder / "survey" / "catalogue.csv", infer_schema=False)
    half = survey.filter(pl.col("object_id").is_in(names[::2]))
    half.with_columns(pl.format(f"s3://{bucket}/{{}}", "key").alias("key")).write_csv(catalogue)
    tables = {
        "cutouts": {"size": 32},
        "survey": {"catalogue": str(catalogue)},
        "model": FAST_MODEL,
        "upload": {"per_run": 60},
    }
    project.change(**tables)
    run = project.done("retrain")
    assert run.counts["labelled"] == len(names)
    assert run.counts["from_subject_media"] == len(names) - len(half)
    assert run.counts["not_in_survey"] == 0
    assert run.counts["trained_on"] + run.counts["held_out"] == len(names)
    tables["model"]["subject_media"] = False
    project.change(**tables)
    # Whether it is put in use is for the gate to say: it learned from half as many.
    run = project.run("retrain")
    assert run.counts["not_in_survey"] == len(names) - len(half)
    assert run.counts["trained_on"] + run.counts["held_out"] == len(half)


def test_a_killed_training_goes_on(make_after: MakeProject) -> None:
    project = labelled(make_after, model={"epochs": 400, "patience": 400})
    state = project.settings.work / "models" / ".training" / "0.npz"
    child = Command("run", "retrain", config=project.settings.path)
    while not state.exists():
        assert child.poll() is None
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    done = epochs_of(state)
    child = Command("run", "retrain", config=project.settings.path)
    while epochs_of(state) <= done:
        assert child.poll() is None
        time.sleep(0.05)
    later = epochs_of(state)
    assert 0 < done < later < 400
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait(60) == 143
    # It did not begin anew: the history is one.
    with np.load(state) as kept:
        facts = kept["facts"].item()
    assert facts.count(", ") > later


def epochs_of(state: Path) -> int:
    import json

    with np.load(state) as kept:
        return json.loads(kept["facts"].item())["epoch"]


def test_a_training_may_go_on_from_the_model_in_use(make_after: MakeProject) -> None:
    project = labelled(make_after, model={"start": "current"})
    project.done("retrain")
    first = model_in_use(project)
    assert read_record(first).training["start"] == "scratch"
    run = project.run("retrain", force=True)
    second = read_record(project.settings.work / "models" / run.artifact)
    assert second.training["start"] == f"the weights of {first.name}"
    assert second.design == read_record(first).design
    began = second.training["members"][0]["history"]["stopping_loss"][0]
    ended = read_record(first).training["members"][0]["stopping_loss"]
    scratch = read_record(first).training["members"][0]["history"]["stopping_loss"][0]
    assert abs(began - ended) < abs(scratch - ended) + 0.5
    # Another network has nothing to go on from.
    project.change(
        cutouts={"size": 32},
        model={"start": "current", "dropout": 0.3, "epochs": 1, "min_labels": 20},
    )
    run = project.run("retrain")
    assert (
        read_record(project.settings.work / "models" / run.artifact).training["start"] == "scratch"
    )


def judged(width: float, seed: int = 0) -> Judgement:
    """A judgement of a model whose logits are off by about so much, without knowing."""
    rng = np.random.default_rng(seed)
    truth, n = rng.normal(0, 1.5, 400), np.full(400, 30)
    k = rng.binomial(n, expit(truth))
    logits = normal(truth + rng.normal(0, width, 400), 0.0)
    said = Posterior.of([logits], n).forecast(k, n, CURVE)
    inside = {f"coverage_{level}": float(said.inside[level].mean()) for level in (50, 80, 90)}
    told = {QUESTION: Said(np.arange(400), k, n, {THIS: said}, {1: said})}
    answers = {QUESTION: {"featured": inside}}
    return Judgement({QUESTION: inside}, {}, answers, said.log_p, told, {}, said.log_p)


def test_a_model_whose_error_bars_are_off_is_kept_out(make_project: MakeProject) -> None:
    ctx = make_project({"galaxies": 20}).context
    assert _lost_calibration(ctx, judged(0.0), judged(0.0)) == ""
    assert "error bars of smooth-or-featured, featured, are off" in _lost_calibration(
        ctx, judged(1.5), judged(0.0)
    )
    # No worse than what is in use.
    assert _lost_calibration(ctx, judged(1.5), judged(2.5)) == ""


def test_too_few_labels_train_nothing(make_after: MakeProject) -> None:
    project = labelled(make_after, galaxies=40, model={"min_labels": 60})
    run = project.run("retrain")
    assert run.exit_code == 1
    assert "fewer than the 60 needed" in run.message
    assert project.ledger.model_in_use() is None


def test_pretrained_weights_that_are_not_there_are_named(make_after: MakeProject) -> None:
    project = labelled(
        make_after,
        galaxies=60,
        model={"network": "efficientnetv2-b0", "pretrained_weights": "/no/such/weights.h5"},
    )
    run = project.run("retrain")
    assert run.exit_code == 1
    assert "There is no file /no/such/weights.h5" in run.message


def test_pretrained_weights_come_from_s3(make_project: MakeProject, tmp_path: Path) -> None:
    from zoo_bridge.model.heads import Head
    from zoo_bridge.model.network import Design, Network
    from zoo_bridge.steps.training.ensemble import _load_pretrained

    project = make_project({"galaxies": 20})
    name = "efficientnetv2-b0"
    design = Design(name, 32, 1, (Head("two", ("no", "yes"), "yes"),))
    given, network = Network(design, 1), Network(design, 2)
    path = tmp_path / "notop.weights.h5"
    given.trunk.get_layer(name).save_weights(path)
    s3 = boto3.session.Session().client("s3", endpoint_url=project.box.urls["s3"])
    s3.upload_file(str(path), project.box.plan.bucket, "weights/notop.weights.h5")
    _load_pretrained(
        project.context, network, f"s3://{project.box.plan.bucket}/weights/notop.weights.h5"
    )
    inner = [each.trunk.get_layer(name).get_weights() for each in (given, network)]
    for ours, theirs in zip(*inner, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_another_runtime_scores_the_same(make_after: MakeProject) -> None:
    if any(importlib.util.find_spec(name) is None for name in ("onnxruntime", "tf2onnx")):
        pytest.skip("onnxruntime is not installed")
    project = labelled(make_after)
    project.done("retrain")
    project.done("score")
    first = pl.DataFrame(read_table(scores_folder(project), SCORES))
    project.change(
        cutouts={"size": 32},
        model=FAST_MODEL,
        upload={"per_run": 120},
        score={"runtime": "onnxruntime"},
    )
    refused = project.run("score", force=True)
    assert refused.exit_code == 3
    assert "was registered for keras" in refused.message
    project.done("retrain")
    assert read_json(model_in_use(project) / "model.json")["runtime"] == "onnxruntime"
    project.done("score")
    second = pl.DataFrame(read_table(scores_folder(project), SCORES))
    np.testing.assert_allclose(second["bald"], first["bald"], atol=1e-3)
    shutil.rmtree(model_in_use(project))


def scores_folder(project: Any) -> Path:
    return project.settings.work / "scores" / project.ledger.newest("scores").name
