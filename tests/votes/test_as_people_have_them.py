"""Votes as people really have them: nothing is lost or counted twice in silence.

Each situation comes from a public report or a real export; the rows are invented here.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.votes.test_labels import COLUMNS, SHAPE, classification, export, outcome
from zoo_bridge.errors import InputError, SettingsError
from zoo_bridge.rows import read_rows
from zoo_bridge.votes.read import Source
from zoo_bridge.votes.rules import Place, Question, match
from zoo_bridge.votes.workflows import read_texts
from zoo_bridge.zooniverse.classifications import _row

FEATURED = "Features or Disk"
WORKFLOWS = ["workflow_id", "version", "minor_version", "tasks", "strings"]


@pytest.fixture
def count(tmp_path: Path) -> Callable[..., Any]:
    """k and n by (subject, question, answer), the tally and the objects, of some rows."""

    def run(rows: Sequence[list[str]], questions: Sequence[Question] = (SHAPE,), **how: Any) -> Any:
        path = export(tmp_path / "e.csv", rows)
        return outcome([Source(path)], questions, tmp_path / "scratch", **how)

    return run


def submission(session: str = "s", minute: int = 0, **more: Any) -> str:
    """The metadata of a classification."""
    times = {
        "started_at": f"2026-11-01T12:{minute:02}:00.111Z",
        "finished_at": f"2026-11-01T12:{minute:02}:30.222Z",
    }
    return json.dumps({"live_project": True, "session": session, **times, **more})


def workflows(path: Path, *rows: Sequence[Any]) -> Path:
    """A workflows export: (workflow, version, minor version, tasks, strings)."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(WORKFLOWS)
        for *start, tasks, strings in rows:
            writer.writerow([*start, json.dumps(tasks), json.dumps(strings)])
    return path


# 1: who somebody is


@pytest.mark.parametrize("mark", ["NA", "nan", "NULL", "None", "0", " na ", "<NA>", "0.0", "N/A"])
def test_a_mark_for_nobody_is_nobody(count: Any, mark: str) -> None:
    rows = [
        classification(number, user="", user_id=mark, user_name=f"not-logged-in-{number}")
        for number in range(1, 7)
    ]
    labels, tally, _ = count(rows)
    assert labels[11, "shape", "smooth"] == (6, 6)
    assert tally.marked["user_id"] == 6
    assert tally.fates["shape"].repeats == 0


@pytest.mark.parametrize("mark", ["nan", "NA", "None", "null", " "])
def test_a_mark_is_no_object(count: Any, mark: str) -> None:
    rows = []
    for subject in (11, 12):
        data = json.dumps({str(subject): {"#zoo_bridge_id": mark}})
        rows.append(classification(subject, subject=subject, subject_data=data))
    _, _, objects = count(rows)
    assert objects.missing == [11, 12]
    assert objects.shared == {}


def test_the_name_decides_where_two_columns_disagree(count: Any) -> None:
    rows = [
        # The same hash in one export is one browser, and no person.
        classification(1, user="", user_id="7", user_name="not-logged-in-x", ip="a"),
        classification(2, user="", user_id="7", user_name="not-logged-in-x", ip="b"),
        # Somebody whose number was lost is still one person; so is one whose name was.
        classification(3, user="ann", user_id="NA"),
        classification(4, user="ann", user_id="null"),
        classification(5, user="bob", user_name="NA"),
        classification(6, user="bob", user_name=""),
        classification(7, user="cat"),
    ]
    labels, tally, _ = count(rows)
    assert labels[11, "shape", "smooth"] == (5, 5)
    assert tally.fates["shape"].repeats == 2
    assert dict(tally.marked) == {"user_id": 4, "user_name": 1}


@pytest.mark.parametrize("name", ["not-logged-in", "Not-Logged-In-x", "anonymous", "redacted"])
def test_an_empty_number_is_nobody_whatever_the_name_became(count: Any, name: str) -> None:
    rows = [classification(number, user="", user_name=name) for number in range(6)]
    labels, tally, _ = count(rows)
    assert (labels[11, "shape", "smooth"], tally.fates["shape"].repeats) == ((6, 6), 0)


