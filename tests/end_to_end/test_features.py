"""Features that are kept: what needs no pixel reads none, and is what the pixels would give."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import onnx
import polars as pl
import pytest
from astropy.io import fits
from onnx import TensorProto, helper, numpy_helper
from scipy.stats import spearmanr

from tests.conftest import FAST_MODEL
from zoo_bridge.acquisition.evaluate import Verdict
from zoo_bridge.errors import RefusedError, SettingsError
from zoo_bridge.model.encoder import Encoder
from zoo_bridge.model.record import read_record
from zoo_bridge.steps.scoring.alike import alike
from zoo_bridge.steps.scoring.task import kept_features
from zoo_bridge.steps.scoring.work import Work
from zoo_bridge.tables import SCORES, read_table

MakeProject = Callable[..., Any]
SIZE = {"size": 32}


@pytest.fixture
def trained(make_after: MakeProject) -> Any:
    """A project with a model, of which no score was made yet."""
    project = make_after("retrain", {"galaxies": 150})
    settle(project)
    return project


def settle(project: Any, **tables: Any) -> None:
    project.change(**{"cutouts": SIZE, "score": {"part_objects": 40}, **tables})


def keep(project: Any, **more: Any) -> None:
    """Learn last layers alone from now on."""
    model = {"trunk": "keep", "min_labels": 20, "heldout_share": 0.3, "network": "small"}
    settle(project, model={**model, "first_model": "any", **more})


def scores(project: Any) -> pl.DataFrame:
    artifact = project.ledger.newest("scores")
    return pl.DataFrame(read_table(artifact.path, SCORES)).sort("object_id", "question", "answer")


def s3_of(project: Any) -> Any:
    return boto3.client("s3", endpoint_url=project.box.urls["s3"], region_name="us-east-1")


def hide_cutouts(project: Any) -> None:
    """Nothing can be read any more."""
    s3, bucket = s3_of(project), project.box.plan.bucket
    for each in s3.list_objects_v2(Bucket=bucket, Prefix="cutouts/")["Contents"]:
        s3.delete_object(Bucket=bucket, Key=each["Key"])
    for path in (project.settings.work / "cache").glob("cutouts-*"):
        path.unlink()


def more_votes(project: Any) -> None:
    """Another batch goes round."""
    project.change(cutouts=SIZE, upload={"per_run": 30})
    project.done("upload", force=True)
    project.show()
    for job in ("pull", "aggregate"):
        project.done(job)


def test_a_last_layer_is_learned_and_scored_without_a_pixel(trained: Any) -> None:
    trained.done("score")
    before, first = scores(trained), trained.ledger.model_in_use()
    more_votes(trained)
    keep(trained, trunk_check=0)
    hide_cutouts(trained)
    run = trained.run("retrain")
    assert run.outcome in ("done", "refused"), run.message
    record = read_record(trained.settings.work / "models" / run.artifact)
    old = read_record(trained.settings.work / "models" / first)
    assert record.trunk == old.trunk
    assert record.training["start"] == f"the trunk of {first}"
    assert record.training["galaxies"] > old.training["galaxies"]
    assert record.training["trunk"]["galaxies"] == old.training["galaxies"]
    card = (trained.settings.work / "models" / run.artifact / "card.md").read_text()
    assert f"from the trunk of {first}" in card
    trained.ledger.promote(run.artifact, "promote", "the test wants it")
    scored = trained.done("score")
    assert scored.counts["from_features"] == scored.counts["scored"] == 150
    after = scores(trained)
    assert set(after["model_version"]) == {run.artifact}
    assert after["object_id"].equals(before["object_id"])
    assert not after["mean"].equals(before["mean"])


@pytest.mark.parametrize("pays", [False, True])
def test_with_more_labels_a_whole_training_is_tried(
    trained: Any, monkeypatch: pytest.MonkeyPatch, pays: bool
) -> None:
    first = trained.ledger.model_in_use()
    old = read_record(trained.settings.work / "models" / first)
    trained.done("score")
    more_votes(trained)
    keep(trained, trunk_check=1.1, epochs=2, batch_size=32)
    compared = []

    def compare(kept: np.ndarray, whole: np.ndarray, *rest: Any) -> Verdict:
        compared.append((kept, whole))
        return Verdict(not pays, "as the test wants it", 0.0, 0.0)

    monkeypatch.setattr("zoo_bridge.steps.retrain.compare", compare)
    run = trained.run("retrain")
    assert run.outcome in ("done", "refused"), run.message
    ((kept, whole),) = compared
    assert len(kept) == len(whole) == run.counts["held_out"]
    record = read_record(trained.settings.work / "models" / run.artifact)
    if pays:
        assert record.trunk != old.trunk
        assert record.training["start"] == "scratch"
        return
    assert record.trunk == old.trunk
    assert record.training["trunk"]["checked"] == record.training["galaxies"]
    # So it is not tried again for the same labels; and the trunk's name goes on.
    trained.ledger.promote(run.artifact, "promote", "the test wants it")
    again = trained.run("retrain", force=True)
    assert len(compared) == 1
    record = read_record(trained.settings.work / "models" / again.artifact)
    assert record.training["start"] == f"the trunk of {first}"


def test_kept_features_give_what_the_cutouts_give(trained: Any) -> None:
    """The whole network with the same last layer, and the same rows in another order."""
    trained.done("score")
    by_pixels = scores(trained)
    expected = trained.ledger.newest("scores").facts["n_expected"]
    question = next(iter(expected))
    # Another N needs no pixel.
    settle(trained, score={"part_objects": 40, "expected_votes": 7})
    assert trained.done("score").counts["from_features"] == 150
    assert set(scores(trained)["n_expected"]) == {7}
    settle(trained, score={"part_objects": 27, "expected_votes": expected[question]})
    run = trained.done("score")
    # These scores are there already, from the cutouts.
    assert run.counts["taken_over"] == 150
    # Features alone, past the catalogue: bit by bit the same.
    version = trained.ledger.model_in_use()
    trunk = read_record(trained.settings.work / "models" / version).trunk
    kept = kept_features(trained.context, trunk)
    rows = [pl.read_parquet(path) for path in kept.parts()]
    assert pl.concat(rows)["object_id"].n_unique() == 150
    numbers = [kept.open(path) for path in kept.parts()]
    assert {each[0].dtype for each in numbers} == {np.dtype(np.float16)}
    # They are read as they lie on disk.
    assert not any(each[0].flags.owndata for each in numbers)
    from zoo_bridge.steps.inputs import open_model
    from zoo_bridge.steps.scoring.scorer import score_features

    model = open_model(trained.settings, version)
    tables = [
        score_features(model, row["object_id"].to_arrow(), row["uri"].to_arrow(), seen, expected)
        for row, seen in zip(rows, numbers, strict=True)
    ]
    again = pl.concat([pl.DataFrame(table) for table in tables])
    again = again.sort("object_id", "question", "answer")
    for name in ("mean", "bald", "lo", "hi"):
        np.testing.assert_array_equal(again[name], by_pixels[name])
    # More like this: by the same numbers, in float64.
    name = by_pixels["object_id"][0]
    every = np.concatenate([each[0] for each in numbers]).astype(float)
    ids = pl.concat(rows)["object_id"].to_list()
    spread = numbers[0][0].astype(float).std(axis=0)
    tells = spread > 0
    away = ((every - every[ids.index(name)])[:, tells] / spread[tells]) ** 2
    nearest = [ids[place] for place in np.argsort(away.mean(axis=1))[1:6]]
    assert [row["object_id"] for row in alike(trained.context, name, 5)] == nearest
    with pytest.raises(SettingsError, match="was not scored"):
        alike(trained.context, "nobody", 5)
    # And single precision, as training has it, ranks alike.
    from zoo_bridge.model.predict import features_of, predict
    from zoo_bridge.steps.inputs import open_loader, open_store

    loader = open_loader(trained.context, open_store(trained.settings))
    batch = loader.load(list(zip(rows[0]["object_id"], rows[0]["uri"], strict=True)))
    target = trained.settings.question[0].target
    exact = predict(model, features_of(model, batch.images), 0, expected[question])[target]
    ours = pl.DataFrame(tables[0]).filter("target")["bald"]
    # (A softmax is sampled: of forty galaxies alike, two may change places.)
    assert spearmanr(exact.bald_N, ours).statistic >= 0.999
    np.testing.assert_allclose(exact.bald_N, ours, atol=1e-3)


@pytest.mark.parametrize("listed", [False, True])
def test_a_cutout_that_was_written_anew_is_read_anew(trained: Any, listed: bool) -> None:
    if listed:
        prefix = f"s3://{trained.box.plan.bucket}/cutouts/"
        text = trained.settings.path.read_text()
        line = next(row for row in text.splitlines() if row.startswith("catalogue = "))
        pattern = "([^/]+)\\\\.fits"
        trained.edit(line, f'prefix = "{prefix}"\nid_pattern = "{pattern}"')
    trained.done("score")
    before = scores(trained)
    name = before["object_id"][0]
    assert trained.run("score").outcome == "unchanged"
    s3, bucket = s3_of(trained), trained.box.plan.bucket
    body = s3.get_object(Bucket=bucket, Key=f"cutouts/{name}.fits")["Body"].read()
    with fits.open(io.BytesIO(body)) as file:
        pixels = file[0].data[..., ::-1, :].copy()
        y, x = np.mgrid[: pixels.shape[-2], : pixels.shape[-1]]
        ring = np.exp(-((np.hypot(x - x.mean(), y - y.mean()) - 9) ** 2) / 4) * pixels.max()
        out = io.BytesIO()
        fits.PrimaryHDU((pixels + ring).astype(np.float32)).writeto(out)
    s3.put_object(Bucket=bucket, Key=f"cutouts/{name}.fits", Body=out.getvalue())
    run = trained.done("score")
    assert run.counts["taken_over"] == 149
    assert "from_features" not in run.counts
    after = scores(trained)
    changed = before.filter(before["bald"] != after["bald"])["object_id"].unique().to_list()
    assert changed == [name]
    # The new ones are kept, and count from now on.
    settle(trained, score={"part_objects": 40, "expected_votes": 7}) if not listed else None
    if not listed:
        assert trained.done("score").counts["from_features"] == 150


def test_a_run_that_breaks_off_goes_on_from_features(
    trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained.done("score")
    settle(trained, score={"part_objects": 40, "expected_votes": 7})
    whole, calls = Work.write, []

    def break_off(self: Work, part: int, *rest: Any) -> None:
        calls.append(part)
        if len(calls) == 3:
            raise OSError("the disk is gone")
        whole(self, part, *rest)

    monkeypatch.setattr(Work, "write", break_off)
    assert trained.run("score").exit_code == 1
    monkeypatch.setattr(Work, "write", whole)
    done = list((trained.settings.work / "scores").glob(".work-*/part-*.parquet"))
    assert 2 <= len(done) < 4
    hide_cutouts(trained)
    run = trained.done("score")
    assert run.counts["scored"] == 150
    # No more than what was left.
    assert 0 < run.counts["from_features"] <= 80
    assert scores(trained)["object_id"].n_unique() == 150


def test_damaged_features_are_named(trained: Any) -> None:
    trained.done("score")
    (part, *_) = (trained.settings.work / "features").glob("*/part-*.arrow")
    part.write_bytes(part.read_bytes()[:-200])
    settle(trained, score={"part_objects": 40, "expected_votes": 7})
    run = trained.run("score")
    assert run.exit_code == 1
    assert part.name in run.message
    assert "Delete" in run.hint


def in_pool(name: str, share: float) -> bool:
    """By another road than the product's."""
    digest = hashlib.sha256(f"pool:0:{name}".encode()).hexdigest()
    return int(digest[:13], 16) / 16**13 < share


