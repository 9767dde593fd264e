"""Scoring: nothing is lost by a kill, nothing is read twice, and counts reconcile."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import polars as pl
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Table

from tests.commands import Command, run_command
from zoo_bridge.errors import InputError
from zoo_bridge.tables import REJECTS, SCORES, read_table

MakeProject = Callable[..., Any]


@pytest.fixture
def make_trained(make_after: MakeProject) -> MakeProject:
    """Makes projects with a model, of which no score was made yet."""

    def make(galaxies: int) -> Any:
        project = make_after("retrain", {"galaxies": galaxies})
        project.change(cutouts={"size": 32}, score={"part_objects": 10, "batch_size": 8})
        return project

    return make


@pytest.fixture
def trained(make_trained: MakeProject) -> Any:
    return make_trained(80)


def scores(project: Any) -> pl.DataFrame:
    artifact = project.ledger.newest("scores")
    rows = pl.DataFrame(read_table(artifact.path, SCORES))
    return rows.filter("target").sort("object_id", "question")


def s3_of(project: Any) -> Any:
    return boto3.client("s3", endpoint_url=project.box.urls["s3"], region_name="us-east-1")


def catalogue(project: Any, change: Callable[[list[str]], list[str]]) -> None:
    """Rewrite the survey's catalogue."""
    s3, bucket = s3_of(project), project.box.plan.bucket
    text = s3.get_object(Bucket=bucket, Key="catalogue.csv")["Body"].read().decode()
    header, *rows = text.splitlines()
    body = "\n".join([header, *change(rows)]) + "\n"
    s3.put_object(Bucket=bucket, Key="catalogue.csv", Body=body.encode())


def start(project: Any) -> Command:
    return Command("run", "score", "--force", config=project.settings.path)


def parts_done(project: Any) -> int:
    return len(list((project.settings.work / "scores").glob(".work-*/part-*.parquet")))


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_killed_goes_on_where_it_was(make_trained: MakeProject, signum: int) -> None:
    trained = make_trained(300)
    trained.done("score")
    undisturbed = scores(trained)
    assert len(undisturbed) == 300
    draw = random.Random(1)
    for wanted in (3, 9):
        child = start(trained)
        while parts_done(trained) < wanted and child.poll() is None:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.05))
        os.kill(child.pid, signum)
        assert child.wait(60) == (-signum if signum == signal.SIGKILL else 143)
        assert len(trained.ledger.list_artifacts("scores")) == 1
        assert parts_done(trained) >= wanted
    kept = {
        path: path.stat().st_mtime_ns
        for path in (trained.settings.work / "scores").glob(".work-*/part-*.parquet")
    }
    run = trained.done("score", force=True)
    assert run.counts == {"listed": 300, "taken_over": 0, "scored": 300, "rejected": 0}
    folder = trained.ledger.newest("scores").path
    assert {folder / path.name: stamp for path, stamp in kept.items()}.items() <= {
        path: path.stat().st_mtime_ns for path in folder.iterdir()
    }.items()
    assert scores(trained).equals(undisturbed)