def test_marks_and_truths_in_other_columns(count: Any) -> None:
    rows = [
        classification(1, user="a", gold_standard="TRUE"),
        classification(2, user="b", gold_standard="1"),
        classification(3, user="c", gold_standard="NA"),
        classification(4, user="d", gold_standard="False"),
        classification(5, user="", ip="NA"),
        classification(6, user="", ip="nan"),
        classification(7, user="e", metadata=json.dumps({"live_project": "FALSE"})),
        classification(8, user="f", metadata=json.dumps({"live_project": 0})),
        classification(9, user="g", workflow_id="7.0", subject_ids="11.0"),
        classification(10, user="h", created_at="2026-11-01T12:00"),
    ]
    labels, tally, _ = count(rows, anonymous_repeats="first")
    # Two people without an address are two people.
    assert labels[11, "shape", "smooth"] == (6, 6)
    assert dict(tally.dropped) == {"gold standard": 2, "before launch": 2, "other workflow": 0}


# 2: one submission sent twice


@pytest.mark.parametrize("repeats", ["first", "all"])
def test_what_was_sent_twice_is_one_vote(count: Any, repeats: str) -> None:
    rows = [
        classification(1, user="", metadata=submission("z"), ip="a"),
        classification(2, user="", metadata=submission("z"), ip="b"),
        # Three children behind one address are three.
        classification(3, user="", metadata=submission("c1", 1), ip="school"),
        classification(4, user="", metadata=submission("c2", 1), ip="school"),
        classification(5, user="", metadata=submission("c3", 1), ip="school"),
        # A person who is logged in, on two machines; and a true second look.
        classification(6, user="ann", metadata=submission("x", 2)),
        classification(7, user="ann", metadata=submission("y", 2)),
        classification(8, user="ann", metadata=submission("x", 3)),
        # Another answer, another subject: no copy.
        classification(9, user="", metadata=submission("z"), answer=FEATURED),
        classification(10, user="", metadata=submission("z"), subject=12),
    ]
    labels, tally, _ = count(rows, repeats=repeats, anonymous_repeats="all")
    anns = 1 if repeats == "first" else 2
    assert labels[11, "shape", "smooth"] == (4 + anns, 5 + anns)
    assert labels[12, "shape", "smooth"] == (1, 1)
    assert tally.dropped["resent"] == 2
    labels, tally, _ = count(rows[2:5], anonymous_repeats="first")
    assert (labels[11, "shape", "smooth"], tally.dropped["resent"]) == ((1, 1), 0)


def test_a_copy_is_known_by_the_hash_where_there_is_no_session(count: Any) -> None:
    metadata = json.dumps({**json.loads(submission()), "session": None})
    name = {"user": "", "user_name": "not-logged-in-h", "metadata": metadata}
    labels, tally, _ = count([classification(1, **name), classification(2, **name)])
    assert (labels[11, "shape", "smooth"], tally.dropped["resent"]) == ((1, 1), 1)
    # Without times nothing is known.
    rows = [classification(number, user="", metadata="{}") for number in (1, 2)]
    assert count(rows)[0][11, "shape", "smooth"] == (2, 2)


def test_a_copy_may_come_by_the_other_road(tmp_path: Path) -> None:
    first = export(tmp_path / "a.csv", [classification(1, user="", metadata=submission("z"))])
    second = [classification(2, user="", user_name="", ip="", metadata=submission("z"))]
    since = export(tmp_path / "b.csv", second)
    sources = [Source(first), Source(since, raw=True)]
    labels, tally, _ = outcome(sources, (SHAPE,), tmp_path / "scratch")
    assert (labels[11, "shape", "smooth"], tally.dropped["resent"]) == ((1, 1), 1)


# 3: an index is not an option's value