def test_a_pool_is_scored_and_what_is_new(trained: Any) -> None:
    s3, bucket = s3_of(trained), trained.box.plan.bucket
    header, *rows = (trained.box.folder / "survey/catalogue.csv").read_text().splitlines()

    def survey(count: int) -> set[str]:
        body = "\n".join([header, *rows[:count]]) + "\n"
        s3.put_object(Bucket=bucket, Key="catalogue.csv", Body=body.encode())
        return {row.split(",")[header.split(",").index("object_id")] for row in rows[:count]}

    names = survey(120)
    pool = {"part_objects": 40, "pool": 60}
    settle(trained, score=pool)
    run = trained.done("score")
    chosen = {name for name in names if in_pool(name, 0.5)}
    assert set(scores(trained)["object_id"]) == chosen
    assert run.counts["scored"] == len(chosen)
    assert run.counts["outside_pool"] == 120 - len(chosen)
    assert run.counts["listed"] == 120
    # What comes is scored, whether it belongs to the pool or not; the pool does not shrink.
    more = survey(150)
    run = trained.done("score")
    assert set(scores(trained)["object_id"]) == chosen | (more - names)
    assert trained.ledger.newest("scores").facts["pool"]["share"] == 0.5
    # The random share is drawn from the pool alone, and says so.
    settle(trained, score=pool, upload={"per_run": 40, "random_share": 0.5})
    batch = trained.done("upload", force=True)
    plan = pl.read_parquet(trained.settings.work / "batches" / batch.artifact / "plan.parquet")
    drawn = plan.filter(reason="random")
    assert len(drawn) == 20
    assert all(in_pool(name, 0.5) for name in drawn["object_id"])
    assert all("from a pool of 50.00% of the survey" in why for why in drawn["why"])
    assert not all(in_pool(name, 0.5) for name in plan["object_id"])
    # The whole catalogue is a command.
    run = trained.done("score", everything=True)
    assert run.counts["scored"] == 150
    assert "outside_pool" not in run.counts


