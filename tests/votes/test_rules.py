"""Which rows count, and what an answer is called."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo_bridge.votes.rules import (
    Question,
    Rules,
    answers_of,
    clean,
    drop_reason,
    find_object_id,
    is_training,
    match,
    parse_version,
)

QUESTION = Question.declare(
    "smooth-or-featured", "T0", {"smooth": ["Smooth"], "featured": ["Features or Disk"]}
)
LABELS = {
    (3, 1, "T0", 0): "Smooth",
    (3, 1, "T0", 1): "Features or Disk",
    (28, 30, "T0", 0): "Features or Disk",
    (28, 30, "T0", 1): "Smooth",
}


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("![smooth.png](https://x.org/a_(1).png =60x) Smooth", "=60x) smooth"),
        ("![smooth.png](https://x.org/a.png =60x) Smooth", "smooth"),
        ("**Features   or\nDisk**", "features or disk"),
        ("[Star](https://x.org) or _Artifact_", "star or artifact"),
        ("", ""),
    ],
)
def test_labels_are_cleaned_as_people_read_them(label: str, expected: str) -> None:
    assert clean(label).endswith(expected.removeprefix("=60x) "))


@given(st.text())
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    assert clean(clean(text)) == clean(text)


def test_versions_are_not_decimal_numbers() -> None:
    assert parse_version("28.30") == (28, 30)
    assert parse_version("28.4") < parse_version("28.30")
    with pytest.raises(ValueError, match="invalid literal"):
        parse_version("soon")


def row(**changes: str) -> dict[str, str]:
    return {
        "workflow_id": "7",
        "workflow_version": "3.1",
        "gold_standard": "",
        "user_name": "ann",
        "subject_ids": "11",
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "metadata", "reason"),
    [
        ({}, {}, None),
        ({"workflow_id": "8"}, {}, "other workflow"),
        ({"workflow_version": "2.9"}, {}, "before from_version"),
        ({}, {"live_project": False}, "before launch"),
        ({}, {"live_project": True}, None),
        ({"gold_standard": "true"}, {}, "gold standard"),
        ({"user_name": "bot"}, {}, "excluded user"),
        ({"subject_ids": "11;12"}, {}, "several subjects"),
    ],
)
def test_each_rule_drops_under_its_name(
    changes: dict[str, str], metadata: dict[str, Any], reason: str | None
) -> None:
    rules = Rules(workflow=7, first_version=(3, 0), excluded_users=frozenset(["bot"]))
    assert drop_reason(row(**changes), rules, metadata) == reason


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("![a](b) Smooth", "smooth"),
        ("smooth", "smooth"),
        (["Features or Disk"], "featured"),
        ("Something else", None),
        (["Smooth", "Features or Disk"], None),
        (None, None),
        (True, None),
    ],
)
def test_values_match_by_label(value: Any, expected: str | None) -> None:
    assert match(value, QUESTION, (3, 1), {}) == expected


@pytest.mark.parametrize(
    ("version", "expected"), [((3, 1), "smooth"), ((28, 4), "featured"), ((99, 1), "featured")]
)
def test_an_index_takes_the_label_of_its_own_version(
    version: tuple[int, int], expected: str
) -> None:
    assert match(0, QUESTION, version, LABELS) == expected
    assert match("0", QUESTION, version, LABELS) == expected


def test_combined_tasks_are_opened_and_the_first_answer_counts() -> None:
    annotations = [
        {"task": "combo", "value": [{"task": "T0", "value": "Smooth"}, {"task": "T1", "value": 2}]},
        {"task": "T0", "value": "Features or Disk"},
    ]
    assert answers_of(annotations) == {"T0": "Smooth", "T1": 2}
    with pytest.raises(ValueError, match="not a list"):
        answers_of({"task": "T0"})


def test_the_object_id_is_the_first_key_that_is_there() -> None:
    subject = {"!objid": " ", "iauname": " J1 ", "!filename": "x.png"}
    assert find_object_id(subject, ["#zoo_bridge_id", "!objid", "iauname"]) == "J1"
    assert find_object_id(subject, ["nothing"]) is None


def test_training_subjects_are_known_by_their_mark() -> None:
    assert is_training({"#training_subject": "True"})
    assert not is_training({"#training_subject": "false"})
