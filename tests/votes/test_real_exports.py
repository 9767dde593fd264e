"""Real exports: totals that were counted by hand, and counts by subject taken the plain way."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from zoo_bridge.votes.labels import aggregate
from zoo_bridge.votes.read import Source
from zoo_bridge.votes.rules import Question, Rules
from zoo_bridge.votes.subjects import Subjects
from zoo_bridge.votes.workflows import read_texts

EVERYTHING: dict[str, Any] = {
    "before_launch": True,
    "training_subjects": True,
    "gold_standard": True,
    "repeats": "all",
    "anonymous_repeats": "all",
    "first_version": (0, 0),
}
YES_NO = {"yes": ["Yes"], "no": ["No"]}


def counted(path: Path, questions: list[Question], scratch: Path, **how: Any) -> Any:
    """The labels as a frame, the objects and the tally."""
    options = {name: how.pop(name) for name in ("texts", "subjects") if name in how}
    parts: list[Any] = []
    objects, tally = aggregate(
        [Source(path)], questions, Rules(**how), scratch, parts.append, **options
    )
    return pl.concat([pl.DataFrame(part) for part in parts]), objects, tally


def totals(labels: pl.DataFrame, question: str) -> dict[str, int]:
    part = labels.filter(question=question).group_by("answer").agg(pl.col("k").sum())
    return dict(part.filter(pl.col("k") > 0).iter_rows())


def test_countertop_dark_matter(data: Path, tmp_path: Path) -> None:
    path = data / "exports" / "countertop_dark_matter_classifications.csv"
    question = Question.declare("line", "T1", YES_NO)
    _, _, tally = counted(path, [question], tmp_path / "s", workflow=14437)
    assert tally.rows == 935
    assert tally.dropped == {"before launch": 714, "other workflow": 160, "training subject": 16}
    assert tally.used == 45
    labels, _, tally = counted(path, [question], tmp_path / "s", workflow=14437, **EVERYTHING)
    # Six were sent twice: the same answers, times to the millisecond, and person.
    assert tally.dropped == {"other workflow": 160, "resent": 6}
    assert vars(tally.fates["line"]) == {
        "votes": 40,
        "repeats": 0,
        "not_answered": 729,
        "not_reached": 0,
        "off_path": 0,
        "unmatched": 0,
        "unknown_label": 0,
        "not_asked": 0,
    }
    assert totals(labels, "line") == {"yes": 28, "no": 12}
    # 728 drawings, 18 surveys or drawings of an older version, 16 more: none of them is asked for.
    assert sum(tally.other_tasks.values()) == 728 + 18 + 16 - 6


def test_galaxy_zoo_decals_down_its_tree(data: Path, tmp_path: Path) -> None:
    folder = data / "exports"
    path = folder / "gz_decals_dr5_classifications_10rows.csv"
    shape = {"smooth": ["Smooth"], "featured": ["Features or Disk"]}
    after = {"asked_after": ("shape", ["featured"])}
    questions = [
        Question.declare("shape", "T0", shape),
        Question.declare("bar", "T4", {"strong": ["Strong Bar"], "no": ["No Bar"]}, **after),
        Question.declare("merging", "T11", {"both": ["Both"], "none": ["None"]}, multiple=True),
    ]
    subjects = Subjects(("iauname",))
    assert subjects.read_export(folder / "gz_subjects_export_example.csv") == []
    labels, objects, tally = counted(
        path, questions, tmp_path / "s", workflow=6122, subjects=subjects
    )
    assert tally.rows == tally.used == 9
    assert totals(labels, "shape") == {"featured": 5, "smooth": 3}
    # The ninth is the star, which is no answer here: counted and shown without its picture.
    assert tally.unmatched["shape"] == {"Star or Artefact": 1}
    assert tally.fates["bar"].votes + tally.fates["bar"].unmatched == 5
    assert tally.fates["bar"].not_reached == 4
    # T11 became a task with ticks between versions: texts and lists are answers alike.
    assert tally.fates["merging"].not_answered == 1
    assert tally.fates["merging"].votes + tally.fates["merging"].unmatched == 8
    # The star has no votes, and so no label.
    assert len(objects.table) == 8
    assert objects.missing == objects.table["subject_id"].to_list()


def test_supernovae_with_their_workflows_export(data: Path, tmp_path: Path) -> None:
    folder = data / "exports"
    path = folder / "superluminous_supernovae_wf10_classifications.csv"
    versions = folder / "superluminous_supernovae_wf10_workflows_export.csv"
    texts, rejects = read_texts([versions], 10)
    assert rejects == []
    questions = [
        Question.declare("real", "T0", YES_NO),
        Question.declare("host", "T1", YES_NO, asked_after=("real", ["yes"])),
    ]
    labels, _, tally = counted(path, questions, tmp_path / "s", workflow=10, texts=texts)
    assert totals(labels, "real") == {"no": 4, "yes": 3}
    assert totals(labels, "host") == {"no": 2, "yes": 1}
    assert tally.fates["host"].not_reached == 4
    # The same answers as indexes, as the classifications API gives them.
    numbered = tmp_path / "numbered.csv"
    with path.open(newline="", encoding="utf-8") as before, numbered.open("w", newline="") as after:
        reader = csv.DictReader(before)
        writer = csv.DictWriter(after, reader.fieldnames or [], lineterminator="\n")
        writer.writeheader()
        for row in reader:
            annotations = json.loads(row["annotations"])
            for annotation in annotations:
                annotation["value"] = ["Yes", "No"].index(annotation["value"])
            writer.writerow({**row, "annotations": json.dumps(annotations)})
    again, _, _ = counted(numbered, questions, tmp_path / "s", workflow=10, texts=texts)
    assert again.equals(labels)


def plainly(path: Path, workflow: str, task: str, once: bool) -> Counter[tuple[int, str]]:
    """Votes by subject and label text; every one, or the first of each logged-in person."""
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = [row for row in csv.DictReader(file) if row["workflow_id"] == workflow]
    votes: Counter[tuple[int, str]] = Counter()
    seen = set()
    sent = set()
    for row in sorted(rows, key=lambda row: int(row["classification_id"])):
        # R wrote NA where nobody was logged in; the name tells.
        anonymous = row["user_name"].startswith("not-logged-in-")
        assert anonymous or row["user_id"].isdecimal()
        metadata = json.loads(row["metadata"])
        who = (metadata.get("session") or row["user_name"]) if anonymous else row["user_id"]
        times = metadata.get("started_at"), metadata.get("finished_at")
        submission = *times, who, row["subject_ids"], row["annotations"]
        # A browser that lost the answer sends the same again.
        if all(times) and submission in sent:
            continue
        sent.add(submission)
        found = [a["value"] for a in json.loads(row["annotations"]) if a["task"] == task]
        answer = next((value for value in found if value is not None), None)
        person = row["user_id"], row["subject_ids"]
        if not isinstance(answer, str) or (once and not anonymous and person in seen):
            continue
        seen.add(person)
        votes[int(row["subject_ids"]), answer] += 1
    return votes


@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize(
    ("name", "workflow", "task"),
    [
        ("countertop_dark_matter_classifications.csv", 14437, "T1"),
        ("superluminous_supernovae_wf10_classifications.csv", 10, "T0"),
        ("kenya_wildlife_sample.csv", 2030, "T1"),
        ("chicago_wildlife_sample_v5.csv", 3054, "T1"),
    ],
)
def test_counts_by_subject_are_those_of_the_plain_way(
    data: Path, tmp_path: Path, name: str, workflow: int, task: str, once: bool
) -> None:
    path = data / "exports" / name
    expected = plainly(path, str(workflow), task, once)
    texts = sorted({text for _, text in expected})
    question = Question.declare("any", task, {text: [text] for text in [*texts, "another"]})
    rules = {**EVERYTHING, "repeats": "first" if once else "all"}
    labels, _, _ = counted(path, [question], tmp_path / "s", workflow=workflow, **rules)
    assert expected
    assert {
        (row["subject_id"], row["answer"]): row["k"]
        for row in labels.filter(pl.col("k") > 0).iter_rows(named=True)
    } == expected


@pytest.mark.parametrize("name", ["kenya_wildlife_sample.csv", "chicago_wildlife_sample_v5.csv"])
def test_survey_projects_are_read_to_the_last_row(data: Path, tmp_path: Path, name: str) -> None:
    path = data / "exports" / name
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        workflows = Counter(row["workflow_id"] for row in csv.DictReader(file))
    workflow, _ = workflows.most_common(1)[0]
    question = Question.declare("any", "T0", YES_NO)
    rules = {"workflow": int(workflow), **EVERYTHING}
    _, _, tally = counted(path, [question], tmp_path / "s", **rules)
    assert tally.rows == sum(workflows.values())
    assert tally.dropped["other workflow"] == sum(workflows.values()) - workflows[workflow]
    assert tally.used + sum(tally.dropped.values()) == tally.rows
    assert tally.unreadable == 0