def test_the_value_of_an_option_is_no_place(count: Any, tmp_path: Path) -> None:
    options = [{"value": str(4 - place), "label": f"{place} arms"} for place in range(4)]
    tasks = {"T1": {"type": "dropdown", "selects": [{"options": {"*": options}}]}}
    path = workflows(tmp_path / "w.csv", (7, 1, 1, tasks, {}))
    texts, _ = read_texts([path], 7)
    arms = Question.declare("arms", "T1", {f"a{n}": [f"{n} arms"] for n in range(4)})
    values = [
        [{"value": "1", "option": True}],
        [{"value": 1, "option": True}],
        {"selection": 1, "option": True},
        1,
        [{"select_label": "Arms", "option": True, "value": "1", "label": "3 arms"}],
        [{"value": "9", "option": True}],
    ]
    rows = [
        classification(number, user=f"u{number}", answers={"T1": value})
        for number, value in enumerate(values)
    ]
    labels, tally, _ = count(rows, (arms,), texts=texts)
    assert labels[11, "arms", "a3"] == (3, 5)
    assert labels[11, "arms", "a1"] == (2, 5)
    assert tally.unmatched["arms"] == {"option 9": 1}


def test_the_api_leaves_an_options_value_as_it_is() -> None:
    annotations = [
        {"task": "T0", "value": "1"},
        {"task": "T1", "value": ["0", "2"]},
        {"task": "T2", "value": [{"value": "840", "option": True}]},
        {"task": "T3", "value": {"selection": 1, "option": True}},
        {"task": "T4", "value": [{"task": "T5", "value": "2"}, {"task": "T6", "value": "text 7"}]},
    ]
    item = {
        "id": "5",
        "created_at": "2026-11-01T12:00:00.000Z",
        "annotations": annotations,
        "metadata": {"workflow_version": "1.1"},
        "links": {"workflow": "7", "subjects": ["11"], "user": "3"},
    }
    row = _row(item, {})
    values = [each["value"] for each in json.loads(row["annotations"])]
    assert values[:4] == [1, [0, 2], [{"value": "840", "option": True}], annotations[3]["value"]]
    assert [each["value"] for each in values[4]] == [2, "text 7"]


# 5: what a question is


def test_a_question_may_be_several_tasks(count: Any) -> None:
    shape = Question.declare(
        "shape", ["T0", "T9"], {"smooth": ["Smooth"], "artifact": ["Star", "Unclassifiable"]}
    )
    rows = [
        classification(1, user="a"),
        classification(2, user="b", answers={"T0": None, "T9": ["Unclassifiable"]}),
        classification(3, user="c", answers={"T9": "Star"}),
        classification(4, user="d", answers={"T0": "Smooth", "T9": []}),
    ]
    labels, tally, _ = count(rows, (shape,))
    assert labels[11, "shape", "smooth"] == (2, 4)
    assert labels[11, "shape", "artifact"] == (2, 4)
    assert tally.other_tasks == {}


def test_a_question_may_be_asked_in_several_workflows_and_some_versions(count: Any) -> None:
    places = [Place(7, "T0", (4, 1), (8, 2**31 - 1)), Place(9, "T5", (2, 2))]
    bar = Question.declare("bar", (), {"yes": ["Yes"], "no": ["No"]}, places=places)
    merger = Question.declare(
        "merger", (), {"yes": ["Yes"], "no": ["No"]}, places=[Place(7, "T0", (9, 0))]
    )

    def row(number: int, workflow: int, version: str, task: str = "T0") -> list[str]:
        where = {"workflow_id": str(workflow), "workflow_version": version}
        return classification(number, user=f"u{number}", answers={task: "Yes"}, **where)

    rows = [
        row(1, 7, "3.9"),
        row(2, 7, "4.1"),
        row(3, 7, "8.77"),
        row(4, 7, "9.1"),
        row(5, 9, "2.1", "T5"),
        row(6, 9, "2.2", "T5"),
        row(7, 9, "2.3", "T0"),
        row(8, 5, "9.9"),
    ]
    labels, tally, _ = count(rows, (bar, merger))
    assert labels[11, "bar", "yes"] == (3, 3)
    assert labels[11, "merger", "yes"] == (1, 1)
    assert tally.dropped["before from_version"] == 2
    assert tally.elsewhere == {"5": 1}
    only = Question.declare("bar", (), {"yes": ["Yes"], "no": ["No"]}, places=places[:1])
    tally = count(rows, (only,))[1]
    assert (tally.dropped["after to_version"], tally.dropped["other workflow"]) == (1, 4)


