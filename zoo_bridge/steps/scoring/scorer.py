"""From cutouts to rows of the score catalogue, part by part, on whatever machine that is done."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from zoo_bridge.acquisition.information import interval
from zoo_bridge.acquisition.threads import work_alone
from zoo_bridge.cutouts.load import Loader, Objects, Reject
from zoo_bridge.model.predict import features_of, predict
from zoo_bridge.steps.scoring.features import WHOSE, Features, Kept
from zoo_bridge.steps.scoring.work import Work
from zoo_bridge.tables import SCORES

if TYPE_CHECKING:
    from zoo_bridge.model.record import Reader
    from zoo_bridge.model.registry import Model

Images = NDArray[np.floating[Any]]
Array = NDArray[Any]

CREDIBLE = 0.9
AT_ONCE = 2
# Galaxies of kept features whose posteriors are in memory together.
ROWS = 4096


@dataclass(frozen=True)
class Piece:
    """Some objects of a part, scored; the last ones of it or not."""

    part: int
    last: bool
    objects: int


@dataclass
class Scorer:
    """A model and where its cutouts come from.

    ``waited`` counts the seconds that the networks had nothing to do. What they see is kept, if
    there is a place for it: ``run`` is part of the names there.
    """

    model: Model
    loader: Loader
    expected: dict[str, int]
    batch_size: int
    kept: Kept | None = None
    run: str = ""
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
        features: list[Features] = []
        with closing(self.score_groups(groups())) as scored:
            for table, seen, bad in scored:
                piece = asked_for.popleft()
                tables.append(table)
                features.append(seen)
                rejects += bad
                if piece.last:
                    self._keep(work, piece.part, features, rejects)
                    work.write(piece.part, tables, rejects)
                    tables, rejects, features = [], [], []
                yield piece

    def _keep(
        self, work: Work, part: int, features: Sequence[Features], rejects: Sequence[Reject]
    ) -> None:
        """Write what the networks saw in a part, before that is said to be done."""
        seen = [each for each in features if each]
        if self.kept is None or not seen:
            return
        table = work.table(part)
        bad = pa.array([reject.object_id for reject in rejects], pa.string())
        good = pc.invert(pc.is_in(table["object_id"], value_set=bad))
        joined = [np.concatenate(column) for column in zip(*seen, strict=True)]
        whose = table.filter(good).select(WHOSE.names)
        self.kept.write(f"part-{self.run}-{part:05d}", whose, joined)

    def score_groups(
        self, groups: Iterable[Objects]
    ) -> Generator[tuple[pa.Table, Features, list[Reject]], None, None]:
        """Score groups of objects, in order, two at a time.

        Two, since the cores that one batch leaves idle, at the end of each of the network's layers
        and while its posterior is computed, have the other's work to do.
        """
        under_way: deque[tuple[list[Reject], Future[tuple[pa.Table, Features]]]] = deque()

        def finish() -> tuple[pa.Table, Features, list[Reject]]:
            rejects, future = under_way.popleft()
            return *future.result(), rejects

        with closing(self.loader.batches(groups)) as batches, ThreadPoolExecutor(AT_ONCE) as pool:
            asked = time.monotonic()
            for batch in batches:
                if all(future.done() for _, future in under_way):
                    self.waited += time.monotonic() - asked
                chosen = [batch.objects[place] for place in batch.places]
                future = pool.submit(read_batch, self.model, chosen, batch.images, self.expected)
                under_way.append((batch.rejects, future))
                if len(under_way) > AT_ONCE:
                    yield finish()
                asked = time.monotonic()
            while under_way:
                yield finish()


def read_batch(
    model: Model, objects: Objects, images: Images, expected: dict[str, int]
) -> tuple[pa.Table, Features]:
    """Of some galaxies the rows of the catalogue, and what the networks saw in them.

    Parameters
    ----------
    model : Model
        Whose networks are asked.
    objects : sequence of (object_id, uri)
        Ids and addresses of the N galaxies.
    images : ndarray, shape (N, size, size, channels)
        Prepared cutouts of the same galaxies, 0 to 1.
    expected : dict
        Votes that a galaxy is expected to get, by question.

    Returns
    -------
    rows : pyarrow.Table
        Of the schema ``tables.SCORES``: one for each question and answer.
    features : list of ndarray, shape (N, D)
        One for each trunk: float16, which is what the rows are made of, too. None of no galaxies.
    """
    if not objects:
        return SCORES.empty_table(), []
    found = features_of(model, images)
    own = {id(features_ND): features_ND for features_ND in found}
    seen = [features_ND.astype(np.float16) for features_ND in own.values()]
    ids, uris = (pa.array(column, pa.string()) for column in zip(*objects, strict=True))
    return score_features(model, ids, uris, seen, expected), seen


def score_batch(
    model: Model, objects: Objects, images: Images, expected: dict[str, int]
) -> pa.Table:
    """The rows of `read_batch` alone."""
    return read_batch(model, objects, images, expected)[0]


def score_features(
    model: Model | Reader, ids: pa.Array, uris: pa.Array, seen: Features, expected: dict[str, int]
) -> pa.Table:
    """The rows of some galaxies, from what networks saw in them.

    Parameters
    ----------
    model : Model or Reader
        Whose last layers are asked.
    ids, uris : pyarrow.Array
        Ids and addresses of the N galaxies.
    seen : list of ndarray, shape (N, D)
        One for each trunk; where there is one for all networks, that.
    expected : dict
        Votes that a galaxy is expected to get, by question.

    Returns
    -------
    pyarrow.Table
        Of the schema ``tables.SCORES``: one row for each question and answer.
    """
    features = [features_ND.astype(np.float32) for features_ND in seen]
    if len(features) == 1:
        features *= len(model.networks)
    tables = []
    for place, head in enumerate(model.networks[0].design.heads):
        n = expected[head.name]
        for answer, prediction in predict(model, features, place, n).items():
            low, high = interval(prediction.p_NK, CREDIBLE)
            columns = {
                "object_id": ids,
                "uri": uris,
                "model_version": pa.repeat(model.record.version, len(ids)),
                "question": pa.repeat(head.name, len(ids)),
                "answer": pa.repeat(answer, len(ids)),
                "n_expected": pa.repeat(n, len(ids)),
                "mean": prediction.mean_N,
                "lo": low / n,
                "hi": high / n,
                "bald": prediction.bald_N,
                "target": pa.repeat(answer == head.target, len(ids)),
            }
            tables.append(pa.table(columns).cast(SCORES))
    return pa.concat_tables(tables)


def write_from_features(
    model: Model | Reader, kept: Kept, expected: dict[str, int], work: Work, parts: Sequence[int]
) -> Iterator[Piece]:
    """Score parts whose features are kept, and write each, two pieces at a time.

    The last of a part is told when that is written.
    """

    def some(table: pa.Table) -> pa.Table:
        seen = kept.take(table["file"].to_pylist(), table["row"].to_numpy())
        table = table.combine_chunks()
        ids, uris = (table[name].chunk(0) for name in ("object_id", "uri"))
        return score_features(model, ids, uris, seen, expected)

    with (
        ThreadPoolExecutor(AT_ONCE, initializer=work_alone) as pool,
        ThreadPoolExecutor(1) as writer,
    ):
        under_way: deque[tuple[int, list[Future[pa.Table]], int]] = deque()
        writing: deque[tuple[Piece, Future[None]]] = deque()

        def write(part: int, tables: list[pa.Table]) -> None:
            work.write(part, tables, [])

        def finish() -> Iterator[Piece]:
            part, futures, objects = under_way.popleft()
            tables = [future.result() for future in futures]
            writing.append((Piece(part, True, objects), writer.submit(write, part, tables)))
            while len(writing) > 1:
                piece, future = writing.popleft()
                future.result()
                yield piece

        for part in parts:
            table = work.table(part)
            starts = range(0, len(table), ROWS)
            futures = [pool.submit(some, table.slice(start, ROWS)) for start in starts]
            under_way.append((part, futures, len(table)))
            if len(under_way) > 1:
                yield from finish()
        while under_way:
            yield from finish()
        for piece, future in writing:
            future.result()
            yield piece
