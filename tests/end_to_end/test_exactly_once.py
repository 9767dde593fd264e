"""Exactly once: an upload that is killed after any call, or meets any mixture of faults.

Whatever happens, running it again ends with just the planned subjects in the set, each with its own
picture.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zoo_bridge.config import load
from zoo_bridge.ledger import Ledger
from zoo_bridge.steps import publish
from zoo_bridge.tables import BATCH, read_table

MakeProject = Callable[..., Any]

# A process that has everything loaded and forks for each run: starting one takes seconds.
ZYGOTE = """
import os, sys
import zoo_bridge.service.cli as cli, zoo_bridge.service.runner, zoo_bridge.steps.upload
import zoo_bridge.zooniverse.subjects, zoo_bridge.zooniverse.project, astropy.io.fits
for line in sys.stdin:
    wait, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(wait, 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        sys.argv = ["zoo-bridge", "run", "upload", "--config", line.strip()]
        try:
            cli.main()
        except SystemExit as end:
            os._exit(end.code or 0)
        os._exit(0)
    print(pid, flush=True)
    sys.stdin.readline()
    os.write(go, b"x")
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


@pytest.fixture
def zygote() -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-c", ZYGOTE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield child
    child.kill()
    child.wait()


def check_complete(project: Any) -> list[dict[str, Any]]:
    """The set holds just what was planned, each once, each with its own picture."""
    (batch,) = project.ledger.list_batches(project.settings.project.slug)
    assert batch["state"] == "staged"
    folder = project.settings.work / batch["path"]
    plan = read_table(folder / "plan.parquet", BATCH).to_pylist()
    rows = project.box.state.all(
        "SELECT s.*, m.subject_set_id FROM subjects s JOIN set_subjects m ON m.subject_id = s.id"
    )
    assert {row["subject_set_id"] for row in rows} == {int(batch["subject_set_id"])}
    names = [json.loads(row["metadata"])["#zoo_bridge_id"] for row in rows]
    assert sorted(names) == sorted(row["object_id"] for row in plan)
    pictures = {row["object_id"]: folder / "previews" / f"{row['rank']:06d}-1.jpg" for row in plan}
    media = project.box.folder / "panoptes" / "media"
    for row, name in zip(rows, names, strict=True):
        place = json.loads(row["locations"])[0]["path"].rpartition("/")[2]
        assert (media / place).read_bytes() == pictures[name].read_bytes(), name
    ledger = project.ledger.list_objects(project.settings.project.slug)
    assert {row["object_id"]: row["subject_id"] for row in ledger} == {
        name: str(row["id"]) for row, name in zip(rows, names, strict=True)
    }
    assert {row["state"] for row in ledger} == {"staged"}
    return rows


def empty(project: Any) -> None:
    """Take the sandbox back to where nothing was uploaded."""
    with project.box.state.write() as db:
        for table in ("subjects", "set_subjects", "subject_sets", "workflow_sets", "faults"):
            db.execute(f"DELETE FROM {table}")


def test_killed_after_any_call_it_goes_on_and_makes_nothing_twice(
    make_project: MakeProject, zygote: subprocess.Popen[str]
) -> None:
    assert zygote.stdin
    assert zygote.stdout
    project = make_project({"galaxies": 36}, upload={"per_run": 30, "subjects_per_call": 7})
    # A batch of which nothing but the plan is there.
    project.fault(method="POST", path="/api/subject_sets", what="status", status=403)
    assert project.run("upload").exit_code == 1
    project.ledger.close()
    planned = project.settings.path.parent
    killed = 0
    while True:
        empty(project)
        folder = planned.with_name(f"killed-{killed}")
        shutil.copytree(planned, folder)
        zygote.stdin.write(f"{folder / 'zoo_bridge.toml'}\n")
        zygote.stdin.flush()
        pid = int(zygote.stdout.readline())
        project.fault(server="any", what="kill", pid=pid, after=killed)
        zygote.stdin.write("\n")
        zygote.stdin.flush()
        code = int(zygote.stdout.readline())
        project.settings = load(folder / "zoo_bridge.toml")
        project.ledger = Ledger(project.settings.ledger_url, project.settings.work)
        if code == 0:
            check_complete(project)
            break
        assert code == -9, f"after call {killed}: exit code {code}"
        project.done("upload")
        rows = check_complete(project)
        # Nothing was made in vain, either: the account's quota is never refunded.
        assert len(project.box.state.all("SELECT id FROM subjects")) == len(rows) == 30
        project.ledger.close()
        shutil.rmtree(folder)
        killed += 1
    # Thirty pictures sent, thirty fetched back, five creates, and what is around them.
    assert killed > 70


RULES = [
    {"method": "POST", "path": "/api/subjects[?]", "what": "status", "status": 500},
    {"method": "POST", "path": "/api/subjects[?]", "what": "committed", "status": 502},
    {"method": "POST", "path": "/api/subjects[?]", "what": "reset-after"},
    {"method": "POST", "path": "/api/subjects[?]", "what": "html"},
    {"method": "POST", "path": "/api/subjects[?]", "what": "late", "seconds": 0.4},
    {"method": "POST", "path": "/api/subjects[?]", "what": "empty", "status": 401},
    {"method": "POST", "path": "subject_sets", "what": "committed", "status": 504},
    {"method": "POST", "path": "links/subjects", "what": "status", "status": 409},
    {"method": "GET", "path": "/api/subjects[?]", "what": "status", "status": 503},
    {"method": "PUT", "path": "/api/subjects", "what": "status", "status": 412},
    {"server": "media", "method": "PUT", "what": "status", "status": 403},
    {"server": "media", "method": "PUT", "what": "status", "status": 500},
    {"server": "media", "method": "PUT", "what": "reset"},
    {"server": "media", "method": "PUT", "what": "lose"},
    {"server": "media", "method": "GET", "what": "cut"},
    {"server": "media", "method": "GET", "what": "status", "status": 404},
]
MIXTURES = st.lists(
    st.tuples(st.sampled_from(RULES), st.integers(0, 6), st.integers(1, 3)), min_size=1, max_size=6
)


def test_whatever_goes_wrong_together_it_ends_well(make_project: MakeProject) -> None:
    project = make_project({"galaxies": 14}, upload={"per_run": 12, "subjects_per_call": 3})
    project.fault(method="POST", path="/api/subject_sets", what="status", status=403)
    assert project.run("upload").exit_code == 1
    project.ledger.close()
    planned, number = project.settings.path.parent, iter(range(1000))

    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    @given(MIXTURES)
    def mixed(rules: list[tuple[dict[str, Any], int, int]]) -> None:
        empty(project)
        folder = planned.with_name(f"mixed-{next(number)}")
        shutil.copytree(planned, folder)
        project.settings = load(folder / "zoo_bridge.toml")
        project.ledger = Ledger(project.settings.ledger_url, project.settings.work)
        for rule, after, times in rules:
            project.fault(**rule, after=after, times=times)
        for _ in range(4):
            run = project.run("upload")
            if run.exit_code == 0:
                break
            # A batch that is not complete is not to be seen.
            assert (
                project.ledger.list_batches(project.settings.project.slug)[0]["state"] != "staged"
            )
            assert project.box.state.all("SELECT * FROM workflow_sets") == []
        assert run.exit_code == 0, run.message
        check_complete(project)
        project.ledger.close()

    mixed()


def test_a_create_that_comes_through_late_leaves_nothing_twice(make_project: MakeProject) -> None:
    project = make_project({"galaxies": 10}, upload={"per_run": 6, "subjects_per_call": 3})
    late = {"method": "POST", "path": "/api/subjects[?]", "what": "late"}
    # After the members were read again, and before the pictures are checked.
    project.fault(**late, seconds=2.0)
    project.fault(server="media", method="PUT", what="delay", seconds=2.0, times=None)
    run = project.done("upload")
    check_complete(project)
    assert "late answer made twice" in run.message
    # They exist, but in no set.
    assert len(project.box.state.all("SELECT id FROM subjects")) == 9


def test_one_that_comes_through_after_the_end_is_seen_before_publishing(
    make_project: MakeProject,
) -> None:
    project = make_project({"galaxies": 10}, upload={"per_run": 4, "subjects_per_call": 4})
    project.fault(method="POST", path="/api/subjects[?]", what="late", seconds=4.0)
    batch = project.done("upload").artifact
    while len(project.box.state.all("SELECT subject_id FROM set_subjects")) < 8:
        time.sleep(0.05)
    publish.publish(project.context, batch)
    check = project.box.state.all("SELECT * FROM set_subjects")
    assert len(check) == 4
    assert project.box.state.all("SELECT * FROM workflow_sets") != []


def test_a_set_that_somebody_changed_is_not_published(make_project: MakeProject) -> None:
    project = make_project({"galaxies": 10}, upload={"per_run": 4})
    batch = project.done("upload").artifact
    with project.box.state.write() as db:
        db.execute("DELETE FROM set_subjects WHERE subject_id = 2")
    with pytest.raises(Exception, match="0 subjects more, 1 fewer"):
        publish.publish(project.context, batch)
    assert project.box.state.all("SELECT * FROM workflow_sets") == []
