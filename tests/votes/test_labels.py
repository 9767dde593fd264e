"""Every row of an export is used or set aside under a reason, and k of n is what it should be."""

from __future__ import annotations

import csv
import gzip
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo_bridge.errors import InputError
from zoo_bridge.tables import LABELS, VOTES
from zoo_bridge.votes.labels import aggregate
from zoo_bridge.votes.read import Source
from zoo_bridge.votes.rules import Question, Rules, Texts
from zoo_bridge.votes.subjects import Subjects
from zoo_bridge.votes.workflows import read_texts
from zoo_bridge.zooniverse.content import COLUMNS as EXPORT_COLUMNS

COLUMNS = EXPORT_COLUMNS["classifications"]
ANSWERS = {"smooth": ["Smooth"], "featured": ["Features or Disk"]}
SHAPE = Question.declare("shape", "T0", ANSWERS)
BAR = Question.declare(
    "bar", "T1", {"yes": ["Bar"], "no": ["No bar"]}, asked_after=("shape", ["featured"])
)
ODD = Question.declare(
    "odd", "T2", {"ring": ["Ring"], "lens": ["Lens"], "dust": ["Dust"]}, multiple=True
)
TREE = (SHAPE, BAR, ODD)


def classification(ident: int, **changes: Any) -> list[str]:
    """A row of an export; ``answer``, ``answers`` (by task), ``user``, ``subject``, any column."""
    subject = changes.pop("subject", 11)
    user = changes.pop("user", "ann")
    answers = changes.pop("answers", {"T0": changes.pop("answer", "Smooth")})
    row = {
        "classification_id": str(ident),
        "user_name": user or f"not-logged-in-{ident}",
        "user_id": str(int.from_bytes(user.encode())) if user else "",
        "user_ip": changes.pop("ip", f"ip{ident}"),
        "workflow_id": "7",
        "workflow_name": "W",
        "workflow_version": "1.1",
        "created_at": "2026-11-01 12:00:00 UTC",
        "metadata": json.dumps({"live_project": True}),
        "annotations": json.dumps([{"task": t, "value": v} for t, v in answers.items()]),
        "subject_data": json.dumps({str(subject): {"#zoo_bridge_id": f"G{subject}"}}),
        "subject_ids": str(subject),
        **changes,
    }
    return [row.get(name, "") for name in COLUMNS]


