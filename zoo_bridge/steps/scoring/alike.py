"""More like this: the galaxies that networks see as most alike, by kept features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.parquet as pq

from zoo_bridge.errors import NotReadyError, SettingsError
from zoo_bridge.steps.context import Context
from zoo_bridge.steps.scoring.task import features_in_use

ROWS = 50_000


def alike(ctx: Context, object_id: str, count: int) -> list[dict[str, Any]]:
    """The galaxies nearest to one, in the features of the trunk in use.

    Parameters
    ----------
    ctx : Context
        The settings and the ledger.
    object_id : str
        Of a galaxy that was scored.
    count : int
        How many are wanted.

    Returns
    -------
    list of dict
        ``object_id``, ``uri`` and ``distance``, the nearest first, without the galaxy itself.
        Distance is the root of the mean square over features, each by its own spread.

    Raises
    ------
    NotReadyError
        If nothing was scored with the model in use.
    SettingsError
        If there is no such galaxy among what was scored.
    """
    version = ctx.ledger.model_in_use()
    kept = features_in_use(ctx, version) if version else None
    parts = kept.parts() if kept else []
    if kept is None or not parts:
        raise NotReadyError(
            "No features are kept of the model in use.", "Make some with: zoo-bridge run score."
        )
    like = spread = None
    for path in parts:
        ids = pq.read_table(path, columns=["object_id"])["object_id"].to_numpy()
        if len(at := np.flatnonzero(ids == object_id)):
            like = np.concatenate([each[at[-1]] for each in kept.open(path)]).astype(np.float32)
        if spread is None and len(ids):
            sample = [each[:ROWS].astype(np.float32) for each in kept.open(path)]
            spread = np.concatenate(sample, axis=1).std(axis=0)
    if like is None or spread is None:
        raise SettingsError(
            f"{object_id} was not scored with the model in use.",
            "Is the id as in the catalogue? New objects are scored by: zoo-bridge run score.",
        )
    tells = spread > 0
    nearest: dict[str, dict[str, Any]] = {}
    for path in parts:
        table, numbers = pq.read_table(path, columns=["object_id", "uri"]), kept.open(path)
        for start in range(0, len(table), ROWS):
            some = np.concatenate([each[start : start + ROWS] for each in numbers], axis=1)
            away = (some[:, tells].astype(np.float32) - like[tells]) / spread[tells]
            distance = np.sqrt(np.square(away).mean(axis=1))
            for place in np.argsort(distance, kind="stable")[: count + 1]:
                row = table.slice(start + int(place), 1).to_pylist()[0]
                # What was kept last of an object counts.
                nearest[row["object_id"]] = {**row, "distance": float(distance[place])}
        best = sorted(nearest.values(), key=lambda row: (row["distance"], row["object_id"]))
        nearest = {row["object_id"]: row for row in best[: count + 1]}
    return [row for row in nearest.values() if row["object_id"] != object_id][:count]
