"""What retrain, score and upload share: the survey, the cutouts and the posterior of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zoo_bridge.acquisition import information
from zoo_bridge.config import Settings
from zoo_bridge.cutouts.load import Loader
from zoo_bridge.cutouts.preprocess import Preprocessing
from zoo_bridge.cutouts.store import Store
from zoo_bridge.cutouts.survey import list_prefix, read_catalogue
from zoo_bridge.steps.context import Context

Array = NDArray[np.floating[Any]]


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


@dataclass(frozen=True)
class Nodes:
    """A network's posterior for some galaxies, one question: logits (N, J) and weights (J,)."""

    logit_NJ: Array
    weight_J: Array

    def log_p(self, k: Sequence[int] | NDArray[np.int64], n: NDArray[np.int64]) -> Array:
        """The log-probability of the votes that came: shape (N,)."""
        return self._by_n(np.asarray(k), n, lambda p, kk: np.log(p[np.arange(len(kk)), kk]))

    def inside(self, k: NDArray[np.int64], n: NDArray[np.int64], level: float) -> NDArray[np.bool_]:
        """Whether k fell into the credible interval: shape (N,)."""

        def within(p_NK: Array, kk: NDArray[np.int64]) -> Array:
            low, high = information.interval(p_NK, level)
            return ((kk >= low) & (kk <= high)).astype(float)

        return self._by_n(k, n, within) > 0.5

    def _by_n(self, k: NDArray[np.int64], n: NDArray[np.int64], what: Any) -> Array:
        """Work on galaxies with the same number of votes together."""
        out = np.empty(len(k))
        for votes in np.unique(n):
            at = np.flatnonzero(n == votes)
            p_NK = information.predictive(self.logit_NJ[at], self.weight_J, int(votes))
            out[at] = what(p_NK, k[at])
        return out

    @property
    def mean(self) -> Array:
        """The expected fraction: shape (N,)."""
        return information.mean_fraction(self.logit_NJ, self.weight_J)


def analytic(mean_N: Array, spread_N: Array) -> Nodes:
    """The posterior over all dropout masks, from the logit's mean and spread."""
    return Nodes(*information.normal_nodes(mean_N, spread_N))


def single(mean_N: Array) -> Nodes:
    """One network without dropout: what the posterior is compared with."""
    return Nodes(np.asarray(mean_N)[:, None], np.ones(1))
