"""A loop that stands still when nothing is new: what counts is what votes and surveys say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
import sqlalchemy as sa

from zoo_bridge.ledger.tables import batches
from zoo_bridge.steps.batches import publish
from zoo_bridge.steps.batches.abandon import abandon
from zoo_bridge.steps.inputs import read_labels
from zoo_bridge.steps.training.labelled import heldout_roles

MakeAfter = Callable[..., Any]
DAY = 24 * 3600.0
# As many as CI has the time for; of 365 every one was the same.
NIGHTS = 20
SMALL = {"galaxies": 100, "votes": 6}
HASTY_PULL = {"poll_seconds": 0.02}
HALF = {"heldout_share": 0.5}


def counts(project: Any) -> tuple[int, ...]:
    """What must not grow: models, scores, batches, subjects on the server."""
    kinds = ("model", "scores", "batch")
    made = [len(project.ledger.list_artifacts(kind)) for kind in kinds]
    return (*made, len(project.box.state.all("SELECT id FROM subjects")))


def test_months_without_a_vote(make_project: MakeAfter, tmp_path: Path) -> None:
    # On this disk: a client of S3 takes longer to make than all the rest of a cycle.
    survey = {"catalogue": str(tmp_path / "sandbox" / "survey" / "catalogue.csv")}
    upload = {"per_run": 32}
    project = make_project(SMALL, survey=survey, upload=upload, pull=HASTY_PULL, model=HALF)
    project.done("upload")
    project.show()
    for job in ("pull", "aggregate", "retrain", "score"):
        project.done(job)
    name = project.done("upload").artifact
    publish.publish(project.context, name)
    before = counts(project)
    first = {each.digest for each in project.ledger.list_artifacts("exports")}
    outcomes: Counter[tuple[str, str]] = Counter()
    for _ in range(NIGHTS):
        project.box.state.advance(DAY)
        run = project.done("cycle")
        assert run.warnings == []
        outcomes.update((row.job, row.outcome) for row in project.ledger.list_runs(limit=6))
    for job in ("aggregate", "retrain", "score", "upload"):
        assert {outcome for of, outcome in outcomes if of == job} == {"unchanged"}, outcomes
    assert counts(project) == before
    # The exports were made anew each day, and say otherwise who the anonymous are.
    exports = {each.digest for each in project.ledger.list_artifacts("exports")}
    assert len(exports - first) == NIGHTS
    # And one vote more moves it on.
    project.box.volunteers.classify(1)
    project.box.state.advance(DAY)
    project.done("pull")
    assert project.done("aggregate").outcome == "done"
    assert project.run("retrain").outcome in ("done", "refused")


def test_a_catalogue_that_was_only_copied_is_no_news(make_after: MakeAfter) -> None:
    project = make_after("score", SMALL, upload={"per_run": 32}, model=HALF)
    survey = project.ledger.newest("scores").facts["survey"]
    s3 = boto3.session.Session().client("s3", endpoint_url=project.box.urls["s3"])
    place = {"Bucket": project.box.plan.bucket, "Key": "catalogue.csv"}
    text = s3.get_object(**place)["Body"].read()
    # Other bytes, the same objects.
    s3.put_object(**place, Body=text.rstrip(b"\n") + b"\n\n")
    assert project.done("score").outcome == "unchanged"
    names = {path.name for path in (project.settings.work / "survey").glob("[!.]*")}
    assert names > {survey}
    s3.put_object(**place, Body=b"\n".join(text.splitlines()[:-1]) + b"\n")
    run = project.done("score")
    assert (run.outcome, run.counts["listed"]) == ("done", 99)


@pytest.fixture
def waiting(make_after: MakeAfter) -> Any:
    """A project with a batch that waits for approval."""
    project = make_after("score", SMALL, upload={"per_run": 32}, model=HALF)
    project.done("upload")
    return project


def test_a_batch_that_waits_for_approval_blocks_the_next(waiting: Any) -> None:
    name = waiting.ledger.list_batches()[0].name
    waiting.done("score", force=True)
    run = waiting.done("upload")
    assert run.outcome == "unchanged"
    assert run.message.startswith(f"{name} waits for approval since 20")
    assert f"zoo-bridge publish {name}" in run.hint
    # What is advised is not kept: once it is done, it is advised no more.
    assert "zoo-bridge" not in waiting.ledger.list_runs("upload")[0].message
    assert waiting.done("upload", force=True).outcome == "done"


def test_the_settings_may_let_batches_pile_up(waiting: Any) -> None:
    waiting.edit("per_run = 32", "per_run = 8\nwait_for_approval = false")
    # Still not twice from the same votes.
    assert "no new votes or model since" in waiting.done("upload").message
    with waiting.ledger.engine.begin() as connection:
        connection.execute(sa.update(batches).values(labels="of-other-votes"))
    assert waiting.done("upload").outcome == "done"


@pytest.mark.parametrize("how", ["withdrawn", "abandoned"])
def test_what_was_taken_back_or_given_up_does_not(waiting: Any, how: str) -> None:
    name = waiting.ledger.list_batches()[0].name
    if how == "withdrawn":
        publish.publish(waiting.context, name)
        publish.withdraw(waiting.context, name)
    else:
        abandon(waiting.context, name, yes=True)
    run = waiting.done("upload")
    assert run.outcome == "done"
    assert waiting.done("upload").outcome == "unchanged"


def test_a_link_to_what_is_labelled_changes_no_role(make_after: MakeAfter) -> None:
    """What others uploaded and volunteers labelled is split by a hash, and stays where it is."""
    project = make_after("score", SMALL, upload={"per_run": 32}, model=HALF)
    labels = project.ledger.newest("labels")
    frame = read_labels(labels)
    ours = {row.object_id for row in project.ledger.list_objects()}
    # As if others had uploaded them: the ledger knows nothing of them.
    with project.ledger.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM objects")
    before = heldout_roles(project.context, frame)
    project.edit("per_run = 32", "per_run = 30\nenough_votes = 1000")
    run = project.done("upload", force=True)
    linked = {row.object_id for row in project.ledger.list_objects() if row.object_id in ours}
    assert run.counts["linked"] == len(linked) > 0
    assert heldout_roles(project.context, frame) == before == {}
    # What has no votes yet is settled: BALD's choice teaches, the random share judges.
    rows = project.ledger.list_objects()
    new = [row for row in rows if row.object_id not in ours]
    assert new
    assert all(row.heldout == (row.reason == "random") for row in new)
    assert project.done("retrain").outcome == "unchanged"


def test_labels_in_another_order_are_the_same_labels(make_after: MakeAfter) -> None:
    """An export that has grown over some size is counted in more pieces."""
    project = make_after("aggregate", SMALL, upload={"per_run": 32}, model=HALF)
    artifact = project.ledger.newest("labels")
    path = artifact.path / "labels.parquet"
    read_labels(artifact).reverse().write_parquet(path)
    project.box.state.advance(DAY)
    assert project.done("pull").outcome == "done"
    assert project.done("aggregate").outcome == "unchanged"
    assert project.ledger.newest("labels").digest == artifact.digest
