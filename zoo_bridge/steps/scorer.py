"""From cutouts to rows of the score catalogue, part by part, on whatever machine that is done."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from zoo_bridge.acquisition.information import interval
from zoo_bridge.cutouts.load import Loader, Objects, Reject
from zoo_bridge.cutouts.preprocess import Preprocessing
from zoo_bridge.cutouts.store import Store
from zoo_bridge.errors import RefusedError
from zoo_bridge.steps.posteriors import calibrations_of, features_of, posteriors_of
from zoo_bridge.tables import REJECTS, SCORES, read_table, write_table

if TYPE_CHECKING:
    from zoo_bridge.model.heads import Head
    from zoo_bridge.model.registry import Model

Images = NDArray[np.floating[Any]]
Array = NDArray[Any]

CREDIBLE = 0.9
AT_ONCE = 2


@dataclass(frozen=True)
class Work:
    """A folder that waits for its parts.

    ``todo.parquet`` has the objects to score, a row group for each part. A part is done when its
    file is there; files appear whole.
    """

    folder: Path

    @property
    def todo(self) -> Path:
        """The list of objects."""
        return self.folder / "todo.parquet"

    @property
    def objects(self) -> int:
        """How many there are."""
        return int(pq.read_metadata(self.todo).num_rows)

    @property
    def parts(self) -> int:
        """How many there are to be."""
        return int(pq.read_metadata(self.todo).num_row_groups)

    @property
    def done(self) -> list[int]:
        """The parts that are there."""
        return [part for part in range(self.parts) if self.scores(part).exists()]

    @property
    def missing(self) -> list[int]:
        """The parts that are not."""
        return [part for part in range(self.parts) if not self.scores(part).exists()]

    def scores(self, part: int) -> Path:
        """A part's file."""
        return self.folder / f"part-{part:05d}.parquet"

    def rejects(self, part: int) -> Path:
        """What was rejected of a part."""
        return self.folder / f"rejects-{part:05d}.parquet"

    def sizes(self) -> list[int]:
        """Objects in each part."""
        facts = pq.read_metadata(self.todo)
        return [int(facts.row_group(part).num_rows) for part in range(facts.num_row_groups)]

    def read(self, part: int) -> list[tuple[str, str]]:
        """The objects of a part: (object_id, uri)."""
        with pq.ParquetFile(self.todo) as file:
            table = file.read_row_group(part)
        return list(zip(table["object_id"].to_pylist(), table["uri"].to_pylist(), strict=True))

    def write(self, part: int, tables: list[pa.Table], rejects: list[Reject]) -> None:
        """Write a part."""
        rows = pa.Table.from_pylist([vars(reject) for reject in rejects], schema=REJECTS)
        # In this order: a part that is there has its rejects beside it.
        write_table(self.rejects(part), rows, REJECTS)
        write_table(self.scores(part), pa.concat_tables([SCORES.empty_table(), *tables]), SCORES)

    def count_rejects(self, part: int) -> int:
        """How many objects of a part were rejected."""
        return int(pq.read_metadata(self.rejects(part)).num_rows)

    def tally_rejects(self, parts: Iterable[int]) -> Counter[str]:
        """How many objects of some parts were rejected, by reason."""
        tally: Counter[str] = Counter()
        for part in parts:
            if self.count_rejects(part):
                tally.update(read_table(self.rejects(part), REJECTS)["reason"].to_pylist())
        return tally

    def first_reject(self, parts: Sequence[int], reason: str = "") -> dict[str, str] | None:
        """One of them, to show; of a reason, if one is named."""
        for part in parts:
            for row in read_table(self.rejects(part), REJECTS).to_pylist():
                if reason in ("", row["reason"]):
                    return dict(row)
        return None

    def forget(self, part: int) -> None:
        """Let a part be done again."""
        self.scores(part).unlink()
        self.rejects(part).unlink()


@dataclass(frozen=True)
class Recipe:
    """All that a process needs to score parts, on this machine or on another one.

    Parameters
    ----------
    model : Path
        The model's folder.
    how : Preprocessing
        That the model must have been made for.
    runtime : str
        See ``score.runtime``.
    questions : tuple of (name, answers, target)
        That the model must have learned.
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
    """

    model: Path
    how: Preprocessing
    runtime: str
    questions: tuple[tuple[str, tuple[str, ...], str], ...]
    expected: dict[str, int]
    batch_size: int
    store: tuple[Any, ...]
    workers: int = 0
    cache: Path | None = None
    cache_bytes: int = 0
    anew: bool = False

    def open(self) -> Scorer:
        """Load the model and have it compiled, so that what follows goes at its own speed.

        Raises
        ------
        RefusedError
            If it was made for other preprocessing, or learned other questions.
        """
        store = Store(*self.store)
        loader = Loader(store, self.how, self.cache, self.cache_bytes, self.workers, self.anew)
        # Meanwhile: both take seconds.
        loader.start()
        try:
            model = self._load()
            shape = (1, self.how.size, self.how.size, self.how.channels)
            features_of(model, np.zeros(shape, np.float32))
            return Scorer(model, loader, self.expected, self.batch_size)
        except BaseException:
            loader.stop()
            raise

    def _load(self) -> Model:
        from zoo_bridge.model import registry

        model = registry.load(self.model, self.how.as_dict(), self.runtime)
        heads = model.networks[0].design.heads
        if tuple((head.name, head.answers, head.target) for head in heads) != self.questions:
            raise RefusedError(
                f"The model {self.model.name} learned other questions, answers or targets than the "
                f"settings have: {', '.join(head.name for head in heads)}.",
                "Train one for these: zoo-bridge run retrain; or put the [[question]] tables back.",
            )
        return model


