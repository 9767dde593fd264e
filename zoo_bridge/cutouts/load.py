"""Many cutouts at once: fetched in threads, preprocessed, and kept for the next time.

The cache holds preprocessed arrays in one SQLite file for each preprocessing, so that a second
training or scoring reads nothing again. It is only a cache: it may be deleted at any time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo_bridge.cutouts.preprocess import BadCutoutError, Image32, Preprocessing, preprocess
from zoo_bridge.cutouts.store import Store
from zoo_bridge.files import digest_value

SCHEMA = "CREATE TABLE IF NOT EXISTS cutouts (uri TEXT PRIMARY KEY, pixels BLOB NOT NULL)"


@dataclass(frozen=True)
class Reject:
    """A cutout that could not be used."""

    object_id: str
    uri: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Batch:
    """Some of the cutouts that were asked for: places in the list, arrays, and those left out.

    ``images`` has shape (len(places), size, size, channels), float32, 0 to 1.
    """

    places: list[int]
    images: Image32
    rejects: list[Reject]


class Loader:
    """Loads cutouts through a cache.

    Parameters
    ----------
    store : Store
        Where they are.
    how : Preprocessing
        What becomes of them.
    cache : Path
        The folder of cache files.
    """

    def __init__(self, store: Store, how: Preprocessing, cache: Path) -> None:
        self.store = store
        self.how = how
        cache.mkdir(parents=True, exist_ok=True)
        self._path = cache / f"cutouts-{digest_value(how.as_dict())}.sqlite3"

    def batches(
        self,
        objects: Sequence[tuple[str, str]],
        size: int,
        advance: Callable[[int], None] = lambda steps: None,
    ) -> Iterator[Batch]:
        """Load cutouts, batch by batch.

        Parameters
        ----------
        objects : sequence of (object_id, uri)
            What to load.
        size : int
            Cutouts in a batch.
        advance : callable
            Called with the number of cutouts just done.

        Yields
        ------
        Batch
        """
        with (
            closing(sqlite3.connect(self._path, timeout=60)) as cache,
            ThreadPoolExecutor(self.store.threads) as pool,
        ):
            cache.execute("PRAGMA journal_mode=WAL")
            cache.execute(SCHEMA)
            for start in range(0, len(objects), size):
                chunk = objects[start : start + size]
                yield self._batch(start, chunk, cache, pool)
                advance(len(chunk))

    def _batch(
        self,
        start: int,
        chunk: Sequence[tuple[str, str]],
        cache: sqlite3.Connection,
        pool: ThreadPoolExecutor,
    ) -> Batch:
        known = self._cached(cache, [uri for _, uri in chunk])
        missing = [(ident, uri) for ident, uri in chunk if uri not in known]
        rejects = []
        for (_, uri), outcome in zip(missing, pool.map(self._load, missing), strict=True):
            if isinstance(outcome, Reject):
                rejects.append(outcome)
            else:
                known[uri] = outcome
        with cache:
            cache.executemany(
                "INSERT OR REPLACE INTO cutouts VALUES (?, ?)",
                [
                    (uri, known[uri].astype(np.float16).tobytes())
                    for _, uri in missing
                    if uri in known
                ],
            )
        places = [start + place for place, (_, uri) in enumerate(chunk) if uri in known]
        shape = (self.how.size, self.how.size, self.how.channels)
        images = [known[objects_uri] for _, objects_uri in chunk if objects_uri in known]
        stacked = np.stack(images) if images else np.empty((0, *shape), np.float32)
        return Batch(places, stacked, rejects)

    def _cached(self, cache: sqlite3.Connection, uris: Sequence[str]) -> dict[str, Image32]:
        shape = (self.how.size, self.how.size, self.how.channels)
        found = {}
        for start in range(0, len(uris), 500):
            part = uris[start : start + 500]
            marks = ",".join("?" * len(part))
            query = f"SELECT uri, pixels FROM cutouts WHERE uri IN ({marks})"
            for uri, pixels in cache.execute(query, part):
                array = np.frombuffer(pixels, np.float16).reshape(shape)
                found[uri] = array.astype(np.float32)
        return found

    def _load(self, item: tuple[str, str]) -> Image32 | Reject:
        ident, uri = item
        data = self.store.read(uri)
        if data is None:
            return Reject(ident, uri, "missing", "there is no such object")
        try:
            # What is cached is rounded; so is what is not, to be the same the second time.
            return preprocess(data, self.how).astype(np.float16).astype(np.float32)
        except BadCutoutError as error:
            return Reject(ident, uri, error.reason, error.detail)

    def load(
        self,
        objects: Sequence[tuple[str, str]],
        advance: Callable[[int], None] = lambda steps: None,
    ) -> Batch:
        """Load cutouts, all into one batch."""
        places: list[int] = []
        rejects: list[Reject] = []
        shape = (self.how.size, self.how.size, self.how.channels)
        images = [np.empty((0, *shape), np.float32)]
        for batch in self.batches(objects, 256, advance):
            places += batch.places
            rejects += batch.rejects
            images.append(batch.images)
        return Batch(places, np.concatenate(images).astype(np.float32), rejects)
