"""What the steps share, as the settings have it: survey, cutouts, model, labels and heads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from zoo_bridge.config import Settings
from zoo_bridge.cutouts.load import Loader
from zoo_bridge.cutouts.preprocess import Preprocessing
from zoo_bridge.cutouts.store import Store
from zoo_bridge.cutouts.survey import Source, Survey, open_survey
from zoo_bridge.files import read_json
from zoo_bridge.ledger import Artifact
from zoo_bridge.steps.context import Context
from zoo_bridge.steps.shelf import here
from zoo_bridge.tables import LABELS, read_table

if TYPE_CHECKING:
    from zoo_bridge.model.heads import Head
    from zoo_bridge.model.registry import Model

# Votes a galaxy is expected to get where neither the settings nor an export say.
DEFAULT_VOTES = 40
# Kinds of cutouts that have a limit of their own: the setting's name in [score].
LIMITED = {"partial sky": "max_partial_sky_share", "missing band": "max_missing_band_share"}


def preprocessing_of(settings: Settings) -> Preprocessing:
    """``[cutouts]`` as the cutouts room takes it."""
    return Preprocessing(**settings.cutouts.model_dump())


def open_model(settings: Settings, version: str, runtime: str = "keras") -> Model:
    """The door to a model of this project, whoever needs one.

    Parameters
    ----------
    settings : Settings
        Their ``[cutouts]`` must be what the model was made for.
    version : str
        Name of a model in ``models/``.
    runtime : str
        What turns images into features: keras, or as ``score.runtime`` has it.

    Returns
    -------
    Model

    Raises
    ------
    RefusedError
        If it was made for other preprocessing, or its features differ in this runtime.
    InputError
        If its folder is gone, or damaged.
    """
    from zoo_bridge.model import registry

    preprocessing = preprocessing_of(settings).as_dict()
    return registry.load(here(settings, f"models/{version}"), preprocessing, runtime)


def open_store(settings: Settings, signed: bool = False) -> Store:
    """The survey's store; to write there, signed even if the survey is public."""
    config = settings.survey
    return Store(
        config.endpoint_url,
        config.fetch_threads,
        anonymous=config.anonymous and not signed,
        requester_pays=config.requester_pays,
    )


def open_loader(ctx: Context, store: Store) -> Loader:
    """A loader of what is learned from: all of it is kept in the cache."""
    return Loader(store, preprocessing_of(ctx.settings), ctx.work / "cache")


def find_survey(settings: Settings, store: Store) -> Survey:
    """The survey of the settings: from its catalogue, or from a prefix."""
    config = settings.survey
    source = Source(
        config.catalogue,
        config.prefix,
        config.id_pattern,
        config.object_id_column,
        config.uri_column,
        tuple(config.missing_values),
    )
    return open_survey(store, source, settings.work / "survey")


def read_survey(ctx: Context, store: Store) -> Survey:
    """The survey of the settings; what is set aside is told."""
    survey = find_survey(ctx.settings, store)
    if survey.rejects.num_rows:
        first = survey.rejects.slice(0, 1).to_pylist()[0]
        ctx.say(
            f"{survey.rejects.num_rows} rows of the survey set aside, such as "
            f"{first['object_id'] or first['uri']}: {first['reason']}"
        )
    for name, why in survey.left_out.items():
        ctx.say(f"the survey's column {name} is left out: {why}")
    if survey.ignored:
        ctx.say(f"{survey.ignored} keys below the prefix do not match survey.id_pattern")
    return survey


def scored_survey(settings: Settings, scores: Artifact) -> Survey | None:
    """The survey that was scored, if it is still kept: the newest that has the same objects."""
    home, content = settings.work / "survey", scores.facts.get("survey_content")
    folders = [path for path in home.glob("[!.]*") if (path / "survey.json").is_file()]
    for folder in sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True):
        same = content is not None and read_json(folder / "survey.json").get("content") == content
        if same or folder.name == scores.facts.get("survey"):
            return Survey(folder)
    return None


def expected_votes(ctx: Context) -> dict[str, int]:
    """How many votes a galaxy is expected to get on each question.

    The workflow's retirement limit, times the share of volunteers who reach the question.
    """
    exports = ctx.ledger.newest("exports")
    limit = ctx.settings.score.expected_votes
    if limit is None and exports is not None:
        limit = exports.facts.get("retirement_limit")
    labels = ctx.ledger.newest("labels")
    totals: dict[str, int] = {}
    if labels is not None:
        frame = read_labels(labels)
        one_answer = frame.unique(["subject_id", "question"])
        totals = dict(one_answer.group_by("question").agg(pl.col("n").sum()).iter_rows())
    expected = {}
    for question in ctx.settings.question:
        reach = 1.0
        if question.asked_after is not None:
            before = totals.get(question.asked_after.question, 0)
            reach = min(1.0, totals.get(question.name, 0) / before) if before else 0.5
        expected[question.name] = max(1, round((limit or DEFAULT_VOTES) * reach))
    return expected


def read_labels(artifact: Artifact) -> pl.DataFrame:
    """The table of a ``labels`` artifact."""
    return pl.DataFrame(read_table(artifact.path / "labels.parquet", LABELS))


def subjects_export(ctx: Context) -> Path | None:
    """The subjects export of the last pull, if it has one."""
    exports = ctx.ledger.newest("exports")
    name = exports.facts.get("files", {}).get("subjects") if exports else None
    path = here(ctx.settings, name) if name else None
    return path if path is not None and path.is_file() else None


def heads_of(settings: Settings) -> tuple[Head, ...]:
    """What a network is to answer: the questions of the settings, in their order."""
    from zoo_bridge.model.heads import Head

    return tuple(
        Head(question.name, tuple(question.answers), question.target, question.multiple)
        for question in settings.question
    )