def test_of_several_tasks_the_one_that_answers_counts_by_both_roads(
    tmp_path: Path,
) -> None:
    tasks = {
        "T0": {"answers": [{"label": "Yes"}, {"label": "Something else"}]},
        "T1": {"answers": [{"label": "Yes"}, {"label": "No"}]},
    }
    texts, _ = read_texts([workflows(tmp_path / "w.csv", (7, 1, 1, tasks, {}))], 7)
    question = Question.declare("q", ["T0", "T1"], {"yes": ["Yes"], "no": ["No"]})
    both = Question.declare("q", ["T0", "T1"], {"a": ["A"], "b": ["B"]}, True)
    exported = classification(1, answers={"T0": "Something else", "T1": "No"})
    raw = classification(1, answers={"T0": 1, "T1": 1})
    for number, row in enumerate((exported, raw)):
        source = Source(export(tmp_path / f"{number}.csv", [row]), raw=bool(number))
        labels, _, _ = outcome([source], (question,), tmp_path / "s", texts=texts)
        assert labels[11, "q", "no"] == (1, 1)
    ticked = export(tmp_path / "m.csv", [classification(1, answers={"T0": ["A"], "T1": ["B"]})])
    labels, _, _ = outcome([Source(ticked)], (both,), tmp_path / "s")
    assert (labels[11, "q", "a"], labels[11, "q", "b"]) == ((1, 1), (1, 1))


def test_where_a_question_is_not_asked_nobody_left_it_empty(count: Any) -> None:
    new = Question.declare("new", (), {"y": ["Y"], "n": ["N"]}, places=[Place(9, "T0")])
    _, tally, _ = count([classification(1), classification(2, user="bob")], (SHAPE, new))
    assert vars(tally.fates["new"])["not_asked"] == 2
    assert tally.fates["new"].not_answered == 0
    assert tally.fates["shape"].votes == 2


# 6: grids of galaxies

GRID = '{"11":{"#zoo_bridge_id":"A"},"12":{"#zoo_bridge_id":"B"},"13":{"#zoo_bridge_id":"C"}}'
ODD = Question.declare("odd", "T0", {"odd": ["chosen"], "plain": ["not chosen"]})


def grid(ident: int, user: str, picks: Any, **more: Any) -> list[str]:
    shown = {"subject_ids": "11;12;13", "subject_data": GRID}
    return classification(ident, user=user, answers={"T0": picks}, **shown, **more)


@pytest.mark.parametrize("by_number", [True, False])
def test_every_galaxy_of_a_grid_is_counted(count: Any, by_number: bool) -> None:
    def pick(place: int) -> dict[str, Any]:
        return {"index": place, **({"subject": str(11 + place)} if by_number else {})}

    rows = [
        grid(1, "ann", [pick(1)]),
        grid(2, "bob", [pick(1), pick(2)]),
        grid(3, "cat", []),
        # A second look, and the same sent twice.
        grid(4, "ann", [pick(0)]),
        grid(5, "dan", [pick(0)], metadata=submission()),
        grid(6, "dan", [pick(0)], metadata=submission()),
    ]
    labels, tally, objects = count(rows, (ODD,))
    assert {subject: labels[subject, "odd", "odd"] for subject in (11, 12, 13)} == {
        11: (1, 4),
        12: (2, 4),
        13: (1, 4),
    }
    assert (tally.grids, tally.opened, tally.dropped["resent"]) == (6, 12, 3)
    assert dict(objects.table.rows()) == {11: "A", 12: "B", 13: "C"}


