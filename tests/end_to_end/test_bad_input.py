"""What bad input gets: two lines that say what to do, the exit code, and nothing half-written."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.commands import run_command
from zoo_bridge.config import load
from zoo_bridge.ledger import Ledger

MakeProject = Callable[..., Any]


def command(project: Any, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``zoo-bridge`` as a person does."""
    return run_command(*words, config=project.settings.path, env=environment)


def check_refusal(
    project: Any, job: str, code: int, *words: str, options: tuple[str, ...] = (), **more: str
) -> None:
    """The job ends with two lines, the exit code, a ledger row, and no new artifact."""
    before = artifacts(project)
    ended = command(project, "run", job, *options, **more)
    assert ended.returncode == code, ended.stderr
    lines = ended.stderr.strip().splitlines()
    assert lines[-2].startswith("zoo-bridge: "), ended.stderr
    assert lines[-1].startswith("  "), ended.stderr
    assert "Traceback" not in ended.stderr
    for word in words:
        assert word in " ".join(lines[-2:]), ended.stderr
    assert artifacts(project) == before
    # As the settings are by now: they may name another workflow.
    ledger = Ledger.of(load(project.settings.path))
    row = ledger.list_runs(job)[0]
    ledger.close()
    assert row.outcome == ("refused" if code == 3 else "failed")


def artifacts(project: Any) -> list[Path]:
    """Every file in the folders of artifacts, but for what waits to be gone on with."""
    folders = ("exports", "labels", "models", "scores", "batches")
    work = project.settings.work
    paths = sorted(path for name in folders for path in (work / name).rglob("*"))
    return [path for path in paths if "/.work-" not in str(path)]


def edit(project: Any, before: str, after: str) -> None:
    path = project.settings.path
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def bucket(project: Any) -> Any:
    return boto3.session.Session().client("s3", endpoint_url=project.box.urls["s3"])


def test_a_wrong_setting(project: Any) -> None:
    edit(project, "per_run", "per_rum")
    ended = command(project, "run", "upload")
    assert ended.returncode == 2
    first, second = ended.stderr.splitlines()
    assert "upload.per_rum is not a setting" in first
    assert "Did you mean per_run?" in second
    assert not project.settings.work.joinpath("runs").exists()


def test_a_wrong_password(project: Any) -> None:
    secret = "not-the-password"
    for job in ("pull", "upload"):
        check_refusal(
            project, job, 2, "did not let sandbox in", "PANOPTES_PASSWORD", PANOPTES_PASSWORD=secret
        )
    for path in project.settings.work.rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes()


def test_an_unknown_project(project: Any) -> None:
    edit(project, "sandbox/galaxies", "sandbox/nebulae")
    for job in ("pull", "upload"):
        check_refusal(project, job, 2, "no project sandbox/nebulae", "project.slug")


def test_an_unknown_workflow(project: Any) -> None:
    edit(project, "workflow = 1", "workflow = 5")
    for job in ("pull", "upload"):
        check_refusal(project, job, 2, "no workflow 5", "it has 1")


def test_an_unknown_task(project: Any) -> None:
    edit(project, 'task = "T0"', 'task = "T9"')
    check_refusal(project, "pull", 2, "no task T9", "it has T0, T1")


def test_a_missing_bucket(labelled: Any) -> None:
    edit(labelled, labelled.box.plan.bucket, "no-such-bucket")
    for job in ("retrain", "upload"):
        words = ("no bucket no-such-bucket", "[survey]")
        check_refusal(labelled, job, 2, *words, options=("--force",))


def test_an_empty_export(project: Any) -> None:
    project.done("upload")
    check_refusal(project, "pull", 1, "export", "is empty")


def test_no_exports_no_labels_no_model_yet(project: Any) -> None:
    check_refusal(project, "aggregate", 1, "no exports", "zoo-bridge run pull")
    check_refusal(project, "retrain", 1, "no labels", "zoo-bridge run aggregate")
    check_refusal(project, "score", 1, "no model", "zoo-bridge run retrain")


def test_too_few_labels(make_project: MakeProject) -> None:
    project = make_project({"galaxies": 20}, upload={"per_run": 10})
    project.done("upload")
    project.show()
    project.done("pull")
    project.done("aggregate")
    check_refusal(project, "retrain", 1, "labels for 10 galaxies", "model.min_labels")


def test_labels_that_are_not_in_the_survey(labelled: Any) -> None:
    body = b"object_id,key\nelsewhere,cutouts/elsewhere.fits\n"
    bucket(labelled).put_object(Bucket=labelled.box.plan.bucket, Key="catalogue.csv", Body=body)
    edit(labelled, "[model]", "[model]\nsubject_media = false")
    check_refusal(labelled, "retrain", 1, "labels for 0 galaxies", "votes.object_id_keys")


def test_a_model_made_for_other_preprocessing(labelled: Any) -> None:
    labelled.done("retrain")
    edit(labelled, "size = 32", "size = 48")
    check_refusal(labelled, "score", 3, "size 32 -> 48", "zoo-bridge run retrain")


def test_scores_of_another_model(labelled: Any) -> None:
    labelled.done("retrain")
    check_refusal(labelled, "upload", 3, "not scored by the model in use", "zoo-bridge run score")


def test_one_unreadable_image_is_set_aside_and_many_fail_the_run(labelled: Any) -> None:
    labelled.done("retrain")
    s3, name = bucket(labelled), labelled.box.plan.bucket
    # Those that were learned from are in the cache: take galaxies without votes.
    voted = {row.object_id for row in labelled.ledger.list_objects()}
    fresh = sorted({f"ZB{n:06d}" for n in range(80)} - voted)
    s3.put_object(Bucket=name, Key=f"cutouts/{fresh[0]}.fits", Body=b"SIMPLE and nothing more")
    s3.delete_object(Bucket=name, Key=f"cutouts/{fresh[1]}.fits")
    run = labelled.done("score")
    assert run.counts == {"listed": 80, "taken_over": 0, "scored": 78, "rejected": 2}
    for galaxy in fresh[2:]:
        s3.put_object(Bucket=name, Key=f"cutouts/{galaxy}.fits", Body=b"")
    force = ("--force",)
    check_refusal(labelled, "score", 1, "cutouts cannot be used", "[survey]", options=force)


def test_a_file_that_is_no_export(project: Any, tmp_path: Path) -> None:
    path = tmp_path / "export.csv"
    path.write_text("a,b\n1,2\n")
    ended = command(project, "run", "aggregate", "--export", str(path))
    assert ended.returncode == 1
    assert "is not a classifications export" in ended.stderr
    ended = command(project, "run", "aggregate", "--export", str(tmp_path / "absent.csv"))
    assert ended.returncode == 1
    assert "There is no file" in ended.stderr
    ended = command(project, "run", "pull", "--export", str(path))
    assert ended.returncode == 2
    assert artifacts(project) == []


@pytest.mark.parametrize("words", [("run", "nonsense"), ("promote", "m9"), ("publish", "b9")])
def test_names_that_are_not_there(project: Any, words: tuple[str, ...]) -> None:
    ended = command(project, *words)
    assert ended.returncode == 2
    assert len(ended.stderr.strip().splitlines()) == 2
    assert words[1] in ended.stderr
