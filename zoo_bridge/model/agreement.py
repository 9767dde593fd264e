"""Whether the ranking by mutual information can be trusted: the estimator against many masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import spearmanr

from zoo_bridge.acquisition import masks
from zoo_bridge.acquisition.posterior import Posterior
from zoo_bridge.model.predict import ANALYTIC, SAMPLED, Array, answers_of, posteriors_of

if TYPE_CHECKING:
    from zoo_bridge.model.network import Network


REFERENCE_SEED = 1001
TOP = 0.05
ENOUGH_AGREEMENT, SLACK = 0.95, 0.02
CHECKED = 3000
# How far a drawn galaxy's features stray from those of the two that it lies between.
STRAY = 0.2


def choose_estimator(
    networks: Sequence[Network],
    features: Sequence[Array],
    expected: Sequence[int],
    seed: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Check the ranking by mutual information against that of many masks; take what agrees.

    The reference are two stacks of 4,096 balanced masks for each network. Every answer of every
    question is compared, on 3,000 galaxies: the held-out ones, and where they are fewer others
    drawn between any two of them. The answer that agrees least counts.

    Parameters
    ----------
    networks : sequence of Network
        The ensemble, as it was trained.
    features : sequence of ndarray, shape (N, D)
        Of galaxies that it did not learn from.
    expected : sequence of int
        Votes that a galaxy is expected to get on each question.
    seed : int
        Of the galaxies that are drawn.

    Returns
    -------
    estimator : dict
        For `posteriors_of`: the analytic one if it shares as much of the top 5 % with the reference
        as the reference's halves do among themselves, to a fiftieth, or 95 %; else the one that is
        nearer to it.
    agreement : dict
        For the model card.
    """
    held = min(len(features[0]), CHECKED)
    some = drawn_features(features, CHECKED, seed)
    references = [_reference(networks, some, place, n) for place, n in enumerate(expected)]
    tried: dict[str, list[dict[str, Any]]] = {}
    for estimator in (ANALYTIC, SAMPLED):
        tried[estimator["kind"]] = found = []
        for place, n in enumerate(expected):
            head = networks[0].design.heads[place]
            said = posteriors_of(networks, some, place, estimator, n)
            for answer, truth in references[place].items():
                name = f"{head.name}: {head.answers[answer]}"
                agrees = _agreement(said[answer].information(n), *truth)
                found.append({"answer": name, "softmax": head.kind == "softmax", **agrees})
        # Those of a softmax are sampled either way.
        if all(each["softmax"] or _margin(each) >= 0 for each in found):
            break
    worst = {kind: min(found, key=_margin) for kind, found in tried.items()}

    def linear_margin(kind: str) -> float:
        return min((_margin(each) for each in tried[kind] if not each["softmax"]), default=0.0)

    # The first, where they are equal.
    best = max(tried, key=linear_margin)
    agreement: dict[str, Any] = {
        "networks": 2 * _reference_masks(networks[0]) * len(networks),
        "galaxies": held,
        "drawn": len(some[0]) - held,
        **worst[best],
        "tried": worst,
    }
    return dict(ANALYTIC if best == "analytic" else SAMPLED), agreement


def drawn_features(features: Sequence[Array], count: int, seed: int) -> list[Array]:
    """So many galaxies' features: those given, and others between any two of them.

    Parameters
    ----------
    features : sequence of ndarray, shape (N, D)
        What each network sees in the same N galaxies.
    count : int
        How many are wanted.
    seed : int
        Of the draw, which is the same for every network.

    Returns
    -------
    list of ndarray, shape (count, D)
        A feature that is 0 in both of the two is 0 between them.
    """
    more = count - len(features[0])
    if more <= 0 or not len(features[0]):
        return [features_ND[:count] for features_ND in features]
    out = []
    for features_ND in features:
        rng = np.random.default_rng(seed)
        one, other = rng.integers(0, len(features_ND), (2, more))
        share = rng.random((more, 1))
        between = share * features_ND[one] + (1 - share) * features_ND[other]
        between = between * np.exp(STRAY * rng.standard_normal(between.shape))
        out.append(np.concatenate([features_ND, between.astype(np.float32)]))
    return out


def _margin(found: dict[str, Any]) -> float:
    """How far above its bar an answer's agreement is."""
    bar = min(ENOUGH_AGREEMENT, found["halves_top_5_percent"] - SLACK)
    return float(found["top_5_percent"] - bar)


def _agreement(told: Array, truth: Array, one: Array, other: Array) -> dict[str, float]:
    # What rounding alone decides is no disagreement.
    told, truth, one, other = (np.round(each, 5) for each in (told, truth, one, other))
    if len(told) < 3 or not np.ptp(told) or not np.ptp(truth):
        spearman = 1.0
    else:
        spearman = float(spearmanr(told, truth).statistic)
    return {
        "top_5_percent": overlap(told, truth),
        "halves_top_5_percent": overlap(one, other),
        "spearman": spearman,
        "bias": float(np.mean(told - truth)) if len(told) else 0.0,
    }


def _reference_masks(network: Network) -> int:
    return max(4096, masks.fewest(network.width, network.design.dropout))


def _reference(
    networks: Sequence[Network], features: Sequence[Array], question: int, expected: int
) -> dict[int, tuple[Array, Array, Array]]:
    """By answer: information under many masks, and under either half of them, shape (N,) each."""
    count = _reference_masks(networks[0])
    one, other = (
        answers_of(
            *(networks, features, question),
            [(count, first + member) for member in range(len(networks))],
            *(expected, True),
        )
        for first in (REFERENCE_SEED, REFERENCE_SEED + len(networks))
    )
    return {
        answer: (
            _mixed(said, other[answer]).information(expected),
            said.information(expected),
            other[answer].information(expected),
        )
        for answer, said in one.items()
    }


def _mixed(one: Posterior, other: Posterior) -> Posterior:
    """Two posteriors of the same galaxies on the same grids as one."""
    parts = [
        replace(mine, mass=(mine.mass + its.mass) / 2)
        for mine, its in zip(one.parts, other.parts, strict=True)
    ]
    return replace(one, parts=parts, mean_N=(one.mean_N + other.mean_N) / 2)


def overlap(one: Array, other: Array, top: float = TOP) -> float:
    """The share of the highest values of one ranking that are among the highest of another."""
    count = max(1, round(top * len(one)))
    best = [set(np.argsort(-ranking, kind="stable")[:count]) for ranking in (one, other)]
    return len(best[0] & best[1]) / count
