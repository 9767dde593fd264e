"""One ledger for several workflows, projects and servers: each sees its own rows alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from zoo_bridge.errors import BusyError
from zoo_bridge.ledger import Batch, BatchState, Ledger, NewObject, ObjectState, Scope

SERVER = "https://www.zooniverse.org"
Rows = Callable[[str], dict[str, list[dict[str, object]]]]
Open = Callable[..., Ledger]
# As a version that knew no projects wrote them.
ARTIFACT = (
    "INSERT INTO artifacts (kind, name, path, digest, run_id, created_at, facts) "
    "VALUES (:kind, :name, :path, 'd', :run, '2026', '{}')"
)
PROMOTION = (
    "INSERT INTO promotions (version, action, reason, at) VALUES (:name, 'promote', '', '2026-12')"
)


@pytest.fixture
def open_as(url: str, tmp_path: Path) -> Iterator[Open]:
    """Opens the ledger as one workflow of a project; each has a folder of its own."""
    opened = []

    def open_ledger(slug: str, workflow: int, endpoint: str = SERVER, work: str = "") -> Ledger:
        folder = tmp_path / (work or f"work-{workflow}")
        folder.mkdir(exist_ok=True)
        opened.append(Ledger(url, folder, Scope(endpoint, slug, workflow)))
        return opened[-1]

    yield open_ledger
    for ledger in opened:
        ledger.close()


def execute(url: str, statement: str, **values: Any) -> Any:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        result = connection.execute(sa.text(statement), values)
        found = result.fetchall() if result.returns_rows else None
    engine.dispose()
    return found


def fill(ledger: Ledger, name: str, *objects: str) -> None:
    """A run, an artifact, a model in use, and a batch of some objects."""
    run = f"run-{name}"
    ledger.start_run(run, "retrain")
    folder = ledger.work / "models" / name
    folder.mkdir(parents=True)
    (ledger.work / "runs" / run).mkdir(parents=True)
    ledger.add_artifact("model", name, folder, "digest", run, {})
    ledger.promote(name, "promote", "better")
    ledger.end_run(run, "done", artifact=name)
    plan(ledger, f"batch-{name}", *objects)


def plan(ledger: Ledger, name: str, *objects: str) -> None:
    path = f"batches/{name}"
    (ledger.work / path).mkdir(parents=True)
    batch = Batch(name, BatchState.STAGING, "active", None, None, None, path, len(objects), "")
    ledger.add_batch(batch, [NewObject(each, "bald", heldout=False) for each in objects])


def seen(ledger: Ledger) -> dict[str, Any]:
    """Everything that a ledger shows of a workflow."""
    return {
        "runs": [run.run_id for run in ledger.list_runs()],
        "models": [artifact.name for artifact in ledger.list_artifacts("model")],
        "last": getattr(ledger.last_done("retrain"), "artifact", None),
        "in use": ledger.model_in_use(),
        "promotions": [row.version for row in ledger.list_promotions()],
        "batches": [batch.name for batch in ledger.list_batches()],
    }


NOTHING: dict[str, Any] = {
    "runs": [],
    "models": [],
    "last": None,
    "in use": None,
    "promotions": [],
    "batches": [],
}


def only(name: str) -> dict[str, Any]:
    return {
        "runs": [f"run-{name}"],
        "models": [name],
        "last": name,
        "in use": name,
        "promotions": [name],
        "batches": [f"batch-{name}"],
    }


def ids(ledger: Ledger) -> list[str]:
    return sorted(row.object_id for row in ledger.list_objects())


def is_busy(lock: AbstractContextManager[None]) -> bool:
    try:
        with lock:
            return False
    except BusyError:
        return True


def test_two_projects_do_not_see_each_other(open_as: Open) -> None:
    one, other = open_as("a/one", 1), open_as("b/other", 2)
    fill(one, "m1", "G1", "G2")
    # The same objects, of two projects: each may be a subject of both.
    fill(other, "m2", "G1", "G2", "G3")
    assert seen(one) == only("m1")
    assert seen(other) == only("m2")
    assert (one.planned_since(7), other.planned_since(7)) == (2, 3)
    one.set_objects("batch-m1", {"G1": "11"}, ObjectState.CREATED)
    assert {row.subject_id for row in other.list_objects()} == {None}
    one.give_up("batch-m1", {"G1": "11"}, [], {}, "me")
    assert [row.object_id for row in one.list_adoptable()] == ["G1"]
    assert other.list_adoptable() == []
    assert other.list_batches()[0].state == BatchState.STAGING


def test_two_workflows_share_objects_and_caps_and_nothing_else(open_as: Open) -> None:
    one, other = open_as("a/one", 1), open_as("a/one", 2)
    fill(one, "m1", "G1", "G2")
    assert seen(other) == NOTHING
    # An object is a subject of the project once, whoever asks; so are caps and roles the project's.
    with pytest.raises(sa.exc.IntegrityError):
        fill(other, "m2", "G2", "G3")
    plan(other, "batch-of-other", "G3")
    assert ids(one) == ids(other) == ["G1", "G2", "G3"]
    assert (one.planned_since(7), sorted(other.settled_roles())) == (3, ["G1", "G2", "G3"])
    # What one gave up, the other may have: else nobody could ever ask about it again.
    one.give_up("batch-m1", {"G1": "11"}, [], {}, "me")
    assert [row.object_id for row in other.list_adoptable()] == ["G1"]


def test_locks_are_of_a_workflow_or_of_its_project(open_as: Open) -> None:
    one, sister, other = open_as("a/one", 1), open_as("a/one", 2), open_as("b/other", 3)
    again = open_as("a/one", 1)
    with one.lock("retrain"), sister.lock("retrain"), other.lock("retrain"):
        assert is_busy(again.lock("retrain"))
    with one.lock("upload", whole_project=True), other.lock("upload", whole_project=True):
        assert is_busy(sister.lock("upload", whole_project=True))
    with sister.lock("upload", whole_project=True):
        pass


def test_a_renamed_project_keeps_what_is_its(open_as: Open) -> None:
    before = open_as("a/old-name", 1)
    fill(before, "m1", "G1")
    before.identify(55)
    # By its workflow, at once; by its number, also for another workflow of it.
    renamed = open_as("a/new-name", 1)
    assert seen(renamed) == only("m1")
    renamed.identify(55)
    second = open_as("a/newest-name", 2)
    assert ids(second) == []
    second.identify(55)
    assert ids(second) == ["G1"]
    with pytest.raises(sa.exc.IntegrityError):
        plan(second, "batch-2", "G1")


def test_a_slug_that_another_project_has_now_is_not_the_old_ones(open_as: Open) -> None:
    old = open_as("a/name", 1)
    fill(old, "m1", "G1")
    old.identify(55)
    new = open_as("a/name", 2)
    with new.lock("upload", whole_project=True):
        new.identify(56)
        assert ids(new) == []
        plan(new, "batch-2", "G1")
        # Its lock went with it: the old project is free, the new one is not.
        with old.lock("upload", whole_project=True):
            pass
        with pytest.raises(BusyError), open_as("a/name", 2).lock("upload", whole_project=True):
            pass
    with new.lock("upload", whole_project=True):
        pass
    assert seen(old) == only("m1")


def test_a_server_that_moved_and_one_that_is_another(open_as: Open) -> None:
    ledger = open_as("a/one", 1)
    fill(ledger, "m1", "G1")
    ledger.identify(55)
    # The same numbers, another server: a sandbox, or a copy for trying things.
    for slug in ("sandbox/galaxies", "a/one"):
        other = open_as(slug, 1, "http://127.0.0.1:8000", work="elsewhere")
        other.identify(55)
        assert (seen(other), ids(other)) == (NOTHING, [])
        assert seen(open_as("a/one", 1)) == only("m1")
    moved = open_as("a/one", 1, "https://new-address.org")
    assert seen(moved) == only("m1")
    moved.identify(55)
    assert ids(open_as("a/one", 1, "https://new-address.org")) == ["G1"]


def test_a_server_that_moved_is_met_by_one_workflow_after_the_other(open_as: Open) -> None:
    one, other = open_as("a/one", 1), open_as("a/one", 2)
    fill(one, "m1", "G1")
    fill(other, "m2", "G2")
    one.identify(55)
    new = "https://new-address.org"
    moved = open_as("a/one", 2, new)
    moved.identify(55)
    assert (seen(moved), ids(moved)) == (only("m2"), ["G1", "G2"])
    # A third, which the ledger does not know, comes before the first.
    open_as("a/one", 3, "https://newer.org").identify(55)
    last = open_as("a/one", 1, "https://newer.org")
    assert (seen(last), ids(last)) == (only("m1"), ["G1", "G2"])


def test_another_server_does_not_take_rows_that_name_none(old: str, open_as: Open) -> None:
    other = open_as("demo/x", 1, "http://other", work="elsewhere")
    other.identify(9)
    assert (seen(other), ids(other)) == (NOTHING, [])
    ours = open_as("sandbox/galaxies", 1)
    ours.identify(1)
    assert len(ids(ours)) == 86
    assert len(ours.list_batches()) == 3


def test_accounts_of_another_server_have_numbers_of_their_own(open_as: Open) -> None:
    one, other = open_as("a/one", 1), open_as("a/one", 1, "https://other", work="elsewhere")
    plan(one, "b1", "G1")
    one.ask_for("b1", "G1", "7")
    one.set_objects("b1", {"G1": "12"}, ObjectState.CREATED)
    assert (one.created_by("7"), other.created_by("7")) == (1, 0)


def test_what_two_projects_had_together_is_told_apart_by_their_folders(
    old: str, open_as: Open, tmp_path: Path
) -> None:
    """A ledger of b86a1a5, whose rows said of runs and models nobody's name."""
    models = execute(old, "SELECT name, path FROM artifacts WHERE kind = 'model'")
    scores = execute(old, "SELECT scores FROM batches WHERE scores IS NOT NULL")[0].scores
    runs = [row.run_id for row in execute(old, "SELECT run_id FROM runs")]
    # Another project's, which had uploaded nothing.
    execute(old, ARTIFACT, kind="model", name="theirs", path="models/theirs", run="their-run")
    execute(old, PROMOTION, name="theirs")
    ours, theirs = tmp_path / "work-1", tmp_path / "work-2"
    # Opened before any file is to be seen, it takes nothing, and may be opened again.
    third = open_as("c/third", 3)
    assert seen(third) == NOTHING
    assert seen(open_as("b/other", 2)) == NOTHING
    for _, path in models:
        (ours / path).mkdir(parents=True)
    for run in runs:
        (ours / "runs" / run).mkdir(parents=True)
    (theirs / "models" / "theirs").mkdir(parents=True)
    first = open_as("sandbox/galaxies", 1)
    assert first.model_in_use() == models[0].name
    assert len(first.list_runs()) == len(runs)
    # What its batches were made of is its own, though the files are gone.
    assert first.find_artifact("scores", scores) is not None
    second = open_as("b/other", 2)
    assert second.model_in_use() == "theirs"
    assert (second.list_runs(), second.list_batches(), ids(second)) == ([], [], [])
    # What is claimed is claimed once, whatever becomes of the folders.
    shutil.rmtree(ours)
    assert open_as("sandbox/galaxies", 1).model_in_use() == models[0].name


