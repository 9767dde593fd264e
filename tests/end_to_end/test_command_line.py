"""The command line as people use it: what it prints, its JSON, its exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands import run_command as run

ROOT = Path(__file__).parents[2]


def test_init_writes_settings_and_never_over_others(tmp_path: Path) -> None:
    path = tmp_path / "new" / "zoo_bridge.toml"
    ended = run("init", str(path))
    assert ended.returncode == 0
    assert "zoo-bridge check" in ended.stdout
    before = path.read_text()
    assert run("init", str(path)).returncode == 2
    assert path.read_text() == before


def test_check_says_line_by_line_what_works(labelled: Any, tmp_path: Path) -> None:
    config = labelled.settings.path
    ended = run("check", config=config)
    assert ended.returncode == 0, ended.stdout
    lines = ended.stdout.splitlines()
    names = [
        "settings",
        "ledger",
        "log-in",
        "quota",
        "project",
        "workflow",
        "questions",
        "bucket",
        "survey",
        "subjects",
        "known",
        "cutouts",
    ]
    assert [line.split()[1] for line in lines] == names
    assert all(line.startswith("ok") for line in lines)
    # Everything that can be looked at is, though something before it does not work.
    path = tmp_path / "project" / "broken.toml"
    text = config.read_text().replace("Features or Disk", "Feature").replace("/catalogue", "/none")
    path.write_text(text)
    ended = run("check", "--json", config=path)
    assert ended.returncode == 2
    found = {line["what"]: line for line in json.loads(ended.stdout)}
    assert [name for name in names if found[name]["ok"] is False] == ["questions", "survey"]
    assert found["cutouts"]["ok"] is None
    assert "features or disk" in found["questions"]["text"]
    assert all(line["hint"] for line in found.values() if line["ok"] is False)


def test_json_goes_to_stdout_and_progress_to_stderr(project: Any) -> None:
    config = project.settings.path
    ended = run("run", "upload", "--json", config=config)
    facts = json.loads(ended.stdout)
    assert (facts["outcome"], facts["exit_code"]) == ("done", 0)
    assert facts["run_id"] in ended.stderr
    for words in (("status",), ("runs",), ("models",), ("batches",)):
        json.loads(run(*words, "--json", config=config).stdout)
        assert run(*words, config=config).returncode == 0


def test_labels_can_be_looked_at_and_taken_away(labelled: Any, tmp_path: Path) -> None:
    config = labelled.settings.path
    shown = run("labels", config=config).stdout
    assert re.search(r"(\d{3}) rows: \1 used", shown)
    assert "featured" in shown
    ended = run("labels", "--csv", str(tmp_path / "labels.csv"), config=config)
    assert ended.returncode == 0
    lines = (tmp_path / "labels.csv").read_text().splitlines()
    assert lines[0] == "subject_id,object_id,question,answer,k,n"
    assert len(lines) == 1 + 60 * 3


def test_models_are_promoted_and_rolled_back_by_hand(labelled: Any) -> None:
    config, ledger = labelled.settings.path, labelled.ledger
    first = labelled.done("retrain").artifact
    second = labelled.run("retrain", force=True).artifact
    assert run("promote", first, config=config).returncode == 0
    assert ledger.model_in_use() == first
    assert run("promote", second, config=config).returncode == 0
    ended = run("rollback", config=config)
    assert ended.returncode == 0
    assert f"{second} was taken out of use" in ended.stdout
    assert ledger.model_in_use() == first
    assert run("rollback", config=config).returncode == 2
    assert ledger.model_in_use() == first
    assert "in use" in run("models", config=config).stdout


def test_batches_are_published_and_withdrawn(project: Any) -> None:
    config = project.settings.path
    batch = project.done("upload").artifact
    assert "published" in run("publish", batch, config=config).stdout
    assert project.box.volunteers.classify(1)["subjects"] == 60
    assert "withdrawn" in run("withdraw", batch, config=config).stdout


def test_files_on_disk_can_be_aggregated_without_zooniverse(data: Path, tmp_path: Path) -> None:
    folder = data / "exports"
    config = tmp_path / "zoo_bridge.toml"
    config.write_text(
        '[project]\nslug = "a/b"\nworkflow = 10\n[[question]]\nname = "real"\ntask = "T0"\n'
        'answers = { yes = ["Yes"], no = ["No"] }\ntarget = "yes"\n'
        '[survey]\ncatalogue = "none.csv"\n'
    )
    words = ["--export", str(folder / "superluminous_supernovae_wf10_classifications.csv")]
    words += ["--workflows", str(folder / "superluminous_supernovae_wf10_workflows_export.csv")]
    ended = run("run", "aggregate", *words, "--json", config=config)
    assert ended.returncode == 0, ended.stderr
    counts = json.loads(ended.stdout)["counts"]
    assert (counts["rows"], counts["votes"], counts["subjects"]) == (7, 7, 7)


JOBS = {
    "pull_exports": "pull",
    "aggregate_votes": "aggregate",
    "retrain_model": "retrain",
    "score_cutouts": "score",
    "upload_subjects": "upload",
    "cycle": "cycle",
}


def test_the_scripts_in_jobs_are_the_jobs(project: Any) -> None:
    assert {path.stem for path in (ROOT / "jobs").glob("*.py")} == set(JOBS)
    for script, job in JOBS.items():
        command = [sys.executable, str(ROOT / "jobs" / f"{script}.py"), "--dry-run", "--json"]
        ended = subprocess.run(
            [*command, "--config", str(project.settings.path)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert json.loads(ended.stdout)["job"] == job
        # Only these can say something before there are votes.
        assert ended.returncode == (0 if job in ("pull", "upload") else 1), ended.stderr


def test_a_second_run_of_a_job_is_turned_away(project: Any) -> None:
    with project.ledger.lock("upload", whole_project=True):
        ended = run("run", "upload", config=project.settings.path)
    assert ended.returncode == 75
    assert "Another run holds the lock" in ended.stderr
    assert run("run", "upload", config=project.settings.path).returncode == 0


def test_a_closed_pipe_is_no_traceback(project: Any) -> None:
    command = f"{sys.executable} -m zoo_bridge --help | head -1"
    ended = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in ended.stderr


@pytest.fixture
def scheduled(make_project: Callable[..., Any]) -> Any:
    # Every minute: what is due is found out by looking at when it runs next.
    return make_project(
        {"galaxies": 12},
        # What is late runs at once, by the hour of the day at which this is tried.
        schedule={"timezone": "Europe/London", "pull": "* * * * *", "catch_up_hours": 0},
    )


def serve(path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "zoo_bridge", "serve", "--config", str(path)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ})


def test_serve_tells_the_next_times_and_stops_cleanly(scheduled: Any) -> None:
    child = serve(scheduled.settings.path)
    assert child.stderr is not None
    lines = [child.stderr.readline() for _ in range(3)]
    assert "health and metrics at http://127.0.0.1:" in lines[0]
    assert "pull (* * * * *) runs next at" in "".join(lines)
    child.terminate()
    _, rest = child.communicate(timeout=60)
    assert child.returncode == 143
    assert "stopped" in rest
    assert scheduled.ledger.engine.connect().exec_driver_sql("SELECT * FROM locks").fetchall() == []


def test_serve_without_a_schedule_and_pages_says_so(project: Any) -> None:
    path = project.settings.path
    text = path.read_text().replace("cycle = ", "# cycle = ")
    path.write_text(f"{text}\n[console]\nenabled = false\n")
    ended = serve(path)
    _, told = ended.communicate(timeout=60)
    assert ended.returncode == 2
    assert "Nothing is scheduled" in told
