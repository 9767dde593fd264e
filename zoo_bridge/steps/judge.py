"""Judging models on galaxies that none of them learned from, and the gate that keeps worse out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zoo_bridge.errors import InputError, RefusedError
from zoo_bridge.steps.context import Context
from zoo_bridge.steps.galaxies import Nodes, analytic, preprocessing, single
from zoo_bridge.steps.labelled import Labelled

if TYPE_CHECKING:
    from zoo_bridge.model.evaluate import Predictions, Verdict
    from zoo_bridge.model.network import Network

Array = NDArray[Any]
Metrics = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Judgement:
    """How a model does on held-out galaxies.

    ``metrics[question]`` and ``baselines[question][name]`` are `model.evaluate.summarise`'s;
    ``log_p``, shape (N,), is the log-likelihood of each held-out galaxy, all questions together.
    """

    metrics: Metrics
    baselines: dict[str, Metrics]
    log_p: Array


def judge(ctx: Context, network: Network, data: Labelled) -> Judgement:
    """Judge a network on the held-out galaxies.

    Parameters
    ----------
    ctx : Context
        The run.
    network : Network
        Whose predictions.
    data : Labelled
        Galaxies with votes; those that are not held out only give the mean vote fraction.

    Returns
    -------
    Judgement
    """
    from zoo_bridge.model.evaluate import summarise

    held, learned, seed = data.heldout, ~data.heldout, ctx.settings.seed
    mean_NQ, spread_NQ = network.logit_moments(network.features(data.images[held]))
    metrics: Metrics = {}
    baselines: dict[str, Metrics] = {}
    log_p = np.zeros(int(held.sum()))
    for place, question in enumerate(ctx.settings.question):
        asked = data.n[held, place] > 0
        k, n = data.k[held, place][asked], data.n[held, place][asked]
        if not len(k):
            continue
        rate = data.k[learned, place].sum() / max(data.n[learned, place].sum(), 1)
        rate = np.clip(rate, 1e-3, 1 - 1e-3)
        posteriors = {
            "": analytic(mean_NQ[asked, place], spread_NQ[asked, place]),
            "one network, no dropout": single(mean_NQ[asked, place]),
            "mean vote fraction": single(np.full(len(k), np.log(rate / (1 - rate)))),
        }
        log_p[asked] += posteriors[""].log_p(k, n)
        rows = {
            name: summarise(said_of(nodes, k, n), k, n, seed) for name, nodes in posteriors.items()
        }
        metrics[question.name] = rows.pop("")
        baselines[question.name] = rows
    return Judgement(metrics, baselines, log_p)


def said_of(nodes: Nodes, k: Array, n: Array) -> Predictions:
    """What a posterior says of votes that came."""
    from zoo_bridge.model.evaluate import Predictions

    inside = {level: nodes.inside(k, n, level / 100) for level in (50, 80, 90)}
    return Predictions(nodes.log_p(k, n), nodes.mean, inside)


def judge_models(ctx: Context, data: Labelled, versions: Sequence[str]) -> dict[str, Judgement]:
    """Judge several models on the same held-out galaxies.

    Parameters
    ----------
    ctx : Context
        The run.
    data : Labelled
        The galaxies.
    versions : sequence of str
        The models.

    Returns
    -------
    dict
        By version.

    Raises
    ------
    RefusedError
        If a model was trained with other preprocessing.
    """
    from zoo_bridge.model import registry

    how = preprocessing(ctx.settings).as_dict()
    loaded = ((name, registry.load(ctx.work / "models" / name, how)[0]) for name in versions)
    return {name: judge(ctx, network, data) for name, network in loaded}


def gate(ctx: Context, data: Labelled, candidate: Array) -> Verdict:
    """Compare a candidate with the model in use, on the same held-out galaxies.

    Parameters
    ----------
    ctx : Context
        The run.
    data : Labelled
        The galaxies.
    candidate : ndarray, shape (N,)
        The candidate's log-likelihood of each held-out galaxy.

    Returns
    -------
    Verdict
        A model that cannot be used any more is no rival.
    """
    from zoo_bridge.model import registry
    from zoo_bridge.model.evaluate import Verdict, compare

    version = ctx.ledger.model_in_use()
    if version is None:
        return Verdict(True, "the first model", 0.0, 0.0)
    how = preprocessing(ctx.settings).as_dict()
    try:
        current, record = registry.load(ctx.work / "models" / version, how)
    except (RefusedError, InputError) as error:
        return Verdict(True, f"{version} cannot be used any more: {error.message}", 0.0, 0.0)
    asked = [question.name for question in ctx.settings.question]
    if [question["name"] for question in record.questions] != asked:
        return Verdict(True, f"{version} answers other questions", 0.0, 0.0)
    confidence = ctx.settings.model.gate_confidence
    return compare(candidate, judge(ctx, current, data).log_p, confidence, ctx.settings.seed)
