"""Planning a batch: which galaxies, why, and what volunteers will be shown.

A plan is a folder: ``plan.parquet`` with a line for each object, ``previews/``, a contact sheet to
look at, and what was checked. It is written, and the intent with it to the ledger, before anything
is created on Zooniverse.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from zoo_bridge.acquisition import diversity
from zoo_bridge.acquisition.select import Pick, select
from zoo_bridge.cutouts.positions import in_degrees
from zoo_bridge.cutouts.store import Store
from zoo_bridge.cutouts.survey import Survey
from zoo_bridge.errors import SettingsError
from zoo_bridge.ledger import Artifact, PlannedObject
from zoo_bridge.steps.batches.contenders import Contender, contenders, ranking_of
from zoo_bridge.steps.batches.plan import Planned
from zoo_bridge.steps.batches.staging import facts_of
from zoo_bridge.steps.context import Context
from zoo_bridge.steps.inputs import open_model, preprocessing_of, read_labels, subjects_export
from zoo_bridge.steps.scoring import catalogue
from zoo_bridge.steps.scoring.task import features_in_use
from zoo_bridge.tables import sql_text
from zoo_bridge.votes.rules import find_object_id
from zoo_bridge.votes.subjects import Subjects

if TYPE_CHECKING:
    from zoo_bridge.zooniverse.subjects import Subject

# A diverse batch is chosen out of so many times as many of the best.
POOL = 10


@dataclass(frozen=True)
class Sources:
    """What a batch is made from; no scores before there is a model."""

    survey: Survey
    store: Store
    scores: Artifact | None
    labels: Artifact | None


def choose(
    ctx: Context,
    sources: Sources,
    room: int,
    newer: Sequence[Subject] = (),
    without: Collection[str] = (),
) -> list[Planned]:
    """Choose the objects of a batch.

    Left out is what was uploaded already, is labelled enough, or was rejected. What is a subject of
    the project already, by others or by a batch that was given up, is to be linked.

    Parameters
    ----------
    ctx : Context
        The settings and the ledger.
    sources : Sources
        What to choose from.
    room : int
        Objects at most.
    newer : sequence of Subject
        Subjects of the project that no subjects export has yet.
    without : collection of str
        Objects that are not to be chosen, for whatever reason.

    Returns
    -------
    list of Planned
        Best first, then the random ones.
    """
    config, seed = ctx.settings.upload, ctx.settings.seed
    every = None if sources.labels is None else read_labels(sources.labels)
    labels = None if every is None else every.filter(question=ctx.settings.question[0].name)
    labelled = frozenset() if every is None else frozenset(every["object_id"])
    adoptable = _adoptable(ctx)
    known = _known_subjects(ctx, labels, newer) | {
        name: int(row.subject_id) for name, row in adoptable.items() if row.subject_id is not None
    }
    excluded = _excluded(ctx, labels, adoptable) | set(without)
    picky = config.diversity == "features" or config.min_separation_arcsec
    best = (POOL if picky else 2) * room
    folder = sources.scores.path if sources.scores else None
    ranking = ranking_of(ctx.settings, sources.scores)
    found = contenders(sources.survey, folder, excluded, best, room, ranking)
    ids = [each.object_id for each in found]
    keys = _keys(ctx, sources, found, room) if sources.scores else None
    apart = _apart(ctx, sources.survey, ids) if config.min_separation_arcsec else None
    pool = ranking.pool.share if ranking.pool else None
    picks = select(ids, keys, (), room, config.random_share, seed, apart, pool)
    why = _reasons(sources, [ids[pick.index] for pick in picks])
    # The first batch, made before there is a model, is split by a hash; so is what has votes.
    settled = sources.scores is not None
    lines = []
    for pick in picks:
        line = _line(pick, found[pick.index], known, why, pool)
        open_role = settled and line.object_id not in labelled
        heldout = line.reason == "random" if open_role else None
        former = adoptable.get(line.object_id)
        ours = former is not None and former.creates > 0 and line.object_id not in labelled
        lines.append(replace(line, heldout=heldout, adopted=former is not None, redrawn=ours))
    return lines


def _line(
    pick: Pick,
    chosen: Contender,
    known: dict[str, int],
    why: dict[str, str],
    pool: float | None,
) -> Planned:
    ident = chosen.object_id
    how = f"rank {pick.rank} by BALD"
    if pick.reason == "random":
        how = "drawn at random"
        how += "" if pool is None else f" from a pool of {pool:.2%} of the survey"
    subject = known.get(ident)
    if subject is not None:
        how += f"; is subject {subject} already"
    told = f"{how}: {why[ident]}" if ident in why else how
    action = "create" if subject is None else "link"
    return Planned(pick.rank, ident, chosen.uri, pick.reason, action, chosen.bald, subject, told)


def _adoptable(ctx: Context) -> dict[str, PlannedObject]:
    """Objects that batches which were given up left as subjects.

    Not those that say what they show under another key than subjects do now.
    """
    rows = ctx.ledger.list_adoptable()
    key = ctx.settings.upload.metadata_key
    keys = {name: facts_of(ctx, name).get("key", key) for name in {row.batch for row in rows}}
    fits = (row for row in rows if row.creates == 0 or keys[row.batch] == key)
    return {row.object_id: row for row in fits}


def _excluded(ctx: Context, labels: pl.DataFrame | None, adoptable: Mapping[str, Any]) -> set[str]:
    """What was planned before, and what has votes enough on the question that all are asked."""
    excluded = {row.object_id for row in ctx.ledger.list_objects()} - set(adoptable)
    if labels is not None:
        enough = labels.filter(pl.col("n") >= ctx.settings.upload.enough_votes)
        excluded |= set(enough["object_id"])
    return excluded


def newest_exported(ctx: Context) -> int:
    """The number of the newest subject that the last subjects export has; 0 without one."""
    export = subjects_export(ctx)
    if export is None:
        return 0
    subjects = Subjects([])
    subjects.read_export(export)
    return subjects.newest


def _known_subjects(
    ctx: Context, labels: pl.DataFrame | None, newer: Sequence[Subject]
) -> dict[str, int]:
    """The subjects that objects are already, by the subjects export, the server and by votes."""
    keys = [ctx.settings.upload.metadata_key, *ctx.settings.votes.object_id_keys]
    # The first subject of several.
    known = {
        name: int(subject.subject_id)
        for subject in sorted(newer, key=lambda each: -int(each.subject_id))
        if (name := find_object_id(subject.metadata, keys)) is not None
    }
    if (export := subjects_export(ctx)) is not None:
        subjects = Subjects(keys)
        subjects.read_export(export)
        rows = subjects.exported.select("object_id", "subject_id").sort("subject_id")
        known |= dict(reversed(rows.rows()))
    if labels is not None:
        known |= dict(labels.select("object_id", "subject_id").iter_rows())
    return known


def _keys(ctx: Context, sources: Sources, found: Sequence[Contender], room: int) -> list[float]:
    """What contenders are sorted by."""
    if ctx.settings.upload.diversity != "features":
        return [-np.inf if each.key is None else each.key for each in found]
    pool = sorted(found, key=lambda each: (-(each.bald or 0.0), each.object_id))[: POOL * room]
    features = _features(ctx, sources, pool)
    good = [place for place, each in enumerate(pool) if each.object_id in features]
    rows = np.stack([features[pool[place].object_id] for place in good])
    information = np.array([pool[place].bald or 0.0 for place in good])
    order = diversity.spread(rows, information, 2 * room)
    rank = {pool[good[place]].object_id: number for number, place in enumerate(order)}
    return [float(-rank.get(each.object_id, np.inf)) for each in found]


def _features(
    ctx: Context, sources: Sources, pool: Sequence[Contender]
) -> dict[str, np.ndarray[Any, Any]]:
    """What the networks see in some galaxies, all networks' features side by side."""
    from zoo_bridge.cutouts.load import Loader
    from zoo_bridge.model.predict import features_of

    version = ctx.ledger.model_in_use()
    assert version is not None
    objects = [(each.object_id, each.uri) for each in pool]
    places, seen = features_in_use(ctx, version).find(objects)
    found: dict[str, np.ndarray[Any, Any]] = {}
    if places:
        side_by_side = np.concatenate(seen, axis=1).astype(np.float32)
        found = dict(zip((objects[at][0] for at in places), side_by_side, strict=True))
    objects = [each for each in objects if each[0] not in found]
    if not objects:
        return found
    model = open_model(ctx.settings, version, ctx.settings.score.runtime)
    loader = Loader(sources.store, preprocessing_of(ctx.settings), ctx.work / "cache", 0)
    groups = [objects[start : start + 256] for start in range(0, len(objects), 256)]
    with ctx.progress.bar("comparing", len(objects)) as advance:
        for batch in loader.batches(groups):
            if batch.places:
                told = {id(each): each for each in features_of(model, batch.images)}
                side_by_side = np.concatenate(list(told.values()), axis=1)
                names = [batch.objects[place][0] for place in batch.places]
                found |= dict(zip(names, side_by_side, strict=True))
            advance(len(batch.objects))
    return found


