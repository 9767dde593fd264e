"""The loop with its ledger in a PostgreSQL server, shared by two workflows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.commands import run_command
from zoo_bridge.config import load
from zoo_bridge.errors import BusyError
from zoo_bridge.ledger import Ledger
from zoo_bridge.service.runner import lock_of
from zoo_bridge.steps.batches import publish

MakeProject = Callable[..., Any]


def command(project: Any, *words: str) -> Any:
    """What a command prints as JSON."""
    ended = run_command(*words, "--json", config=project.settings.path)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_a_loop_on_postgresql(
    make_project: MakeProject, postgresql_url: str, tmp_path: Path
) -> None:
    project = make_project(upload={"per_run": 40})
    project.ledger.close()
    # Made when the project was.
    (project.settings.work / "ledger.sqlite3").unlink()
    project.edit('ledger = "sqlite:///data/ledger.sqlite3"', f'ledger = "{postgresql_url}"')
    project.ledger = Ledger.of(project.settings)
    project.done("upload")
    project.show()
    project.done("cycle")
    newest, first = project.ledger.list_batches()
    assert (first.state, newest.state) == ("published", "staged")
    publish.publish(project.context, newest.name)
    # Nobody has to be told where it is: everything of it is there, and nothing in a file.
    assert not (project.settings.work / "ledger.sqlite3").exists()
    jobs = {row["job"]: row for row in command(project, "runs")}
    assert {row["outcome"] for row in jobs.values()} == {"done"}
    assert {row["through"] for row in jobs.values()} == {"command line"}
    history = command(project, "batches", "--history")
    shown = [row for row in history if row["what"] == "published"]
    assert [row["who"] for row in shown] == ["sandbox", "sandbox"]
    (promoted,) = command(project, "models", "--history")
    assert promoted["who"].count("@") == 1
    # One hand at a time, also of another workflow of this project.
    other = Ledger(project.settings.ledger_url, tmp_path, replace(project.ledger.scope, workflow=2))
    other.identify(1)
    assert (other.list_runs(), other.list_batches(), other.model_in_use()) == ([], [], None)
    assert len(other.list_objects()) == len(project.ledger.list_objects()) == 80
    with lock_of(other, "upload"):
        assert project.run("upload").exit_code == BusyError.exit_code
        with pytest.raises(BusyError), lock_of(project.ledger, "upload"):
            pass
    other.close()
    copy = tmp_path / "copy.sqlite3"
    run_command("ledger", "backup", str(copy), config=project.settings.path).check_returncode()
    project.ledger.close()
    # The copy is a ledger to go on with.
    project.edit(f'ledger = "{postgresql_url}"', f'ledger = "sqlite:///{copy}"')
    project.ledger = Ledger.of(load(project.settings.path))
    assert [batch.name for batch in project.ledger.list_batches()] == [newest.name, first.name]
    assert project.done("upload").outcome == "unchanged"
