"""Tidying: old things go, and nothing that anything needs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from typer.testing import CliRunner

from zoo_bridge.errors import BusyError
from zoo_bridge.service.cli import app
from zoo_bridge.service.tidy import GONE, plan_tidy, tidy

FEW = {"exports": 1, "labels": 1, "models": 1, "scores": 1}


def second_round(project: Any) -> None:
    project.done("upload")
    project.show()
    for job in ("pull", "aggregate", "retrain"):
        project.run(job)
    # Whether or not the second model was put in use.
    project.done("score", force=True)


@pytest.fixture
def older(make_after: Callable[..., Any]) -> Any:
    """A project that has been round twice: two or more of everything."""
    return make_after("score", {"galaxies": 160}, second_round, model={"epochs": 1})


def kinds(project: Any, at: datetime | None = None) -> set[str]:
    return {each.kind for each in plan_tidy(project.settings, project.ledger, at)}


def keep_few(project: Any) -> None:
    """As the settings' [keep] would."""
    few = project.settings.keep.model_copy(update=FEW)
    project.settings = project.settings.model_copy(update={"keep": few})


def names_of(project: Any, kind: str) -> list[str]:
    return [artifact.name for artifact in project.ledger.list_artifacts(kind)]


def test_with_defaults_nothing_of_a_young_project_goes(older: Any) -> None:
    assert plan_tidy(older.settings, older.ledger) == []


def test_old_ones_go_and_the_loop_goes_on_as_if_nothing_had(older: Any) -> None:
    before = {kind: names_of(older, kind) for kind in ("exports", "labels", "model", "scores")}
    assert all(len(names) == 2 for names in before.values())
    keep_few(older)
    planned = plan_tidy(older.settings, older.ledger)
    assert planned
    assert all(each.path.exists() for each in planned)
    gone = tidy(older.settings, older.ledger)
    assert gone == planned
    assert not any(each.path.exists() for each in gone)
    assert not list(older.settings.work.glob(f"*/{GONE}*"))
    for kind in ("exports", "labels", "scores"):
        assert names_of(older, kind) == before[kind][:1]
    # The model in use, and the one before it, to go back to.
    assert older.ledger.model_in_use() in names_of(older, "model")
    for job in ("pull", "aggregate", "retrain", "score"):
        assert older.done(job).outcome == "unchanged", job
    assert tidy(older.settings, older.ledger) == []
    assert older.ledger.list_acts("tidied")[0].text.startswith(f"{len(gone)} files")


def test_what_an_open_batch_was_made_from_stays(older: Any) -> None:
    older.done("upload", force=True)
    batch = older.ledger.list_batches()[0]
    older.done("score", force=True)
    older.done("score", force=True)
    keep_few(older)
    tidy(older.settings, older.ledger)
    assert batch.scores in names_of(older, "scores")
    assert batch.labels in names_of(older, "labels")
    older.show()
    tidy(older.settings, older.ledger)
    assert batch.scores not in names_of(older, "scores")


def test_exports_that_no_manifest_names_stay(older: Any) -> None:
    refused = older.settings.work / "exports" / "classifications-0123456789abcdef.csv.gz"
    refused.write_bytes(b"an export that was refused, and may be right")
    keep_few(older)
    tidy(older.settings, older.ledger)
    assert refused.exists()
    newest = older.ledger.newest("exports")
    assert all((older.settings.work / name).exists() for name in newest.facts["files"].values())


def test_pictures_and_logs_go_by_age_and_plans_stay(older: Any) -> None:
    later = datetime.now(UTC) + timedelta(days=400)
    assert kinds(older, later) == {"pictures", "runs"}
    found = plan_tidy(older.settings, older.ledger, later)
    # Of what is in use, it is to be known how it came about.
    model = older.ledger.find_artifact("model", older.ledger.model_in_use())
    runs = {each.path.name for each in found if each.kind == "runs"}
    assert model.run_id not in runs
    assert older.ledger.newest("labels").run_id not in runs
    shown = [each.path.parent.name for each in found if each.kind == "pictures"]
    assert sorted(shown) == sorted(batch.name for batch in older.ledger.list_batches())
    assert all(each.path.name == "previews" for each in found if each.kind == "pictures")


def test_pictures_of_a_batch_that_waits_stay(older: Any) -> None:
    older.done("upload", force=True)
    waits = older.ledger.list_batches()[0].name
    found = plan_tidy(older.settings, older.ledger, datetime.now(UTC) + timedelta(days=400))
    assert waits not in [each.path.parent.name for each in found if each.kind == "pictures"]


def test_nothing_goes_while_a_job_runs(older: Any) -> None:
    keep_few(older)
    inside, done = threading.Event(), threading.Event()

    def work() -> None:
        with older.ledger.lock("score"):
            inside.set()
            done.wait(60)

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait(60)
    with pytest.raises(BusyError):
        tidy(older.settings, older.ledger)
    done.set()
    thread.join()
    assert len(names_of(older, "scores")) == 2
    assert tidy(older.settings, older.ledger)


def test_one_that_was_killed_in_the_middle_leaves_nothing_half(
    older: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_few(older)
    with monkeypatch.context() as killed:
        killed.setattr("zoo_bridge.service.tidy._take_away", lambda path: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tidy(older.settings, older.ledger)
    assert list(older.settings.work.glob(f"*/{GONE}*"))
    tidy(older.settings, older.ledger)
    assert not list(older.settings.work.glob(f"*/{GONE}*"))
    assert older.done("score").outcome == "unchanged"


def test_one_that_was_killed_with_the_cache_frees_it_the_next_time(older: Any) -> None:
    keep = older.settings.keep.model_copy(update={"cache": True})
    older.settings = older.settings.model_copy(update={"keep": keep})
    cache = older.settings.work / "cache"
    left = cache.with_name(f"{GONE}cache")
    cache.rename(left)
    cache.mkdir()
    (cache / "another").write_text("x")
    assert [each.kind for each in tidy(older.settings, older.ledger)] == ["cache"]
    assert not cache.exists()
    assert not left.exists()


def test_the_command_says_first_and_then_does(older: Any) -> None:
    path = older.settings.path
    table = "".join(f"{key} = {value}\n" for key, value in FEW.items())
    path.write_text(f"{path.read_text()}\n[keep]\n{table}")
    config = ["--config", str(path)]
    said = CliRunner().invoke(app, ["tidy", *config]).output
    assert "would go" in said
    assert len(names_of(older, "scores")) == 2
    done = CliRunner().invoke(app, ["tidy", "--yes", *config]).output
    assert "are gone" in done
    assert len(names_of(older, "scores")) == 1
    assert "Nothing is old enough" in CliRunner().invoke(app, ["tidy", *config]).output