def test_a_grid_that_no_answer_stands_for_is_said_to_be_one(count: Any) -> None:
    other = Question.declare("odd", "T0", {"odd": ["chosen"], "plain": ["ordinary"]})
    _, tally, _ = count([grid(1, "ann", [{"index": 1, "subject": "12"}])], (other,))
    assert tally.fates["odd"].unmatched == 2
    assert tally.unmatched["odd"] == {"not chosen": 2}


def test_what_shows_several_subjects_and_is_no_grid_is_set_aside(count: Any) -> None:
    rows = [classification(1, subject_ids="11;12"), classification(2, user="bob")]
    labels, tally, _ = count(rows)
    assert labels[11, "shape", "smooth"] == (1, 1)
    assert tally.dropped["several subjects"] == 1


def test_only_what_is_picked_from_a_grid_is_opened(count: Any) -> None:
    other = Question.declare("other", "T1", {"yes": ["Yes"], "no": ["No"]})
    many = Question.declare("many", "T2", {"ring": ["Ring"]}, multiple=True)
    shown = {"subject_ids": "11;12;13", "subject_data": GRID}
    rows = [
        # One answer about the whole grid is no answer about each galaxy.
        classification(1, answers={"T0": [{"index": 1}], "T1": "Yes"}, **shown),
        # Nothing ticked, of a task that is about no grid.
        classification(2, user="bob", answers={"T2": []}, **shown),
        # The last page, with one galaxy left.
        classification(3, user="cat", answers={"T0": [{"index": 0, "subject": "11"}]}),
        classification(4, user="dan", answers={"T0": []}),
        # Numbers that a program made floats of, and one that is none.
        classification(5, user="eve", answers={"T0": []}, **{**shown, "subject_ids": "11.0;12.0"}),
        classification(6, user="fay", answers={"T0": []}, **{**shown, "subject_ids": "11;x"}),
    ]
    labels, tally, _ = count(rows, (ODD, other, many))
    assert {subject: labels[subject, "odd", "odd"] for subject in (11, 12, 13)} == {
        11: (1, 4),
        12: (1, 2),
        13: (0, 1),
    }
    assert tally.fates["other"].votes == 0
    assert tally.fates["many"].votes == 0
    assert (tally.dropped["several subjects"], tally.dropped["bad value"]) == (1, 1)


# 7: columns that are not needed, and files that are something else


def without(path: Path, rows: Sequence[list[str]], *columns: str) -> Path:
    """An export from which some columns were taken."""
    kept = [place for place, name in enumerate(COLUMNS) if name not in columns]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([row[place] for place in kept] for row in [COLUMNS, *rows])
    return path


def test_a_file_without_addresses_can_be_counted(tmp_path: Path) -> None:
    rows = [classification(number, user="") for number in (1, 2)]
    taken = ("user_ip", "gold_standard", "expert", "workflow_name")
    path = without(tmp_path / "e.csv", rows, *taken)
    labels, tally, _ = outcome([Source(path)], (SHAPE,), tmp_path / "s")
    assert (labels[11, "shape", "smooth"], tally.used) == ((2, 2), 2)
    with pytest.raises(InputError, match="lacks the column user_ip, which votes"):
        outcome([Source(path)], (SHAPE,), tmp_path / "s", anonymous_repeats="first")
    path = without(tmp_path / "f.csv", rows, "user_name", "user_id")
    with pytest.raises(InputError, match="nobody can tell whose votes these are"):
        outcome([Source(path)], (SHAPE,), tmp_path / "s")
    # Either of the two is enough.
    path = without(tmp_path / "g.csv", [classification(n) for n in (1, 2)], "user_id", "metadata")
    labels, tally, _ = outcome([Source(path)], (SHAPE,), tmp_path / "s")
    assert (labels[11, "shape", "smooth"], tally.fates["shape"].repeats) == ((1, 1), 1)