def test_a_new_project_takes_nothing_of_an_old_one(old: str, open_as: Open, tmp_path: Path) -> None:
    # The old one had trained and never uploaded.
    for table in ("objects", "batches", "events"):
        execute(old, f"DELETE FROM {table}")
    (path,) = execute(old, "SELECT path FROM artifacts WHERE kind = 'model'")[0]
    assert seen(open_as("b/new", 7)) == NOTHING
    (tmp_path / "work-1" / path).mkdir(parents=True)
    assert open_as("sandbox/galaxies", 1).model_in_use() is not None
    assert seen(open_as("b/new", 7)) == NOTHING


def test_a_ledger_of_one_project_keeps_all_of_it_wherever_it_is(old: str, open_as: Open) -> None:
    ledger = open_as("sandbox/galaxies", 1)
    assert len(ledger.list_runs()) == 8
    assert len(ledger.list_promotions()) == 1
    assert execute(old, "SELECT COUNT(*) FROM artifacts WHERE workflow_key IS NULL")[0][0] == 0


@pytest.mark.parametrize("folder", ["work-1", "elsewhere"])
def test_a_project_that_was_renamed_before_it_had_a_number(
    old: str, open_as: Open, tmp_path: Path, folder: str
) -> None:
    """Its last batch was planned under another slug; one object in both."""
    (name,) = execute(old, "SELECT name FROM batches WHERE state = 'staging'")[0]
    execute(old, "UPDATE batches SET project = 'sandbox/renamed' WHERE state = 'staging'")
    execute(old, "UPDATE objects SET project = 'sandbox/renamed' WHERE batch = :name", name=name)
    execute(
        old,
        "INSERT INTO objects SELECT 'sandbox/renamed', object_id, :name, reason, 'planned', NULL, "
        "updated_at FROM objects WHERE object_id = 'ZB000022'",
        name=name,
    )
    total = execute(old, "SELECT COUNT(*) FROM objects")[0][0]
    first = execute(old, "SELECT path FROM batches WHERE state = 'published'")[0].path
    (tmp_path / "work-1" / first).mkdir(parents=True)
    ledger = open_as("sandbox/renamed", 1, work=folder)
    assert len(ledger.list_batches()) == 1
    ledger.identify(7)
    if folder == "elsewhere":
        # Nothing says that they are one.
        assert len(ledger.list_batches()) == 1
        return
    assert len(ledger.list_batches()) == 3
    objects = {row.object_id: row for row in ledger.list_objects()}
    assert len(objects) == total - 1
    # Of two rows of one object, the one with a subject stays, and the other is on record.
    assert objects["ZB000022"].subject_id == "1"
    (event,) = [each for each in ledger.list_events(name) if "another" in each.what]
    assert event.facts["object"] == "ZB000022"
    # Nothing can be noted of it by the batch that lost it.
    with pytest.raises(BusyError):
        ledger.ask_for(name, "ZB000022", "7")
    ledger.set_objects(name, {"ZB000022": "999"}, ObjectState.CREATED)
    kept = {row.object_id: row.subject_id for row in ledger.list_objects()}
    assert kept["ZB000022"] == "1"


