"""Many cutouts at once: fetched, decoded and preprocessed ahead of whoever uses them.

Objects go through in small pieces: each is fetched by threads, and decoded by threads of this
process or by processes of their own. No more than a few pieces are under way, so memory does not
grow with the survey. Batches come in the order that was asked for.

The cache holds preprocessed arrays, as 16-bit numbers, in one SQLite file for each store and
preprocessing. What is in it is not read again; where its size has a limit, it takes nothing more
when it is full. It may be deleted at any time.
"""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import signal
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo_bridge import memory
from zoo_bridge.cutouts.preprocess import (
    FORM,
    BadCutoutError,
    Image32,
    Preprocessing,
    preprocess,
)
from zoo_bridge.cutouts.store import Store, whole
from zoo_bridge.errors import StorageError
from zoo_bridge.files import digest_value

Objects = Sequence[tuple[str, str]]
Image16 = NDArray[np.float16]

SCHEMA = "CREATE TABLE IF NOT EXISTS cutouts (uri TEXT PRIMARY KEY, pixels BLOB NOT NULL)"
PIECE = 32
GROUP = 256
# Objects under way for each process, the group that is waited for aside.
LOOKAHEAD = 4 * PIECE


@dataclass(frozen=True)
class Reject:
    """A cutout that could not be used."""

    object_id: str
    uri: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Batch:
    """Cutouts that were asked for: which, the places of those there are, arrays, those left out.

    ``images`` has shape (len(places), size, size, channels), float32, 0 to 1.
    """

    objects: Objects
    places: list[int]
    images: Image32
    rejects: list[Reject]


class Loader:
    """Loads cutouts through a cache.

    Parameters
    ----------
    store : Store
        Where they are.
    preprocessing : Preprocessing
        What becomes of them.
    cache : Path or None
        The folder of cache files; None for none.
    cache_bytes : int, optional
        A full cache takes nothing more: a survey is read from end to end, so to put what came last
        in the place of what came first would lose all of it before it is asked for again.
    workers : int
        Processes that fetch and decode; 0 for threads of this one.
    anew : bool
        Read everything anew, whatever the cache has.
    """

    def __init__(
        self,
        store: Store,
        preprocessing: Preprocessing,
        cache: Path | None,
        cache_bytes: int | None = None,
        workers: int = 0,
        anew: bool = False,
    ) -> None:
        self.store = store
        self.preprocessing = preprocessing
        self.cache_bytes = cache_bytes
        self.workers = workers
        self.anew = anew
        self._processes: _Processes | None = None
        self._path = cache and cache / f"cutouts-{_name_of(store, preprocessing)}.sqlite3"

    def batches(self, groups: Iterable[Objects]) -> Generator[Batch, None, None]:
        """Load cutouts, one batch for each group of objects.

        Parameters
        ----------
        groups : iterable of sequences of (object_id, uri)
            What to load; the next groups are taken before the last batch is given.

        Yields
        ------
        Batch
            In the order of the groups.

        Raises
        ------
        SettingsError, StorageError
            As `Store.read`.
        """
        ahead = LOOKAHEAD * max(1, self.workers)
        with self._open_cache() as cache, self._submitter() as submit:
            waiting: deque[_Group] = deque()
            source = iter(groups)
            while True:
                while sum(len(group.objects) for group in waiting) <= ahead and (
                    objects := next(source, None)
                ):
                    waiting.append(_Group(objects, cache, self.preprocessing, submit))
                if not waiting:
                    return
                yield waiting.popleft().finish()

    def load(self, objects: Objects, advance: Callable[[int], None] = lambda steps: None) -> Batch:
        """Load cutouts, all into one batch.

        Parameters
        ----------
        objects : sequence of (object_id, uri)
            What to load.
        advance : callable
            Called with the number of cutouts just done.

        Returns
        -------
        Batch
        """
        starts = range(0, len(objects), GROUP)
        places: list[int] = []
        rejects: list[Reject] = []
        shape = (self.preprocessing.size, self.preprocessing.size, self.preprocessing.channels)
        images = [np.empty((0, *shape), np.float32)]
        groups = [objects[start : start + GROUP] for start in starts]
        for start, group, batch in zip(starts, groups, self.batches(groups), strict=True):
            places += [start + place for place in batch.places]
            rejects += batch.rejects
            images.append(batch.images)
            advance(len(group))
        return Batch(objects, places, np.concatenate(images), rejects)

    def forget(self, uris: Sequence[str]) -> None:
        """Take cutouts out of the cache: what is there was made of files that are others now."""
        with self._open_cache() as cache:
            if cache is not None:
                cache.forget(uris)

    def start(self) -> None:
        """Start the processes that fetch and decode, if there are to be any.

        They take some seconds to be ready, in which whoever is to use the batches can do likewise.
        """
        if self.workers and self._processes is None:
            self._processes = _Processes(self.workers, self.store, self.preprocessing)

    def stop(self) -> None:
        """Stop what was started and never used."""
        if self._processes is not None:
            self._processes.stop()
            self._processes = None

    @contextmanager
    def _open_cache(self) -> Iterator[_Cache | None]:
        if self._path is None:
            yield None
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self._path, timeout=60)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(SCHEMA)
            yield _Cache(connection, self.cache_bytes, self.anew)

    @contextmanager
    def _submitter(self) -> Iterator[Submit]:
        """What has pieces prepared elsewhere, and how many objects keep it busy."""
        if not self.workers:
            with (
                _Preparer(self.store, self.preprocessing) as preparer,
                ThreadPoolExecutor(2) as threads,
            ):
                try:
                    yield lambda objects: threads.submit(preparer.prepare, objects)
                finally:
                    threads.shutdown(wait=False, cancel_futures=True)
            return
        self.start()
        processes, self._processes = self._processes, None
        assert processes is not None
        try:
            yield processes.submit
        finally:
            processes.stop()


