"""Scoring beyond one machine: Dask workers take parts of the survey, one at a time.

Each worker loads the model once and writes its parts itself, into a folder that all machines
share; what comes back is only which part is done. A worker that is lost costs the part that it was
at, which another one takes. Networks see the same batches as on one machine, so the scores are the
same.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

from zoo_bridge import __version__
from zoo_bridge.errors import SettingsError, StorageError
from zoo_bridge.steps.scorer import Recipe, Scorer, Work

CONNECT_SECONDS = 10
WAIT_SECONDS = 120
# Parts that each worker has before it, so that none waits for the next.
AHEAD = 2


def write_parts(
    where: str | int, how: Recipe, work: Work, say: Callable[..., None]
) -> Iterator[int]:
    """Have the missing parts of a folder written.

    Parameters
    ----------
    where : str or int
        A Dask scheduler's address, or how many processes of this machine are to be the cluster.
    how : Recipe
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
        from distributed import as_completed
        from distributed.scheduler import KilledWorker
    except ImportError:
        raise SettingsError(
            "score.cluster needs Dask, which this installation lacks.",
            "Install it with: pip install 'zoo-bridge[dask]'.",
        ) from None
    # Absolute, since workers may have been started anywhere.
    work = Work(work.folder.resolve())
    how = _for_workers(how)
    with _client(where) as client:
        names = _check_workers(client, where, work, how)
        say(f"{len(names)} Dask workers", workers=names)
        waiting = iter(work.missing)

        def submit(part: int) -> Any:
            # Not pure: a part that was asked for before may be wanted again.
            return client.submit(_write_part, how, work, part, key=f"part-{part}", pure=False)

        first = [submit(part) for part in islice(waiting, AHEAD * len(names))]
        running = as_completed(first, loop=client.loop)
        for future in running:
            try:
                yield int(future.result())
            except KilledWorker as error:
                raise StorageError(
                    f"Several workers were lost while they scored {error.task}: {error}",
                    "Give workers more memory, or lower score.batch_size; what was done is kept.",
                ) from None
            future.release()
            if (part := next(waiting, None)) is not None:
                running.add(submit(part))


def _for_workers(how: Recipe) -> Recipe:
    return replace(how, model=how.model.resolve(), workers=0, cache=None, cache_bytes=0)


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


def _check_workers(client: Any, where: str | int, work: Work, how: Recipe) -> list[str]:
    """The workers' addresses, when all of them can do the work."""
    try:
        client.wait_for_workers(1, timeout=WAIT_SECONDS)
    except TimeoutError:
        raise SettingsError(
            f"No Dask worker has come to {where} in {WAIT_SECONDS} seconds.",
            "Start some: dask worker ADDRESS --nthreads 1 --nworkers N.",
        ) from None
    found = client.run(_look, work, how, __version__, on_error="return")
    for name, answer in found.items():
        if answer is True:
            continue
        raise SettingsError(
            f"The Dask worker {name} cannot score: {answer}.",
            "Workers need zoo_bridge of this version and this work_dir, on a disk that all share.",
        )
    return sorted(found)


def _look(work: Work, how: Recipe, version: str) -> bool | str:
    if version != __version__:
        return f"it has zoo_bridge {__version__}, not {version}"
    missing = [str(path) for path in (work.todo, how.model) if not path.exists()]
    return f"it does not see {missing[0]}" if missing else True


_open: list[tuple[Recipe, Scorer]] = []


def _write_part(how: Recipe, work: Work, part: int) -> int:
    """On a worker: score a part with the model that was loaded for an earlier one."""
    if not _open or _open[0][0] != how:
        _open[:] = [(how, how.open())]
    for _ in _open[0][1].write_parts(work, [part]):
        pass
    return part
