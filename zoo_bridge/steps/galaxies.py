"""What retrain, score and upload share: the survey and its cutouts."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from zoo_bridge.config import Settings
from zoo_bridge.cutouts.load import Loader
from zoo_bridge.cutouts.preprocess import Preprocessing
from zoo_bridge.cutouts.store import Store
from zoo_bridge.cutouts.survey import list_prefix, read_catalogue
from zoo_bridge.steps.context import Context


def preprocessing(settings: Settings) -> Preprocessing:
    """``[cutouts]`` as the cutouts room takes it."""
    return Preprocessing(**settings.cutouts.model_dump())


def open_store(settings: Settings) -> Store:
    """The survey's store."""
    return Store(settings.survey.endpoint_url, settings.score.fetch_threads)


def open_loader(ctx: Context, store: Store) -> Loader:
    """A loader with the run's cache."""
    return Loader(store, preprocessing(ctx.settings), ctx.work / "cache")


@dataclass(frozen=True)
class Survey:
    """The survey's objects and what was set aside of its catalogue."""

    table: pa.Table
    rejects: pa.Table

    @property
    def objects(self) -> list[tuple[str, str]]:
        """(object_id, uri) of every object, sorted by id."""
        names = self.table["object_id"].to_pylist()
        return list(zip(names, self.table["uri"].to_pylist(), strict=True))


def find_survey(settings: Settings, store: Store) -> Survey:
    """The survey of the settings: from its catalogue, or from a prefix."""
    config = settings.survey
    if config.catalogue is not None:
        columns = config.object_id_column, config.uri_column
        return Survey(*read_catalogue(store, config.catalogue, *columns))
    assert config.prefix is not None
    assert config.id_pattern is not None
    return Survey(*list_prefix(store, config.prefix, config.id_pattern))


def read_survey(ctx: Context, store: Store) -> Survey:
    """The survey of the settings; what is set aside is told."""
    survey = find_survey(ctx.settings, store)
    if survey.rejects.num_rows:
        first = survey.rejects.slice(0, 1).to_pylist()[0]
        ctx.say(
            f"{survey.rejects.num_rows} rows of the survey set aside, such as "
            f"{first['object_id'] or first['uri']}: {first['reason']}"
        )
    return survey
