"""Galaxies that a person leaves out of a batch: never seen, never deleted, never planned again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import requests
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from typer.testing import CliRunner

from tests.commands import Command
from tests.end_to_end.test_given_up import members
from zoo_bridge.acquisition.select import share_of
from zoo_bridge.errors import RefusedError, SettingsError, ZooniverseError
from zoo_bridge.ledger import ObjectState
from zoo_bridge.ledger.actors import CONSOLE, acting
from zoo_bridge.service.cli import app
from zoo_bridge.steps.batches.abandon import abandon
from zoo_bridge.steps.batches.leave_out import leave_out
from zoo_bridge.steps.batches.publish import publish, withdraw
from zoo_bridge.tables import BATCH, read_table

WHY = "a satellite's trail"
UNLINK = {"method": "DELETE", "path": r"/subject_sets/\d+/links/subjects"}


@pytest.fixture
def staged(make_project: Callable[..., Any]) -> Any:
    """A project of 20 galaxies with a batch of 8 staged."""
    project = make_project({"galaxies": 20}, upload={"per_run": 8})
    project.done("upload")
    return project


def batch_of(project: Any) -> Any:
    return project.ledger.list_batches()[0]


def ids_in_set(project: Any) -> set[str]:
    """The objects that the server has in the batch's set."""
    shown = members(project, batch_of(project).subject_set_id)
    rows = project.box.state.all("SELECT id, metadata FROM subjects")
    return {json.loads(row["metadata"])["#zoo_bridge_id"] for row in rows if row["id"] in shown}


def test_what_is_left_out_is_in_no_set_and_not_deleted_and_its_reason_is_kept(staged: Any) -> None:
    batch = batch_of(staged)
    names = sorted(ids_in_set(staged))
    out = names[:3]
    with acting("anna@192.0.2.7", CONSOLE):
        told = leave_out(staged.context, batch.name, out, WHY)
    assert told.startswith(f"3 left out of {batch.name}, 5 are left")
    assert ids_in_set(staged) == set(names[3:])
    # Every subject is still there.
    assert set(staged.subjects()) == set(names)
    assert batch_of(staged).size == 5
    events = [row for row in staged.ledger.list_events(batch.name) if row.what == "left out"]
    assert [(row.facts["object"], row.facts["why"]) for row in events] == [(n, WHY) for n in out]
    assert {(row.who, row.through) for row in events} == {("anna@192.0.2.7 as sandbox", "console")}
    # Said again, nothing more is done.
    assert leave_out(staged.context, batch.name, out, WHY).startswith("0 left out")
    publish(staged.context, batch.name)
    staged.box.volunteers.classify(1)
    assert seen_by_volunteers(staged) == set(names[3:])


def seen_by_volunteers(project: Any) -> set[str]:
    """Objects whose subject has a classification."""
    rows = project.box.state.all("SELECT DISTINCT subject_id FROM classifications")
    seen = {row["subject_id"] for row in rows}
    return {name for name, found in project.subjects().items() if found[0]["id"] in seen}


def test_it_is_never_planned_again_though_its_batch_is_given_up(staged: Any) -> None:
    batch = batch_of(staged)
    out = sorted(ids_in_set(staged))[:2]
    leave_out(staged.context, batch.name, out, WHY)
    with pytest.raises(RefusedError, match="2 were left out, and stay so"):
        abandon(staged.context, batch.name)
    abandon(staged.context, batch.name, yes=True)
    staged.change(upload={"per_run": 20})
    run = staged.done("upload")
    # All the others of the survey, the six subjects that there are among them.
    assert (run.counts["created"], run.counts["linked"]) == (12, 6)
    assert not ids_in_set(staged) & set(out)
    states = {row.object_id: row.state for row in staged.ledger.list_objects()}
    assert {states[name] for name in out} == {ObjectState.LEFT_OUT}


