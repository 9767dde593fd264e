"""Scoring beyond one machine: Dask workers take parts of the survey, one at a time.

Each worker loads the model once and writes its parts itself, into a folder that all machines share,
or, where artifacts are in S3, there; what comes back is only which part is done. A worker that is
lost costs the part that it was at, which another one takes. Networks see the same batches as on one
machine, so the scores are the same.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from zoo_bridge.errors import SettingsError, StorageError
from zoo_bridge.steps.scoring.recipe import Recipe
from zoo_bridge.steps.scoring.scorer import Scorer, write_from_features
from zoo_bridge.steps.scoring.work import Work
from zoo_bridge.steps.shelf import Shelf
from zoo_bridge.version import __version__

if TYPE_CHECKING:
    from zoo_bridge.model.record import Reader
    from zoo_bridge.model.registry import Model

CONNECT_SECONDS = 10
# A batch system may let its jobs wait.
WAIT_SECONDS = 3600
LOST_SECONDS = 300
LOOK_SECONDS = 2
# Parts that each worker has before it, so that none waits for the next.
AHEAD = 2


def write_parts(
    where: str | int, recipe: Recipe, work: Work, say: Callable[..., None]
) -> Iterator[int]:
    """Have the missing parts of a folder written.

    Parameters
    ----------
    where : str or int
        A Dask scheduler's address, or how many processes of this machine are to be the cluster.
    recipe : Recipe
        What workers need. They fetch and decode by threads and keep no cache.
    work : Work
        In a folder that all of them see.
    say : callable
        Tells a person and the log.

    Yields
    ------
    int
        A part that is there now.

    Raises
    ------
    SettingsError
        If Dask is not installed, there is no scheduler, or workers do not see the folder.
    StorageError
        If a part cost several workers their life.
    Exception
        Whatever scoring a part raises.
    """
    try:
        from distributed import CancelledError, wait
        from distributed.comm import CommClosedError
        from distributed.scheduler import KilledWorker
    except ImportError:
        raise SettingsError(
            "score.cluster needs Dask, which this installation lacks.",
            "Install it with: pip install 'zoo-bridge[dask]'.",
        ) from None
    # Absolute, since workers may have been started anywhere.
    work = Work(work.folder.resolve())
    recipe = _for_workers(recipe)
    shelf = Shelf(*recipe.shelf) if recipe.shelf else None
    if shelf is not None:
        shelf.put(work.todo)
    # Others may use the scheduler, too.
    token = uuid4().hex[:8]
    try:
        with _client(where) as client, client.as_current():
            _check_workers(client, where, work, recipe, say)
            waiting = deque(work.missing)
            running: dict[Any, int] = {}
            alone_since: float | None = None
            while waiting or running:
                workers = len(client.scheduler_info(n_workers=-1)["workers"])
                # Workers may come later, and go.
                while waiting and len(running) < AHEAD * max(1, workers):
                    part = waiting.popleft()
                    key, given = f"{token}-part-{part}", (recipe, work, part, __version__)
                    running[client.submit(_write_part, *given, key=key, pure=False)] = part
                alone_since = None if workers else alone_since or time.monotonic()
                if alone_since and time.monotonic() - alone_since > LOST_SECONDS:
                    raise StorageError(
                        f"All Dask workers at {where} are gone.",
                        "Start some and run the same command again; what was done is kept.",
                    )
                with suppress(TimeoutError):
                    wait(list(running), timeout=LOOK_SECONDS, return_when="FIRST_COMPLETED")
                for future in [future for future in running if future.done()]:
                    if future.status != "finished":
                        # Raises what went wrong, unless it has begun anew meanwhile.
                        with suppress(TimeoutError):
                            future.result(timeout=LOOK_SECONDS)
                        continue
                    # The file says it, not the result: that may be lost with its worker.
                    part = running.pop(future)
                    if shelf is not None:
                        _take_in(shelf, work, part)
                    if not work.scores(part).exists():
                        raise StorageError(
                            f"A Dask worker scored {work.scores(part)}, which is not here.",
                            "Workers and driver must share work_dir.",
                        )
                    yield part
        if shelf is not None:
            shelf.remove(work.todo)
    except KilledWorker as error:
        raise StorageError(
            f"Several workers were lost while they scored {error.task}: {error}",
            "Give workers more memory, or lower score.batch_size; what was done is kept.",
        ) from None
    except (CancelledError, CommClosedError) as error:
        raise StorageError(
            f"The Dask scheduler at {where} was lost: {error}.",
            "Start it again and run the same command; what was done is kept.",
        ) from None


def _for_workers(recipe: Recipe) -> Recipe:
    shelf = recipe.shelf and (*recipe.shelf[:2], recipe.shelf[2].resolve())
    model, features = recipe.model.resolve(), recipe.features and recipe.features.resolve()
    alone = replace(recipe, workers=0, cache=None, cache_bytes=0)
    return replace(alone, model=model, features=features, shelf=shelf)


def _take_in(shelf: Shelf, work: Work, part: int) -> None:
    """Fetch a part that a worker has put on the shelf: the file that says that it is done last."""
    for path in (work.rejects(part), work.scores(part)):
        shelf.bring(path)
        shelf.remove(path)


@contextmanager
def _client(where: str | int) -> Iterator[Any]:
    """A client of the scheduler, or of a cluster of this machine that ends with it."""
    from distributed import Client, LocalCluster

    with ExitStack() as stack:
        address: Any = where
        if isinstance(where, int):
            cores = len(os.sched_getaffinity(0))
            address = stack.enter_context(
                LocalCluster(
                    n_workers=where,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    dashboard_address=None,
                    silence_logs=logging.ERROR,
                    env={"TF_NUM_INTRAOP_THREADS": str(max(1, cores // where))},
                )
            )
        try:
            client = stack.enter_context(
                Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
            )
        except (OSError, TimeoutError) as error:
            raise SettingsError(
                f"There is no Dask scheduler at {where}: {error}.",
                "Start one with: dask scheduler; and correct score.cluster.",
            ) from None
        yield client


def _check_workers(
    client: Any, where: str | int, work: Work, recipe: Recipe, say: Callable[..., None]
) -> None:
    """See that the workers that are there can do the work; wait for the first one."""
    if not client.scheduler_info(n_workers=-1)["workers"]:
        say(f"waiting for Dask workers, {WAIT_SECONDS // 60} minutes at most")
    try:
        client.wait_for_workers(1, timeout=WAIT_SECONDS)
    except TimeoutError:
        raise SettingsError(
            f"No Dask worker has come to {where} in {WAIT_SECONDS // 60} minutes.",
            "Start some: dask worker ADDRESS --nthreads 1 --nworkers N.",
        ) from None
    found = client.run(_what_is_amiss, work, recipe, __version__, on_error="return")
    for name, answer in found.items():
        if answer is True:
            continue
        raise SettingsError(
            f"The Dask worker {name} cannot score: {answer}.",
            "Workers need zoo_bridge of this version and this work_dir, on a disk that all share.",
        )
    say(f"{len(found)} Dask workers", workers=sorted(found))


def _what_is_amiss(work: Work, recipe: Recipe, version: str) -> bool | str:
    if version != __version__:
        return f"it has zoo_bridge {__version__}, not {version}"
    if recipe.shelf is not None:
        recipe, work = _own(recipe, work)
    missing = [str(path) for path in (work.todo, recipe.model) if not path.exists()]
    return f"it does not see {missing[0]}" if missing else True


_open: list[tuple[Recipe, Scorer]] = []
_readers: list[tuple[Recipe, Reader | Model]] = []
_homes: dict[tuple[Any, ...], tempfile.TemporaryDirectory[str]] = {}


def _own(recipe: Recipe, work: Work) -> tuple[Recipe, Work]:
    """On a worker without a shared disk: the same in a folder of its own, from the shelf."""
    assert recipe.shelf is not None
    prefix, endpoint_url, driver = recipe.shelf
    home = _homes.setdefault(recipe.shelf, tempfile.TemporaryDirectory(prefix="zoo-bridge-worker-"))
    own = Path(home.name)
    shelf = Shelf(prefix, endpoint_url, own)
    folder, model = (own / path.relative_to(driver) for path in (work.folder, recipe.model))
    features = recipe.features and own / recipe.features.relative_to(driver)
    shelf.bring(model)
    shelf.bring(Work(folder).todo)
    own_recipe = replace(recipe, model=model, features=features, shelf=shelf.arguments)
    return own_recipe, Work(folder)


def _write_part(recipe: Recipe, work: Work, part: int, version: str) -> int:
    """On a worker: score a part with the model that was loaded for an earlier one."""
    # A worker that came later was not looked at.
    if (told := _what_is_amiss(work, recipe, version)) is not True:
        raise SettingsError(f"A Dask worker cannot score: {told}.", "All need the same zoo_bridge.")
    theirs = recipe.shelf
    if theirs is not None:
        recipe, work = _own(recipe, work)
    if part in work.from_features() and recipe.kept is not None:
        if not _readers or _readers[0][0] != recipe:
            _readers[:] = [(recipe, recipe.open_reader())]
        reader = _readers[0][1]
        steps = write_from_features(reader, recipe.kept, recipe.expected, work, [part])
    else:
        if not _open or _open[0][0] != recipe:
            _open[:] = [(recipe, recipe.open())]
        steps = _open[0][1].write_parts(work, [part])
    for _ in steps:
        pass
    if recipe.shelf is not None:
        shelf = Shelf(*recipe.shelf)
        for path in (work.rejects(part), work.scores(part)):
            shelf.put(path)
            path.unlink()
    return part