@dataclass(frozen=True)
class Piece:
    """Some objects of a part, scored; the last ones of it or not."""

    part: int
    last: bool
    objects: int


@dataclass
class Scorer:
    """A model and where its cutouts come from.

    ``waited`` counts the seconds that the networks had nothing to do.
    """

    model: Model
    loader: Loader
    expected: dict[str, int]
    batch_size: int
    waited: float = field(default=0.0)

    def write_parts(self, work: Work, parts: Sequence[int]) -> Iterator[Piece]:
        """Score parts and write each; what was just done is told piece by piece.

        No batch goes over the end of a part, so that a part is the same whoever scores it.
        """
        size = self.batch_size
        asked_for: deque[Piece] = deque()

        def groups() -> Iterator[Objects]:
            for part in parts:
                objects = work.read(part)
                for start in range(0, len(objects), size):
                    group = objects[start : start + size]
                    asked_for.append(Piece(part, start + size >= len(objects), len(group)))
                    yield group

        tables: list[pa.Table] = []
        rejects: list[Reject] = []
        with closing(self.score_groups(groups())) as scored:
            for table, bad in scored:
                piece = asked_for.popleft()
                tables.append(table)
                rejects += bad
                if piece.last:
                    work.write(piece.part, tables, rejects)
                    tables, rejects = [], []
                yield piece

    def score_groups(
        self, groups: Iterable[Objects]
    ) -> Generator[tuple[pa.Table, list[Reject]], None, None]:
        """Score groups of objects, in order, two at a time.

        Two, since the cores that one batch leaves idle, at the end of each of the network's layers
        and while its posterior is computed, have the other's work to do.
        """
        under_way: deque[tuple[list[Reject], Future[pa.Table]]] = deque()

        def finish() -> tuple[pa.Table, list[Reject]]:
            rejects, future = under_way.popleft()
            return future.result(), rejects

        with closing(self.loader.batches(groups)) as batches, ThreadPoolExecutor(AT_ONCE) as pool:
            asked = time.monotonic()
            for batch in batches:
                if all(future.done() for _, future in under_way):
                    self.waited += time.monotonic() - asked
                chosen = [batch.objects[place] for place in batch.places]
                future = pool.submit(score_batch, self.model, chosen, batch.images, self.expected)
                under_way.append((batch.rejects, future))
                if len(under_way) > AT_ONCE:
                    yield finish()
                asked = time.monotonic()
            while under_way:
                yield finish()


def score_batch(
    model: Model, objects: Objects, images: Images, expected: dict[str, int]
) -> pa.Table:
    """The rows of some galaxies: one for each question and answer.

    Parameters
    ----------
    model : Model
        Whose networks are asked.
    objects : sequence of (object_id, uri)
        N galaxies.
    images : ndarray, shape (N, size, size, channels)
        Prepared.
    expected : dict
        Votes that a galaxy is expected to get, by question.

    Returns
    -------
    pyarrow.Table
        Of the schema ``tables.SCORES``.
    """
    if not objects:
        return SCORES.empty_table()
    features = features_of(model, images)
    tables = []
    for place, head in enumerate(model.networks[0].design.heads):
        n = expected[head.name]
        for answer, (counts, mean, information) in _told(model, features, place, n).items():
            low, high = interval(counts, CREDIBLE)
            columns = {
                "object_id": [name for name, _ in objects],
                "uri": [uri for _, uri in objects],
                "model_version": [model.record.version] * len(objects),
                "question": [head.name] * len(objects),
                "answer": [answer] * len(objects),
                "n_expected": [n] * len(objects),
                "mean": mean,
                "lo": low / n,
                "hi": high / n,
                "bald": information,
                "target": [answer == head.target] * len(objects),
            }
            tables.append(pa.table(columns).cast(SCORES))
    return pa.concat_tables(tables)


def _told(
    model: Model, features: list[Array], place: int, n: int
) -> dict[str, tuple[Array, Array, Array]]:
    """By answer: p(k of n), shape (N, n + 1), its mean and its information, shape (N,)."""
    head: Head = model.networks[0].design.heads[place]
    known = calibrations_of(model, place)
    told = {}
    said = posteriors_of(model.networks, features, place, model.record.estimator, n)
    for answer, posterior in said.items():
        calibrated = posterior.calibrated(known.get(answer))
        counts, information = calibrated.both(n)
        told[head.answers[answer]] = counts, calibrated.mean, information
    if head.kind == "sigmoid":
        # Who does not give the one answer gives the other.
        counts, mean, information = told[head.target]
        told[head.answers[1 - head.target_place]] = counts[:, ::-1], 1 - mean, information
    return told
