"""From scores to a batch: what is planned, what refuses it, and what an administrator sees."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import polars as pl
import pytest
from PIL import Image

from tests.commands import run_command
from tests.conftest import FAST_MODEL
from zoo_bridge.errors import RefusedError, SettingsError
from zoo_bridge.steps.batches import publish, safety
from zoo_bridge.tables import BATCH, SCORES, read_table, write_table
from zoo_bridge.zooniverse import subjects
from zoo_bridge.zooniverse.session import Session

MakeProject = Callable[..., Any]
ARCSEC = 1 / 3600


@pytest.fixture
def scored(make_after: MakeProject) -> Any:
    """A project of 90 galaxies, 40 of which have votes, scored."""
    return make_after("score", {"galaxies": 90}, upload={"per_run": 40})


def configure(project: Any, **upload: Any) -> None:
    project.change(
        cutouts={"size": 32},
        model=FAST_MODEL,
        upload={"per_run": 20, **upload},
    )


def plan_of(project: Any) -> pl.DataFrame:
    batch = project.ledger.list_batches()[0]
    table = read_table(project.settings.work / batch.path / "plan.parquet", BATCH)
    return pl.DataFrame(table).sort("rank")


def targets(project: Any) -> pl.DataFrame:
    rows = pl.DataFrame(read_table(project.ledger.newest("scores").path, SCORES))
    return rows.filter("target").sort(["bald", "object_id"], descending=[True, False])


def rewrite_scores(project: Any, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    for path in project.ledger.newest("scores").path.glob("part-*.parquet"):
        frame = change(pl.read_parquet(path))
        write_table(path, frame.to_arrow().cast(SCORES), SCORES)


def test_the_plan_says_why_each_object_is_in_it_and_there_is_a_sheet_to_look_at(
    scored: Any,
) -> None:
    configure(scored)
    run = scored.run("upload", dry_run=True)
    assert run.counts == {"bald": 16, "random": 4}
    scored.done("upload")
    plan = plan_of(scored)
    assert len(plan) == 20
    uploaded = scored.ledger.list_objects()
    labelled = {row.object_id for row in uploaded} - set(plan["object_id"])
    assert not labelled & set(plan["object_id"])
    left = targets(scored).filter(~pl.col("object_id").is_in(labelled))
    drawn = plan.filter(reason="random")["object_id"].to_list()
    best = [name for name in left["object_id"] if name not in drawn][:16]
    assert plan.filter(reason="bald")["object_id"].to_list() == best
    (first,) = left.filter(object_id=best[0]).to_dicts()
    assert plan["why"][0] == (
        f"rank 1 by BALD: featured {first['mean']:.2f} ({first['lo']:.2f} to {first['hi']:.2f}), "
        f"{first['bald']:.3f} nats"
    )
    assert plan.filter(reason="random")["why"][0].startswith("drawn at random: featured")
    folder = scored.settings.work / scored.ledger.list_batches()[0].path
    with Image.open(folder / "contact-sheet.jpg") as sheet:
        assert sheet.format == "JPEG"
        assert sheet.width > 1000
    looked = json.loads((folder / "checks.json").read_text())
    assert {check["name"] for check in looked} == {
        "survey",
        *("rights", "caps", "backlog", "known subjects", "model", "information"),
        *("quota", "previews"),
    }
    assert all(check["ok"] for check in looked)
    assert "sandbox is owner of" in looked[0]["text"]


def test_the_same_seed_gives_the_same_batch_and_options_give_others(scored: Any) -> None:
    names = {}
    for name, options in {
        "plain": {},
        "again": {},
        "power": {"diversity": "power", "power": 0.5},
        "features": {"diversity": "features"},
    }.items():
        configure(scored, **options)
        # Planned and forgotten.
        kept = scored.settings.path.parent / "ledger.kept"
        ledger = Path(scored.settings.ledger_url.removeprefix("sqlite:///"))
        scored.ledger.close()
        shutil.copy(ledger, kept)
        scored.done("upload", force=True)
        names[name] = plan_of(scored)["object_id"].to_list()
        scored.ledger.close()
        shutil.copy(kept, ledger)
        with scored.box.state.write() as db:
            db.execute("DELETE FROM subject_sets WHERE id > 1")
            db.execute("DELETE FROM set_subjects WHERE subject_set_id > 1")
    assert names["plain"] == names["again"]
    assert names["plain"][-4:] == names["power"][-4:] == names["features"][-4:]
    assert set(names["power"]) != set(names["plain"])
    assert names["features"][0] == names["plain"][0]
    assert names["features"] != names["plain"]


def test_cuts_and_distances_on_the_sky(scored: Any) -> None:
    configure(scored, where="dec >= 0", min_separation_arcsec=1800.0, random_share=0.0)
    scored.done("upload", force=True)
    plan = plan_of(scored)
    assert 1 < len(plan) <= 20
    text = (scored.box.folder / "survey/catalogue.csv").read_text()
    rows = pl.read_csv(io.StringIO(text)).filter(
        pl.col("object_id").is_in(plan["object_id"].implode())
    )
    assert rows["dec"].min() >= 0
    ra, dec = np.radians(rows["ra"].to_numpy()), np.radians(rows["dec"].to_numpy())
    cosine = np.sin(dec)[:, None] * np.sin(dec) + np.cos(dec)[:, None] * np.cos(dec) * np.cos(
        ra[:, None] - ra
    )
    np.fill_diagonal(cosine, -1)
    assert np.degrees(np.arccos(np.clip(cosine.max(), -1, 1))) >= 0.5
    configure(scored, where="size < 3")
    run = scored.run("upload", force=True)
    assert run.exit_code == SettingsError.exit_code
    assert run.message.startswith("upload.where = 'size < 3' cannot be asked")


@pytest.mark.parametrize(
    ("what", "message", "hint"),
    [
        ("zero", "is between 0 and 0 nats", "dropout does not act"),
        ("one value", "is between 0.2 and 0.2 nats", "dropout does not act"),
        ("no number", "are not a number", "dropout does not act"),
        ("rights", "neither owner nor collaborator of", "make this account a collaborator"),
        ("backlog", "keep volunteers busy for", "raise upload.max_backlog_days"),
        ("dark", "20 of 20 objects cannot be shown", "correct [cutouts]"),
        ("unknown", "more than 3 subjects came since the subjects export", "run pull"),
        ("alike", "20 of 20 previews look the same", "contact-sheet.jpg"),
    ],
)
def test_what_fails_a_check_refuses_and_says_what_would_help(
    scored: Any, what: str, message: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(scored)
    before = len(scored.subjects())
    if what in ("zero", "one value", "no number"):
        value = {"zero": 0.0, "one value": 0.2, "no number": float("nan")}[what]
        rewrite_scores(scored, lambda rows: rows.with_columns(bald=pl.lit(value, pl.Float32)))
    elif what == "rights":
        with scored.box.state.write() as db:
            db.execute("UPDATE projects SET owner_id = 99")
    elif what == "backlog":
        configure(scored, max_backlog_days=0.01)
        with scored.box.state.write() as db:
            db.execute("UPDATE statuses SET retired_at = NULL")
    elif what == "unknown":
        monkeypatch.setattr(safety, "MOST_NEWER", 3)
        upload_by_hand(scored, *(f"ZB{n:06d}" for n in range(4)))
        before = len(scored.subjects())
    else:
        survey = scored.box.folder / "survey" / "cutouts"
        one = (survey / "ZB000001.fits").read_bytes() if what == "alike" else b""
        s3 = boto3.client("s3", endpoint_url=scored.box.urls["s3"], region_name="us-east-1")
        for path in survey.iterdir():
            s3.put_object(Bucket=scored.box.plan.bucket, Key=f"cutouts/{path.name}", Body=one)
    run = scored.run("upload")
    assert (run.outcome, run.exit_code) == ("refused", RefusedError.exit_code)
    assert message in run.message
    assert hint in run.hint
    assert len(scored.subjects()) == before
    assert len(scored.ledger.list_batches()) == 1


def upload_by_hand(project: Any, *names: str, set_id: str | None = None) -> list[int]:
    """Subjects that somebody makes with another program, into a set of their own."""
    session = Session.of(project.settings)
    if set_id is None:
        set_id = subjects.create_set(session, 1, f"by hand {names[0]}", "another program's")
    made = [
        subjects.create(session, 1, set_id, {"#zoo_bridge_id": name}, ["image/jpeg"])
        for name in names
    ]
    picture = subjects.Picture(b"a galaxy", "image/jpeg")
    with subjects.Pictures(1, 5, 0.01) as pictures:
        for each in made:
            assert pictures.put(each.urls, [picture]).result() == ""
    return [int(each.subject_id) for each in made]


def with_one_by_hand(make_project: MakeProject) -> tuple[Any, str]:
    """A project with votes, to which somebody uploaded an object by hand, as subject 500.

    It goes by a key that the settings know, and nobody has voted on it yet.
    """
    project = make_project({"galaxies": 16}, upload={"per_run": 4})
    project.done("upload")
    project.show()
    uploaded = {row.object_id for row in project.ledger.list_objects()}
    name = next(f"ZB{n:06d}" for n in range(16) if f"ZB{n:06d}" not in uploaded)
    with project.box.state.write() as db:
        db.execute(
            "INSERT INTO subjects (id, project_id, uploader_id, metadata, locations, created_at,"
            " updated_at) SELECT 500, 1, 1, ?, locations, created_at, updated_at FROM subjects"
            " LIMIT 1",
            (json.dumps({"!objid": name}),),
        )
        db.execute(
            "INSERT INTO subject_sets (id, project_id, display_name, metadata, created_at,"
            " updated_at) VALUES (90, 1, 'by hand', '{}', '2020-01-01T00:00:00.000Z',"
            " '2020-01-01T00:00:00.000Z')"
        )
        db.execute("INSERT INTO set_subjects (subject_set_id, subject_id) VALUES (90, 500)")
    project.done("pull")
    project.change(cutouts={"size": 32}, upload={"per_run": 12})
    return project, name


def members(project: Any) -> list[int]:
    """Of the newest batch's set."""
    batch = project.ledger.list_batches()[0]
    rows = project.box.state.all(
        "SELECT subject_id FROM set_subjects WHERE subject_set_id = ?", (batch.subject_set_id,)
    )
    return [row["subject_id"] for row in rows]