def test_rules_that_need_a_column_say_so(tmp_path: Path) -> None:
    rows = [classification(1, user="bot")]
    path = without(tmp_path / "e.csv", rows, "user_name")
    with pytest.raises(InputError, match=r"user_name, which votes\.excluded_users needs"):
        outcome([Source(path)], (SHAPE,), tmp_path / "s", excluded_users=frozenset(["bot"]))
    path = without(tmp_path / "f.csv", rows, "metadata", "gold_standard")
    _, tally, _ = outcome([Source(path)], (SHAPE,), tmp_path / "s")
    assert tally.missing == {"f.csv": ["gold_standard", "metadata"]}


@pytest.mark.parametrize(
    ("data", "kept"), [('{"11": bad', 0), ("7", 1), ("", 1), ('{"12": {}}', 0)]
)
def test_the_last_row_without_a_line_break(tmp_path: Path, data: str, kept: int) -> None:
    rows = [classification(1, user="a"), classification(2, user="b", subject_data=data)]
    path = export(tmp_path / "e.csv", rows)
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    _, tally, _ = outcome([Source(path)], (SHAPE,), tmp_path / "s")
    assert tally.used == 1 + kept - (data == "7")
    assert tally.rows == tally.used + sum(tally.dropped.values()) == 2


def archive(name: str) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as file:
        file.writestr(name, "x")
    return held.getvalue()


