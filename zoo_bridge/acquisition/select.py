"""Which galaxies go to volunteers: the most informative, and a random share to judge by."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from zoo_bridge.acquisition.diversity import Apart, uniform_of


@dataclass(frozen=True)
class Pick:
    """One galaxy of a batch: its place among the objects, and why it is there."""

    rank: int
    index: int
    reason: str


def select(
    object_ids: Sequence[str],
    keys: Sequence[float] | None,
    excluded: Collection[str],
    size: int,
    random_share: float,
    seed: int,
    apart: Apart | None = None,
    pool: float | None = None,
) -> list[Pick]:
    """Choose a batch.

    Parameters
    ----------
    object_ids : sequence of str
        Ids of everything that may be chosen.
    keys : sequence of float, or None
        What is sorted by, the highest first: the mutual information in nats, or what makes of it a
        more diverse batch (see `diversity`). None before there is any model, when all are drawn at
        random.
    excluded : collection of str
        Objects that are not to be chosen: uploaded or labelled already, or rejected.
    size : int
        How many at most.
    random_share : float
        Share of the batch that is drawn at random over the survey.
    seed : int
        The same survey, exclusions and seed give the same batch.
    apart : Apart, optional
        Leaves out the best that lie next to a better one. Not the random ones: what is judged by
        must look like the survey.
    pool : float, optional
        Draw at random from those alone that belong to a pool of this share: see `in_pool`.

    Returns
    -------
    list of Pick
        Best first, then the random ones.
    """
    open_places = [place for place, name in enumerate(object_ids) if name not in excluded]
    if keys is None:
        drawn = _shuffled(open_places, object_ids, seed)[:size]
        return [Pick(rank, place, "random") for rank, place in enumerate(drawn, 1)]
    size = min(size, len(open_places))
    # Drawn before the best are taken: a random share of the survey, not of what BALD leaves over.
    fair = open_places
    if pool is not None:
        fair = [place for place in open_places if in_pool(object_ids[place], seed, pool)]
    drawn = _shuffled(fair, object_ids, seed)[: round(random_share * size)]
    taken = set(drawn)
    key_N = np.asarray(keys, dtype=np.float64)
    rest = [place for place in open_places if place not in taken and key_N[place] > -np.inf]
    rest.sort(key=lambda place: (-key_N[place], object_ids[place]))
    wanted = size - len(drawn)
    best: list[int] = []
    for place in rest:
        if len(best) == wanted:
            break
        if apart is None or apart.take(place):
            best.append(place)
    chosen = [(place, "bald") for place in best] + [(place, "random") for place in drawn]
    return [Pick(rank, place, reason) for rank, (place, reason) in enumerate(chosen, 1)]


def share_of(object_id: str, seed: int, purpose: str) -> float:
    """A number between 0 and 1 that belongs to an object, a seed and a purpose, for ever."""
    digest = hashlib.sha256(f"{purpose}:{seed}:{object_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def in_pool(object_id: str, seed: int, share: float) -> bool:
    """Whether an object belongs to a pool that is that share of all objects.

    By its id alone: a pool of a larger share holds that of a smaller one.
    """
    return uniform_of(object_id, seed, "pool") < share


def _shuffled(places: Sequence[int], object_ids: Sequence[str], seed: int) -> list[int]:
    return sorted(places, key=lambda place: share_of(object_ids[place], seed, "random share"))
