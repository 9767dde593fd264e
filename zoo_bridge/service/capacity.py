"""Capacity: how many cutouts a day this machine scores, what limits it, and how many keep pace."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zoo_bridge.cutouts.load import PIECE, Batch, Loader, Objects
from zoo_bridge.errors import InputError
from zoo_bridge.steps.context import Context
from zoo_bridge.steps.inputs import (
    expected_votes,
    open_model,
    open_store,
    preprocessing_of,
    read_survey,
)
from zoo_bridge.steps.scoring.recipe import FEW, workers_for
from zoo_bridge.steps.scoring.scorer import AT_ONCE, Scorer, score_batch
from zoo_bridge.steps.training.ensemble import design_of

if TYPE_CHECKING:
    from zoo_bridge.model.registry import Model

DAY = 86_400
SAMPLE = 5000


@dataclass(frozen=True)
class Need:
    """Galaxies that a survey brings, and who says so."""

    name: str
    galaxies: float
    years: float
    source: str

    @property
    def per_day(self) -> float:
        """On average."""
        return self.galaxies / (365.25 * self.years)


NEEDS = (
    Need(
        "Euclid",
        1e8,
        6,
        "galaxies with resolved morphology: Walmsley et al. 2025, arXiv:2503.15310",
    ),
    Need("Roman", 1e9, 5, "more than a billion galaxies: NASA, High-Latitude Wide-Area Survey"),
    Need("Rubin LSST", 2e10, 10, "20 billion galaxies: Ivezic et al. 2019, ApJ 873, 111"),
)


@dataclass(frozen=True)
class Capacity:
    """What was measured, in cutouts a second.

    Parameters
    ----------
    model : str
        The model in use, or what stood in for it.
    objects : int
        Size of the survey.
    workers : int
        Processes that fetched and decoded.
    fetching, ready, network, whole : float
        GETs alone; fetching and decoding; the trunk and the posterior alone; all at once.
    rejected : float
        Share of the cutouts that could not be used.
    """

    model: str
    objects: int
    workers: int
    fetching: float
    ready: float
    network: float
    whole: float
    rejected: float

    @property
    def per_day(self) -> float:
        """Cutouts a day."""
        return DAY * self.whole

    @property
    def survey_days(self) -> float:
        """Days for the whole survey."""
        return self.objects / self.per_day

    @property
    def limit(self) -> str:
        """The stage that is slowest by itself."""
        if self.network < self.ready:
            return "the network"
        return "fetching" if self.fetching < 1.3 * self.ready else "decoding"

    def machines(self, per_day: float) -> int:
        """How many such machines keep pace with so many galaxies a day."""
        return math.ceil(per_day / self.per_day)


def measure(ctx: Context, seconds: float) -> Capacity:
    """Measure this machine on the survey of the settings.

    Parameters
    ----------
    ctx : Context
        The settings and the ledger. Nothing is written but a cache of the catalogue.
    seconds : float
        How long in all; each stage gets a quarter.

    Returns
    -------
    Capacity

    Raises
    ------
    InputError
        If no cutout can be used.
    """
    store = open_store(ctx.settings)
    survey = read_survey(ctx, store)
    # Neighbours together, as the survey is read: packed ones are fetched at once.
    uris = survey.sample(SAMPLE, PIECE)
    share = seconds / 4
    ctx.say(f"fetching, {share:.0f} s")
    with ThreadPoolExecutor(store.threads) as pool:

        def fetch(start: int) -> int:
            some = [uris[(start + place) % len(uris)] for place in range(100)]
            return sum(1 for _ in store.read_many(some, pool))

        fetching = _rate(fetch, share)
    # As in a survey that is worth measuring for, however small the one at hand is.
    workers = workers_for(ctx, max(FEW, len(survey)))
    loader = Loader(
        store, preprocessing_of(ctx.settings), ctx.work / "cache", 0, workers, anew=True
    )
    size = ctx.settings.score.batch_size

    def groups() -> Iterator[Objects]:
        start = 0
        while True:
            yield [(uri, uri) for uri in (uris[(start + n) % len(uris)] for n in range(size))]
            start += size

    ctx.say(f"fetching and decoding, {share:.0f} s")
    last: list[Batch] = []
    rejected = asked = 0
    with closing(loader.batches(groups())) as batches:

        def prepare(start: int) -> int:
            nonlocal rejected, asked
            last[:] = [next(batches)]
            rejected, asked = rejected + len(last[0].rejects), asked + size
            return size

        ready = _rate(prepare, share)
    if not len(last[0].images):
        reject = last[0].rejects[0]
        raise InputError(
            f"No cutout of the sample can be used, such as {reject.uri}: {reject.reason} "
            f"({reject.detail}).",
            "Look closer with: zoo-bridge check.",
        )
    images = np.resize(last[0].images, (size, *last[0].images.shape[1:]))
    model, name = _model(ctx, images)
    votes = expected_votes(ctx)
    objects = [(str(place), "") for place in range(size)]
    ctx.say(f"the network ({name}), {share:.0f} s")
    with ThreadPoolExecutor(AT_ONCE) as pool:

        def infer(start: int) -> int:
            one = partial(score_batch, model, objects, images, votes)
            made = [pool.submit(one) for _ in range(AT_ONCE)]
            for each in made:
                each.result()
            return AT_ONCE * size

        network = _rate(infer, share)
    ctx.say(f"all at once, {share:.0f} s")
    scorer = Scorer(model, loader, votes, size)
    with closing(scorer.score_groups(groups())) as scored:

        def everything(start: int) -> int:
            next(scored)
            return size

        whole = _rate(everything, share)
    return Capacity(
        name, len(survey), workers, fetching, ready, network, whole, rejected / max(asked, 1)
    )


def _rate(work: Callable[[int], int], seconds: float) -> float:
    """Objects a second; the first call, which sets things up, does not count."""
    done = work(0)
    began, counted = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        counted += (step := work(done))
        done += step
    return counted / (time.monotonic() - began)


def _model(ctx: Context, images: NDArray[np.float32]) -> tuple[Model, str]:
    """The model in use, or networks like it that were never trained, which cost the same."""
    from zoo_bridge.model import registry
    from zoo_bridge.model.network import Network
    from zoo_bridge.model.predict import ANALYTIC

    version = ctx.ledger.model_in_use()
    if version is not None:
        return open_model(ctx.settings, version, ctx.settings.score.runtime), version
    preprocessing = preprocessing_of(ctx.settings).as_dict()
    design = design_of(ctx, images)
    networks = [Network(design, seed) for seed in range(ctx.settings.model.ensemble)]
    numbers = {"sure": 0.05, "unsure": 0.2}
    calibration = {q.name: dict.fromkeys(q.answers, numbers) for q in ctx.settings.question}
    record = registry.Record(
        "untrained",
        design.as_dict(),
        list(range(len(networks))),
        preprocessing,
        "",
        {},
        ANALYTIC,
        {},
        calibration,
        {},
        {},
        "",
    )
    name = f"{ctx.settings.model.network}, not trained yet"
    return registry.Model(networks, record, [network.features for network in networks]), name
