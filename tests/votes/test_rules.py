"""Which rows count, and what an answer is called."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo_bridge.errors import SettingsError
from zoo_bridge.votes.rules import (
    UNMATCHED,
    Question,
    Texts,
    answers_of,
    clean,
    find_object_id,
    hangs_on_version,
    is_training,
    match,
    shape_of,
)

QUESTION = Question.declare(
    "smooth-or-featured", "T0", {"smooth": ["Smooth"], "featured": ["Features or Disk"]}
)
TEXTS = Texts(
    {
        "T0": {
            (3, 1): {"0": "Smooth", "1": "Features or Disk"},
            (28, 30): {"0": "Features or Disk", "1": "Smooth"},
        }
    }
)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("![smooth.png](https://x.org/a_(1).png =60x) Smooth", "smooth"),
        ("Tre\u0300s\u200b lisse\ufeff", "tr\u00e8s lisse"),
        ("![smooth.png](https://x.org/a.png =60x) Smooth", "smooth"),
        ("**Features   or\nDisk**", "features or disk"),
        ("[Star](https://x.org) or _Artifact_", "star or artifact"),
        ("", ""),
        ("![ring.png](https://x.org/1.png)", "ring.png"),
        ("![](https://x.org/1.png)", "![](https://x.org/1.png)"),
    ],
)
def test_labels_are_cleaned_as_people_read_them(label: str, expected: str) -> None:
    assert clean(label) == expected


@given(st.text())
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    assert clean(clean(text)) == clean(text)


def test_a_label_stands_for_one_answer() -> None:
    with pytest.raises(SettingsError, match=r"'YES ' of no is also one of another"):
        Question.declare("q", "T0", {"yes": ["Yes"], "no": ["YES "]})


def named(bits: int | None) -> str | None:
    """The answers of a number: their names, "none", "unmatched", or None."""
    if bits is None or bits == UNMATCHED:
        return None if bits is None else "unmatched"
    names = [name for place, name in enumerate(QUESTION.answers) if bits & (1 << place)]
    return " and ".join(names) or "none"


@pytest.mark.parametrize(
    ("value", "single", "multiple"),
    [
        ("![a](b) Smooth", "smooth", "smooth"),
        ("smooth", "smooth", "smooth"),
        (["Features or Disk"], "featured", "featured"),
        (["Smooth", None], "smooth", "smooth"),
        (["Smooth", "Smooth"], "smooth", "smooth"),
        ("Something else", "unmatched", "unmatched"),
        (["Smooth", "Something else"], "unmatched", "smooth"),
        (["Smooth", "Features or Disk"], "unmatched", "smooth and featured"),
        ([], None, "none"),
        ([None], None, None),
        (None, None, None),
        (True, "unmatched", "unmatched"),
        (0, "unmatched", "unmatched"),
        # Dropdowns, in exports of both front ends and in the API.
        (
            [{"select_label": "Shape", "option": True, "value": "a1b2", "label": "Smooth"}],
            "smooth",
            "smooth",
        ),
        (
            {"select_label": "Shape", "option": True, "value": 0, "label": "Smooth"},
            "smooth",
            "smooth",
        ),
        ([{"select_label": "Shape", "option": False, "value": "smooth"}], "smooth", "smooth"),
        ([{"select_label": "Shape"}], None, None),
        ({"select_label": "Shape", "option": False, "value": None}, None, None),
        # Drawings and surveys stand for no answer.
        ([{"x": 1.5, "y": 2, "tool": 0}], "unmatched", "unmatched"),
        ([{"choice": "LION", "answers": {}}], "unmatched", "unmatched"),
    ],
)
def test_values_match_by_label(value: Any, single: str | None, multiple: str | None) -> None:
    assert named(match(value, QUESTION)) == single
    assert named(match(value, replace(QUESTION, multiple=True))) == multiple


@pytest.mark.parametrize(
    ("version", "expected"), [((3, 1), "smooth"), ((28, 4), "featured"), ((99, 1), "featured")]
)
def test_an_index_takes_the_label_of_its_own_version(
    version: tuple[int, int], expected: str
) -> None:
    for value in (0, "0", [0], {"selection": 0, "option": True}):
        assert named(match(value, QUESTION, version, TEXTS)) == expected
        assert hangs_on_version(value, QUESTION)
    assert not hangs_on_version("Smooth", QUESTION)
    assert named(match(7, QUESTION, version, TEXTS)) == "unmatched"


def test_a_label_that_changed_is_shown_with_what_it_is_called_now() -> None:
    texts = Texts({"T0": {(1, 1): {"0": "**Round**"}, (2, 1): {"0": "Smooth"}}})
    assert texts.name_now("T0", "round") == "Smooth"
    assert texts.name_now("T0", "Smooth") is None
    assert texts.name_now("T1", "round") is None


def test_combined_tasks_are_opened_and_the_first_answer_counts() -> None:
    annotations = [
        {"task": "combo", "value": [{"task": "T0", "value": "Smooth"}, {"task": "T1", "value": 2}]},
        {"task": "T0", "value": "Features or Disk"},
    ]
    assert answers_of(annotations) == {"T0": "Smooth", "T1": 2}
    # As Panoptes writes combos within combos, and answers that were given on a second thought.
    odd = [
        {"task": "combo", "value": [{"error": "combo tasks cannot be nested"}, {"task": "T1"}]},
        {"task": "T0", "value": None},
        None,
        {"task": "T0", "value": "Smooth"},
    ]
    assert answers_of(odd) == {"T0": "Smooth", "T1": None}
    with pytest.raises(ValueError, match="not a list"):
        answers_of({"task": "T0"})


def test_the_object_id_is_the_first_key_that_is_there() -> None:
    subject = {"!objid": " ", "iauname": " J1 ", "!filename": "x.png"}
    assert find_object_id(subject, ["#zoo_bridge_id", "!objid", "iauname"]) == "J1"
    assert find_object_id(subject, ["nothing"]) is None


def test_training_subjects_are_known_by_their_mark() -> None:
    assert is_training({"#training_subject": "True"})
    assert not is_training({"#training_subject": "false"})


def test_shapes_have_names_for_people() -> None:
    assert [shape_of(value) for value in ("a", 1, None, True, [], [1], [1, "a"], [{}])] == [
        "text",
        "number",
        "nothing",
        "yes or no",
        "empty list",
        "list of number",
        "list",
        "list of object",
    ]
