"""What a batch can be chosen from: the same as if the whole catalogue were sorted in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from zoo_bridge.acquisition.diversity import power_keys
from zoo_bridge.acquisition.select import share_of
from zoo_bridge.config import parse
from zoo_bridge.cutouts.survey import Survey
from zoo_bridge.errors import SettingsError
from zoo_bridge.files import write_json
from zoo_bridge.steps.batches import contenders as module
from zoo_bridge.steps.batches.contenders import Ranking, Term, contenders, ranking_of
from zoo_bridge.tables import SCORES, write_table

OBJECTS = 300
ANSWERS = {
    "shape": ("smooth", "featured", "artifact"),
    "bar": ("yes", "no"),
    "arms": ("one", "two"),
}
TARGETS = {"shape": "featured", "bar": "yes", "arms": "two"}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Survey, Path, pl.DataFrame]:
    """A survey, its catalogue in parts of fifty objects, and all of it as a table."""
    draw = np.random.default_rng(0)
    ids = [f"O'{number:04d}" for number in range(OBJECTS)]
    rows = [
        {
            "object_id": ident,
            "uri": f"s3://b/{ident}.fits",
            "model_version": "m",
            "question": question,
            "answer": answer,
            "n_expected": 40,
            "mean": draw.random() / len(answers),
            "lo": 0.0,
            "hi": 1.0,
            "bald": draw.gamma(2, 0.1),
            "target": answer == TARGETS[question],
        }
        for ident in ids
        for question, answers in ANSWERS.items()
        for answer in answers
    ]
    frame = pl.DataFrame(pa.Table.from_pylist(rows, schema=SCORES))
    scores = tmp_path / "scores"
    for part, start in enumerate(range(0, OBJECTS, 50)):
        some = frame.filter(pl.col("object_id").is_in(ids[start : start + 50]))
        write_table(scores / f"part-{part:05d}.parquet", some.to_arrow().cast(SCORES), SCORES)
    survey = tmp_path / "survey"
    survey.mkdir()
    bright = 14 + 8 * draw.random(OBJECTS)
    uris = [f"s3://b/{ident}.fits" for ident in ids]
    table = pl.DataFrame({"object_id": ids, "uri": uris, "magnitude": bright})
    # Ten objects left the survey since it was scored.
    table[:-10].write_parquet(survey / "objects.parquet")
    facts = {"objects": OBJECTS - 10, "columns": ["object_id", "uri", "magnitude"]}
    write_json(survey / "survey.json", facts)
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 500)
    return Survey(survey), scores, frame.join(table[:-10], on="object_id", how="inner")


TERMS = (
    Term("shape"),
    Term("bar", 0.5, (("shape", ("featured",)),)),
    Term("arms", 2.0, (("bar", ("yes", "no")), ("shape", ("featured", "artifact")))),
)


def information(frame: pl.DataFrame) -> dict[str, float]:
    """Object by object, as the settings' documentation says it."""
    found = {}
    for (ident,), rows in frame.group_by("object_id"):
        mean = {(row["question"], row["answer"]): row["mean"] for row in rows.to_dicts()}
        bald = {row["question"]: row["bald"] for row in rows.to_dicts() if row["target"]}
        bar = 0.5 * mean["shape", "featured"] * bald["bar"]
        arms = (mean["bar", "yes"] + mean["bar", "no"]) * (
            mean["shape", "featured"] + mean["shape", "artifact"]
        )
        found[str(ident)] = bald["shape"] + bar + 2.0 * arms * bald["arms"]
    return found


def test_questions_count_by_weight_and_by_how_likely_they_are_reached(
    made: tuple[Survey, Path, pl.DataFrame],
) -> None:
    survey, scores, frame = made
    expected = information(frame)
    out = set(sorted(expected)[::3])
    found = contenders(survey, scores, out, 20, 15, Ranking(TERMS))
    left = [name for name in expected if name not in out]
    best = sorted(left, key=lambda name: (-expected[name], name))[:20]
    drawn = sorted(left, key=lambda name: share_of(name, 0, "random share"))[:15]
    assert {each.object_id for each in found} == {*best, *drawn}
    for each in found:
        assert each.bald == pytest.approx(expected[each.object_id], rel=1e-6)
        assert each.key == each.bald
        assert each.uri == f"s3://b/{each.object_id}.fits"
    assert [each.object_id for each in found] == sorted(each.object_id for each in found)