def _name_of(store: Store, preprocessing: Preprocessing) -> str:
    """Of a cache: the same key on another server is another cutout."""
    return digest_value([FORM, asdict(preprocessing), store.endpoint_url])


Prepared = tuple[Image16, list[Reject]]
Submit = Callable[[Objects], "Future[Prepared]"]


class _Preparer:
    """Fetches and decodes pieces."""

    def __init__(self, store: Store, preprocessing: Preprocessing) -> None:
        self.store = store
        self.preprocessing = preprocessing
        self._fetchers = ThreadPoolExecutor(store.threads)

    def __enter__(self) -> _Preparer:
        return self

    def __exit__(self, *error: object) -> None:
        self._fetchers.shutdown(wait=False, cancel_futures=True)

    def prepare(self, objects: Objects) -> Prepared:
        """The arrays of some objects, in their order, without the rejects."""
        images, rejects = [], []
        fetched = self.store.read_many([uri for _, uri in objects], self._fetchers)
        for (ident, uri), data in zip(objects, fetched, strict=True):
            try:
                # What is cached is rounded; so is what is not, to be the same the second time.
                images.append(preprocess(whole(data), self.preprocessing).astype(np.float16))
            except BadCutoutError as error:
                rejects.append(Reject(ident, uri, error.reason, error.detail))
            except Exception as error:
                # Whatever a broken file makes of the libraries that read it: one cutout is out.
                why = f"{type(error).__name__}: {error}"
                rejects.append(Reject(ident, uri, "broken", why))
        shape = (
            len(images),
            self.preprocessing.size,
            self.preprocessing.size,
            self.preprocessing.channels,
        )
        return np.asarray(images, np.float16).reshape(shape), rejects


class _Processes:
    """Processes that prepare pieces; they end with this one, however that ends."""

    def __init__(self, count: int, store: Store, preprocessing: Preprocessing) -> None:
        # Spawned: TensorFlow and boto3 have threads, which a fork would leave behind locked.
        context = multiprocessing.get_context("spawn")
        line, self._held = context.Pipe(duplex=False)
        given = line, store.settings, preprocessing
        self._executor = ProcessPoolExecutor(count, context, _begin, given)
        for _ in range(count):
            # Each is started by something to do.
            self._executor.submit(_prepare, ())

    def submit(self, objects: Objects) -> Future[Prepared]:
        """Have a piece prepared."""
        return self._executor.submit(_prepare, objects)

    def stop(self) -> None:
        """End them at once: what is under way is of no use to anybody any more."""
        self._held.close()
        self._executor.shutdown(wait=False, cancel_futures=True)


_preparer: _Preparer | None = None


