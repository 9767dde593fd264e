"""From a model's networks to a posterior over votes, and the way of computing it to be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from zoo_bridge.acquisition import posterior
from zoo_bridge.acquisition.posterior import Calibration, Logit, Masks, Posterior

if TYPE_CHECKING:
    from zoo_bridge.model.network import Network
    from zoo_bridge.model.registry import Model

Array = NDArray[Any]
ANALYTIC = {"kind": "analytic", "enumerated": posterior.ENUMERATED}
SAMPLED = {"kind": "masks", "networks": 2000, "seed": 1}
TRUTH_NETWORKS, TRUTH_SEED = 20_000, 2
TOP = 0.05
ENOUGH_AGREEMENT = 0.9
MOST_CHECKED = 3000
CHUNK = 250


def features_of(model: Model, images: Array) -> list[Array]:
    """Each network's features of images, by the model's runtime: M arrays of shape (N, D)."""
    return [trunk(images) for trunk in model.trunks]


def posterior_of(
    networks: Sequence[Network],
    features: Sequence[Array],
    question: int,
    estimator: dict[str, Any],
    calibration: Calibration | None = None,
    answer: int | None = None,
) -> Posterior:
    """What networks together say of one answer of one question.

    Parameters
    ----------
    networks : sequence of Network
        An ensemble, or one.
    features : sequence of ndarray, shape (N, D)
        Each network's, of the same galaxies.
    question : int
        Its place.
    estimator : dict
        ``analytic``, or ``masks`` with how many networks in all and the masks' seed.
    calibration : Calibration, optional
        For error bars.
    answer : int, optional
        Its place; the target's if not given.

    Returns
    -------
    Posterior
    """
    if answer is None:
        answer = networks[0].design.heads[question].target_place
    logits: list[Logit | Masks] = []
    for member, (network, features_ND) in enumerate(zip(networks, features, strict=True)):
        if estimator["kind"] == "analytic":
            linear = network.linear(features_ND, question, answer)
            dropout = network.design.dropout
            logits.append(posterior.dropped(*linear, dropout, estimator["enumerated"]))
        else:
            share, seed = estimator["networks"] // len(networks), estimator["seed"] + member
            logits.append(Masks(network.sample(features_ND, question, answer, share, seed)))
    scatter = float(np.mean([network.overdispersion[question] for network in networks]))
    return Posterior(logits, scatter, calibration)


def calibration_of(model: Model, question: int) -> Calibration | None:
    """A model's calibration of a question."""
    numbers = model.record.calibration.get(model.record.heads[question]["name"])
    return Calibration(**numbers) if numbers else None


def choose_estimator(
    networks: Sequence[Network], features: Sequence[Array], expected: Sequence[int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Check the analytic ranking against 20,000 sampled networks; take what agrees.

    Of every question the mutual information is compared; the question that agrees least counts. The
    same masks serve every galaxy, so each sample is one network; where even their two halves
    disagree, nothing can agree with the whole.

    Parameters
    ----------
    networks : sequence of Network
        A model's.
    features : sequence of ndarray, shape (N, D)
        Of galaxies that it did not learn from; the first 3,000 are used.
    expected : sequence of int
        Votes that a galaxy is expected to get on each question.

    Returns
    -------
    estimator : dict
        For `posterior_of`: the analytic one if it shares 90 % of the top 5 %, else the better one.
    agreement : dict
        For the model card.
    """
    some = [features_ND[:MOST_CHECKED] for features_ND in features]
    truths = [_sampled_truth(networks, some, place, n) for place, n in enumerate(expected)]
    tried = {}
    for estimator in (ANALYTIC, SAMPLED):
        each = []
        for place, n in enumerate(expected):
            told = posterior_of(networks, some, place, estimator).information(n)
            each.append(_agreement(told, *truths[place]))
        worst = min(each, key=lambda found: found["top_5_percent"])
        tried[estimator["kind"]] = worst
        if worst["top_5_percent"] >= ENOUGH_AGREEMENT:
            break
    best = max(tried, key=lambda kind: tried[kind]["top_5_percent"])
    agreement = {
        "networks": TRUTH_NETWORKS,
        "galaxies": len(some[0]),
        **tried[best],
        "tried": tried,
    }
    return dict(ANALYTIC if best == "analytic" else SAMPLED), agreement


def _agreement(told: Array, truth: Array, one: Array, other: Array) -> dict[str, float]:
    return {
        "top_5_percent": overlap(told, truth),
        "halves_top_5_percent": overlap(one, other),
        "spearman": float(spearmanr(told, truth).statistic) if len(told) > 2 else 1.0,
        "bias": float(np.mean(told - truth)),
    }


def _sampled_truth(
    networks: Sequence[Network], features: Sequence[Array], question: int, expected: int
) -> tuple[Array, Array, Array]:
    """Information under sampled networks, and under either half of them: shape (N,) each."""
    answer = networks[0].design.heads[question].target_place
    share = TRUTH_NETWORKS // len(networks)
    scatter = float(np.mean([network.overdispersion[question] for network in networks]))
    told: tuple[list[Array], ...] = ([], [], [])
    for start in range(0, len(features[0]), CHUNK):
        logits = [
            network.sample(
                features_ND[start : start + CHUNK], question, answer, share, TRUTH_SEED + member
            )
            for member, (network, features_ND) in enumerate(zip(networks, features, strict=True))
        ]
        parts = (slice(None), slice(None, share // 2), slice(share // 2, None))
        for kept, part in zip(told, parts, strict=True):
            whole = Posterior([Masks(logit_NT[:, part]) for logit_NT in logits], scatter)
            kept.append(whole.information(expected))
    truth, one, other = (np.concatenate(kept) for kept in told)
    return truth, one, other


def overlap(one: Array, other: Array, top: float = TOP) -> float:
    """The share of the highest values of one ranking that are among the highest of another."""
    count = max(1, round(top * len(one)))
    best = [set(np.argsort(-ranking, kind="stable")[:count]) for ranking in (one, other)]
    return len(best[0] & best[1]) / count