def export(path: Path, rows: Sequence[list[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    return path


@pytest.fixture
def count(tmp_path: Path) -> Callable[..., Any]:
    """k and n by (subject, question, answer), the tally and the objects, of some rows."""

    def run(rows: Sequence[list[str]] | Path, questions: Sequence[Question] = (SHAPE,), **how: Any):
        path = rows if isinstance(rows, Path) else export(tmp_path / "e.csv", rows)
        return outcome([Source(path)], questions, tmp_path / "scratch", **how)

    return run


def outcome(sources: list[Source], questions: Any, scratch: Path, **how: Any) -> tuple[Any, ...]:
    names = {"texts", "subjects", "piece_bytes", "rows_in_memory", "keep_votes"}
    options = {name: how.pop(name) for name in names & set(how)}
    parts: list[Any] = []
    objects, tally = aggregate(
        sources, questions, Rules(workflow=7, **how), scratch, parts.append, **options
    )
    frame = pl.concat([pl.DataFrame(part) for part in [LABELS.empty_table(), *parts]])
    assert not frame.is_duplicated().any()
    assert (frame["k"] <= frame["n"]).all()
    found = {
        (row["subject_id"], row["question"], row["answer"]): (row["k"], row["n"])
        for row in frame.iter_rows(named=True)
    }
    return found, tally, objects


def test_votes_become_k_of_n_with_a_row_for_each_answer(count: Any) -> None:
    rows = [
        classification(1, user="ann"),
        classification(2, user="bob", answer="![x](y) Features or Disk"),
        classification(3, user="", answer="Smooth"),
        classification(4, user="ann", subject=12, answer="Features or Disk"),
    ]
    labels, tally, objects = count(rows)
    assert labels == {
        (11, "shape", "smooth"): (2, 3),
        (11, "shape", "featured"): (1, 3),
        (12, "shape", "smooth"): (0, 1),
        (12, "shape", "featured"): (1, 1),
    }
    assert (tally.rows, tally.used) == (4, 4)
    assert objects.table.rows() == [(11, "G11"), (12, "G12")]


def test_a_second_look_counts_once_and_the_first_one_stays(count: Any) -> None:
    rows = [
        classification(2, user="ann", answer="Features or Disk"),
        classification(1, user="ann", answer="Smooth"),
        classification(3, user="", ip="home"),
        classification(4, user="", ip="home"),
    ]
    assert count(rows)[0][11, "shape", "smooth"] == (3, 3)
    assert count(rows, anonymous_repeats="first")[0][11, "shape", "smooth"] == (2, 2)
    labels, tally, _ = count(rows, repeats="all")
    assert labels[11, "shape", "featured"] == (1, 4)
    assert tally.fates["shape"].repeats == 0


@pytest.mark.parametrize(
    ("changes", "reason", "rule"),
    [
        ({"workflow_id": "8"}, "other workflow", None),
        ({"workflow_version": "0.9"}, "before from_version", {"first_version": (0, 9)}),
        ({"workflow_version": "28.4"}, "before from_version", {"first_version": (28, 4)}),
        ({"metadata": '{"live_project":false}'}, "before launch", {"before_launch": True}),
        ({"metadata": '{"live_project":"false"}'}, "before launch", {"before_launch": True}),
        ({"gold_standard": "true"}, "gold standard", {"gold_standard": True}),
        ({"user": "bot"}, "excluded user", {"excluded_users": frozenset()}),
        ({"subject_ids": "11;12"}, "several subjects", None),
        (
            {"subject_data": '{"11":{"#training_subject":"true"}}'},
            "training subject",
            {"training_subjects": True},
        ),
    ],
)
def test_each_rule_drops_under_its_name_and_can_be_lifted(
    count: Any, changes: dict[str, Any], reason: str, rule: dict[str, Any] | None
) -> None:
    rows = [classification(1, workflow_version="28.30"), classification(2, **changes)]
    if "workflow_version" not in changes:
        rows[1][6] = "28.30"
    rules = {"first_version": (28, 30), "excluded_users": frozenset(["bot"])}
    labels, tally, _ = count(rows, **rules)
    assert tally.dropped[reason] == 1
    assert labels[11, "shape", "smooth"] == (1, 1)
    if rule is not None:
        assert count(rows, **{**rules, **rule})[1].used == 2


def test_what_cannot_be_read_is_kept_aside_with_its_place(count: Any) -> None:
    rows = [
        classification(1),
        classification(2, annotations="{not json"),
        classification(3)[:6],
        classification(4, created_at="yesterday"),
        classification(5, answers={"T1": "Yes"}),
        classification(6, answer="![a.png](b) Spiral, surely"),
        classification(1),
        classification(7, metadata="{not json"),
        classification(8, subject_data="{not json"),
        classification(9, annotations='{"task": "T0"}'),
        classification(10, workflow_id="seven"),
        classification(11, subject_ids=""),
        classification(12, workflow_version="soon"),
        classification(13, metadata=""),
        classification(14, metadata="[]"),
        classification(15, metadata='{"x": NaN}', user="eve"),
    ]
    labels, tally, _ = count(rows)
    assert labels[11, "shape", "smooth"] == (2, 2)
    assert tally.dropped == {
        "bad JSON": 4,
        "cut short": 1,
        "bad value": 4,
        "classification twice": 1,
        "other workflow": 0,
    }
    assert sorted(reject["uri"] for reject in tally.rejects) == sorted(
        f"e.csv:{line}" for line in (3, 4, 5, 9, 10, 11, 12, 13, 14)
    )
    details = {reject["uri"]: reject["detail"] for reject in tally.rejects}
    assert details["e.csv:5"] == "created_at is 'yesterday'"
    assert details["e.csv:11"] == "annotations: annotations are not a list"
    assert tally.fates["shape"].not_answered == 1
    assert tally.unmatched["shape"] == {"Spiral, surely": 1}
    assert tally.fates["shape"].repeats == 2
    assert tally.rows == tally.used + sum(tally.dropped.values()) == 16


def test_odd_but_readable_values_are_read(count: Any) -> None:
    lone = '"\\ud800"'
    rows = [
        classification(1, created_at="2026-11-01T12:00:00.123Z", user_id="7.0"),
        classification(2, created_at="2026-11-01 12:00:00+00:00", user_id="7"),
        classification(3, user="bob", created_at="2026-11-01 12:00:00", workflow_version="28"),
        classification(4, user="cat", subject_data=f'{{"11":{{"#zoo_bridge_id":{lone}}}}}'),
        classification(5, user="dan", annotations=f'[{{"task":"T0","value":{lone}}}]'),
        classification(6, user="eve", metadata=f'{{"a":{lone}}}', subject_ids=" 11 "),
        classification(7, user="fay", metadata=json.dumps({"x": "y" * 2**21})),
    ]
    labels, tally, objects = count(rows)
    assert labels[11, "shape", "smooth"] == (5, 5)
    assert tally.fates["shape"].repeats == 1
    assert tally.unmatched["shape"] == {"?": 1}
    assert objects.ambiguous == {11: ["?", "G11"]}


def test_json_that_is_nested_too_deeply_is_set_aside(count: Any) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    rows = [
        classification(1),
        classification(2, metadata=f'{{"a":{deep}}}'),
        classification(3, annotations=deep),
        classification(4, subject_data=deep),
        classification(5, workflow_version="28."),
    ]
    _, tally, _ = count(rows)
    assert tally.used == 1
    assert {reject["detail"] for reject in tally.rejects} == {
        "metadata: nested too deeply",
        "annotations: nested too deeply",
        "subject_data: nested too deeply",
        "workflow_version is '28.'",
    }


@pytest.mark.parametrize("depth", [500, 900, 5000])
def test_values_that_are_nested_too_deeply_are_set_aside(count: Any, depth: int) -> None:
    deep = "[" * depth + "]" * depth
    rows = [
        classification(1),
        classification(2, user="bob", annotations=f'[{{"task":"T0","value":{deep}}}]'),
        classification(3, user="cat", annotations=f'[{{"task":"T9","value":{deep}}}]'),
        classification(4, user="dan", annotations=f"[NaN,{deep}]"),
        classification(5, user="eve", metadata=f'{{"a":NaN,"b":{deep}}}'),
    ]
    labels, tally, _ = count(rows)
    assert labels[11, "shape", "smooth"][0] >= 1
    assert tally.rows == tally.used + sum(tally.dropped.values()) == 5


def test_a_label_that_stands_for_nothing_is_shown_beside_others_too(count: Any) -> None:
    ticks = [["Ring", "Lense"], ["Lense"], ["Ring"]]
    rows = [classification(n, user=f"u{n}", answers={"T2": value}) for n, value in enumerate(ticks)]
    labels, tally, _ = count(rows, TREE)
    assert labels[11, "odd", "ring"] == (2, 2)
    assert tally.unmatched["odd"] == {"Lense": 2}


def test_the_number_of_a_subject_is_no_object_id_of_another(count: Any) -> None:
    rows = [
        classification(1, subject=12, subject_data='{"12":{}}'),
        classification(2, subject=99, subject_data='{"99":{"#zoo_bridge_id":"12"}}'),
    ]
    labels, _, objects = count(rows)
    assert labels[12, "shape", "smooth"] == labels[99, "shape", "smooth"] == (1, 1)
    assert objects.table.rows() == [(12, "subject 12"), (99, "12")]


def test_what_an_export_says_later_of_a_classification_holds(tmp_path: Path) -> None:
    data = '{"11":{"#training_subject":"true"}}'
    old = export(tmp_path / "a.csv", [classification(1), classification(2, user="bob")])
    new = export(tmp_path / "b.csv", [classification(1, subject_data=data)])
    for order in ([old, new], [new, old]):
        sources = [Source(path) for path in order]
        labels, tally, _ = outcome(sources, (SHAPE,), tmp_path / "s")
        assert labels[11, "shape", "smooth"] == (1, 1)
        assert tally.dropped["training subject"] == 1


def test_excluded_users_are_known_by_name_in_any_case_and_by_number(count: Any) -> None:
    rows = [classification(1), classification(2, user="Spam"), classification(3, user="bob")]
    number = rows[2][2]
    tally = count(rows, excluded_users=frozenset(["SPAM"]), excluded_ids=frozenset([number]))[1]
    assert tally.dropped["excluded user"] == 2


def test_workflow_versions_that_cannot_be_read_are_told_and_lend_no_texts(
    count: Any, tmp_path: Path
) -> None:
    good = json.dumps({"T0": {"answers": [{"label": "Features or Disk"}, {"label": "Smooth"}]}})
    path = tmp_path / "workflows.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["workflow_id", "version", "minor_version", "tasks", "strings"])
        writer.writerows([[8, "x", 1, "null", ""], [7, 3, 1, good, "{}"], [7, 4]])
        for tasks in ("null", "[]", '"x"', '{"T0":{"answers":[null]}}', '{"T0":{"answers":3}}'):
            writer.writerow([7, 2, 1, tasks, "{}"])
        writer.writerow([7, "3.0", 1, good, "{}"])
    texts, rejects = read_texts([path], 7)
    assert [reject["uri"] for reject in rejects] == [
        f"workflows.csv:{line}" for line in (4, 5, 6, 7, 8, 9)
    ]
    rows = [
        classification(1, answer=0, workflow_version="1.5"),
        classification(2, user="bob", answer=0, workflow_version="2.5"),
    ]
    labels, tally, _ = count(rows, texts=texts)
    # Of version 2.1 nothing is known but that it was: its answers may be in another order.
    assert labels[11, "shape", "featured"] == (1, 1)
    assert tally.fates["shape"].unmatched == 1


def test_a_last_row_that_lost_the_end_of_its_subject_is_no_vote_for_another(
    tmp_path: Path, count: Any
) -> None:
    rows = [classification(1), classification(2, subject=123456)]
    path = export(tmp_path / "cut.csv", rows)
    path.write_bytes(path.read_bytes()[:-3])
    labels, tally, _ = count(path)
    assert {subject for subject, _, _ in labels} == {11}
    assert tally.dropped["cut short"] == 1
    path.write_bytes(export(path, rows).read_bytes()[:-1])
    assert count(path)[1].used == 2


def test_a_question_further_down_counts_only_on_the_way_that_leads_to_it(count: Any) -> None:
    featured, smooth = "Features or Disk", "Smooth"
    rows = [
        classification(1, user="ann", answers={"T0": featured, "T1": "Bar"}),
        classification(2, user="bob", answers={"T0": featured, "T1": "No bar"}),
        classification(3, user="cat", answers={"T0": featured}),
        classification(4, user="dan", answers={"T0": smooth}),
        # Off the path: an answer left over from a way that was given up.
        classification(5, user="eve", answers={"T0": smooth, "T1": "Bar"}),
        # A second look: neither its shape nor its bar counts.
        classification(6, user="dan", answers={"T0": featured, "T1": "Bar"}),
        classification(7, user="fay", answers={"T0": featured, "T1": "Who knows"}),
        classification(8, user="gus", answers={"T0": "Who knows", "T1": "Bar"}),
    ]
    labels, tally, _ = count(rows, TREE)
    assert labels[11, "shape", "featured"] == (4, 6)
    assert labels[11, "bar", "yes"] == (1, 2)
    assert vars(tally.fates["bar"]) == {
        "votes": 2,
        "repeats": 1,
        "not_answered": 1,
        "not_reached": 1,
        "off_path": 2,
        "unmatched": 1,
        "unknown_label": 0,
        "not_asked": 0,
    }


def test_several_answers_may_be_ticked_where_the_task_says_so(count: Any) -> None:
    ticks = [["Ring", "Lens"], ["Ring"], [], None, ["Nothing known"], ["Dust", "Nothing known"]]
    rows = [
        classification(n, user="", answers={"T0": "Smooth", "T2": value})
        for n, value in enumerate(ticks)
    ]
    votes: list[Any] = []
    labels, tally, _ = count(rows, TREE, keep_votes=votes.append)
    # Four answered: one of them with none of the three.
    assert labels[11, "odd", "ring"] == (2, 4)
    assert labels[11, "odd", "lens"] == (1, 4)
    assert labels[11, "odd", "dust"] == (1, 4)
    assert tally.fates["odd"].not_answered == 1
    assert tally.fates["odd"].unmatched == 1
    kept = pl.concat([pl.DataFrame(part) for part in votes]).filter(question="odd")
    assert sorted(kept["answer"].fill_null("").to_list()) == ["", "dust", "lens", "ring", "ring"]
    assert all(part.schema.equals(VOTES) for part in votes)


def test_indexes_are_resolved_and_digits_in_labels_are_no_indexes(count: Any) -> None:
    arms = Question.declare("arms", "T3", {"one": ["1"], "two": ["2"], "more": ["More"]})
    texts = Texts({"T3": {(1, 1): {"0": "1", "1": "2", "2": "More"}, (2, 1): {"0": "More"}}})
    rows = [
        classification(1, user="a", answers={"T3": "1"}),
        classification(2, user="b", answers={"T3": 1}),
        classification(3, user="c", answers={"T3": 0}, workflow_version="2.1"),
        classification(4, user="d", answers={"T3": 9}),
        classification(5, user="e", answers={"T3": "unknown answer label"}),
    ]
    labels, tally, _ = count(rows, (arms,), texts=texts)
    assert {name: labels[11, "arms", name] for name in arms.answers} == {
        "one": (1, 3),
        "two": (1, 3),
        "more": (1, 3),
    }
    assert tally.unmatched["arms"] == {"index 9": 1}
    assert (tally.fates["arms"].unmatched, tally.fates["arms"].unknown_label) == (1, 1)
    # Without the workflows export an index is unmatched, never guessed.
    labels, tally, _ = count(rows, (arms,))
    assert labels[11, "arms", "one"] == (1, 1)
    assert (tally.fates["arms"].unmatched, tally.fates["arms"].unknown_label) == (3, 1)


def test_other_tasks_are_counted_by_shape(count: Any) -> None:
    answers = {
        "T0": "Smooth",
        "T8": [{"x": 1, "y": 2}],
        "T9": "a comment",
        "T7": 3,
    }
    rows = [classification(n, user=f"u{n}", answers=answers) for n in range(3)]
    assert count(rows)[1].other_tasks == {
        ("T8", "list of object"): 3,
        ("T9", "text"): 3,
        ("T7", "number"): 3,
    }


def test_two_subjects_of_one_object_add_up_or_stay_apart(count: Any) -> None:
    same = '{"%d":{"#zoo_bridge_id":"G"}}'
    rows = [
        classification(1, subject=11, subject_data=same % 11),
        classification(2, subject=12, subject_data=same % 12, answer="Features or Disk"),
        classification(3, subject=12, subject_data=same % 12, user="bob"),
    ]
    labels, tally, objects = count(rows)
    # Ann saw one object twice: her first answer counts.
    assert labels == {(11, "shape", "smooth"): (2, 2), (11, "shape", "featured"): (0, 2)}
    assert tally.fates["shape"].repeats == 1
    assert objects.shared == {"G": [11, 12]}
    labels, _, _ = count(rows, repeats="all")
    assert labels == {(11, "shape", "smooth"): (2, 3), (11, "shape", "featured"): (1, 3)}
    labels, _, _ = count(rows, same_object="apart")
    assert labels[11, "shape", "smooth"] == (1, 1)
    assert labels[12, "shape", "smooth"] == (1, 2)


def test_a_subject_without_or_with_two_object_ids_is_reported(count: Any, tmp_path: Path) -> None:
    named = '{"11":{"#zoo_bridge_id":"%s"}}'
    rows = [
        classification(1, subject_data=named % "old"),
        classification(2, user="bob", subject_data=named % "new"),
        classification(3, subject=12, subject_data='{"12":{"other":"key"}}'),
    ]
    for order in (rows, rows[::-1]):
        objects = count(order)[2]
        assert objects.table.rows() == [(11, "new"), (12, "12")]
        assert objects.missing == [12]
        assert objects.ambiguous == {11: ["new", "old"]}
    # A subjects export has the last word.
    path = tmp_path / "subjects.csv"
    path.write_text(
        'subject_id,metadata\n11,"{""#zoo_bridge_id"":""said""}"\n12,{}\nx,{}\n13,{bad\n'
        "99999999999999999999,{}\n1_1,{}\n"
    )
    subjects = Subjects(("#zoo_bridge_id",))
    rejects = subjects.read_export(path)
    assert [reject["uri"] for reject in rejects] == [
        f"subjects.csv:{line}" for line in (4, 5, 6, 7)
    ]
    objects = count(rows, subjects=subjects)[2]
    assert objects.table.rows() == [(11, "said"), (12, "12")]
    assert objects.ambiguous == {11: ["new", "old", "said"]}


def test_the_copy_in_an_export_knows_better_than_the_api(tmp_path: Path) -> None:
    exported = export(tmp_path / "e.csv", [classification(1, gold_standard="true")])
    raw = export(tmp_path / "r.csv", [classification(1), classification(2, user="bob")])
    sources = [Source(raw, raw=True), Source(exported)]
    for order in (sources, sources[::-1]):
        labels, tally, _ = outcome(order, (SHAPE,), tmp_path / "scratch")
        assert labels[11, "shape", "smooth"] == (1, 1)
        assert tally.dropped["gold standard"] == 1
        assert tally.dropped["classification twice"] == 1


def test_another_file_is_refused_by_name(tmp_path: Path, count: Any) -> None:
    path = tmp_path / "subjects.csv"
    path.write_text("subject_id,metadata\n1,{}\n")
    with pytest.raises(InputError, match=r"subjects.csv is not a classifications export"):
        count(path)
    with pytest.raises(InputError, match="not a subjects export"):
        Subjects(("x",)).read_export(export(tmp_path / "e.csv", []))


# The straightforward way, one row at a time, to be compared with.


def plainly(rows: list[list[str]], rules: Rules) -> tuple[Counter[Any], Counter[Any], Counter[str]]:
    """k by (subject, question, answer), n by (subject, question), and drops by reason."""
    k: Counter[Any] = Counter()
    n: Counter[Any] = Counter()
    dropped: Counter[str] = Counter()
    by_id: dict[int, dict[str, str]] = {}
    for cells in rows:
        row = dict(zip(COLUMNS, cells, strict=True))
        if row["workflow_id"] != "7":
            dropped["other workflow"] += 1
        elif int(row["classification_id"]) in by_id:
            dropped["classification twice"] += 1
        else:
            by_id[int(row["classification_id"])] = row
    seen: dict[str, set[Any]] = defaultdict(set)
    for _, row in sorted(by_id.items()):
        major, minor = map(int, row["workflow_version"].split("."))
        if (major, minor) < rules.first_version:
            dropped["before from_version"] += 1
            continue
        if json.loads(row["metadata"]).get("live_project") is False:
            dropped["before launch"] += 1
            continue
        if row["user_name"] in rules.excluded_users:
            dropped["excluded user"] += 1
            continue
        answers = {item["task"]: item["value"] for item in json.loads(row["annotations"])}
        subject = int(row["subject_ids"])
        person = row["user_id"] or row["user_ip"]
        once = rules.repeats == "first" if row["user_id"] else rules.anonymous_repeats == "first"

        def voted(question: str, subject: int = subject, once: bool = once, person: str = person):
            again = once and (person, subject) in seen[question]
            seen[question].add((person, subject))
            n[subject, question] += not again
            return not again

        shape = {"Smooth": "smooth", "Features or Disk": "featured"}.get(answers.get("T0"))
        counted = shape is not None and voted("shape")
        k[subject, "shape", shape] += counted
        bar = {"Bar": "yes", "No bar": "no"}.get(answers.get("T1"))
        if counted and shape == "featured" and bar and voted("bar"):
            k[subject, "bar", bar] += 1
        odd = {name.lower() for name in answers.get("T2") or [] if name in ("Ring", "Lens", "Dust")}
        asked = answers.get("T2") == [] or odd
        if asked and voted("odd"):
            for name in odd:
                k[subject, "odd", name] += 1
    return k, n, dropped


ROWS = st.builds(
    classification,
    st.integers(1, 40),
    user=st.sampled_from(["", "ann", "bob", "bot", "cat"]),
    ip=st.sampled_from(["home", "school"]),
    subject=st.integers(1, 4),
    workflow_id=st.sampled_from(["7", "7", "7", "8"]),
    workflow_version=st.sampled_from(["1.1", "28.4", "28.30", "29.1"]),
    workflow_name=st.sampled_from(["W", "two\nlines", 'quo"ted']),
    metadata=st.sampled_from(["{}", '{"live_project": true}', '{"live_project": false}']),
    answers=st.fixed_dictionaries(
        {},
        optional={
            "T0": st.sampled_from(["Smooth", "Features or Disk", "Else", None]),
            "T1": st.sampled_from(["Bar", "No bar", "Else", None]),
            "T2": st.sampled_from(
                [[], ["Ring"], ["Ring", "Dust"], ["Else"], ["Lens", "Else"], None]
            ),
        },
    ),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(ROWS, max_size=60),
    st.sampled_from(["first", "all"]),
    st.sampled_from(["first", "all"]),
    st.randoms(use_true_random=False),
)
def test_the_result_is_that_of_the_plain_way_in_any_order_and_any_pieces(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[list[str]],
    repeats: str,
    anonymous: str,
    order: random.Random,
) -> None:
    # The same number twice is the same classification.
    rows = [{row[0]: row for row in rows}[row[0]] for row in rows]
    folder = tmp_path_factory.mktemp("plain")
    how: dict[str, Any] = {
        "first_version": (28, 30),
        "excluded_users": frozenset(["bot"]),
        "repeats": repeats,
        "anonymous_repeats": anonymous,
    }
    k, n, dropped = plainly(rows, Rules(workflow=7, **how))
    expected = {
        (subject, question.name, answer): (k[subject, question.name, answer], number)
        for (subject, name), number in n.items()
        for question in TREE
        if question.name == name and number
        for answer in question.answers
    }
    whole = outcome([Source(export(folder / "a.csv", rows))], TREE, folder / "s", **how)
    assert whole[0] == expected
    assert +whole[1].dropped == dropped
    order.shuffle(rows)
    cuts = sorted(order.choices(range(len(rows) + 1), k=2))
    parts = [rows[: cuts[0]], rows[cuts[0] : cuts[1]], rows[cuts[1] :]]
    paths = [export(folder / f"{place}.csv", part) for place, part in enumerate(parts)]
    (folder / "z.csv").write_bytes(gzip.compress(paths[0].read_bytes()))
    paths[0] = folder / "z.csv"
    again = outcome(
        [Source(path) for path in paths],
        TREE,
        folder / "s",
        piece_bytes=order.randrange(1, 5000),
        rows_in_memory=order.randrange(0, 20),
        **how,
    )
    assert again[0] == whole[0]
    assert vars(again[1]) == vars(whole[1])
    assert again[2].table.equals(whole[2].table)