def test_the_next_best_take_their_place(staged: Any) -> None:
    batch = batch_of(staged)
    before = ids_in_set(staged)
    out = sorted(before)[:3]
    told = leave_out(staged.context, batch.name, out, WHY, instead=True)
    assert "3 put in their place" in told
    batch = batch_of(staged)
    now = ids_in_set(staged)
    assert (batch.state, batch.size, len(now)) == ("staged", 8, 8)
    assert now & before == before - set(out)
    # One subject an object, each with its picture.
    subjects = staged.subjects()
    assert len(subjects) == 11
    assert all(len(rows) == 1 and staged.has_image(rows[0]) for rows in subjects.values())
    plan = read_table(staged.settings.work / batch.path / "plan.parquet", BATCH).to_pylist()
    assert [row["rank"] for row in plan] == list(range(1, 12))
    assert {row["object_id"] for row in plan} == before | now
    # A second time, from what the first time left.
    leave_out(staged.context, batch.name, sorted(now)[:1], WHY, instead=True)
    assert len(ids_in_set(staged)) == 8
    publish(staged.context, batch.name)
    staged.box.volunteers.classify(1)
    assert seen_by_volunteers(staged) == ids_in_set(staged)


def test_replaced_are_the_next_by_information_and_random_ones_by_random_ones(
    make_after: Callable[..., Any],
) -> None:
    project = make_after("score")
    project.change(upload={"per_run": 10, "random_share": 0.4})
    project.done("upload")
    batch = batch_of(project)
    folder = project.settings.work / batch.path
    plan = read_table(folder / "plan.parquet", BATCH).to_pylist()
    best = [row for row in plan if row["reason"] == "bald"]
    chance = [row for row in plan if row["reason"] == "random"]
    assert (len(best), len(chance)) == (6, 4)
    out = [best[0]["object_id"], best[1]["object_id"], chance[0]["object_id"]]
    leave_out(project.context, batch.name, out, WHY, instead=True)
    more = read_table(folder / "plan.parquet", BATCH).to_pylist()[10:]
    assert sorted(row["reason"] for row in more) == ["bald", "bald", "random"]
    # None that was there to be chosen is better than those that were.
    assert max(row["bald"] for row in more) <= min(row["bald"] for row in best)
    roles = {row.object_id: row.heldout for row in project.ledger.list_objects(batch.name)}
    assert {roles[row["object_id"]] for row in more if row["reason"] == "random"} == {True}


def test_a_server_that_fails_half_way_shows_nobody_what_was_left_out(staged: Any) -> None:
    batch = batch_of(staged)
    names = sorted(ids_in_set(staged))
    staged.fault(**UNLINK, what="status", status=500, times=None)
    with pytest.raises(ZooniverseError):
        leave_out(staged.context, batch.name, names[:2], WHY)
    # The server has them still, and the ledger knows better.
    assert ids_in_set(staged) == set(names)
    with pytest.raises(ZooniverseError):
        publish(staged.context, batch.name)
    requests.delete(f"{staged.box.urls['panoptes']}/sandbox/faults", timeout=10)
    publish(staged.context, batch.name)
    assert ids_in_set(staged) == set(names[2:])


def test_what_the_server_never_heard_of_does_not_stand_in_the_way_of_a_replacement(
    staged: Any,
) -> None:
    batch = batch_of(staged)
    names = sorted(ids_in_set(staged))
    staged.fault(**UNLINK, what="status", status=500, times=None)
    with pytest.raises(ZooniverseError):
        leave_out(staged.context, batch.name, names[:1], WHY, instead=True)
    requests.delete(f"{staged.box.urls['panoptes']}/sandbox/faults", timeout=10)
    told = leave_out(staged.context, batch.name, names[1:2], WHY, instead=True)
    # The one of before has none in its place yet: it gets one now.
    assert "2 put in their place" in told
    assert (batch_of(staged).state, len(ids_in_set(staged))) == ("staged", 8)
    assert not ids_in_set(staged) & set(names[:2])
    assert leave_out(staged.context, batch.name, names[:2], WHY, instead=True).endswith("deleted")