def test_an_object_that_is_a_subject_already_is_linked_and_not_made_again(
    make_project: MakeProject,
) -> None:
    project, name = with_one_by_hand(make_project)
    counts = project.done("upload", force=True).counts
    assert (counts["created"], counts["linked"]) == (11, 1)
    (row,) = plan_of(project).filter(object_id=name).to_dicts()
    assert (row["action"], row["subject_id"]) == ("link", 500)
    assert "is subject 500 already" in row["why"]
    assert project.ledger.list_batches()[0].size == 12
    assert len(members(project)) == 12
    assert 500 in members(project)


@pytest.mark.parametrize(
    "when", ["between the file and the pull", "into an old set", "by creates alone"]
)
def test_what_others_uploaded_after_the_export_was_written_is_linked(
    make_project: MakeProject, when: str
) -> None:
    """The pull may be of today, and the file of last night: what came since is read."""
    project = make_project({"galaxies": 16}, upload={"per_run": 4})
    project.done("upload")
    project.show()
    old = upload_by_hand(project, "ZBold")
    old_set = project.box.state.one("SELECT * FROM set_subjects WHERE subject_id = ?", (old[0],))[
        "subject_set_id"
    ]
    project.done("pull")
    project.box.state.advance(3600)
    uploaded = {row.object_id for row in project.ledger.list_objects()}
    left = [f"ZB{n:06d}" for n in range(16) if f"ZB{n:06d}" not in uploaded]
    made = upload_by_hand(project, *left[:2], set_id=str(old_set) if "old" in when else None)
    if when == "between the file and the pull":
        # Nothing new is made within the day: the pull is later than the subjects, the file is not.
        project.done("pull", force=True)
    if when == "by creates alone":
        project.box.state.advance(3600)
        rows = project.box.state.all("SELECT member_count FROM subject_sets ORDER BY id DESC")
        assert rows[0]["member_count"] == 0
    project.change(cutouts={"size": 32}, upload={"per_run": 12})
    counts = project.done("upload", force=True).counts
    assert (counts["created"], counts["linked"]) == (10, 2)
    assert set(made) <= set(members(project))
    assert all(len(rows) == 1 for rows in project.subjects().values())


