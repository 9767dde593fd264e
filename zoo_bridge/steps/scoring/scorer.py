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
from numpy.typing import NDArray

from zoo_bridge.acquisition.information import interval
from zoo_bridge.cutouts.load import Loader, Objects, Reject
from zoo_bridge.model.predict import features_of, predict
from zoo_bridge.steps.scoring.work import Work
from zoo_bridge.tables import SCORES

if TYPE_CHECKING:
    from zoo_bridge.model.registry import Model

Images = NDArray[np.floating[Any]]
Array = NDArray[Any]

CREDIBLE = 0.9
AT_ONCE = 2


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
        Ids and addresses of the N galaxies.
    images : ndarray, shape (N, size, size, channels)
        Prepared cutouts of the same galaxies, 0 to 1.
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
        for answer, prediction in predict(model, features, place, n).items():
            low, high = interval(prediction.p_NK, CREDIBLE)
            columns = {
                "object_id": [name for name, _ in objects],
                "uri": [uri for _, uri in objects],
                "model_version": [model.record.version] * len(objects),
                "question": [head.name] * len(objects),
                "answer": [answer] * len(objects),
                "n_expected": [n] * len(objects),
                "mean": prediction.mean_N,
                "lo": low / n,
                "hi": high / n,
                "bald": prediction.bald_N,
                "target": [answer == head.target] * len(objects),
            }
            tables.append(pa.table(columns).cast(SCORES))
    return pa.concat_tables(tables)
