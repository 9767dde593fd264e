"""Galaxies with votes: which are learned from, which are held out for ever, and their images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from zoo_bridge.acquisition.select import share_of
from zoo_bridge.balance import Balance
from zoo_bridge.errors import InputError, NotReadyError
from zoo_bridge.ledger import Artifact
from zoo_bridge.steps.context import Context
from zoo_bridge.steps.galaxies import open_loader, open_store, read_survey
from zoo_bridge.tables import LABELS, read_table

Array = NDArray[Any]
MIN_HELDOUT = 10


@dataclass(frozen=True)
class Labelled:
    """Galaxies with votes: ids, URIs, images, and k and n of each question's target.

    ``images`` has shape (N, size, size, channels), ``k`` and ``n`` (N, Q); ``heldout`` marks the
    galaxies that are never trained on.
    """

    ids: list[str]
    images: Array
    k: Array
    n: Array
    heldout: NDArray[np.bool_]


def read_labels(artifact: Artifact) -> pl.DataFrame:
    """The table of a ``labels`` artifact."""
    return pl.DataFrame(read_table(artifact.path / "labels.parquet", LABELS))


def heldout_roles(ctx: Context, frame: pl.DataFrame) -> dict[str, bool]:
    """For every labelled object that we uploaded: whether it is held out.

    What BALD chose is for learning; the random share of every batch is held out; the random first
    batch, made before there was a model, is split by a hash like everything else.

    Parameters
    ----------
    ctx : Context
        The run.
    frame : polars.DataFrame
        The labels.

    Returns
    -------
    dict
        By object id.
    """
    project = ctx.settings.project.slug
    kinds = {batch["name"]: batch["kind"] for batch in ctx.ledger.list_batches(project)}
    labelled = set(frame["object_id"])
    return {
        row["object_id"]: row["reason"] == "random"
        for row in ctx.ledger.list_objects(project)
        if kinds.get(row["batch"]) != "start" and row["object_id"] in labelled
    }


def usable_labels(
    ctx: Context, frame: pl.DataFrame, roles: dict[str, bool]
) -> tuple[pl.DataFrame, dict[str, int]]:
    """One row a galaxy that can be used, and a tally of those that cannot.

    Parameters
    ----------
    ctx : Context
        The run.
    frame : polars.DataFrame
        The labels.
    roles : dict
        See `heldout_roles`.

    Returns
    -------
    table : polars.DataFrame
        object_id, uri, k_<place> and n_<place> of each question, heldout.
    tally : dict
        labelled, not_in_survey, too_few_votes.
    """
    survey = read_survey(ctx, open_store(ctx.settings))
    places = pl.DataFrame(survey.table.select(["object_id", "uri"]))
    if ctx.settings.votes.same_object == "apart":
        # Subjects of one object may show it differently: the one with most votes speaks for it.
        most = (
            frame.group_by("object_id", "subject_id")
            .agg(pl.col("n").sum())
            .sort(["n", "subject_id"], descending=[True, False])
            .unique("object_id", keep="first")
        )
        frame = frame.join(most, on=["object_id", "subject_id"], how="semi")
    wide = frame.select("object_id").unique()
    for place, question in enumerate(ctx.settings.question):
        votes = (
            frame.filter(question=question.name, answer=question.target)
            .group_by("object_id")
            .agg(pl.col("k").sum().alias(f"k_{place}"), pl.col("n").sum().alias(f"n_{place}"))
        )
        wide = wide.join(votes, on="object_id", how="left")
    wide = wide.fill_null(0)
    found = wide.join(places, on="object_id", how="inner").sort("object_id")
    enough = found.filter(pl.col("n_0") >= ctx.settings.model.min_votes)
    share, seed = ctx.settings.model.heldout_share, ctx.settings.seed
    held = [
        roles.get(name, share_of(name, seed, "held out") < share) for name in enough["object_id"]
    ]
    tally = {
        "labelled": len(wide),
        "not_in_survey": len(wide) - len(found),
        "too_few_votes": len(found) - len(enough),
    }
    if tally["not_in_survey"]:
        missing = wide.join(places, on="object_id", how="anti")["object_id"].sort()[:3].to_list()
        ctx.say(
            f"{tally['not_in_survey']} labelled objects are not in the survey, such as "
            + ", ".join(missing)
        )
    return enough.with_columns(pl.Series("heldout", held, dtype=pl.Boolean)), tally


def check_enough(ctx: Context, table: pl.DataFrame) -> None:
    """Raise `NotReadyError` if there are too few galaxies to learn from or to judge by."""
    needed = ctx.settings.model.min_labels
    if len(table) < needed:
        raise NotReadyError(
            f"There are labels for {len(table)} galaxies of the survey, fewer than the {needed} "
            "needed to train.",
            "Wait for more votes, check votes.object_id_keys, or lower model.min_labels.",
        )
    if table["heldout"].sum() < MIN_HELDOUT:
        raise NotReadyError(
            f"Only {table['heldout'].sum()} labelled galaxies are held out, too few to judge a "
            f"model by (at least {MIN_HELDOUT}).",
            "Wait for more votes, or raise model.heldout_share.",
        )


def load_galaxies(ctx: Context, table: pl.DataFrame, counts: dict[str, Any]) -> Labelled:
    """Fetch the cutouts of labelled galaxies.

    Parameters
    ----------
    ctx : Context
        The run.
    table : polars.DataFrame
        From `usable_labels`.
    counts : dict
        ``bad_cutouts`` is noted in it.

    Returns
    -------
    Labelled
        Without the galaxies whose cutout cannot be used.

    Raises
    ------
    InputError
        If none can be used.
    """
    loader = open_loader(ctx, open_store(ctx.settings))
    objects = list(zip(table["object_id"].to_list(), table["uri"].to_list(), strict=True))
    with ctx.progress.bar("cutouts", len(objects)) as advance:
        batch = loader.load(objects, advance)
    for reject in batch.rejects[:3]:
        ctx.say(f"cutout {reject.uri} set aside: {reject.reason} ({reject.detail})")
    counts["bad_cutouts"] = len(batch.rejects)
    if not batch.places:
        raise InputError(
            f"None of the {len(objects)} cutouts can be used, such as {objects[0][1]}.",
            "Check the [survey] table and the files.",
        )
    kept = table[batch.places]
    questions = range(len(ctx.settings.question))
    return Labelled(
        kept["object_id"].to_list(),
        batch.images,
        kept.select(f"k_{place}" for place in questions).to_numpy(),
        kept.select(f"n_{place}" for place in questions).to_numpy(),
        kept["heldout"].to_numpy(),
    )


def balance_of(counts: dict[str, Any], used: int) -> Balance:
    """What became of the labelled objects."""
    aside = ("not_in_survey", "too_few_votes", "bad_cutouts")
    parts = {name: counts.get(name, 0) for name in aside}
    return Balance("labelled objects", counts["labelled"], {"used": used, **parts})