def encoder_file(path: Path, shape: tuple[int, ...] = (12, 3, 3, 3), odd: str = "") -> Path:
    """A convolution, and the mean of each of its planes: what a real encoder does, in small."""
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.normal(0, 0.5, shape).astype(np.float32), "weight")
    nodes = [
        helper.make_node("Conv", ["image", "weight"], ["seen"], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["seen"], ["rectified"]),
        helper.make_node("GlobalAveragePool", ["rectified"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat" if odd else "features"]),
    ]
    if odd == "random":
        nodes.append(helper.make_node("RandomNormalLike", ["flat"], ["noise"]))
        nodes.append(helper.make_node("Add", ["flat", "noise"], ["features"]))
    elif odd == "infinite":
        nodes.append(helper.make_node("Log", ["zero"], ["lost"]))
        nodes.insert(4, helper.make_node("Sub", ["flat", "flat"], ["zero"]))
        nodes.append(helper.make_node("Identity", ["lost"], ["features"]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, "h", "w"])
    told = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", shape[0]])
    graph = helper.make_graph(nodes, "encoder", [image], [told], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def test_an_encoder_that_learned_elsewhere(make_after: MakeProject, tmp_path: Path) -> None:
    file = encoder_file(tmp_path / "encoder.onnx")
    project = make_after("aggregate", {"galaxies": 150})
    model = {"min_labels": 20, "heldout_share": 0.3, "first_model": "any", "ensemble": 2}
    colour = {"size": 32, "colour": "rgb"}
    declared = {"trunk_mean": [0.1, 0.1, 0.2], "trunk_spread": [0.5]}
    project.change(cutouts=colour, model={**model, "trunk": f"onnx:{file}", **declared})
    run = project.done("retrain")
    record = read_record(project.settings.work / "models" / run.artifact)
    assert record.training["start"].startswith("the encoder encoder.onnx")
    assert record.design["views"] == 4
    card = (project.settings.work / "models" / run.artifact / "card.md").read_text()
    assert "onnx, 32 px" in card
    assert "galaxies seen from 4 sides" in card
    # The file may go: the model has it.
    file.unlink()
    scored = project.done("score")
    assert scored.counts["scored"] == 150
    (folder,) = (project.settings.work / "features").iterdir()
    kept = [pl.read_parquet(path) for path in folder.glob("*.parquet")]
    assert pl.concat(kept)["object_id"].n_unique() == 150
    # Two networks see by one trunk, which is kept once.
    numbers = kept_features(project.context, record.trunk)
    assert [len(numbers.open(path)) for path in numbers.parts()] == [1]
    encoder_file(tmp_path / "encoder.onnx")
    hide_cutouts(project)
    again = project.run("retrain", force=True)
    assert again.outcome in ("done", "refused"), again.message


@pytest.mark.parametrize(
    ("odd", "why"),
    [("random", "the second time"), ("infinite", "no numbers"), ("planes", "does not take images")],
)
def test_an_encoder_that_cannot_be_trusted_is_refused(tmp_path: Path, odd: str, why: str) -> None:
    shape = (12, 3, 3, 3)
    path = encoder_file(tmp_path / "odd.onnx", shape, odd if odd != "planes" else "")
    encoder = Encoder(path, "nhwc" if odd == "planes" else "nchw", (0.0,), (1.0,))
    with pytest.raises((RefusedError, Exception), match=why) as caught:
        encoder.check(32, 3)
    assert caught.value.hint.startswith("Declare")


def test_a_network_sees_galaxies_from_as_many_sides_as_wanted(make_after: MakeProject) -> None:
    project = make_after("aggregate", {"galaxies": 80})
    tables: dict[str, Any] = {"cutouts": {"size": 32}, "model": {**FAST_MODEL, "views": 4}}

    def retrain(**model: Any) -> Any:
        project.change(**{**tables, "model": {**tables["model"], **model}})
        run = project.done("retrain", force=True)
        return read_record(project.settings.work / "models" / run.artifact)

    assert retrain().design["views"] == 4
    # From one side it is another trunk.
    assert retrain(trunk="keep", views=1).training["start"] == "scratch"
    told = "".join(
        path.read_text() for path in (project.settings.work / "runs").glob("*/log.jsonl")
    )
    assert "it sees from 4 side(s), not from 1" in told
    # Its weights may be gone on from, all the same.
    record = retrain(start="current", views=4)
    assert record.training["start"].startswith("the weights of")
    assert record.design["views"] == 4
    # What it has seen is kept, and enough for a last layer.
    project.done("score")
    hide_cutouts(project)
    assert retrain(trunk="keep").trunk == record.trunk
