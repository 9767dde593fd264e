"""Aggregating files from the Data Exports page, as an administrator does it."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.commands import run_command
from zoo_bridge.zooniverse.content import COLUMNS

SETTINGS = """
[project]
slug = "owner/name"
workflow = 7
[[question]]
name = "shape"
task = "T0"
answers = { smooth = ["Smooth"], featured = ["Features or Disk"] }
target = "featured"
[survey]
catalogue = "catalogue.csv"
"""


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return run_command(*words, config=folder / "zoo_bridge.toml", env={"COLUMNS": "200"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Settings, an export with three bad rows in a hundred and twenty, and the workflow."""
    (tmp_path / "zoo_bridge.toml").write_text(SETTINGS)
    with (tmp_path / "export.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS["classifications"])
        for n in range(120):
            label = ["Smooth", "Features or Disk", "![x](y) Round"][n % 3]
            annotations = json.dumps([{"task": "T0", "value": label}, {"task": "T1", "value": "?"}])
            if n in (30, 60, 90):
                annotations = annotations[:20]
            subject = n % 4
            data = json.dumps({str(subject): {"!objid": f"J{subject // 2}"} if subject else {}})
            cells = [n, f"u{n}", n + 1, "x", 7, "W", "1.1", "2026-11-01 12:00:00 UTC", "", "", "{}"]
            writer.writerow([*cells, annotations, data, subject])
    tasks = json.dumps({"T0": {"type": "single", "answers": [{"label": "a"}, {"label": "b"}]}})
    with (tmp_path / "workflows.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["workflow_id", "version", "minor_version", "tasks", "strings"])
        writer.writerow([7, 1, 1, tasks, json.dumps({"a": "Round", "b": "Features or Disk"})])
        writer.writerow([7, 2, 1, tasks, json.dumps({"a": "Smooth", "b": "Features or Disk"})])
    return tmp_path


def aggregate(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    files = ("--export", str(folder / "export.csv"), "--workflows", str(folder / "workflows.csv"))
    return run(folder, "run", "aggregate", *files, *words)


def test_too_many_unreadable_rows_fail_and_leave_nothing(folder: Path) -> None:
    ended = aggregate(folder)
    assert ended.returncode == 1
    assert "3 of 120 rows of export.csv cannot be read, the first at export.csv:32 (bad JSON)" in (
        ended.stderr
    )
    assert "votes.max_reject_share" in ended.stderr
    assert list((folder / "data" / "labels").iterdir()) == []


def test_what_became_of_every_row_is_told_and_kept(folder: Path) -> None:
    path = folder / "zoo_bridge.toml"
    path.write_text(SETTINGS + "[votes]\nmax_reject_share = 0.1\nmax_unmatched_share = 0.5\n")
    ended = aggregate(folder)
    assert ended.returncode == 0, ended.stderr
    for line in (
        "120 rows: 117 used, set aside: bad JSON 3",
        "shape: votes 77, unmatched 40; 3 labels, N 19 to 38, half of them 20 or more",
        "shape: 'Round' matches no answer (40 rows); by its place it may now be smooth",
        "1 subjects have none of votes.object_id_keys and go by their subject id, such as 0",
        "1 objects have several subjects, added up, such as J1",
        "tasks that no question asks for: T1 (text) 117",
    ):
        assert line in ended.stderr, line
    (labels,) = (folder / "data" / "labels").iterdir()
    rejects = pl.read_parquet(labels / "rejects.parquet")
    assert rejects["uri"].to_list() == ["export.csv:32", "export.csv:62", "export.csv:92"]
    assert set(rejects["reason"]) == {"bad JSON"}
    summary = json.loads((labels / "summary.json").read_text())
    assert summary["votes"] == len(pl.read_parquet(labels / "votes.parquet")) == 77
    table = pl.read_parquet(labels / "labels.parquet")
    assert table["k"].sum() == 77
    assert sorted(table["object_id"].unique()) == ["0", "J0", "J1"]


def test_labels_are_looked_at_and_taken_away(folder: Path) -> None:
    (folder / "zoo_bridge.toml").write_text(
        SETTINGS + "[votes]\nmax_reject_share = 0.1\nmax_unmatched_share = 0.5\n"
    )
    assert run(folder, "labels").returncode == 1
    aggregate(folder)
    shown = run(folder, "labels").stdout
    assert "median n" in shown
    assert "share" in shown
    facts: dict[str, Any] = json.loads(run(folder, "labels", "--json").stdout)
    assert facts["questions"]["shape"]["labels"] == 3
    assert sum(facts["questions"]["shape"]["n_of_labels"].values()) == 3
    one = run(folder, "labels", "--object", "J1", "--json")
    assert {row["answer"]: row["n"] for row in json.loads(one.stdout)} == {
        "smooth": 38,
        "featured": 38,
    }
    absent = run(folder, "labels", "--object", "J9")
    assert absent.returncode == 1
    assert "No label of" in absent.stderr
    target = folder / "labels.csv"
    assert run(folder, "labels", "--csv", str(target)).returncode == 0
    assert len(pl.read_csv(target)) == 6


def test_the_same_files_again_change_nothing(folder: Path) -> None:
    (folder / "zoo_bridge.toml").write_text(
        SETTINGS + "[votes]\nmax_reject_share = 0.1\nmax_unmatched_share = 0.5\n"
    )
    assert aggregate(folder).returncode == 0
    again = aggregate(folder)
    assert "unchanged" in again.stderr
    dry = aggregate(folder, "--force", "--dry-run")
    assert "would keep 77 votes on 4 subjects" in dry.stderr
    assert len(list((folder / "data" / "labels").iterdir())) == 1


def test_another_key_of_object_ids_counts_anew(folder: Path) -> None:
    path = folder / "zoo_bridge.toml"
    path.write_text(SETTINGS + "[votes]\nmax_reject_share = 0.1\nmax_unmatched_share = 0.5\n")
    aggregate(folder)
    path.write_text(path.read_text() + '[upload]\nmetadata_key = "#mine"\n')
    assert "unchanged" not in aggregate(folder).stderr


def test_accepting_what_shrank_is_for_pulling(folder: Path) -> None:
    ended = run(folder, "run", "aggregate", "--accept-shrunk")
    assert ended.returncode == 2
    assert "goes with the jobs pull and cycle" in ended.stderr