@pytest.mark.parametrize("fault", ["no picture", "deleted"])
def test_what_others_uploaded_and_cannot_be_seen_is_skipped(
    make_project: MakeProject, fault: str
) -> None:
    project, _ = with_one_by_hand(make_project)
    gone = json.dumps([{"mime": "image/jpeg", "path": "gone.jpg"}])
    with project.box.state.write() as db:
        if fault == "deleted":
            db.execute("DELETE FROM set_subjects WHERE subject_id = 500")
            db.execute("DELETE FROM subjects WHERE id = 500")
        else:
            db.execute("UPDATE subjects SET locations = ? WHERE id = 500", (gone,))
    counts = project.done("upload", force=True).counts
    assert (counts["created"], counts["linked"], counts["skipped"]) == (11, 0, 1)
    assert len(members(project)) == 11
    batch = project.ledger.list_batches()[0]
    publish.publish(project.context, batch.name)


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_a_second_frame_and_either_format(make_project: MakeProject, kind: str) -> None:
    project = make_project(
        {"galaxies": 5},
        upload={
            "per_run": 3,
            "preview_format": kind,
            "second_frame": {"stretch": "linear", "crop": 0.5},
            "metadata_columns": ["#ra", "!dec"],
        },
    )
    project.done("upload")
    media = project.box.folder / "panoptes" / "media"
    subjects = project.subjects()
    assert len(subjects) == 3
    for (row,) in subjects.values():
        metadata = json.loads(row["metadata"])
        assert set(metadata) == {"#zoo_bridge_id", "#ra", "!dec"}
        places = json.loads(row["locations"])
        assert [place["mime"] for place in places] == [f"image/{kind}"] * 2
        files = [(media / place["path"].rpartition("/")[2]).read_bytes() for place in places]
        assert files[0] != files[1]
        for data in files:
            with Image.open(io.BytesIO(data)) as image:
                assert (image.format, image.size) == (kind.upper(), (424, 424))


