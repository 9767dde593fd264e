"""A project from Python: what a notebook shows is what the files and the commands say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import matplotlib.image
import numpy as np
import polars as pl
import pytest

import zoo_bridge
from zoo_bridge.cutouts.preprocess import preprocess
from zoo_bridge.errors import InputError, NotReadyError, SettingsError
from zoo_bridge.steps.inputs import open_store, preprocessing_of

MakeProject = Callable[..., Any]


@pytest.fixture
def scored(make_after: MakeProject) -> Any:
    return make_after("score")


def test_tables_are_those_of_the_files(scored: Any) -> None:
    with zoo_bridge.open(scored.settings.path) as project:
        assert "sandbox/galaxies" in repr(project)
        folder = scored.ledger.newest("labels").path
        written = pl.read_parquet(folder / "labels.parquet")
        labels = project.labels()
        assert len(labels) == len(written)
        assert int(labels.k.sum()) == written["k"].sum()
        assert labels.attrs["units"]["k"] == "volunteers"
        assert labels.attrs["descriptions"]["n"] == "Volunteers who answered the question"
        # Votes of one object, by another road: plain filters of the files.
        name = labels.object_id[0]
        subjects = written.filter(object_id=name)["subject_id"].unique().to_list()
        votes = pl.read_parquet(folder / "votes.parquet").filter(
            pl.col("subject_id").is_in(subjects)
        )
        assert sorted(project.votes(name).classification_id) == sorted(votes["classification_id"])
        assert len(project.votes()) >= len(votes) > 0
        with pytest.raises(InputError, match="no labels"):
            project.votes("nothing")
        parts = pl.read_parquet(scored.ledger.newest("scores").path / "part-*.parquet")
        scores = project.scores()
        assert sorted(scores.object_id) == sorted(parts.filter("target")["object_id"])
        assert scores.bald.is_monotonic_decreasing
        assert scores.attrs["model"] == scored.ledger.model_in_use()
        assert scores.attrs["units"]["bald"] == "nats"
        assert len(project.scores(all_answers=True)) == len(parts)
        half = float(parts.filter("target")["mean"].median())
        few = project.scores(where=f"mean > {half}", sort="mean", limit=5)
        assert len(few) == 5
        assert (few["mean"] > half).all()
        with pytest.raises(SettingsError):
            project.scores(where="no such column = 1")
        assert project.models().in_use.tolist() == [True]
        assert project.models().rmse[0] > 0
        assert project.runs().job.tolist() == [run.job for run in scored.ledger.list_runs(limit=99)]
        assert project.runs().started_at.dt.tz is not None
        assert project.batches().state.tolist() == ["published"]
        assert list(project.rejects().columns) == ["by", "object_id", "uri", "reason", "detail"]


def test_a_cutout_and_a_posterior_are_those_of_the_catalogue(scored: Any) -> None:
    with zoo_bridge.open(scored.settings.path) as project:
        row = project.scores(limit=1).iloc[0]
        image = project.cutout(row.object_id)
        data = open_store(scored.settings).read(row.uri)
        assert data is not None
        # Kept as 16-bit numbers.
        expected = preprocess(data, preprocessing_of(scored.settings)).astype(np.float16)
        np.testing.assert_array_equal(image, expected.astype(np.float32))
        with pytest.raises(InputError, match="not in the survey"):
            project.cutout("nothing")
        said = project.posterior(row.object_id)
        assert said.n == row.n_expected
        assert said.p.index.tolist() == list(range(said.n + 1))
        assert said.p.sum() == pytest.approx(1, abs=1e-6)
        assert said.mean == pytest.approx(row["mean"], abs=1e-5)
        assert (said.lo, said.hi) == pytest.approx((row.lo, row.hi), abs=1e-6)
        assert said.bald == pytest.approx(row.bald, abs=1e-5)
        # The mean of the counts, another road to the mean.
        assert (said.p.index * said.p).sum() / said.n == pytest.approx(said.mean, abs=1e-3)
        assert said.networks.shape == (30, said.n + 1)
        np.testing.assert_allclose(said.networks.sum(axis=1), 1, atol=1e-6)
        answers = [project.posterior(row.object_id, answer=each) for each in ("smooth", "artifact")]
        assert said.mean + sum(each.mean for each in answers) == pytest.approx(1, abs=1e-6)
        assert len(project.posterior(row.object_id, n=5).p) == 6
        path = scored.settings.work / "posterior.png"
        path.write_bytes(said._repr_png_())
        assert matplotlib.image.imread(path).shape[1] > 400
        for wrong in ({"question": "none"}, {"answer": "none"}):
            with pytest.raises(SettingsError, match="none"):
                project.posterior(row.object_id, **wrong)


def test_votes_stand_beside_a_posterior(scored: Any) -> None:
    with zoo_bridge.open(scored.settings.path) as project:
        labels = project.labels().query("answer == 'featured'").iloc[0]
        said = project.posterior(labels.object_id)
        assert (said.k, said.n_votes) == (labels.k, labels.n)


def test_only_a_posterior_loads_tensorflow(scored: Any) -> None:
    code = (
        "import sys, json, zoo_bridge\n"
        f"p = zoo_bridge.open({str(scored.settings.path)!r})\n"
        "name = p.scores().object_id[0]\n"
        "p.labels(), p.votes(name), p.models(), p.runs(), p.batches(), p.rejects()\n"
        "p.cutout(name)\n"
        "before = 'tensorflow' in sys.modules\n"
        "p.posterior(name)\n"
        "print(json.dumps([before, 'tensorflow' in sys.modules]))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout) == [False, True]


def test_what_is_not_there_yet_says_what_to_do(project: Any) -> None:
    with zoo_bridge.open(project.settings.path) as opened:
        for table in (opened.labels, opened.votes, opened.scores):
            with pytest.raises(NotReadyError, match="yet"):
                table()
        for empty in (opened.models, opened.runs, opened.batches, opened.rejects):
            assert len(empty()) == 0
        name = opened._survey.sample_objects(1)[0][0]
        assert opened.cutout(name).shape == (32, 32, 1)
        with pytest.raises(NotReadyError, match="No model is in use"):
            opened.posterior(name)
