"""A project from Python, to be looked at: tables as pandas has them, cutouts, posteriors.

What is here only reads. TensorFlow is loaded by `Project.posterior` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
import polars as pl
from numpy.typing import NDArray

from zoo_bridge import tables
from zoo_bridge.acquisition.information import interval
from zoo_bridge.config import Settings, load
from zoo_bridge.cutouts.load import Loader
from zoo_bridge.errors import InputError, NotReadyError, SettingsError
from zoo_bridge.ledger import Artifact, Ledger
from zoo_bridge.service.rejects import find_rejects
from zoo_bridge.service.scores import MEANINGS, Wanted
from zoo_bridge.steps.context import Context
from zoo_bridge.steps.inputs import (
    expected_votes,
    find_survey,
    open_model,
    open_store,
    preprocessing_of,
    read_labels,
    scored_survey,
)
from zoo_bridge.steps.scoring import catalogue
from zoo_bridge.steps.scoring.scorer import CREDIBLE
from zoo_bridge.steps.shelf import open_ledger
from zoo_bridge.tables import VOTES, read_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from zoo_bridge.cutouts.survey import Survey
    from zoo_bridge.model.registry import Model

UNITS = {
    "bald": "nats",
    "log_likelihood": "nats a galaxy",
    "k": "volunteers",
    "n": "volunteers",
    "n_expected": "volunteers",
}


@dataclass(frozen=True)
class GalaxyPosterior:
    """What the model in use says of one galaxy: p(k of n volunteers give an answer).

    Parameters
    ----------
    object_id : str
        Its id in the survey.
    question, answer : str
        What volunteers are asked, and the answer that k counts.
    p : pandas.Series
        The probability of each k from 0 to n, calibrated.
    mean : float
        The expected share of volunteers who give the answer.
    lo, hi : float
        The central 90 % credible interval of k/n.
    bald : float
        Mutual information of k and the networks, in nats.
    k, n_votes : int or None
        Votes that the galaxy has; None if it has none on the question.
    networks : ndarray, shape (T, n + 1)
        What single networks, drawn by dropout, say of k; not calibrated.
    image : ndarray, shape (size, size, channels)
        As the networks see it, 0 to 1.
    """

    object_id: str
    question: str
    answer: str
    p: pd.Series[float]
    mean: float
    lo: float
    hi: float
    bald: float
    k: int | None
    n_votes: int | None
    networks: NDArray[Any]
    image: NDArray[np.float32]

    @property
    def n(self) -> int:
        """Volunteers whose answers are predicted."""
        return len(self.p) - 1

    def figure(self) -> Figure:
        """The image, the posterior, single networks in grey, and the votes, scaled to n."""
        from zoo_bridge.report.figures import Galaxy, draw_prediction

        votes = None
        if self.k is not None and self.n_votes:
            votes = round(self.k / self.n_votes * self.n)
        shown = Galaxy(self.object_id, self.image.squeeze(), self.networks, votes, self.bald)
        ends = round(self.lo * self.n), round(self.hi * self.n)
        return draw_prediction(shown, self.p.to_numpy(), self.answer, ends)

    def _repr_png_(self) -> bytes:
        from zoo_bridge.report.figures import to_png

        return to_png(self.figure())


class Project:
    """A project, opened to be looked at; see `zoo_bridge.open`.

    Parameters
    ----------
    settings : Settings
        Of the project.
    ledger : Ledger
        What was run, and what came of it.
    """

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self.settings = settings
        self.ledger = ledger
        self._models: dict[str, Model] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the ledger."""
        self.ledger.close()

    def __repr__(self) -> str:
        project = self.settings.project
        model = self.ledger.model_in_use() or "none yet"
        return f"<zoo_bridge project {project.slug}, workflow {project.workflow}, model {model}>"

    # tables

    def labels(self) -> pd.DataFrame:
        """The newest labels: a row for each answer of each question of a subject.

        Returns
        -------
        pandas.DataFrame
            subject_id, object_id, question, answer, k and n; of what each means, and in which
            units, ``attrs`` tells.
        """
        frame = read_labels(self._newest("labels", "aggregate"))
        return _with_attrs(frame.to_pandas(), {}, tables.MEANINGS["labels"])

    def votes(self, object_id: str | None = None) -> pd.DataFrame:
        """The votes that the newest labels are counted from.

        Parameters
        ----------
        object_id : str, optional
            Only those on this object.

        Returns
        -------
        pandas.DataFrame
            classification_id, created_at, workflow_version, user_key, subject_id, question, answer.

        Raises
        ------
        InputError
            If the object has no labels.
        """
        artifact = self._newest("labels", "aggregate")
        votes = pl.DataFrame(read_table(artifact.path / "votes.parquet", VOTES))
        if object_id is not None:
            subjects = read_labels(artifact).filter(object_id=object_id)["subject_id"].unique()
            if not len(subjects):
                raise InputError(
                    f"{object_id} has no labels in {artifact.name}.",
                    "Object ids are those of the survey: see labels().",
                )
            votes = votes.filter(pl.col("subject_id").is_in(subjects.implode()))
        return _with_attrs(votes.to_pandas(), {}, tables.MEANINGS["votes"])

    def scores(
        self,
        where: str = "",
        sort: str = "bald DESC, object_id",
        limit: int | None = None,
        question: str | None = None,
        all_answers: bool = False,
    ) -> pd.DataFrame:
        """The newest catalogue, with the survey's own columns.

        Parameters
        ----------
        where : str
            SQL over all columns, such as ``bald > 0.1 AND magnitude < 20``.
        sort : str
            SQL, such as ``mean DESC``.
        limit : int, optional
            Rows at most; without it all that there are, which must fit into memory.
        question : str, optional
            Only this one.
        all_answers : bool
            Every answer, not the target of each question alone.

        Returns
        -------
        pandas.DataFrame
            ``attrs`` has the units and descriptions, the scores' name and the model.
        """
        scores = self._newest("scores", "score")
        survey = scored_survey(self.settings, scores)
        wanted = Wanted(where, sort, limit, (), question, all_answers)
        with catalogue.query(
            scores.path, survey, wanted.sql, wanted.order, wanted.limit, everything=True
        ) as reader:
            frame = reader.read_all().to_pandas()
        meanings = MEANINGS | (survey.meanings if survey else {})
        units = {name: each["unit"] for name, each in meanings.items() if each.get("unit")}
        told = {name: each.get("description", "") for name, each in meanings.items()}
        frame = _with_attrs(frame, units, told)
        frame.attrs |= {"scores": scores.name, "model": scores.facts["model"]}
        return frame

    def models(self) -> pd.DataFrame:
        """Every model and question: how it does on held-out galaxies, and which is in use."""
        in_use = self.ledger.model_in_use()
        rows = [
            {
                "version": artifact.name,
                "in_use": artifact.name == in_use,
                "created_at": artifact.created_at,
                "question": question,
                "trained_on": artifact.facts["training"]["galaxies"],
                **metrics,
                "gate": artifact.facts["verdict"],
            }
            for artifact in self.ledger.list_artifacts("model")
            for question, metrics in artifact.facts["metrics"].items()
        ]
        return _with_attrs(_in_time(pd.DataFrame(rows), "created_at"))

    def runs(self, limit: int = 1000) -> pd.DataFrame:
        """The last runs, newest first: outcome, counts, warnings, who started them.

        Parameters
        ----------
        limit : int
            Runs at most.
        """
        rows = [asdict(run) for run in self.ledger.list_runs(limit=limit)]
        return _with_attrs(_in_time(pd.DataFrame(rows), "started_at", "ended_at"))

    def batches(self) -> pd.DataFrame:
        """Every batch, newest first, as the ledger knows it; Zooniverse is not asked."""
        rows = [asdict(batch) for batch in self.ledger.list_batches()]
        return _with_attrs(_in_time(pd.DataFrame(rows), "created_at", "published_at"))

    def rejects(self) -> pd.DataFrame:
        """What the newest labels and scores set aside: rows, cutouts, and why."""
        return _with_attrs(find_rejects(self.ledger).to_pandas(), {}, tables.MEANINGS["rejects"])

    # galaxies

    def cutout(self, object_id: str) -> NDArray[np.float32]:
        """A galaxy as the network sees it.

        Parameters
        ----------
        object_id : str
            Of the survey.

        Returns
        -------
        ndarray, shape (size, size, channels), float32
            0 to 1.

        Raises
        ------
        InputError
            If it is not in the survey, or its cutout cannot be used: why.
        """
        found = self._survey.find([object_id])
        if not len(found):
            raise InputError(
                f"{object_id} is not in the survey.",
                "Object ids are those of survey.object_id_column.",
            )
        store = open_store(self.settings)
        loader = Loader(store, preprocessing_of(self.settings), self.settings.work / "cache")
        batch = loader.load([(object_id, found["uri"][0])])
        if batch.rejects:
            reject = batch.rejects[0]
            raise InputError(
                f"The cutout of {object_id}, {reject.uri}, cannot be used: {reject.reason} "
                f"({reject.detail}).",
                "Look at some: zoo-bridge check --pictures FOLDER.",
            )
        image: NDArray[np.float32] = batch.images[0]
        return image

    def posterior(
        self,
        object_id: str,
        question: str | None = None,
        answer: str | None = None,
        n: int | None = None,
    ) -> GalaxyPosterior:
        """What the model in use says of a galaxy's votes. Loads TensorFlow.

        Parameters
        ----------
        object_id : str
            Of the survey.
        question : str, optional
            By default the first of the settings.
        answer : str, optional
            By default the question's target.
        n : int, optional
            Volunteers; by default as many as the catalogue's scores are for.

        Returns
        -------
        GalaxyPosterior
            A notebook shows its figure.

        Raises
        ------
        NotReadyError
            If no model is in use.
        SettingsError
            If there is no such question or answer.
        """
        place, answer = self._asked(question, answer)
        asked = self.settings.question[place]
        version = self.ledger.model_in_use()
        if version is None:
            raise NotReadyError("No model is in use.", "Train one with: zoo-bridge run retrain.")
        image = self.cutout(object_id)
        from zoo_bridge.model.predict import (
            FIGURE_NETWORKS,
            features_as_kept,
            predict,
            sampled_votes,
        )

        if version not in self._models:
            runtime = self.settings.score.runtime
            self._models[version] = open_model(self.settings, version, runtime)
        model = self._models[version]
        n = n or expected_votes(self._context)[asked.name]
        features = features_as_kept(model, image[None])
        said = predict(model, features, place, n)[answer]
        drawn = sampled_votes(model, features, place, answer, n, FIGURE_NETWORKS)
        low, high = interval(said.p_NK, CREDIBLE)
        counts = pd.RangeIndex(n + 1, name="k")
        k, n_votes = self._votes_of(object_id, asked.name, answer)
        return GalaxyPosterior(
            object_id,
            asked.name,
            answer,
            pd.Series(said.p_NK[0], index=counts, name=f"p(k of {n} say {answer})"),
            float(said.mean_N[0]),
            float(low[0] / n),
            float(high[0] / n),
            float(said.bald_N[0]),
            k,
            n_votes,
            drawn[0],
            image,
        )

    # helpers

    def _asked(self, question: str | None, answer: str | None) -> tuple[int, str]:
        names = [each.name for each in self.settings.question]
        name = question or names[0]
        if name not in names:
            raise SettingsError(f"There is no question {name}.", f"Questions: {', '.join(names)}.")
        asked = self.settings.question[names.index(name)]
        answer = answer or asked.target
        if answer not in asked.answers:
            raise SettingsError(
                f"{name} has no answer {answer}.", f"Answers: {', '.join(asked.answers)}."
            )
        return names.index(name), answer

    def _votes_of(
        self, object_id: str, question: str, answer: str
    ) -> tuple[int, int] | tuple[None, None]:
        """k and n of an object, over all of its subjects."""
        artifact = self.ledger.newest("labels")
        if artifact is None:
            return None, None
        rows = read_labels(artifact).filter(object_id=object_id, question=question, answer=answer)
        n = int(rows["n"].sum())
        return (int(rows["k"].sum()), n) if n else (None, None)

    def _newest(self, kind: str, job: str) -> Artifact:
        artifact = self.ledger.newest(kind)
        if artifact is None:
            raise NotReadyError(f"There are no {kind} yet.", f"Make them: zoo-bridge run {job}.")
        return artifact

    @cached_property
    def _survey(self) -> Survey:
        """The survey that was scored, as it is kept; before that, as it is now."""
        scores = self.ledger.newest("scores")
        kept = scored_survey(self.settings, scores) if scores else None
        return kept or find_survey(self.settings, open_store(self.settings))

    @property
    def _context(self) -> Context:
        return Context.reading(self.settings, self.ledger, "notebook")


def _in_time(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Times of the ledger's ISO text as times."""
    for name in columns:
        if name in frame:
            frame[name] = pd.to_datetime(frame[name], utc=True, format="ISO8601")
    return frame


def _with_attrs(
    frame: pd.DataFrame,
    units: dict[str, str] | None = None,
    descriptions: dict[str, str] | None = None,
) -> pd.DataFrame:
    known = UNITS | (units or {})
    told = descriptions or {}
    frame.attrs["units"] = {name: known[name] for name in frame.columns if name in known}
    frame.attrs["descriptions"] = {name: told[name] for name in frame.columns if told.get(name)}
    return frame


def open_project(path: str | Path = "zoo_bridge.toml") -> Project:
    """Open a project by its settings file; see `zoo_bridge.open`."""
    settings = load(path)
    return Project(settings, open_ledger(settings))


__all__: Sequence[str] = ("GalaxyPosterior", "Project", "open_project")
