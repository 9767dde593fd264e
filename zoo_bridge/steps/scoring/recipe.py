"""How a survey is scored: what every process, here or on a cluster, has to know."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from zoo_bridge.cutouts.load import Loader
from zoo_bridge.cutouts.preprocess import Preprocessing
from zoo_bridge.cutouts.store import Store
from zoo_bridge.errors import RefusedError
from zoo_bridge.model.heads import Head
from zoo_bridge.model.predict import features_of
from zoo_bridge.steps.context import Context
from zoo_bridge.steps.inputs import heads_of, open_store, preprocessing_of
from zoo_bridge.steps.scoring.features import Kept
from zoo_bridge.steps.scoring.scorer import Scorer
from zoo_bridge.steps.scoring.task import Task
from zoo_bridge.steps.shelf import Shelf, here, shelf_of

if TYPE_CHECKING:
    from zoo_bridge.model.record import Reader
    from zoo_bridge.model.registry import Model


M = TypeVar("M", "Model", "Reader")
# Below so many objects, processes cost more to start than they save.
FEW = 4000
MOST_WORKERS = 32


def recipe_for(ctx: Context, task: Task, objects: int) -> Recipe:
    """How so many objects are scored with these settings, on this machine."""
    config = ctx.settings.score
    return Recipe(
        here(ctx.settings, f"models/{task.version}"),
        preprocessing_of(ctx.settings),
        config.runtime,
        heads_of(ctx.settings),
        task.expected,
        config.batch_size,
        open_store(ctx.settings).settings,
        workers_for(ctx, objects),
        ctx.work / "cache",
        round(config.cache_gib * 2**30),
        ctx.options.force,
        shelf.arguments if (shelf := shelf_of(ctx.settings)) else None,
        task.kept(ctx).folder,
        ctx.tag,
    )


def workers_for(ctx: Context, objects: int) -> int:
    """Processes that fetch and decode so many objects; 0 for threads of this one."""
    if ctx.settings.score.workers is not None:
        return ctx.settings.score.workers
    if objects < FEW:
        return 0
    return max(1, min(len(os.sched_getaffinity(0)) - 1, MOST_WORKERS))


@dataclass(frozen=True)
class Recipe:
    """All that a process needs to score parts, on this machine or on another one.

    Parameters
    ----------
    model : Path
        The model's folder.
    preprocessing : Preprocessing
        That the model must have been made for.
    runtime : str
        keras, openvino or onnxruntime, as ``score.runtime`` has it.
    questions : tuple of Head
        What the model must have learned to answer.
    expected : dict
        Votes that a galaxy is expected to get, by question.
    batch_size : int
        Galaxies that go through the networks at once.
    store : tuple
        `Store.settings` of where cutouts are.
    workers : int
        Processes that fetch and decode; 0 for threads of this one.
    cache : Path or None
        Where prepared cutouts are kept, if they are.
    cache_bytes : int
        How much of them.
    anew : bool
        Read everything anew, whatever the cache has.
    shelf : tuple or None
        `Shelf`'s arguments, where artifacts are in S3: workers of a cluster need no shared disk.
    features : Path or None
        Where what the networks see is kept.
    run : str
        Part of the names there.
    """

    model: Path
    preprocessing: Preprocessing
    runtime: str
    questions: tuple[Head, ...]
    expected: dict[str, int]
    batch_size: int
    store: tuple[Any, ...]
    workers: int = 0
    cache: Path | None = None
    cache_bytes: int = 0
    anew: bool = False
    shelf: tuple[str, str | None, Path] | None = None
    features: Path | None = None
    run: str = ""

    @property
    def kept(self) -> Kept | None:
        """Where what the networks see is kept."""
        if self.features is None:
            return None
        return Kept(self.features, Shelf(*self.shelf) if self.shelf else None)

    def open_reader(self) -> Reader | Model:
        """What goes on from features: without Keras, unless an earlier version wrote the model.

        Raises
        ------
        RefusedError
            If it was made for other preprocessing, or learned other questions.
        """
        from zoo_bridge.model.record import open_reader

        reader = open_reader(self.model, self.preprocessing.as_dict())
        return self._load() if reader is None else self._checked(reader)

    def open(self) -> Scorer:
        """Load the model and have it compiled, so that what follows goes at its own speed.

        Raises
        ------
        RefusedError
            If it was made for other preprocessing, or learned other questions.
        """
        store = Store(*self.store)
        loader = Loader(
            store, self.preprocessing, self.cache, self.cache_bytes, self.workers, self.anew
        )
        # Meanwhile: both take seconds.
        loader.start()
        try:
            model = self._load()
            shape = (
                1,
                self.preprocessing.size,
                self.preprocessing.size,
                self.preprocessing.channels,
            )
            features_of(model, np.zeros(shape, np.float32))
            return Scorer(model, loader, self.expected, self.batch_size, self.kept, self.run)
        except BaseException:
            loader.stop()
            raise

    def _load(self) -> Model:
        from zoo_bridge.model import registry

        return self._checked(registry.load(self.model, self.preprocessing.as_dict(), self.runtime))

    def _checked(self, model: M) -> M:
        heads = model.networks[0].design.heads
        if heads != self.questions:
            raise RefusedError(
                f"The model {self.model.name} learned other questions, answers or targets than the "
                f"settings have: {', '.join(head.name for head in heads)}.",
                "Train one for these: zoo-bridge run retrain; or put the [[question]] tables back.",
            )
        return model