def _begin(line: Any, store: tuple[Any, ...], preprocessing: Preprocessing) -> None:
    """Set a process up; it ends with its parent, however that ends."""
    global _preparer
    # A terminal and systemd tell the whole group; the parent decides, and this ends with it.
    for told in (signal.SIGINT, signal.SIGTERM):
        signal.signal(told, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(line,), daemon=True).start()
    memory.keep_freed()
    _preparer = _Preparer(Store(*store), preprocessing)
    # What the first cutout would wait for.
    for name in ("astropy.visualization", "obstore.auth.boto3", "obstore.store"):
        importlib.import_module(name)
    # Nothing of all that is garbage; to look through it over and over takes a tenth of the time.
    gc.freeze()


def _end_with(line: Any) -> None:
    # The other end closes when the parent wants no more, or is no more.
    with suppress(EOFError, OSError):
        line.recv()
    os._exit(0)


def _prepare(objects: Objects) -> Prepared:
    assert _preparer is not None
    return _preparer.prepare(objects)


class _Cache:
    """Arrays by URI."""

    def __init__(self, connection: sqlite3.Connection, limit: int | None, anew: bool) -> None:
        self._connection = connection
        self._limit = limit
        self._anew = anew

    def find(self, uris: Sequence[str], preprocessing: Preprocessing) -> dict[str, Image16]:
        if self._anew:
            return {}
        shape = (preprocessing.size, preprocessing.size, preprocessing.channels)
        marks = ",".join("?" * len(uris))
        query = f"SELECT uri, pixels FROM cutouts WHERE uri IN ({marks})"
        return {
            uri: np.frombuffer(pixels, np.float16).reshape(shape)
            for uri, pixels in self._connection.execute(query, list(uris))
        }

    def add(self, images: dict[str, Image16]) -> None:
        if not images:
            return
        rows = [(uri, image.tobytes()) for uri, image in images.items()]
        change = "INSERT OR REPLACE INTO cutouts (uri, pixels) VALUES (?, ?)"
        if self._full():
            if not self._anew:
                return
            # What is there must not stay as it was.
            change = "UPDATE cutouts SET pixels = ?2 WHERE uri = ?1"
        with self._connection:
            self._connection.executemany(change, rows)

    def forget(self, uris: Sequence[str]) -> None:
        with self._connection:
            query = "DELETE FROM cutouts WHERE uri = ?"
            self._connection.executemany(query, [(uri,) for uri in uris])

    def _full(self) -> bool:
        if self._limit is None:
            return False
        ((pages,),) = self._connection.execute("PRAGMA page_count")
        ((size,),) = self._connection.execute("PRAGMA page_size")
        return bool(pages * size >= self._limit)


class _Group:
    """Objects of one batch: what the cache has, and pieces under way."""

    def __init__(
        self, objects: Objects, cache: _Cache | None, preprocessing: Preprocessing, submit: Submit
    ) -> None:
        self.objects = objects
        self._cache = cache
        self._how = preprocessing
        self._known: dict[str, Image16] = {}
        if cache is not None:
            for start in range(0, len(objects), PIECE):
                uris = [uri for _, uri in objects[start : start + PIECE]]
                self._known.update(cache.find(uris, preprocessing))
        missing = [item for item in objects if item[1] not in self._known]
        self._pieces = [
            (piece, submit(piece))
            for start in range(0, len(missing), PIECE)
            if (piece := missing[start : start + PIECE])
        ]

    def finish(self) -> Batch:
        """Wait for the pieces."""
        rejects: list[Reject] = []
        # By object, not by address: of two objects at one address each has an answer of its own.
        fresh: dict[str, Image16] = {}
        addresses: dict[str, Image16] = {}
        for piece, future in self._pieces:
            images, bad = _result(future)
            lost = {reject.object_id for reject in bad}
            good = [item for item in piece if item[0] not in lost]
            for (ident, uri), image in zip(good, images, strict=True):
                fresh[ident] = addresses[uri] = image
            rejects += bad
        if self._cache is not None:
            self._cache.add(addresses)
        places, found = [], []
        for place, (ident, uri) in enumerate(self.objects):
            image = self._known.get(uri, fresh.get(ident))
            if image is not None:
                places.append(place)
                found.append(image)
        images32 = np.empty((len(places), *self._shape), np.float32)
        for at, image in enumerate(found):
            images32[at] = image
        return Batch(self.objects, places, images32, rejects)

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self._how.size, self._how.size, self._how.channels


def _result(future: Future[Prepared]) -> Prepared:
    try:
        return future.result()
    except BrokenProcessPool:
        raise StorageError(
            "A process that fetches and decodes cutouts has ended by itself.",
            "Was memory short? Lower score.workers, and run the same command again.",
        ) from None
