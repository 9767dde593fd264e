"""Every row of an export is used or set aside under a reason."""

from __future__ import annotations

import csv
import gzip
import json
import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo_bridge.errors import InputError
from zoo_bridge.votes.labels import count
from zoo_bridge.votes.read import read_labels, read_objects, read_votes
from zoo_bridge.votes.rules import Question, Rules

COLUMNS = [
    "classification_id",
    "user_name",
    "user_id",
    "user_ip",
    "workflow_id",
    "workflow_name",
    "workflow_version",
    "created_at",
    "gold_standard",
    "expert",
    "metadata",
    "annotations",
    "subject_data",
    "subject_ids",
]
ANSWERS = {"smooth": ["Smooth"], "featured": ["Features or Disk"]}
QUESTION = Question.declare("shape", "T0", ANSWERS)


def classification(ident: int, **changes: Any) -> list[str]:
    """A row of an export; ``answer``, ``user``, ``subject`` and any column."""
    subject = changes.pop("subject", 11)
    user = changes.pop("user", "ann")
    answer = changes.pop("answer", "Smooth")
    row = {
        "classification_id": str(ident),
        "user_name": user or f"not-logged-in-{ident}",
        "user_id": str(sum(map(ord, user))) if user else "",
        "user_ip": changes.pop("ip", f"ip{ident}"),
        "workflow_id": "7",
        "workflow_name": "W",
        "workflow_version": "1.1",
        "created_at": "2026-11-01 12:00:00 UTC",
        "metadata": json.dumps({"live_project": True}),
        "annotations": json.dumps([{"task": "T0", "value": answer}]),
        "subject_data": json.dumps({str(subject): {"#zoo_bridge_id": f"G{subject}"}}),
        "subject_ids": str(subject),
        **changes,
    }
    return [row.get(name, "") for name in COLUMNS]


def export(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return path


def table(path: Path, **rules: Any) -> tuple[dict[tuple[int, str], tuple[int, int]], Any]:
    """k and n by (subject, answer), and the tally."""
    votes = read_votes([path], [QUESTION], Rules(workflow=7, **rules))
    labels = pl.DataFrame(count(votes.table, votes.objects, {"shape": list(ANSWERS)}))
    rows = labels.select("subject_id", "answer", "k", "n").iter_rows()
    return {(subject, answer): (k, n) for subject, answer, k, n in rows}, votes.tally


def test_votes_become_k_of_n_with_a_row_for_each_answer(tmp_path: Path) -> None:
    rows = [
        classification(1, user="ann"),
        classification(2, user="bob", answer="![x](y) Features or Disk"),
        classification(3, user="", answer="Smooth"),
        classification(4, user="ann", subject=12, answer="Features or Disk"),
    ]
    labels, tally = table(export(tmp_path / "e.csv", rows))
    assert labels == {
        (11, "smooth"): (2, 3),
        (11, "featured"): (1, 3),
        (12, "smooth"): (0, 1),
        (12, "featured"): (1, 1),
    }
    assert (tally.rows, tally.used) == (4, 4)


def test_a_second_look_counts_once_and_the_first_one_stays(tmp_path: Path) -> None:
    rows = [
        classification(2, user="ann", answer="Features or Disk"),
        classification(1, user="ann", answer="Smooth"),
        classification(3, user="", ip="home"),
        classification(4, user="", ip="home"),
    ]
    path = export(tmp_path / "e.csv", rows)
    assert table(path)[0][11, "smooth"] == (3, 3)
    assert table(path, anonymous_repeats="first")[0][11, "smooth"] == (2, 2)
    labels, tally = table(path, repeats="all")
    assert labels[11, "featured"] == (1, 4)
    assert tally.repeats["shape"] == 0


def test_what_cannot_be_read_is_kept_aside_with_its_place(tmp_path: Path) -> None:
    rows = [
        classification(1),
        classification(2, annotations="{not json"),
        classification(3)[:6],
        classification(4, created_at="yesterday"),
        classification(5, annotations=json.dumps([{"task": "T1", "value": "Yes"}])),
        classification(6, answer="Spiral, surely"),
        classification(1),
    ]
    labels, tally = table(export(tmp_path / "e.csv", rows))
    assert labels[11, "smooth"] == (1, 1)
    assert tally.dropped == {"unreadable": 3, "classification twice": 1}
    assert [reject["uri"] for reject in tally.rejects] == ["e.csv:3", "e.csv:4", "e.csv:5"]
    assert tally.absent["shape"] == 1
    assert tally.unmatched_examples["shape"] == ["Spiral, surely"]
    assert tally.rows == tally.used + sum(tally.dropped.values()) == 7


def test_line_breaks_nul_bytes_and_bad_utf8_lose_no_row(tmp_path: Path) -> None:
    rows = [classification(1, workflow_name="two\nlines"), classification(2), classification(3)]
    path = export(tmp_path / "e.csv", rows)
    damaged = path.read_bytes().replace(b"two", b"t\x00w\xff")
    path.write_bytes(damaged)
    assert table(path)[1].used == 3


def test_a_gzipped_export_and_one_in_pieces_give_the_same(tmp_path: Path) -> None:
    rows = [classification(number, user=f"u{number}") for number in range(20)]
    whole = export(tmp_path / "whole.csv", rows)
    parts = [export(tmp_path / f"{n}.csv", rows[n * 5 : n * 5 + 7]) for n in range(4)]
    (tmp_path / "z.csv").write_bytes(gzip.compress(whole.read_bytes()))
    rules = Rules(workflow=7)
    expected = read_votes([whole], [QUESTION], rules).table
    assert expected.equals(read_votes([tmp_path / "z.csv"], [QUESTION], rules).table)
    assert expected.equals(read_votes(parts, [QUESTION], rules).table)


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, order: random.Random
) -> None:
    folder = tmp_path_factory.mktemp("order")
    rows = [
        classification(
            n, user=f"u{n % 5}", subject=n % 3, answer=["Smooth", "Features or Disk"][n % 2]
        )
        for n in range(30)
    ]
    expected = table(export(folder / "a.csv", rows))[0]
    order.shuffle(rows)
    assert table(export(folder / "b.csv", rows))[0] == expected


def test_another_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "subjects.csv"
    path.write_text("subject_id,metadata\n1,{}\n")
    with pytest.raises(InputError, match=r"subjects.csv is not a classifications export"):
        read_votes([path], [QUESTION], Rules(workflow=7))
    assert read_objects(path, ["x"]) == {}
    with pytest.raises(InputError, match="not a workflows export"):
        read_labels(path, 7)
