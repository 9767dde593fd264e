"""From networks to posteriors: answers add up, the check of the ranking, error bars by answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import expit, softmax

from zoo_bridge.acquisition.posterior import Calibration
from zoo_bridge.errors import RefusedError
from zoo_bridge.model.agreement import choose_estimator, drawn_features
from zoo_bridge.model.heads import Head
from zoo_bridge.model.network import Design, Network
from zoo_bridge.model.predict import ANALYTIC, SAMPLED, calibrations_of, posteriors_of
from zoo_bridge.model.registry import Model, Record
from zoo_bridge.steps.inputs import heads_of
from zoo_bridge.steps.scoring.scorer import score_batch
from zoo_bridge.steps.training.candidate import Candidate
from zoo_bridge.steps.training.judge import judge
from zoo_bridge.steps.training.labelled import Labelled

QUESTION = "smooth-or-featured"
THREE = Head(QUESTION, ("smooth", "featured", "artifact"), "featured")
TWO = Head("bar", ("yes", "no"), "no")
TICKS = Head("odd", ("ring", "lens", "merger"), "ring", multiple=True)


def network(*heads: Head, scale: float = 1.0, seed: int = 0, **design: Any) -> Network:
    made = Network(Design("small", 32, 1, heads, **design), seed)
    weight, bias = made.head.get_weights()
    rng = np.random.default_rng(seed)
    made.head.set_weights([scale * rng.normal(0, 0.15, weight.shape), bias])
    return made


def features(galaxies: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.maximum(rng.normal(0.2, 1, (galaxies, width)), 0).astype(np.float32)


@pytest.mark.parametrize("estimator", [ANALYTIC, SAMPLED])
@pytest.mark.parametrize("members", [1, 3])
def test_every_kind_of_question_is_what_its_drawn_networks_say(
    estimator: dict[str, Any], members: int
) -> None:
    from zoo_bridge.acquisition import masks

    networks = [network(THREE, TWO, TICKS, scale=0.7, seed=seed) for seed in range(members)]
    some = [features(40, each.width, seed) for seed, each in enumerate(networks)]
    for place, head in enumerate((THREE, TWO, TICKS)):
        said = posteriors_of(networks, some, place, estimator, 40)
        assert set(said) == ({1} if head is TWO else {0, 1, 2})
        for answer, posterior in said.items():
            logit_NT = np.concatenate(
                [
                    each.sample(h, place, answer, masks.drawn(4000, each.width, 0.5, 7))
                    for each, h in zip(networks, some, strict=True)
                ],
                axis=1,
            )
            np.testing.assert_allclose(posterior.mean, expit(logit_NT).mean(axis=1), atol=0.02)
            spread = expit(logit_NT).std(axis=1)
            p_NK, k = posterior.counts(40), np.arange(41)
            mean = p_NK @ k / 40
            # Of k/N: the networks' own spread, and the votes'.
            votes = (expit(logit_NT) * expit(-logit_NT)).mean(axis=1) / 40
            told = np.sqrt(p_NK @ (k / 40) ** 2 - mean**2)
            np.testing.assert_allclose(told, np.sqrt(spread**2 + votes), atol=0.015)


def model(networks: list[Network], calibration: dict[str, Any]) -> Model:
    record = Record(
        *("m", networks[0].design.as_dict(), [0] * len(networks), {}, "", {}, ANALYTIC, {}),
        *(calibration, {}, {}, ""),
    )
    return Model(networks, record, [each.features for each in networks])


def test_in_the_catalogue_the_answers_of_a_question_add_up_to_one() -> None:
    networks = [network(THREE, TWO, TICKS, scale=2.0, seed=seed) for seed in range(2)]
    numbers = {"sure": 0.02, "unsure": 0.3, "surprise": 0.04}
    other = {**numbers, "sure": 0.2}
    known = {
        QUESTION: {"smooth": numbers, "featured": other, "artifact": numbers},
        "bar": {"yes": numbers, "no": numbers},
    }
    images = np.random.default_rng(0).random((50, 32, 32, 1), dtype=np.float32)
    objects = [(f"g{number}", f"g{number}.png") for number in range(50)]
    expected = {QUESTION: 40, "bar": 7, "odd": 3}
    rows = score_batch(model(networks, known), objects, images, expected).to_pandas()
    assert len(rows) == 50 * (3 + 2 + 3)
    sums = rows[rows["question"] != "odd"].groupby(["object_id", "question"])["mean"].sum()
    assert len(sums) == 100
    np.testing.assert_allclose(sums, 1, atol=3e-7)
    # Ends are counts, and so may lie beyond a mean by less than one vote.
    vote = 1 / rows["n_expected"]
    assert np.all((rows["lo"] < rows["mean"] + vote) & (rows["mean"] < rows["hi"] + vote))
    assert np.all(rows["lo"] <= rows["hi"])
    # An answer that the networks rule out has a third of the surprise.
    flat = {**numbers, "surprise": 0.9}
    known = {QUESTION: dict.fromkeys(THREE.answers, flat)}
    mean = (
        score_batch(model(networks, known), objects, images, expected)
        .to_pandas()
        .query("question == @QUESTION")
    )
    assert mean["mean"].between(0.3 - 1e-6, 0.4 + 1e-6).all()


def test_a_calibration_of_an_earlier_version_holds_for_all_answers() -> None:
    numbers = {"sure": 0.02, "unsure": 0.3, "surprise": 0.04}
    made = model([network(THREE)], {QUESTION: numbers})
    assert calibrations_of(made, 0) == dict.fromkeys(range(3), Calibration(**numbers))
    # An answer may have the name of a number.
    sure = Head(QUESTION, ("sure", "unsure", "other"), "other")
    made = model([network(sure)], {QUESTION: dict.fromkeys(sure.answers, numbers)})
    assert calibrations_of(made, 0) == dict.fromkeys(range(3), Calibration(**numbers))
    assert calibrations_of(model([network(THREE)], {}), 0) == {}


def test_drawn_galaxies_lie_between_those_there_are() -> None:
    some = features(12, 40)
    some[:, 7] = 0
    (drawn,) = drawn_features([some], 500, 3)
    assert drawn.shape == (500, 40)
    np.testing.assert_array_equal(drawn[:12], some)
    assert np.all(drawn[:, 7] == 0)
    assert np.all(drawn >= 0)
    assert 0.6 < drawn[12:].std() / some.std() < 1.2
    (same,) = drawn_features([some], 500, 3)
    np.testing.assert_array_equal(drawn, same)
    assert drawn_features([features(600, 40)], 500, 3)[0].shape == (500, 40)


def test_the_check_compares_every_answer_on_thousands_of_galaxies() -> None:
    networks = [network(THREE, TWO, scale=1.5)]
    some = [features(30, networks[0].width)]
    estimator, agreement = choose_estimator(networks, some, [40, 10], 0)
    assert estimator == ANALYTIC
    assert (agreement["galaxies"], agreement["drawn"]) == (30, 2970)
    assert agreement["networks"] == 2 * 4096
    assert agreement["answer"] in {*(f"{QUESTION}: {each}" for each in THREE.answers), "bar: no"}
    assert set(agreement["tried"]) == {"analytic"}
    assert 0.8 < agreement["top_5_percent"] <= 1
    assert agreement["spearman"] > 0.998


def test_a_head_that_says_nothing_agrees_with_itself() -> None:
    made = network(THREE, TWO, scale=0.0)
    for some in (features(12, made.width), np.zeros((12, made.width), np.float32)):
        estimator, agreement = choose_estimator([made], [some], [40, 10], 0)
        assert estimator == ANALYTIC
        assert (agreement["top_5_percent"], agreement["spearman"]) == (1, 1)
    nobody = np.zeros((0, made.width), np.float32)
    _, agreement = choose_estimator([made], [nobody], [40, 10], 0)
    assert (agreement["galaxies"], agreement["drawn"], agreement["bias"]) == (0, 0, 0)


def test_what_decides_is_how_far_each_answer_is_from_its_own_bar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from zoo_bridge.model import agreement

    def told(shared: float, halves: float) -> dict[str, float]:
        return {"top_5_percent": shared, "halves_top_5_percent": halves, "spearman": 1, "bias": 0}

    # The softmax shares little, and its halves do, too; the two answers fail the analytic way.
    answers = iter([told(0.7, 0.72)] * 3 + [told(0.86, 1.0)] + [told(0.7, 0.72)] * 3)
    monkeypatch.setattr(agreement, "_agreement", lambda *_: next(answers, told(0.97, 1.0)))
    made = network(THREE, TWO)
    estimator, agreement = choose_estimator([made], [features(12, made.width)], [40, 10], 0)
    assert estimator == SAMPLED
    assert agreement["tried"]["analytic"]["answer"] == "bar: no"


def test_features_that_are_no_numbers_are_refused() -> None:
    made = network(THREE)
    some = features(5, made.width)
    some[2, 3] = np.nan
    with pytest.raises(RefusedError, match="weights are damaged"):
        posteriors_of([made], [some], 0, ANALYTIC, 40)


def test_a_head_that_the_analytic_way_cannot_treat_is_sampled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from zoo_bridge.acquisition import logits

    # With one term enumerated, as if a head had too many large ones.
    monkeypatch.setattr(logits, "ENUMERATED", (1,))
    made = network(TWO)
    weight, bias = made.head.get_weights()
    weight[:] = 0
    weight[:5] = 4.0
    made.head.set_weights([weight, bias])
    some = [features(400, made.width)]
    estimator, agreement = choose_estimator([made], some, [40], 0)
    assert estimator == SAMPLED
    tried = agreement["tried"]
    assert tried["analytic"]["top_5_percent"] < tried["masks"]["top_5_percent"]


def test_a_model_of_other_answers_or_another_target_is_no_rival(make_project: Any) -> None:
    asked = heads_of(make_project({"galaxies": 20}).settings)

    def heads(*some: Head) -> tuple[Head, ...]:
        return model([network(*some)], {}).networks[0].design.heads

    assert heads(THREE) == asked
    for other in (
        Head(QUESTION, THREE.answers, "smooth"),
        Head(QUESTION, ("smooth", "featured"), "featured"),
        Head("another", THREE.answers, "featured"),
        Head(QUESTION, THREE.answers, "featured", multiple=True),
    ):
        assert heads(other) != asked
    assert heads(THREE, TWO) != asked


def votes_of(rho_NA: np.ndarray, n: np.ndarray, scatter: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shown = np.array([rng.dirichlet(np.maximum(row / scatter, 1e-3)) for row in rho_NA])
    return np.array([rng.multinomial(each, row) for each, row in zip(n, shown, strict=True)])


def test_error_bars_are_judged_for_every_answer(make_project: Any) -> None:
    ctx = make_project({"galaxies": 20}).context
    made = network(THREE, scale=1.2)
    made.head.set_weights([made.head.get_weights()[0], np.array([0.0, 0.0, -3.0])])
    size = 900
    h_ND = features(size, made.width)
    # Each galaxy's truth is what one of the networks says of it.
    kept_ND = 2 * np.random.default_rng(5).integers(0, 2, h_ND.shape)
    weight_DA, bias_A = made.weights(0)
    rho = softmax((h_ND * kept_ND) @ weight_DA + bias_A, axis=1)
    n = np.random.default_rng(1).integers(5, 41, size)
    n[0] = 20_000
    k_NA = votes_of(rho, n, 0.08, 2)
    ids = [f"g{number}" for number in range(size)]
    votes = np.column_stack([k_NA, n])
    data = Labelled(
        *(ids, np.zeros((size, 1)), votes, k_NA[:, [1]], n[:, None], np.ones(size, dtype=bool))
    )
    found = judge(ctx, Candidate([made], data, [h_ND], ANALYTIC))
    assert set(found.answers[QUESTION]) == set(THREE.answers)
    assert found.answers[QUESTION]["featured"] == found.metrics[QUESTION]
    assert set(found.calibration[QUESTION]) == set(THREE.answers)
    assert len({each.surprise for each in found.calibration[QUESTION].values()}) == 1
    for answer, row in found.answers[QUESTION].items():
        for level in (50, 80, 90):
            assert row[f"coverage_{level}"] == pytest.approx(level / 100, abs=0.06), answer
    # The calibrated expectations add up, whatever each answer's scatter.
    said = found.said[QUESTION]
    total = np.sum([forecast.mean for forecast in said.answers.values()], axis=0)
    np.testing.assert_allclose(total, 1, atol=1e-9)
    assert said.n.max() == 250
