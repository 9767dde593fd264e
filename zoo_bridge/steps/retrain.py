"""Retrain: labels and cutouts to a model in ``models/``, put in use only if it is not worse."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from zoo_bridge.acquisition.evaluate import compare
from zoo_bridge.errors import NotReadyError
from zoo_bridge.files import digest_value
from zoo_bridge.ledger import Artifact
from zoo_bridge.steps.context import Context, Result, already_done, settings_digest, unchanged
from zoo_bridge.steps.inputs import read_labels
from zoo_bridge.steps.training.candidate import Candidate
from zoo_bridge.steps.training.gate import gate
from zoo_bridge.steps.training.judge import Judgement, judge
from zoo_bridge.steps.training.labelled import (
    Array,
    Labelled,
    balance_of,
    check_enough,
    check_images,
    heldout_roles,
    load_galaxies,
    usable_labels,
)
from zoo_bridge.steps.training.register import describe, register
from zoo_bridge.steps.training.trunks import Trunk, trunk_that_stays

SECTIONS = ("model", "cutouts", "question", "survey", "seed")


def retrain(ctx: Context) -> Result:
    """Train a model on the newest labels and put it in use unless it is worse.

    Parameters
    ----------
    ctx : Context
        The settings, the ledger and what the command line asked for.

    Returns
    -------
    Result
        The artifact ``model`` is a folder; outcome ``refused`` if the gate kept it out.

    Raises
    ------
    NotReadyError
        If there are no labels, or too few.
    InputError
        If there is nothing to learn in the images, or none can be read.
    """
    labels = _newest_labels(ctx)
    frame = read_labels(labels)
    roles = heldout_roles(ctx, frame)
    inputs, settings = _digests(ctx, labels, roles)
    if done := already_done(ctx, "retrain", "model", inputs, settings):
        text = f"the model {done.name} was trained on these labels"
        return unchanged(text, done, inputs, settings)
    table, counts = usable_labels(ctx, frame, roles)
    check_enough(ctx, table)
    learned, held = (table["heldout"] == out for out in (False, True))
    ctx.say(f"{learned.sum()} galaxies to learn from, {held.sum()} held out")
    if ctx.options.dry_run:
        return _planned(table, counts)
    identity = digest_value([inputs, settings])
    candidate, judgement = _candidate(ctx, table, counts, identity)
    data = candidate.data
    verdict = gate(ctx, candidate, judgement)
    register(ctx, candidate, judgement, verdict, labels)
    outcome = "done" if verdict.promote else "refused"
    balance = balance_of(counts, len(data.ids))
    used = {"trained_on": candidate.training["galaxies"], "held_out": int(data.heldout.sum())}
    text = describe(ctx, judgement, verdict)
    return Result(outcome, text, {**counts, **used}, [balance], ctx.tag, inputs, settings)


def _candidate(
    ctx: Context, table: pl.DataFrame, counts: dict[str, Any], identity: str
) -> tuple[Candidate, Judgement]:
    """What is to be judged: a whole network that was trained, or last layers on a trunk."""
    trunk = trunk_that_stays(ctx)
    if trunk is None:
        return _whole(ctx, load_galaxies(ctx, table, counts), identity)
    data = load_galaxies(ctx, table, counts, trunk)
    candidate = Candidate.on_trunk(ctx, data, trunk)
    judgement = judge(ctx, candidate)
    if not _check_due(ctx, trunk, data):
        return candidate, judgement
    learned = int((~data.heldout).sum())
    ctx.say(
        f"{trunk.told} learned from {trunk.learned_from} galaxies, and there are {learned}: a "
        "whole training is tried"
    )
    rival, told = _whole(ctx, load_galaxies(ctx, table, counts), identity)
    both = _paired(judgement.log_p, data, told.log_p, rival.data)
    verdict = compare(*both, ctx.settings.model.gate_confidence, ctx.settings.seed)
    if verdict.promote:
        ctx.say(f"the trunk stays: a whole training gains {-verdict.difference:+.3f} nats a galaxy")
        candidate.training["trunk"]["checked"] = learned
        return candidate, judgement
    ctx.say(f"a whole training pays: it gains {-verdict.difference:+.3f} nats a galaxy")
    return rival, told


def _whole(ctx: Context, data: Labelled, identity: str) -> tuple[Candidate, Judgement]:
    check_images(data)
    candidate = Candidate.trained(ctx, data, digest_value([identity, data.ids]))
    return candidate, judge(ctx, candidate)


def _check_due(ctx: Context, trunk: Trunk, data: Labelled) -> bool:
    """Whether there are so many more labels that a whole training may pay."""
    growth = ctx.settings.model.trunk_check
    enough = growth * trunk.learned_from
    return 0 < enough <= (~data.heldout).sum()


def _paired(one: Array, data: Labelled, other: Array, its: Labelled) -> tuple[Array, Array]:
    """Of the held-out galaxies that both have, in one order."""
    names, theirs = (np.array(each.ids)[each.heldout] for each in (data, its))
    _, first, second = np.intersect1d(names, theirs, return_indices=True)
    return one[first], other[second]


def _newest_labels(ctx: Context) -> Artifact:
    labels = ctx.ledger.newest("labels")
    if labels is None:
        raise NotReadyError(
            "There are no labels to learn from.",
            "Make them with: zoo-bridge run pull, then zoo-bridge run aggregate.",
        )
    return labels


def _digests(ctx: Context, labels: Artifact, roles: dict[str, bool]) -> tuple[str, str]:
    """Of what is learned from, and of the settings that matter to it."""
    inputs = digest_value([labels.digest, sorted(roles.items())])
    sections = settings_digest(ctx.settings, *SECTIONS)
    return inputs, digest_value([sections, ctx.settings.score.runtime])


def _planned(table: pl.DataFrame, counts: dict[str, Any]) -> Result:
    held = int(table["heldout"].sum())
    message = f"would train on {len(table) - held} galaxies and judge on {held}"
    return Result("planned", message, counts, [balance_of(counts, len(table))])