def test_a_run_that_ends_when_all_is_done_loses_nothing(
    trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained.done("score")
    undisturbed, first = scores(trained), trained.ledger.newest("scores").path
    # As if killed after the folder has its name, and before the ledger knows of it; and, with
    # scores taken over, before the folder has its name.
    for what, where in (("add_artifact", trained.ledger), ("rename", Path)):
        catalogue(trained, lambda rows: rows[:-1] if len(rows) == 80 else rows)

        def killed(*args: Any, **more: Any) -> None:
            raise KeyboardInterrupt

        kept = getattr(where, what)

        def only_folders(path: Path, target: Any, kept: Any = kept) -> Any:
            return killed() if path.name.startswith(".work") else kept(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(where, what, only_folders if what == "rename" else killed)
            run = trained.run("score", force=what == "add_artifact")
            assert run.exit_code == 130
        assert trained.ledger.newest("scores").path == first
        known = {artifact.path for artifact in trained.ledger.list_artifacts("scores")}
        parts = {
            path.name: path.stat().st_mtime_ns
            for path in (trained.settings.work / "scores").glob("*/part-*.parquet")
            if path.parent not in known
        }
        assert parts
        run = trained.done("score", force=what == "add_artifact")
        assert run.counts["scored"] == 79
        first = trained.ledger.newest("scores").path
        assert {path.name: path.stat().st_mtime_ns for path in first.glob("part-*")} == parts
        assert [path.name for path in first.iterdir() if not path.name.startswith("part-")] == [
            "rejects.parquet"
        ]
        everything = (trained.box.folder / "survey/catalogue.csv").read_text().splitlines()[1:]
        catalogue(trained, lambda rows, whole=everything: whole)  # type: ignore[misc]
        trained.done("score")
        now = scores(trained)
        assert now["object_id"].equals(undisturbed["object_id"])
        # Another batch, another rounding.
        assert (now["bald"] - undisturbed["bald"]).abs().max() < 1e-5
        first = trained.ledger.newest("scores").path


def test_what_a_stopped_run_did_is_kept_when_the_survey_changes(make_trained: MakeProject) -> None:
    trained = make_trained(300)
    child = start(trained)
    while parts_done(trained) < 5 and child.poll() is None:
        time.sleep(0.001)
    os.kill(child.pid, signal.SIGKILL)
    child.wait(60)
    done = parts_done(trained)
    assert done >= 5
    catalogue(trained, lambda rows: rows[1:])
    run = trained.done("score", force=True)
    assert run.counts["listed"] == run.counts["scored"] == 299
    assert run.counts["taken_over"] >= 10 * done - 1
    assert len(set(scores(trained)["object_id"])) == 299


def test_only_what_is_new_is_read(trained: Any) -> None:
    catalogue(trained, lambda rows: rows[:70])
    first = trained.done("score")
    assert (first.counts["scored"], first.counts["taken_over"]) == (70, 0)
    before = scores(trained)
    # Nothing can be read any more of what is scored already: it is not asked for.
    s3, bucket = s3_of(trained), trained.box.plan.bucket
    for name in before["object_id"]:
        s3.delete_object(Bucket=bucket, Key=f"cutouts/{name}.fits")
    for path in (trained.settings.work / "cache").iterdir():
        path.unlink()
    everything = (trained.box.folder / "survey/catalogue.csv").read_text().splitlines()[1:]
    catalogue(trained, lambda rows: everything)
    assert trained.done("score", dry_run=True).message.startswith("would score 10 objects")
    second = trained.done("score")
    assert second.counts == {"listed": 80, "taken_over": 70, "scored": 80, "rejected": 0}
    assert (
        scores(trained)
        .filter(pl.col("object_id").is_in(before["object_id"].implode()))
        .equals(before)
    )
    # An object that left the survey leaves the catalogue; another address is another cutout.
    moved = everything[1].replace("cutouts/", "cutouts/new-")
    s3.put_object(
        Bucket=bucket,
        Key=moved.split(",")[1],
        Body=(trained.box.folder / "survey" / everything[1].split(",")[1]).read_bytes(),
    )
    catalogue(trained, lambda rows: [moved, *everything[2:]])
    third = trained.done("score")
    assert third.counts == {"listed": 79, "taken_over": 78, "scored": 79, "rejected": 0}
    assert third.message.endswith("78 of the scores are from before")
    assert len(set(scores(trained)["object_id"])) == 79


def test_what_was_rejected_is_tried_again(trained: Any) -> None:
    s3, bucket = s3_of(trained), trained.box.plan.bucket
    body = s3.get_object(Bucket=bucket, Key="cutouts/ZB000003.fits")["Body"].read()
    s3.put_object(Bucket=bucket, Key="cutouts/ZB000003.fits", Body=b"")
    for path in (trained.settings.work / "cache").iterdir():
        path.unlink()
    run = trained.done("score")
    assert run.counts == {"listed": 80, "taken_over": 0, "scored": 79, "rejected": 1}
    (reject,) = read_table(
        trained.ledger.newest("scores").path / "rejects.parquet", REJECTS
    ).to_pylist()
    assert (reject["object_id"], reject["reason"]) == ("ZB000003", "empty")
    s3.put_object(Bucket=bucket, Key="cutouts/ZB000003.fits", Body=body)
    catalogue(trained, lambda rows: rows[:-1])
    run = trained.done("score")
    assert run.counts == {"listed": 79, "taken_over": 78, "scored": 79, "rejected": 0}


def test_a_survey_in_a_bad_way_stops_the_run_and_is_looked_at_anew(trained: Any) -> None:
    s3, bucket = s3_of(trained), trained.box.plan.bucket
    survey = trained.box.folder / "survey" / "cutouts"
    broken = sorted(path.name for path in survey.iterdir())[:40]
    for name in broken:
        s3.put_object(Bucket=bucket, Key=f"cutouts/{name}", Body=b"<html>not here</html>")
    for path in (trained.settings.work / "cache").iterdir():
        path.unlink()
    run = trained.run("score")
    assert run.exit_code == InputError.exit_code
    assert "cannot be used, more than 20%" in run.message
    assert "not an image" in run.message
    assert trained.ledger.newest("scores") is None
    for name in broken:
        s3.put_object(Bucket=bucket, Key=f"cutouts/{name}", Body=(survey / name).read_bytes())
    assert trained.done("score").counts["scored"] == 80


def test_processes_and_threads_give_the_same_catalogue(trained: Any) -> None:
    trained.done("score")
    one = scores(trained)
    trained.change(cutouts={"size": 32}, score={"part_objects": 33, "workers": 2})
    trained.done("score", force=True)
    assert scores(trained).equals(one)


def test_a_packed_survey_is_the_same_survey(trained: Any) -> None:
    trained.done("score")
    plain = scores(trained)
    more = ["--shard-objects", "30", "--json"]

    def pack(folder: str) -> dict[str, Any]:
        ended = run_command("pack", folder, *more, config=trained.settings.path)
        assert ended.returncode == 0, ended.stderr
        return dict(json.loads(ended.stdout))

    folder = f"s3://{trained.box.plan.bucket}/packed"
    first = pack(folder)
    assert (first["shards"], first["written"], first["objects"], first["missing"]) == (3, 3, 80, 0)
    assert pack(folder)["written"] == 0
    survey = {
        "catalogue": first["catalogue"],
        "uri_column": "uri",
        "endpoint_url": trained.box.urls["s3"],
    }
    trained.change(cutouts={"size": 32}, score={"part_objects": 10, "batch_size": 8}, survey=survey)
    run = trained.done("score", force=True)
    assert (run.counts["scored"], run.counts["rejected"]) == (80, 0)
    packed = scores(trained)
    assert packed.drop("uri").equals(plain.drop("uri"))
    assert packed["uri"].str.contains(r"cutouts-\w+-00000\d.tar#\d+\+\d+$").all()
    # Another survey is packed into shards of its own.
    everything = (trained.box.folder / "survey/catalogue.csv").read_text().splitlines()[1:]
    trained.change(cutouts={"size": 32})
    catalogue(trained, lambda rows: everything[5:])
    other = pack(folder)
    assert (other["written"], other["objects"]) == (3, 75)
    assert other["catalogue"] != first["catalogue"]


def test_a_catalogue_in_many_files_and_formats(trained: Any) -> None:
    """A folder of parts, one gzipped, is one survey; hidden files are none."""
    import gzip

    s3, bucket = s3_of(trained), trained.box.plan.bucket
    header, *rows = (trained.box.folder / "survey/catalogue.csv").read_text().splitlines()

    def put(name: str, rows: list[str]) -> None:
        body = "\n".join([header, *rows]).encode()
        body = gzip.compress(body) if name.endswith(".gz") else body
        s3.put_object(Bucket=bucket, Key=name, Body=body)

    put("part-1.csv.gz", rows[:30])
    put("part-2.csv", [*rows[30:], rows[0]])
    put("_index.csv", ["nothing"])
    survey = {"catalogue": f"s3://{bucket}/part-*", "endpoint_url": trained.box.urls["s3"]}
    trained.change(cutouts={"size": 32}, survey=survey)
    run = trained.done("score")
    assert run.counts == {"listed": 81, "taken_over": 0, "scored": 80, "rejected": 1}
    folder: Path = trained.ledger.newest("scores").path
    assert read_table(folder / "rejects.parquet", REJECTS)["reason"].to_pylist() == [
        "object id twice"
    ]


def test_the_catalogue_is_shown_filtered_and_written(trained: Any, tmp_path: Path) -> None:
    trained.done("score")
    rows = scores(trained)

    def shown(*words: str, code: int = 0) -> str:
        ended = run_command("scores", *words, config=trained.settings.path)
        assert ended.returncode == code, ended.stderr
        return ended.stdout + ended.stderr

    best = rows.sort(["bald", "object_id"], descending=[True, False])["object_id"]
    found = json.loads(shown("--json", "--limit", "5"))
    assert [row["object_id"] for row in found["rows"]] == best[:5].to_list()
    assert {"ra", "dec"} <= found["rows"][0].keys()
    assert found["scored"] == 80
    table = shown("--where", "mean < 0.5", "--sort", "mean DESC", "--limit", "3")
    below = rows.filter(pl.col("mean") < 0.5).sort("mean", descending=True)["object_id"]
    assert [line.split()[0] for line in table.splitlines()[2:]] == below[:3].to_list()
    one = json.loads(shown("--json", "--object", best[7], "--where", "ra >= 0"))["rows"]
    assert [row["object_id"] for row in one] == [best[7]]
    assert "zoo-bridge: The catalogue cannot be asked that" in shown("--where", "nix > 0", code=2)
    assert "Its columns are object_id" in shown("--where", "bald >", code=2)
    assert "Known endings: .csv" in shown("--out", str(tmp_path / "x.txt"), code=2)
    for ending in ("csv", "parquet", "fits", "vot"):
        path = tmp_path / f"scores.{ending}"
        assert "Wrote 80 rows" in shown("--out", str(path), "--sort", "object_id")
        if ending in ("csv", "parquet"):
            read = pl.read_csv if ending == "csv" else pl.read_parquet
            got = read(path)  # type: ignore[operator]
            assert got["object_id"].to_list() == rows["object_id"].to_list()
            assert got["bald"].to_list() == pytest.approx(rows["bald"].to_list(), rel=1e-6)
        else:
            table = Table.read(path)
            assert list(table["object_id"]) == rows["object_id"].to_list()
            assert list(table["lo"]) == pytest.approx(rows["lo"].to_list())
            assert table["ra"].dtype.kind == "f"
        if ending == "vot":
            assert "BALD" in table["bald"].description
    header = fits.getheader(tmp_path / "scores.fits", 1)
    assert "BALD" in header["TCOMM10"]
    assert header["MODEL"] == rows["model_version"][0]
    meta = pq.read_schema(tmp_path / "scores.parquet").field("bald").metadata
    assert b"BALD" in meta[b"description"]


def test_too_many_over_the_surveys_edge_end_the_run_by_name(trained: Any) -> None:
    s3, bucket = s3_of(trained), trained.box.plan.bucket
    for number in range(12):
        key = f"cutouts/ZB{number:06d}.fits"
        body = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        with fits.open(io.BytesIO(body)) as units:
            values = units[0].data.astype("f4")
            values[..., :50] = 0
            out = io.BytesIO()
            fits.PrimaryHDU(values).writeto(out)
        s3.put_object(Bucket=bucket, Key=key, Body=out.getvalue())
    run = trained.run("score", force=True)
    assert run.exit_code == 1
    assert "cutouts cannot be used, more than 10% of the survey: partial sky" in run.message
    assert "partial sky" in run.message
    assert "score.max_partial_sky_share" in run.hint
    score = {"part_objects": 10, "batch_size": 8, "max_partial_sky_share": 0.2}
    trained.change(cutouts={"size": 32}, score=score)
    run = trained.done("score", force=True)
    assert (run.counts["scored"], run.counts["rejected"]) == (68, 12)
    assert "12 rejected (12 partial sky)" in run.message
    assert trained.ledger.newest("scores").facts["rejected_by_reason"] == {"partial sky": 12}
