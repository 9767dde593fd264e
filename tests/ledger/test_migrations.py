"""Ledgers of every age: brought up to date with nothing lost, by one process at a time."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from typer.testing import CliRunner

from zoo_bridge.errors import BusyError, SettingsError
from zoo_bridge.ledger import (
    Batch,
    BatchState,
    Ledger,
    NewObject,
    ObjectState,
    Scope,
    metadata,
    schema,
)
from zoo_bridge.ledger.tables import HEAD
from zoo_bridge.service.cli import app

Rows = Callable[[str], dict[str, list[dict[str, object]]]]
Row = dict[str, object]
# Of the project that b86a1a5 ran.
SCOPE = Scope("https://server", "sandbox/galaxies", 1)


def version(url: str) -> str:
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        found = schema.version_of(connection)
    engine.dispose()
    return found


def test_a_ledger_of_before_there_were_migrations_loses_nothing(
    old: str, rows: Rows, tmp_path: Path
) -> None:
    before = rows(old)
    # The fixture is worth something: runs, artifacts, a model in use, batches in three states.
    assert {name: len(found) for name, found in before.items() if name != "events"} == {
        "artifacts": 6,
        "batches": 3,
        "locks": 0,
        "objects": 86,
        "promotions": 1,
        "runs": 8,
    }
    assert version(old) == schema.BASELINE
    Ledger(old, tmp_path, SCOPE).close()
    after = rows(old)
    assert version(old) == HEAD
    assert after.pop("alembic_version") == [{"version_num": HEAD}]
    assert after.pop("incidents") == after.pop("acts") == []
    (project,), (workflow,) = after.pop("projects"), after.pop("workflows")
    assert (project["slug"], project["endpoint"]) == (SCOPE.slug, SCOPE.endpoint)
    assert project["zooniverse_id"] is None
    assert (workflow["project_key"], workflow["zooniverse_id"]) == (project["key"], SCOPE.workflow)
    keys = {"project_key": project["key"], "workflow_key": workflow["key"]}
    assert after == {name: with_added(name, before, keys) for name in before}


def with_added(name: str, before: dict[str, list[Row]], keys: dict[str, object]) -> list[Row]:
    """The rows of a table as migrations leave them, by what these say of themselves."""
    kinds = {row["name"]: row["kind"] for row in before["batches"]}
    times = {"runs": "started_at", "batches": "created_at"}
    rows = []
    for row in before[name]:
        added: Row = {}
        if name in times:
            earlier = [each for each in before[name] if each[times[name]] <= row[times[name]]]  # type: ignore[operator]
            added["number"] = len(earlier)
        if name == "runs":
            added |= dict.fromkeys(("owner", "warnings", "parent", "measures"))
        if name == "objects":
            heldout = None if kinds[row["batch"]] == "start" else row["reason"] == "random"
            added |= {"account": None, "asked_at": None, "creates": 0, "heldout": heldout}
        kept = dict(row)
        if name in ("batches", "objects"):
            # Now by their keys: one project, one workflow.
            assert kept.pop("project") == SCOPE.slug
            assert kept.pop("workflow", SCOPE.workflow) == SCOPE.workflow
        if name == "objects":
            added["project_key"] = keys["project_key"]
        elif name not in ("events", "locks"):
            added["workflow_key"] = keys["workflow_key"]
        if name in ("runs", "promotions"):
            added["who"] = None
        if name == "promotions":
            added["why"] = None
        if name in ("runs", "promotions", "events"):
            added["through"] = None
        rows.append({**kept, **added})
    return rows


def test_what_was_uploaded_is_known_as_before(old: str, tmp_path: Path) -> None:
    ledger = Ledger(old, tmp_path, SCOPE)
    batches = {row.state: row for row in ledger.list_batches()}
    assert {state: row.size for state, row in batches.items()} == {
        "published": 40,
        "withdrawn": 40,
        "staging": 6,
    }
    assert ledger.model_in_use() is not None
    objects = ledger.list_objects(batches[BatchState.PUBLISHED].name)
    assert {row.state for row in objects} == {"staged"}
    # It was killed, and nobody holds its lock.
    assert ledger.list_runs()[0].outcome == "failed"
    # It can be written to, and nothing that was uploaded can be planned again.
    again = replace(batches[BatchState.PUBLISHED], name="again")
    with pytest.raises(sa.exc.IntegrityError):
        ledger.add_batch(again, [NewObject(objects[0].object_id, "bald")])
    with ledger.lock("upload", whole_project=True):
        pass
    ledger.close()


def test_a_new_ledger_and_a_second_look(url: str, rows: Rows, tmp_path: Path) -> None:
    engine = schema.open_engine(url)
    assert schema.upgrade(engine) == ("", HEAD)
    assert schema.upgrade(engine) == (HEAD, HEAD)
    engine.dispose()
    assert version(url) == HEAD
    assert rows(url)["runs"] == []


def test_tables_and_migrations_say_the_same(url: str) -> None:
    engine = schema.open_engine(url)
    schema.upgrade(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()
    config = Config()
    config.set_main_option("script_location", str(files("zoo_bridge.ledger") / "migrations"))
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


def test_a_ledger_of_a_newer_zoo_bridge_is_refused_in_words(
    url: str, rows: Rows, tmp_path: Path
) -> None:
    Ledger(url, tmp_path, SCOPE).close()
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    before = rows(url)
    with pytest.raises(SettingsError, match="written by a newer zoo_bridge") as caught:
        Ledger(url, tmp_path, SCOPE)
    assert caught.value.exit_code == 2
    assert "Install that version" in caught.value.hint
    assert rows(url) == before


def test_another_programs_database_is_left_alone(url: str, rows: Rows, tmp_path: Path) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE runs (run_id VARCHAR PRIMARY KEY, speed INTEGER)"))
    engine.dispose()
    with pytest.raises(SettingsError, match=r"is no ledger .* runs\.job, runs\.started_at"):
        Ledger(url, tmp_path, SCOPE)
    assert rows(url) == {"runs": []}


def test_a_migration_that_fails_leaves_the_ledger_as_it_was(
    old: str, rows: Rows, tmp_path: Path
) -> None:
    engine = sa.create_engine(old)
    with engine.begin() as connection:
        # The last thing that the migration makes is there already.
        connection.execute(sa.text("CREATE INDEX ix_objects_account ON runs (job)"))
    engine.dispose()
    before = rows(old)
    with pytest.raises(SettingsError, match="ix_objects_account"):
        Ledger(old, tmp_path, SCOPE)
    assert rows(old) == before
    engine = sa.create_engine(old)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP INDEX ix_objects_account"))
    engine.dispose()
    Ledger(old, tmp_path, SCOPE).close()
    assert version(old) == HEAD


def test_processes_that_open_an_old_ledger_at_once_wait_for_each_other(
    old: str, rows: Rows, tmp_path: Path
) -> None:
    before = rows(old)["objects"]
    code = (
        "import sys; from pathlib import Path; from zoo_bridge.ledger import Ledger, Scope\n"
        f"scope = Scope(*{(SCOPE.endpoint, SCOPE.slug, SCOPE.workflow)!r})\n"
        f"sys.stdin.read(1); Ledger({old!r}, Path({str(tmp_path)!r}), scope).close()"
    )
    command = [sys.executable, "-c", code]
    crowd = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    told = [child.communicate("x", timeout=60)[1] for child in crowd]
    assert [child.returncode for child in crowd] == [0, 0, 0, 0], told
    assert len(rows(old)["objects"]) == len(before)
    assert version(old) == HEAD


def test_a_ledger_is_not_changed_under_an_earlier_zoo_bridge_at_work(
    old: str, rows: Rows, tmp_path: Path
) -> None:
    def held_by(owner: str) -> None:
        engine = sa.create_engine(old)
        with engine.begin() as connection:
            connection.execute(sa.text("DELETE FROM locks"))
            insert = sa.text("INSERT INTO locks VALUES ('serve:sandbox/galaxies:1', :who, :until)")
            ahead = "2099-01-01T00:00:00.000000+00:00"
            connection.execute(insert, {"who": owner, "until": ahead})
        engine.dispose()

    held_by("elsewhere:77:1")
    before = rows(old)
    with pytest.raises(BusyError, match="process 77 on elsewhere"):
        Ledger(old, tmp_path, SCOPE)
    assert rows(old) == before
    # One of a process of this machine that is no more is no reason.
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    held_by(f"{socket.gethostname()}:{gone.pid}:1")
    Ledger(old, tmp_path, SCOPE).close()
    assert version(old) == HEAD


def test_a_backup_is_a_ledger_of_the_same_age(old: str, rows: Rows, tmp_path: Path) -> None:
    copy = tmp_path / "copies" / "ledger.sqlite3"
    before = rows(old)
    assert schema.backup(old, copy) == sum(map(len, before.values()))
    # Making it changed nothing, and the copy can be brought up to date by itself.
    assert rows(old) == rows(f"sqlite:///{copy}") == before
    with pytest.raises(SettingsError, match="exists already"):
        schema.backup(old, copy)
    Ledger(f"sqlite:///{copy}", tmp_path, SCOPE).close()
    assert version(f"sqlite:///{copy}") == HEAD
    assert version(old) == schema.BASELINE
    assert [path.name for path in copy.parent.iterdir()] == ["ledger.sqlite3"]


def test_a_backup_of_today_is_a_ledger_to_go_on_with(url: str, tmp_path: Path) -> None:
    Ledger(url, tmp_path, SCOPE).close()
    copy = tmp_path / "copy.sqlite3"
    schema.backup(url, copy)
    for each in (url, f"sqlite:///{copy}"):
        ledger = Ledger(each, tmp_path, SCOPE)
        state = BatchState.STAGING
        batch = Batch("b", state, "active", None, None, None, "p", 1, created_at="")
        ledger.add_batch(batch, [NewObject("G1", "bald")])
        ledger.ask_for("b", "G1", "7")
        ledger.set_objects("b", {"G1": "12"}, ObjectState.CREATED)
        (kept,) = ledger.list_objects()
        assert (kept.creates, kept.account, ledger.created_by("7")) == (1, "7", 1)
        ledger.close()


def test_the_commands_upgrade_and_backup(old: str, tmp_path: Path) -> None:
    settings = tmp_path / "zoo_bridge.toml"
    example = (files("zoo_bridge") / "example.toml").read_text(encoding="utf-8")
    settings.write_text(example.replace("sqlite:///data/ledger.sqlite3", old))

    def call(*words: str) -> str:
        ended = CliRunner().invoke(app, ["ledger", *words, "--config", str(settings)])
        assert ended.exit_code == 0, ended.output
        return ended.output

    copy = tmp_path / "before.sqlite3"
    assert f"to {copy}" in call("backup", str(copy))
    assert f"from migration {schema.BASELINE} to {HEAD}" in call("upgrade")
    assert "is up to date" in call("upgrade")