def test_a_condition_on_the_catalogue_cuts_both_kinds(
    made: tuple[Survey, Path, pl.DataFrame],
) -> None:
    survey, scores, frame = made
    cut = Ranking([Term("shape")], "magnitude < 16 OR false")
    found = {each.object_id for each in contenders(survey, scores, (), 500, 500, cut)}
    assert found == set(frame.filter(pl.col("magnitude") < 16)["object_id"])
    before = contenders(survey, None, (), 500, 7, cut)
    assert len(before) == 7
    assert {each.object_id for each in before} < found
    assert {(each.bald, each.key) for each in before} == {(None, None)}
    odd = ("true; DROP VIEW survey", "true) --", "CAST(object_id AS INT) < 20")
    for wrong in ("magnitude <", "size < 3", *odd):
        with pytest.raises(SettingsError, match="cannot be asked") as caught:
            contenders(survey, scores, (), 5, 5, Ranking([Term("shape")], wrong))
        assert "object_id, uri, magnitude" in caught.value.hint


def test_powerbald_in_sql_is_that_of_the_library(
    made: tuple[Survey, Path, pl.DataFrame],
) -> None:
    survey, scores, _ = made
    plain = contenders(survey, scores, (), OBJECTS, 0, Ranking([Term("shape")]))
    ids, bald = [each.object_id for each in plain], [each.bald or 0.0 for each in plain]
    keys = dict(zip(ids, power_keys(ids, bald, 1.5, 3), strict=True))
    ranking = Ranking([Term("shape")], power=1.5, seed=3)
    found = contenders(survey, scores, (), 30, 0, ranking)
    assert {each.object_id for each in found} == set(sorted(ids, key=lambda i: -keys[i])[:30])
    for each in found:
        assert each.key == pytest.approx(keys[each.object_id], rel=1e-9)


def test_the_settings_say_what_counts() -> None:
    question = {"task": "T0", "answers": {"yes": ["Yes"], "no": ["No"]}, "target": "yes"}

    def after(name: str, answer: str) -> dict[str, object]:
        return {"question": name, "answers": [answer]}

    settings = parse(
        {
            "project": {"slug": "a/b", "workflow": 1},
            "survey": {"catalogue": "x.csv"},
            "seed": 4,
            "question": [
                {**question, "name": "disk"},
                {
                    **question,
                    "name": "edge",
                    "asked_after": {"question": "disk", "answers": ["yes"]},
                },
                {**question, "name": "bar", "asked_after": {"question": "edge", "answers": ["no"]}},
            ],
            "upload": {
                "weights": {"disk": 0.0, "bar": 3.0},
                "where": "z < 1",
                "diversity": "power",
            },
        }
    )
    assert ranking_of(settings) == Ranking(
        [
            Term("edge", 1.0, (("disk", ("yes",)),)),
            Term("bar", 3.0, (("edge", ("no",)), ("disk", ("yes",)))),
        ],
        "z < 1",
        1.0,
        4,
    )


@pytest.fixture
def texts(tmp_path: Path) -> Survey:
    """A survey whose catalogue has its magnitudes as texts, as some FITS tables have."""
    pl.DataFrame(
        {
            "object_id": ["a", "b", "c"],
            "uri": ["a", "b", "c"],
            "mag": ["5", "12", "21.5"],
            "plate": ["0266", "0267", "x"],
            "year": ["2019", "2020", "2021"],
        }
    ).write_parquet(tmp_path / "objects.parquet")
    columns = ["object_id", "uri", "mag", "plate", "year"]
    write_json(tmp_path / "survey.json", {"objects": 3, "columns": columns, "meanings": {}})
    return Survey(tmp_path)


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("mag < 20", "CAST"),
        ("mag < '20'", "CAST"),
        ('"mag" > 7', "CAST"),
        ("mag BETWEEN '1' AND '20'", "CAST"),
        ("abs(mag) < 20", "CAST"),
        ("mag = 5.0", "CAST"),
        ("(mag) > '7'", "CAST"),
        ("survey.mag > '7'", "CAST"),
        ("mag = '5.0'", "chooses none"),
        ("plate = '266'", "chooses none"),
    ],
)
def test_a_condition_on_texts_that_are_numbers_says_how_to_cast(
    texts: Survey, where: str, told: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        module.count_chosen(texts, where)
    assert told in str(caught.value)
    with pytest.raises(SettingsError):
        contenders(texts, None, (), 2, 2, Ranking([], where))


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("CAST(mag AS DOUBLE) < 20", 2),
        ("mag::DOUBLE BETWEEN 1 AND 20", 2),
        ("mag = '5'", 1),
        ("plate < '0267'", 1),
        ("mag IN ('5', '12')", 2),
        ("mag <> '5'", 2),
        ("uri <> 'mag > 3'", 3),
        ("uri <> 'a;b--c'", 3),
        ("year >= '2020' AND year BETWEEN '2020' AND '2021'", 2),
    ],
)
def test_what_is_meant_is_asked(texts: Survey, where: str, count: int) -> None:
    assert module.count_chosen(texts, where) == count