def test_what_cannot_be_shown_takes_nobodys_place(staged: Any) -> None:
    batch = batch_of(staged)
    names = ids_in_set(staged)
    box = staged.box
    # Whatever comes next cannot be read; some of the rest can.
    rest = sorted(set(json.loads((box.folder / "survey" / "truth.json").read_text())) - names)
    order = sorted(rest, key=lambda name: share_of(name, staged.settings.seed, "random share"))
    s3 = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    for name in order[:2]:
        key = next(k for k in s3.buckets[box.plan.bucket].keys if f"/{name}." in k)
        s3.put_object(box.plan.bucket, key, b"no picture")
    told = leave_out(staged.context, batch.name, sorted(names)[:3], WHY, instead=True)
    assert "3 put in their place" in told
    assert len(ids_in_set(staged)) == 8
    assert not ids_in_set(staged) & set(order[:2])


def test_a_batch_that_publishes_itself_waits_once_a_person_has_touched_it(
    make_project: Callable[..., Any],
) -> None:
    project = make_project({"galaxies": 20}, upload={"per_run": 8, "publish": "automatic"})
    publishing = {"method": "POST", "path": "/links/subject_sets"}
    project.fault(**publishing, what="status", status=403, times=None)
    assert project.run("upload").exit_code == 1
    requests.delete(f"{project.box.urls['panoptes']}/sandbox/faults", timeout=10)
    batch = batch_of(project)
    assert batch.state == "staged"
    leave_out(project.context, batch.name, sorted(ids_in_set(project))[:2], WHY, instead=True)
    assert batch_of(project).state == "staged"
    # Nor does the next run publish what nobody has looked at.
    assert "waits for approval" in project.run("upload").message
    assert batch_of(project).state == "staged"


def test_killed_while_replacing_the_next_upload_finishes(staged: Any) -> None:
    batch = batch_of(staged)
    names = sorted(ids_in_set(staged))
    words = ["leave-out", batch.name, *names[:3], "--why", WHY, "--replace"]
    staged.ledger.close()
    process = Command(*words, config=staged.settings.path, hold=True)
    staged.fault(
        method="POST", path=r"/api/subjects\?", after=1, times=1, what="kill", pid=process.pid
    )
    process.go()
    assert process.wait(120) == -9
    batch = batch_of(staged)
    assert batch.state == "staging"
    staged.done("upload")
    assert batch_of(staged).state == "staged"
    assert len(ids_in_set(staged)) == 8
    assert not ids_in_set(staged) & set(names[:3])
    assert all(len(rows) == 1 for rows in staged.subjects().values())


def test_a_batch_that_volunteers_see_is_withdrawn_first(staged: Any) -> None:
    batch = batch_of(staged)
    name = sorted(ids_in_set(staged))[0]
    publish(staged.context, batch.name)
    with pytest.raises(RefusedError, match="volunteers see it"):
        leave_out(staged.context, batch.name, [name], WHY)
    withdraw(staged.context, batch.name, why="too early")
    leave_out(staged.context, batch.name, [name], WHY)
    publish(staged.context, batch.name)
    assert name not in ids_in_set(staged)
    why = [row.facts for row in staged.ledger.list_events(batch.name) if row.what == "withdrawn"]
    assert why == [{"why": "too early"}]


def test_what_cannot_be_meant_is_refused(staged: Any) -> None:
    batch = batch_of(staged)
    names = sorted(ids_in_set(staged))
    with pytest.raises(SettingsError, match="not in"):
        leave_out(staged.context, batch.name, ["M31"], WHY)
    with pytest.raises(SettingsError, match="No reason"):
        leave_out(staged.context, batch.name, names[:1], " ")
    with pytest.raises(RefusedError, match="Nothing would be left"):
        leave_out(staged.context, batch.name, names, WHY)
    assert ids_in_set(staged) == set(names)


def test_the_command_says_what_it_did(staged: Any) -> None:
    batch = batch_of(staged)
    name = sorted(ids_in_set(staged))[0]
    words = ["leave-out", batch.name, name, "--why", WHY, "--config", str(staged.settings.path)]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0
    assert told.stdout.startswith(f"1 left out of {batch.name}, 7 are left")
