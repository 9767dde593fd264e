"""The figures of a model card: how calibrated, how right, and what it says of single galaxies."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo_bridge.acquisition.information import log_votes
from zoo_bridge.acquisition.posterior import Posterior
from zoo_bridge.model.predict import FIGURE_NETWORKS, posteriors_of, sampled_logits
from zoo_bridge.report.figures import (
    Curve,
    Galaxy,
    draw_calibration,
    draw_posteriors,
    draw_predicted,
    to_png,
)
from zoo_bridge.steps.context import Context
from zoo_bridge.steps.training.candidate import Candidate
from zoo_bridge.steps.training.judge import CURVE, MEAN, ONE_NETWORK, THIS, UNCALIBRATED, Judgement

Array = NDArray[Any]
SHOWN = 6
# Among so many galaxies they are chosen.
LOOKED_AT = 3000


def draw_figures(ctx: Context, candidate: Candidate, judgement: Judgement) -> dict[str, bytes]:
    """PNG files by name: calibration, predicted against observed, posteriors of galaxies.

    Parameters
    ----------
    ctx : Context
        The settings' questions.
    candidate : Candidate
        Its networks and galaxies are drawn.
    judgement : Judgement
        Of the same candidate.

    Returns
    -------
    dict
        The files' bytes; names end in ``.png``.
    """
    figures = {}
    for question in ctx.settings.question:
        said = judgement.said.get(question.name)
        if said is None:
            continue
        names = {THIS: "this model", UNCALIBRATED: UNCALIBRATED, ONE_NETWORK: ONE_NETWORK}
        curves = [
            Curve(name, [float(said.forecasts[key].inside[level].mean()) for level in CURVE])
            for key, name in {**names, MEAN: MEAN}.items()
        ]
        within = judgement.metrics[question.name]
        stem = "".join(c if c.isalnum() else "-" for c in question.name)
        figures[f"calibration-{stem}.png"] = to_png(draw_calibration(CURVE, curves, within))
        own = said.forecasts[THIS]
        figures[f"predicted-{stem}.png"] = to_png(
            draw_predicted(own.mean, said.k / said.n, question.target)
        )
    galaxies = choose_galaxies(ctx, candidate)
    if galaxies:
        answer = ctx.settings.question[0].target
        figures["posteriors.png"] = to_png(draw_posteriors(galaxies, answer))
    misses = worst_misses(ctx, candidate, judgement)
    if misses:
        figures["misses.png"] = to_png(draw_posteriors(misses, ctx.settings.question[0].target))
    return figures


def worst_misses(ctx: Context, candidate: Candidate, judgement: Judgement) -> list[Galaxy]:
    """Held-out galaxies whose votes the model thought least likely, the worst first.

    Parameters
    ----------
    ctx : Context
        The settings' seed.
    candidate : Candidate
        Its held-out galaxies are chosen from.
    judgement : Judgement
        Of the same candidate: the likelihood of the votes, first question.

    Returns
    -------
    list of Galaxy
    """
    said = judgement.said.get(ctx.settings.question[0].name)
    if said is None or len(said.held) < SHOWN:
        return []
    places = said.held[np.argsort(said.forecasts[THIS].log_p, kind="stable")[:SHOWN]]
    some = [features_ND[places] for features_ND in candidate.features]
    answer = candidate.networks[0].design.heads[0].target_place
    votes = int(np.median(said.n))
    posterior = posteriors_of(candidate.networks, some, 0, candidate.estimator, votes)[answer]
    return _galaxies(ctx, candidate, places, posterior, posterior.information(votes))


def choose_galaxies(ctx: Context, candidate: Candidate) -> list[Galaxy]:
    """Held-out galaxies to show: two with little information, the others with most.

    Parameters
    ----------
    ctx : Context
        The settings' seed.
    candidate : Candidate
        Its held-out galaxies are chosen from.

    Returns
    -------
    list of Galaxy
        With sampled networks' posteriors for the votes that came, first question.
    """
    networks, data = candidate.networks, candidate.data
    _, n = data.target(0)
    held = np.flatnonzero(data.heldout)
    asked = np.flatnonzero(n[held] > 0)[:LOOKED_AT]
    if len(asked) < SHOWN:
        return []
    some = [features_ND[asked] for features_ND in candidate.features]
    answer = networks[0].design.heads[0].target_place
    votes = int(np.median(n[held[asked]]))
    said = posteriors_of(networks, some, 0, candidate.estimator, votes)[answer]
    bald = said.information(votes)
    order = np.argsort(bald)
    # Of the galaxies that the networks agree on, one of either kind.
    sure = order[: max(2, len(order) // 4)]
    chosen = [int(sure[np.argmax(said.mean[sure])]), int(sure[np.argmin(said.mean[sure])])]
    chosen += [int(place) for place in order[::-1][: SHOWN - len(chosen)]]
    return _galaxies(ctx, candidate, asked[chosen], said, bald[chosen])


def _galaxies(
    ctx: Context, candidate: Candidate, places: Array, said: Posterior, bald: Array
) -> list[Galaxy]:
    """Galaxies by their places among the held-out ones, with what sampled networks say."""
    data, networks = candidate.data, candidate.networks
    k, n = data.target(0)
    answer = networks[0].design.heads[0].target_place
    few = [features_ND[places] for features_ND in candidate.features]
    logit_NT = sampled_logits(networks, few, 0, answer, FIGURE_NETWORKS, ctx.settings.seed)
    galaxies = []
    held = np.flatnonzero(data.heldout)
    for at, logit_T, nats in zip(held[places], logit_NT, bald, strict=True):
        p_TK = np.exp(log_votes(logit_T, int(n[at]), said.overdispersion))
        image = data.images[at].squeeze()
        galaxies.append(Galaxy(data.ids[at], image, p_TK, int(k[at]), float(nats)))
    return galaxies