HEADER = ",".join(COLUMNS)
LINE = ",".join(["1"] * len(COLUMNS))
OTHERS: dict[str, tuple[bytes, str]] = {
    "semicolons": (f"{HEADER}\n{LINE}\n".replace(",", ";").encode(), "semicolons stand between"),
    "tabs": (f"{HEADER}\n{LINE}\n".replace(",", "\t").encode(), "tabs stand between"),
    "utf-16": (f"{HEADER}\n{LINE}\n".encode("utf-16"), "UTF-16"),
    "zip": (archive("classifications.csv"), "a zip archive"),
    "xlsx": (archive("[Content_Types].xml"), r"an Excel file \(.xlsx\)"),
    "page": (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>\n", "a web page"),
    "xml": (b'<?xml version="1.0"?>\n<Error><Code>Expired</Code></Error>\n', "an answer in XML"),
    "dump": (b"-- PostgreSQL database dump\nCOPY x;\n", "commands of a database"),
    "json": (b'[{"id": 1}]\n', "JSON"),
    "no header": (f"{LINE}\n{LINE}\n".encode(), "no header, its first line is a row already"),
    "empty": (b"", "it is empty"),
    "redacted": (
        (",".join(name for name in COLUMNS if name != "annotations") + "\n").encode(),
        "lacks the column annotations",
    ),
    "another table": (b"subject_id,project_id,metadata\n1,2,{}\n", "it has subject_id, project_id"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_file_is_refused_as_what_it_is(tmp_path: Path, kind: str) -> None:
    content, told = OTHERS[kind]
    path = tmp_path / "export.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=told) as caught:
        outcome([Source(path)], (SHAPE,), tmp_path / "s")
    assert str(path) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("share", [0.31, 0.5, 0.77, 0.97])
def test_half_a_file_is_refused_as_a_whole(tmp_path: Path, share: float) -> None:
    path = export(tmp_path / "e.csv", [classification(n, user=f"u{n}") for n in range(50)])
    content = path.read_bytes()
    cut = int(len(content) * share)
    path.write_bytes(content[:cut].rstrip(b"\n"))
    if content[cut - 1 : cut] == b"\n":
        pytest.skip("this is the end of a row")
    with pytest.raises(InputError, match="is cut short: it ends in the middle of the row"):
        outcome([Source(path)], (SHAPE,), tmp_path / "s")


# 8: labels that cleaning makes alike


def test_what_is_written_comes_before_what_is_read(count: Any) -> None:
    clumps = Question.declare("clumps", "T0", {"few": ["<5"], "five": ["5"], "many": [">5"]})
    given = ["<5", "5", ">5", "> 5", ">5"]
    rows = [
        classification(number, user=f"u{number}", answer=answer)
        for number, answer in enumerate(given)
    ]
    labels, tally, _ = count(rows, (clumps,))
    assert {name: labels[11, "clumps", name][0] for name in clumps.answers} == {
        "few": 1,
        "five": 1,
        "many": 2,
    }
    # Read as people do, "> 5" is five or more than five: nobody decides that.
    assert tally.unmatched["clumps"] == {"5": 1}
    with pytest.raises(SettingsError, match="is also one of another answer's"):
        Question.declare("clumps", "T0", {"five": ["5"], "also": [" 5 "]})


def test_answers_that_are_pictures_go_by_their_file() -> None:
    place = "https://panoptes-uploads.example/workflow_attached_image"
    question = Question.declare("form", "T0", {"ring": ["ring_12.png"], "arc": ["arc.jpg"]})
    assert match(f"![]({place}/ring_12.png =60x)", question) == 1
    assert match(f"![what it looks like]({place}/arc.jpg)", question) == 2
    assert match(f"![]({place}/other.png)", question) == -1


def test_a_name_is_no_label_where_reading_is_unclear(count: Any, tmp_path: Path) -> None:
    arms = Question.declare("arms", "T0", {"5": ["5", "5 arms"], "more": [">5"]})
    tasks = {"T0": {"answers": [{"label": "5"}, {"label": "**>5**"}]}}
    texts, _ = read_texts([workflows(tmp_path / "w.csv", (7, 1, 1, tasks, {}))], 7)
    _, tally, _ = count([classification(1, answer="**>5**")], (arms,), texts=texts)
    assert tally.fates["arms"].unmatched == 1


def test_an_answers_own_name_is_a_label_only_if_the_workflow_says_so(
    count: Any, tmp_path: Path
) -> None:
    half = Question.declare("shape", "T0", {"smooth": ["Rounded"], "featured": [FEATURED]})
    rows = [classification(1, user="a"), classification(2, user="b", answer=FEATURED)]
    _, tally, _ = count(rows, (half,))
    assert tally.unmatched["shape"] == {"Smooth": 1}
    tasks = {"T0": {"answers": [{"label": "Smooth"}, {"label": FEATURED}]}}
    texts, _ = read_texts([workflows(tmp_path / "w.csv", (7, 1, 1, tasks, {}))], 7)
    labels, _, _ = count(rows, (half,), texts=texts)
    assert labels[11, "shape", "smooth"] == (1, 2)


# 9: the same task twice, and shapes


def test_an_answer_that_was_begun_and_then_given_counts_once(count: Any) -> None:
    odd = Question.declare("odd", "T2", {"ring": ["Ring"], "dust": ["Dust"]}, multiple=True)

    def twice(ident: int, first: Any, second: Any) -> list[str]:
        parts = [{"task": "T2", "value": first}, {"task": "T2", "value": second}]
        return classification(ident, user=f"u{ident}", annotations=json.dumps(parts))

    rows = [
        twice(1, [], ["Ring", "Dust"]),
        twice(2, ["Ring"], ["Ring", "Dust"]),
        twice(3, None, ["Ring"]),
        twice(4, ["Ring"], []),
        twice(5, ["Ring"], ["Dust"]),
    ]
    labels, _, _ = count(rows, (odd,))
    assert labels[11, "odd", "ring"] == (5, 5)
    assert labels[11, "odd", "dust"] == (2, 5)


def test_choices_paths_and_what_no_question_can_use(count: Any, tmp_path: Path) -> None:
    tasks = {"T0": {"answers": [{"label": "T0.answers.0.label"}, {"label": "T0.answers.1.label"}]}}
    strings = {"T0.answers.0.label": "Smooth", "T0.answers.1.label": FEATURED}
    texts, _ = read_texts([workflows(tmp_path / "w.csv", (7, 1, 1, tasks, strings))], 7)
    values = [
        "T0.answers.1.label",
        [{"choice": "Smooth", "answers": {"HOWMANY": "1"}, "filters": {}}],
        [{"x": 1.5, "y": 2.0, "tool": 0}],
        [{"toolType": "point", "toolIndex": 0}],
        {"strange": 1},
        "unknown answer label",
    ]
    rows = [
        classification(number, user=f"u{number}", answer=value)
        for number, value in enumerate(values)
    ]
    labels, tally, _ = count(rows, texts=texts)
    assert labels[11, "shape", "featured"] == (1, 2)
    assert labels[11, "shape", "smooth"] == (1, 2)
    assert tally.unmatched["shape"] == {"a drawing": 2, "an object with strange": 1}
    assert tally.fates["shape"].unknown_label == 1


# 10: figures after doubles


def test_figures_are_those_of_the_rows_that_count(tmp_path: Path) -> None:
    answers = {"T0": "Weird", "T9": "x"}
    one = export(tmp_path / "a.csv", [classification(1, user="a", answers=answers)])
    rows = [classification(1, user="a", answers=answers), classification(2, user="b")]
    two = export(tmp_path / "b.csv", [*rows, classification(3, user="c", answers={"T9": "y"})])
    _, tally, _ = outcome([Source(one), Source(two)], (SHAPE,), tmp_path / "s")
    assert tally.unmatched["shape"] == {"Weird": 1}
    assert tally.other_tasks == {("T9", "text"): 2}
    assert tally.dropped["classification twice"] == 1


def test_one_person_who_saw_one_object_as_two_subjects_is_one_vote(tmp_path: Path) -> None:
    same = '{"%d":{"#zoo_bridge_id":"G"}}'
    people = [f"p{number}" for number in range(30)]
    rows = []
    for number, person in enumerate(people):
        for subject in (11, 4011):
            ident = 100 * subject + number
            data = same % subject
            answer = "Smooth" if subject == 11 else FEATURED
            rows.append(
                classification(
                    ident, user=person, subject=subject, subject_data=data, answer=answer
                )
            )
    path = export(tmp_path / "e.csv", rows)
    for rows_in_memory in (1000, 7):
        how = {"rows_in_memory": rows_in_memory}
        labels, tally, _ = outcome([Source(path)], (SHAPE,), tmp_path / "s", **how)
        assert labels == {(11, "shape", "smooth"): (30, 30), (11, "shape", "featured"): (0, 30)}
        assert tally.fates["shape"].repeats == 30


# 11: odd rows


def test_odd_rows_cost_nobody_else_anything(tmp_path: Path) -> None:
    """Line breaks, NULs and broken letters here and there in a large piece, by another reader."""
    rows = [classification(number, user=f"u{number}") for number in range(4000)]
    for number in range(0, 4000, 700):
        rows[number][COLUMNS.index("workflow_name")] = 'two\nlines, "quoted"'
    path = export(tmp_path / "e.csv", rows)
    content = path.read_bytes().replace(b"u3999", b"u39\xff9")
    path.write_bytes(content.replace(b",u1234,", b",u12\x0034,"))
    piece_bytes = 2**20
    pieces = list(
        read_rows(
            path,
            ["classification_id", "annotations"],
            "classifications",
            piece_bytes=piece_bytes,
            optional=["user_name"],
            soft=["user_name"],
        )
    )
    found = [row for piece in pieces for row in piece.table["classification_id"].to_pylist()]
    assert found == [str(number) for number in range(4000)]
    lines = [line for piece in pieces for line in piece.lines]
    text = path.read_bytes().split(b"\n")
    assert all(
        text[line - 1].startswith(f"{ident},".encode())
        for line, ident in zip(lines, found, strict=True)
    )
    assert sum(piece.mended for piece in pieces) == 2