def _apart(ctx: Context, survey: Survey, ids: Sequence[str]) -> diversity.Apart:
    columns = ctx.settings.survey.ra_column, ctx.settings.survey.dec_column
    if missing := [name for name in columns if name not in survey.columns]:
        raise SettingsError(
            f"upload.min_separation_arcsec needs positions, and the survey has no column "
            f"{' or '.join(missing)}.",
            f"Set survey.ra_column and survey.dec_column; it has {', '.join(survey.columns)}.",
        )
    ordered = pl.DataFrame({"object_id": list(ids)}, schema={"object_id": pl.String})
    frame = ordered.join(survey.find(ids, columns), "object_id", "left", maintain_order="left")
    ra_N, dec_N = (
        in_degrees(frame[name], survey.meanings.get(name, {}), name == columns[0])
        for name in columns
    )
    return diversity.Apart(ra_N, dec_N, ctx.settings.upload.min_separation_arcsec)


def _reasons(sources: Sources, ids: Sequence[str]) -> dict[str, str]:
    """What the networks say of objects: for each, a line for people."""
    if sources.scores is None or not ids:
        return {}
    names = ", ".join(sql_text(name) for name in ids)
    with catalogue.query(
        sources.scores.path, None, f"target AND object_id IN ({names})", "object_id"
    ) as reader:
        rows = reader.read_all().to_pylist()
    said: dict[str, list[str]] = {}
    for row in rows:
        said.setdefault(row["object_id"], []).append(
            f"{row['answer']} {row['mean']:.2f} ({row['lo']:.2f} to {row['hi']:.2f}), "
            f"{row['bald']:.3f} nats"
        )
    return {name: "; ".join(lines) for name, lines in said.items()}


# pictures


# writing
