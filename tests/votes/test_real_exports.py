"""Real exports, with totals that were counted by hand."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest

from zoo_bridge.votes.read import read_labels, read_votes
from zoo_bridge.votes.rules import Question, Rules

EVERYTHING = {
    "before_launch": True,
    "training_subjects": True,
    "repeats": "all",
    "anonymous_repeats": "all",
    "first_version": (0, 0),
}


def test_countertop_dark_matter(data: Path) -> None:
    path = data / "exports" / "countertop_dark_matter_classifications.csv"
    question = Question.declare("line", "T1", {"yes": ["Yes"], "no": ["No"]})
    tally = read_votes([path], [question], Rules(workflow=14437)).tally
    assert tally.rows == 935
    assert tally.dropped == {"before launch": 714, "other workflow": 160, "training subject": 16}
    assert tally.used == 45
    votes = read_votes([path], [question], Rules(workflow=14437, **EVERYTHING))  # type: ignore[arg-type]
    assert votes.tally.dropped == {"other workflow": 160}
    assert votes.tally.absent["line"] == 729
    assert Counter(votes.table["answer"]) == {"yes": 34, "no": 12}


def test_galaxy_zoo_decals_with_pictures_in_its_labels(data: Path) -> None:
    path = data / "exports" / "gz_decals_dr5_classifications_10rows.csv"
    answers = {"smooth": ["Smooth"], "featured": ["Features or Disk"]}
    question = Question.declare("shape", "T0", answers)
    votes = read_votes([path], [question], Rules(workflow=6122))
    assert votes.tally.rows == votes.tally.used == 9
    assert Counter(votes.table["answer"]) == {"featured": 5, "smooth": 3}
    # The ninth is the star, which is no answer here: counted and shown.
    assert votes.tally.unmatched["shape"] == 1
    assert "star.png" in votes.tally.unmatched_examples["shape"][0]


def test_supernovae_with_their_workflows_export(data: Path) -> None:
    folder = data / "exports"
    path = folder / "superluminous_supernovae_wf10_classifications.csv"
    labels = read_labels(folder / "superluminous_supernovae_wf10_workflows_export.csv", 10)
    question = Question.declare("real", "T0", {"yes": ["Yes"], "no": ["No"]})
    votes = read_votes([path], [question], Rules(workflow=10), labels)
    assert Counter(votes.table["answer"]) == {"no": 4, "yes": 3}
    assert labels


@pytest.mark.parametrize("name", ["kenya_wildlife_sample.csv", "chicago_wildlife_sample_v5.csv"])
def test_survey_projects_are_read_to_the_last_row(data: Path, name: str) -> None:
    path = data / "exports" / name
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        workflows = Counter(row["workflow_id"] for row in csv.DictReader(file))
    workflow, _ = workflows.most_common(1)[0]
    question = Question.declare("any", "T0", {"yes": ["Yes"], "no": ["No"]})
    tally = read_votes([path], [question], Rules(workflow=int(workflow), **EVERYTHING)).tally  # type: ignore[arg-type]
    assert tally.rows == sum(workflows.values())
    assert tally.dropped["other workflow"] == sum(workflows.values()) - workflows[workflow]
    assert tally.used + sum(tally.dropped.values()) == tally.rows
    assert tally.used == tally.answered["any"] + tally.absent["any"] + tally.unmatched["any"]
