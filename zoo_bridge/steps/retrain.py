"""Retrain: labels and cutouts to a model in ``models/``, put in use only if it is not worse."""

from __future__ import annotations

from typing import Any

import polars as pl

from zoo_bridge.errors import NotReadyError
from zoo_bridge.files import digest_value
from zoo_bridge.ledger import Artifact
from zoo_bridge.steps.context import Context, Result, already_done, settings_digest, unchanged
from zoo_bridge.steps.inputs import read_labels
from zoo_bridge.steps.training.candidate import Candidate
from zoo_bridge.steps.training.gate import gate
from zoo_bridge.steps.training.judge import judge
from zoo_bridge.steps.training.labelled import (
    balance_of,
    check_enough,
    check_images,
    heldout_roles,
    load_galaxies,
    usable_labels,
)
from zoo_bridge.steps.training.register import describe, register

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
    data = load_galaxies(ctx, table, counts)
    check_images(data)
    candidate = Candidate.trained(ctx, data, digest_value([inputs, settings, data.ids]))
    judgement = judge(ctx, candidate)
    verdict = gate(ctx, candidate, judgement)
    register(ctx, candidate, judgement, verdict, labels)
    outcome = "done" if verdict.promote else "refused"
    balance = balance_of(counts, len(data.ids))
    used = {"trained_on": candidate.training["galaxies"], "held_out": int(data.heldout.sum())}
    text = describe(ctx, judgement, verdict)
    return Result(outcome, text, {**counts, **used}, [balance], ctx.tag, inputs, settings)


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