def test_batches_show_how_far_volunteers_are(scored: Any) -> None:
    configure(scored)
    scored.done("upload")

    def shown(*words: str) -> Any:
        ended = run_command("batches", *words, config=scored.settings.path)
        ended.check_returncode()
        return ended

    new, first = json.loads(shown("--json").stdout)
    assert (first["state"], first["size"], first["retired"]) == ("published", 40, 1.0)
    assert first["votes"] >= 40 * 12
    assert first["days_left"] == 0
    assert (new["state"], new["votes"]) == ("staged", None)
    assert json.loads(shown("--json", "--offline").stdout)[1]["votes"] is None
    table = shown().stdout
    assert "published" in table
    history = json.loads(shown("--history", "--json").stdout)
    what = ["planned", "set made", "staged", "published", "planned", "set made", "staged"]
    assert [row["what"] for row in history] == what
    assert history[3]["who"] == "sandbox"
    scored.fault(path="subject_workflow_statuses", what="status", status=403, times=None)
    assert "Votes are not known" in shown().stderr


def test_a_collaborator_may_upload_and_sets_have_names_of_their_own(
    make_project: MakeProject,
) -> None:
    project = make_project({"galaxies": 10}, upload={"per_run": 4})
    with project.box.state.write() as db:
        db.execute("UPDATE projects SET owner_id = 99")
        db.execute("INSERT INTO collaborators SELECT 1, id FROM users WHERE login = 'sandbox'")
    batch = project.done("upload").artifact
    (made,) = project.box.state.all("SELECT * FROM subject_sets")
    day = project.ledger.list_batches()[0].created_at[:10]
    assert made["display_name"] == f"zoo_bridge Sandbox Galaxies {day} {batch}"
    assert project.box.state.all("SELECT * FROM workflow_sets") == []


def test_what_is_labelled_enough_or_was_rejected_is_left_out(scored: Any) -> None:
    # As if others had uploaded them: the ledger knows nothing of those with votes.
    with scored.ledger.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM objects")
        connection.exec_driver_sql("DELETE FROM batches")
    labels = pl.read_parquet(scored.ledger.newest("labels").path / "labels.parquet")
    enough = set(labels.filter(pl.col("n") >= 12)["object_id"])
    assert len(enough) == 40
    gone = targets(scored)["object_id"][0]
    rewrite_scores(scored, lambda rows: rows.filter(pl.col("object_id") != gone))
    configure(scored, per_run=90, enough_votes=12)
    scored.done("upload")
    chosen = set(plan_of(scored)["object_id"])
    assert chosen == {f"ZB{n:06d}" for n in range(90)} - enough - {gone}
