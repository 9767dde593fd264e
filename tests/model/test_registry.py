"""Models on disk: they come back as they were, and damaged or foreign ones are refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from zoo_bridge.errors import InputError, RefusedError, SettingsError
from zoo_bridge.files import read_json, write_json
from zoo_bridge.model import registry, runtime
from zoo_bridge.model.heads import Head
from zoo_bridge.model.network import Design, Network

PREPROCESSING = {"size": 32, "colour": "grey"}
NUMBERS = {"sure": 0.01, "unsure": 0.2, "surprise": 0.02}
HEADS = (
    Head("shape", ("smooth", "featured"), "featured"),
    Head("arms", ("one", "two", "more"), "two"),
)
METRICS = {
    name: value
    for metric, value in (("log_likelihood", -3.0), ("rmse", 0.1), ("bias", 0.0))
    for name, value in ((metric, value), (f"{metric}_lo", value), (f"{metric}_hi", value))
} | {"galaxies": 40, "coverage_50": 0.5, "coverage_80": 0.8, "coverage_90": 0.9}


def images() -> np.ndarray:
    return np.random.default_rng(0).random((5, 32, 32, 1), dtype=np.float32)


def save(
    folder: Path, count: int = 1, engine: str = "keras", answers: dict | None = None
) -> list[Network]:
    design = Design("small", 32, 1, HEADS, likelihood="beta-binomial", pixel_mean=0.1)
    networks = [Network(design, seed) for seed in range(count)]
    record = registry.Record(
        version=folder.name,
        design=design.as_dict(),
        seeds=list(range(count)),
        preprocessing=PREPROCESSING,
        labels_digest="d",
        training={
            "galaxies": 5,
            "start": "scratch",
            "members": [{"epochs": 2, "best_epoch": 1}] * count,
        },
        estimator={"kind": "analytic"},
        agreement={
            "networks": 16_384,
            "galaxies": 40,
            "drawn": 2960,
            "answer": "shape: featured",
            "top_5_percent": 0.95,
            "halves_top_5_percent": 0.9,
            "spearman": 0.999,
        },
        calibration={"shape": {"smooth": NUMBERS, "featured": NUMBERS}},
        metrics={"shape": METRICS},
        baselines={"shape": {"mean vote fraction": METRICS}},
        verdict="the first model",
        runtime=engine,
        answers=answers or {"shape": {"featured": METRICS}},
    )
    registry.save(folder, networks, record, {"posteriors.png": b"a figure"})
    return networks


@pytest.mark.parametrize("count", [1, 2])
def test_a_model_comes_back_as_it_was(tmp_path: Path, count: int) -> None:
    networks = save(tmp_path / "m1", count)
    assert [entry.name for entry in tmp_path.iterdir()] == ["m1"]
    model = registry.load(tmp_path / "m1", PREPROCESSING)
    assert len(model.networks) == len(model.trunks) == count
    for ours, theirs, trunk in zip(networks, model.networks, model.trunks, strict=True):
        assert theirs.design == ours.design
        np.testing.assert_array_equal(theirs.features(images()), ours.features(images()))
        np.testing.assert_array_equal(trunk(images()), ours.features(images()))
        np.testing.assert_array_equal(theirs.overdispersion, ours.overdispersion)


def test_the_card_tells_what_an_administrator_asks(tmp_path: Path) -> None:
    save(tmp_path / "m1")
    card = (tmp_path / "m1" / "card.md").read_text()
    for told in (
        "the first model",
        "shares 95% of the top 5 %",
        "16384 masks on 40 held-out galaxies and 2960 drawn between them",
        "of all answers shape: featured agrees least",
        "Error bars of shape, featured",
        "enumerated",
        "mean vote fraction",
        "0.500 / 0.800 / 0.900",
        "figures/posteriors.png",
        "beta-binomial",
    ):
        assert told in card
    assert (tmp_path / "m1" / "figures" / "posteriors.png").read_bytes() == b"a figure"


def test_the_card_tells_of_every_answer_of_more_than_two(tmp_path: Path) -> None:
    rows = dict.fromkeys(("smooth", "featured", "artifact"), METRICS)
    save(tmp_path / "m1", answers={"shape": rows})
    card = (tmp_path / "m1" / "card.md").read_text()
    assert "| question | answer |" in card
    assert "| shape | artifact |" in card


def test_a_model_of_an_earlier_version_can_be_read(tmp_path: Path) -> None:
    save(tmp_path / "m1")
    values = read_json(tmp_path / "m1" / "model.json")
    del values["answers"]
    values["estimator"] = {"kind": "analytic", "enumerated": 5}
    values["calibration"] = {"shape": NUMBERS}
    values["agreement"].pop("drawn")
    values["agreement"].pop("answer")
    write_json(tmp_path / "m1" / "model.json", values)
    record = registry.load(tmp_path / "m1", PREPROCESSING).record
    assert "Error bars of shape, smooth" in registry.card(record)


def test_other_preprocessing_is_refused_and_named(tmp_path: Path) -> None:
    save(tmp_path / "m1")
    with pytest.raises(RefusedError, match="size 32 -> 64") as caught:
        registry.load(tmp_path / "m1", {**PREPROCESSING, "size": 64})
    assert caught.value.exit_code == 3


def test_a_damaged_model_is_not_used(tmp_path: Path) -> None:
    save(tmp_path / "m1")
    weights = tmp_path / "m1" / registry.weights_name(0)
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(InputError, match="missing or damaged"):
        registry.load(tmp_path / "m1", PREPROCESSING)
    weights.write_bytes(whole)
    values = read_json(tmp_path / "m1" / "model.json")
    write_json(tmp_path / "m1" / "model.json", {**values, "design": {"name": "small"}})
    with pytest.raises(InputError, match="cannot be loaded"):
        registry.load(tmp_path / "m1", PREPROCESSING)
    (tmp_path / "m1" / "model.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        registry.load(tmp_path / "m1", PREPROCESSING)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_runtime_gives_the_same_features(tmp_path: Path, engine: str) -> None:
    needed = ["openvino"] if engine == "openvino" else ["onnxruntime", "onnx", "tf2onnx"]
    if any(importlib.util.find_spec(name) is None for name in needed):
        pytest.skip(f"{engine} is not installed")
    (network,) = save(tmp_path / "m1", engine=engine)
    model = registry.load(tmp_path / "m1", PREPROCESSING, engine)
    many = np.random.default_rng(1).random((runtime.CHECKED, 32, 32, 1), dtype=np.float32)
    np.testing.assert_allclose(model.trunks[0](many), network.features(many), atol=1e-4)
    assert model.trunks[0](many[:0]).shape == (0, network.width)
    assert model.record.software[engine]
    # Keras may always be used.
    registry.load(tmp_path / "m1", PREPROCESSING)


def test_a_runtime_that_disagrees_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    exact = Network.features
    monkeypatch.setattr(
        Network, "features", lambda self, images: exact(self, images) * np.float32(1.001)
    )
    with pytest.raises(RefusedError, match="does not give the features"):
        save(tmp_path / "m1", engine="onnxruntime")
    assert not (tmp_path / "m1").exists()


def test_a_runtime_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(SettingsError, match="openvino") as caught:
        save(tmp_path / "m1", engine="openvino")
    assert "zoo-bridge[openvino]" in caught.value.hint
    save(tmp_path / "m2")
    with pytest.raises(RefusedError, match="registered for keras, not for openvino"):
        registry.load(tmp_path / "m2", PREPROCESSING, "openvino")
