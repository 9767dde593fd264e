"""Votes made by hand of a browser in Zooniverse's own classifier, by both roads.

`recordings/browser_posts.jsonl` has what the browser sent, ``browser*.csv`` what the real server
exported of it. The labels must be those that a person reading the posts would write down.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from zoo_bridge.files import replacing_csv
from zoo_bridge.votes.labels import aggregate
from zoo_bridge.votes.read import Source
from zoo_bridge.votes.rules import Question, Rules
from zoo_bridge.votes.workflows import read_texts
from zoo_bridge.zooniverse.classifications import _row
from zoo_bridge.zooniverse.content import COLUMNS

RECORDINGS = Path(__file__).parent / "recordings"
WORKFLOWS = RECORDINGS / "browser_workflows.csv"
ALL = {"repeats": "all", "before_launch": True, "gold_standard": True, "training_subjects": True}


def rows_of(name: str) -> list[dict[str, str]]:
    with (RECORDINGS / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def tasks_of(workflow: int, version: str) -> dict[str, list[str]]:
    """The answers' texts of each task of a version, in their order, read the plain way."""
    for row in rows_of("browser_workflows.csv"):
        if (row["workflow_id"], f"{row['version']}.{row['minor_version']}") == (
            str(workflow),
            version,
        ):
            strings = json.loads(row["strings"])
            found = {}
            for name, task in json.loads(row["tasks"]).items():
                answers = task.get("answers") or []
                for select in task.get("selects") or []:
                    answers = [each for part in select["options"].values() for each in part]
                found[name] = [strings.get(each["label"], each["label"]) for each in answers]
            return found
    raise AssertionError("no such version")


def posts(workflow: int) -> list[dict[str, Any]]:
    """What the browser sent to a workflow and the server took."""
    lines = (RECORDINGS / "browser_posts.jsonl").read_text(encoding="utf-8").splitlines()
    sent = [json.loads(line) for line in lines]
    bodies = [each["body"]["classifications"] for each in sent if each["status"] == 201]
    return [body for body in bodies if body["links"]["workflow"] == str(workflow)]


def written_down(workflow: int, task: str) -> Counter[tuple[int, str]]:
    """Votes by subject and answer, as somebody would write them down who reads the posts."""
    votes: Counter[tuple[int, str]] = Counter()
    for body in posts(workflow):
        labels = tasks_of(workflow, body["metadata"]["workflow_version"])[task]
        subject = int(body["links"]["subjects"][0])
        for annotation in body["annotations"]:
            if annotation["task"] != task:
                continue
            value = annotation["value"]
            if isinstance(value, dict):
                value = value.get("selection")
            places = value if isinstance(value, list) else [] if value is None else [value]
            for place in places:
                votes[subject, labels[place]] += 1
            votes[subject, "N"] += isinstance(value, list) or bool(places)
    return votes


def by_export(workflow: int, tmp_path: Path) -> Source:
    """The rows of a workflow in the exports of the real server, each once."""
    rows = {}
    for name in ("browser.csv", "browser_wf15.csv"):
        for row in rows_of(name):
            rows[row["classification_id"]] = row
    path = tmp_path / "export.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS["classifications"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for row in rows.values() if row["workflow_id"] == str(workflow))
    return Source(path)


def by_api(workflow: int, tmp_path: Path) -> Source:
    """What the classifications API gives of the posts: numbers in place of texts."""
    path = tmp_path / "since.csv.gz"
    with replacing_csv(path, COLUMNS["classifications"]) as writer:
        for number, body in enumerate(posts(workflow), 1):
            item = {
                "id": str(number),
                "created_at": body["metadata"]["finished_at"],
                "annotations": body["annotations"],
                "metadata": body["metadata"],
                "links": {**body["links"], "user": None},
            }
            row = _row(item, {})
            writer.writerow([row.get(name, "") for name in COLUMNS["classifications"]])
    return Source(path, raw=True)


@pytest.mark.parametrize("road", [by_export, by_api])
@pytest.mark.parametrize(
    ("workflow", "task", "multiple"),
    [(4, "T0", False), (4, "T1", True), (4, "T3", False), (5, "T0", False), (15, "T0", False)],
)
def test_labels_are_what_a_person_reading_the_posts_would_write_down(
    tmp_path: Path, workflow: int, task: str, multiple: bool, road: Any
) -> None:
    expected = written_down(workflow, task)
    labels = tasks_of(workflow, posts(workflow)[0]["metadata"]["workflow_version"])[task]
    question = Question.declare("any", task, {label: [label] for label in labels}, multiple)
    texts, rejects = read_texts([WORKFLOWS], workflow)
    assert rejects == []
    parts: list[Any] = []
    rules = Rules(workflow=workflow, **ALL)  # type: ignore[arg-type]
    _, tally = aggregate(
        [road(workflow, tmp_path)], [question], rules, tmp_path / "s", parts.append, texts=texts
    )
    assert tally.rows == tally.used == len(posts(workflow))
    frame = pl.concat([pl.DataFrame(part) for part in parts])
    found: Counter[tuple[int, str]] = Counter()
    for row in frame.iter_rows(named=True):
        found[row["subject_id"], row["answer"]] += row["k"]
        found[row["subject_id"], "N"] = row["n"]
    assert +found == +expected
    assert sum(expected.values()) > 0