def test_a_lock_of_the_dead_does_not_keep_two_names_apart(
    open_as: Open, url: str, tmp_path: Path
) -> None:
    before = open_as("a/old", 1)
    before.identify(55)
    under_new_name = open_as("a/new", 2)
    ahead, past = "2099-01-01T00:00:00.000000+00:00", "2020-01-01T00:00:00.000000+00:00"

    def hold(ledger: Ledger, until: str) -> None:
        with ledger.engine.begin() as connection:
            connection.execute(sa.text("DELETE FROM locks"))
            connection.execute(
                sa.text(
                    "INSERT INTO locks SELECT 'upload', project_key, 0, 'elsewhere:1:1', :until "
                    "FROM workflows WHERE key = :key"
                ),
                {"until": until, "key": ledger.workflow_key},
            )

    hold(under_new_name, ahead)
    with pytest.raises(BusyError, match="process 1 on elsewhere"):
        under_new_name.identify(55)
    hold(before, past)
    with under_new_name.lock("upload", whole_project=True):
        under_new_name.identify(55)
        with pytest.raises(BusyError), before.lock("upload", whole_project=True):
            pass


def test_who_did_it_and_through_what(open_as: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = open_as("a/one", 1)
    fill(ledger, "m1", "G1")
    monkeypatch.setenv("ZOO_BRIDGE_THROUGH", "schedule")
    fill(ledger, "m2", "G2")
    ledger.add_event("batch-m2", "published", by="an-astronomer")
    by = [(row.through, "@" in (row.who or "")) for row in ledger.list_promotions()]
    assert by == [("schedule", True), ("command line", True)]
    assert [run.through for run in ledger.list_runs()] == ["schedule", "command line"]
    assert {run.who for run in ledger.list_runs()} == {ledger.list_promotions()[0].who}
    planned, published = ledger.list_events("batch-m2")
    assert (planned.through, published.through) == ("schedule", "schedule")
    assert published.who == "an-astronomer"


def test_a_batch_goes_through_its_states_in_order(open_as: Open) -> None:
    ledger = open_as("a/one", 1)
    plan(ledger, "one", "G1")
    with pytest.raises(BusyError, match="cannot become published"):
        ledger.move_batch("one", BatchState.PUBLISHED)
    for state in ("staged", "published", "withdrawn", "published", "withdrawn", "abandoned"):
        ledger.move_batch("one", BatchState(state))
    for state in ("staging", "staged", "published", "withdrawn"):
        with pytest.raises(BusyError):
            ledger.move_batch("one", BatchState(state))
    assert ledger.list_batches()[0].state == "abandoned"


def test_workflows_that_are_opened_at_once_have_one_row(url: str, rows: Rows) -> None:
    code = (
        "import sys; from pathlib import Path; from zoo_bridge.ledger import Ledger, Scope\n"
        "sys.stdin.read(1)\n"
        f"ledger = Ledger({url!r}, Path('.'), Scope('https://server', 'a/b', 1))\n"
        "ledger.identify(5); ledger.close()"
    )
    crowd = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    told = [child.communicate("x", timeout=60)[1] for child in crowd]
    assert [child.returncode for child in crowd] == [0, 0, 0, 0], told
    found = rows(url)
    assert [row["zooniverse_id"] for row in found["projects"]] == [5]
    assert [row["zooniverse_id"] for row in found["workflows"]] == [1]
