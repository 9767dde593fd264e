"""From a model's networks to a posterior over votes, and the way of computing it to be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from zoo_bridge.acquisition import masks
from zoo_bridge.acquisition.information import log_votes
from zoo_bridge.acquisition.logits import Dropped, Logits, Sampled
from zoo_bridge.acquisition.posterior import Calibration, Posterior, lay
from zoo_bridge.errors import RefusedError

if TYPE_CHECKING:
    from zoo_bridge.model.heads import Head
    from zoo_bridge.model.network import Network
    from zoo_bridge.model.registry import Model

Array = NDArray[Any]
# Answers that share a softmax are sampled either way; all others, with the first, by all masks.
ANALYTIC: dict[str, Any] = {"kind": "analytic"}
SAMPLED: dict[str, Any] = {"kind": "masks"}
SEED = 1
# Of an ensemble, together. The rarer an answer is, the fewer show its counts to a hundredth.
MASKS_OF_FEW_ANSWERS, MASKS = 4096, 2048
FEW_ANSWERS = 6
REFERENCE_SEED = 1001
TOP = 0.05
ENOUGH_AGREEMENT, SLACK = 0.95, 0.02
CHECKED = 3000
# How far a drawn galaxy's features stray from those of the two that it lies between.
STRAY = 0.2


def features_of(model: Model, images: Array) -> list[Array]:
    """Each network's features of images, by the model's runtime: M arrays of shape (N, D)."""
    return [trunk(images) for trunk in model.trunks]


def posteriors_of(
    networks: Sequence[Network],
    features: Sequence[Array],
    question: int,
    estimator: dict[str, Any],
    n: int | NDArray[np.integer[Any]],
) -> dict[int, Posterior]:
    """What networks together say of each answer of one question, not calibrated.

    Parameters
    ----------
    networks : sequence of Network
        An ensemble, or one.
    features : sequence of ndarray, shape (N, D)
        Each network's, of the same galaxies.
    question : int
        The question's place among the networks' heads.
    estimator : dict
        What `choose_estimator` decided for this model.
    n : int, or ndarray of int, shape (N,)
        Votes that will be asked about, at most.

    Returns
    -------
    dict
        By the place of each answer that is forecast by itself: of two, the target. Of a softmax
        their means add up to one.
    """
    for features_ND in features:
        if not np.isfinite(features_ND).all():
            raise RefusedError(
                "The model's networks say no numbers of some galaxies: its weights are damaged.",
                "Use another model with: zoo-bridge rollback, or train anew with: "
                "zoo-bridge run retrain --force.",
            )
    head = networks[0].design.heads[question]
    count = masks_of(head, len(networks), networks[0].width, networks[0].design.dropout)
    seeds = [SEED + member for member in range(len(networks))]
    sampled = estimator["kind"] == "masks"
    return _answers(networks, features, question, [(count, seed) for seed in seeds], n, sampled)


def masks_of(head: Head, ensemble: int, width: int, rate: float) -> int:
    """How many balanced masks each network of an ensemble is sampled by."""
    together = MASKS_OF_FEW_ANSWERS if len(head.answers) <= FEW_ANSWERS else MASKS
    each = 2 ** int(np.ceil(np.log2(together / ensemble)))
    return max(each, masks.fewest(width, rate))


def _answers(
    networks: Sequence[Network],
    features: Sequence[Array],
    question: int,
    drawn: Sequence[tuple[int, int]],
    n: int | NDArray[np.integer[Any]],
    sampled: bool,
) -> dict[int, Posterior]:
    """Of each answer, with so many masks from such a seed for each network."""
    head = networks[0].design.heads[question]
    scatter = float(np.mean([network.overdispersion[question] for network in networks]))

    def of(answer: int | None) -> list[Posterior]:
        logits: list[Logits] = []
        for network, features_ND, (count, seed) in zip(networks, features, drawn, strict=True):
            rate = network.design.dropout
            if answer is not None and not sampled:
                logits.append(Dropped(*network.linear(features_ND, question, answer), rate))
                continue
            weight_DL, bias_L = network.weights(question)
            if answer is not None and head.kind == "independent":
                weight_DL, bias_L = weight_DL[:, [answer]], bias_L[[answer]]
            mask_TD = _masks(count, network.width, rate, seed)
            logits.append(Sampled(features_ND, weight_DL, bias_L, mask_TD, answer is None))
        return lay(logits, n, scatter)

    if head.kind == "softmax":
        return dict(enumerate(of(None)))
    if head.kind == "independent":
        return {answer: of(answer)[0] for answer in range(len(head.answers))}
    return {head.target_place: of(head.target_place)[0]}


@lru_cache(maxsize=64)
def _masks(count: int, width: int, rate: float, seed: int) -> NDArray[np.float32]:
    return masks.balanced(count, width, rate, seed)


def calibrations_of(model: Model, question: int) -> dict[int, Calibration]:
    """A model's calibrations of a question, by the answer's place."""
    from zoo_bridge.model.registry import calibration_by_answer

    head = model.record.heads[question]
    known = calibration_by_answer(model.record, head["name"])
    return {
        place: Calibration(**known[name])
        for place, name in enumerate(head["answers"])
        if name in known
    }


@dataclass(frozen=True)
class Prediction:
    """What a model says of one answer, of N galaxies and n volunteers each; calibrated.

    Parameters
    ----------
    p_NK : ndarray, shape (N, n + 1)
        Probability that k of n volunteers give the answer.
    mean_N : ndarray, shape (N,)
        The expected share of volunteers who give it.
    bald_N : ndarray, shape (N,)
        Mutual information of k and the networks, in nats.
    """

    p_NK: Array
    mean_N: Array
    bald_N: Array


def predict(
    model: Model, features: Sequence[Array], question: int, n: int
) -> dict[str, Prediction]:
    """What a model says of a question, of galaxies by what its networks see in them.

    Parameters
    ----------
    model : Model
        An opened model, with its calibration.
    features : sequence of ndarray, shape (N, D)
        What each network sees in the N galaxies: see `features_of`.
    question : int
        The question's place among the model's.
    n : int
        Volunteers whose answers are predicted.

    Returns
    -------
    dict
        By answer.
    """
    head = model.networks[0].design.heads[question]
    known = calibrations_of(model, question)
    told = {}
    said = posteriors_of(model.networks, features, question, model.record.estimator, n)
    for answer, posterior in said.items():
        calibrated = posterior.calibrated(known.get(answer))
        told[head.answers[answer]] = Prediction(*_of(calibrated, n))
    if head.kind == "sigmoid":
        # Who does not give the one answer gives the other.
        one = told[head.target]
        other = Prediction(one.p_NK[:, ::-1], 1 - one.mean_N, one.bald_N)
        told[head.answers[1 - head.target_place]] = other
    return told


def _of(posterior: Posterior, n: int) -> tuple[Array, Array, Array]:
    p_NK, bald_N = posterior.both(n)
    return p_NK, posterior.mean, bald_N


def sampled_logits(
    networks: Sequence[Network],
    features: Sequence[Array],
    question: int,
    answer: int,
    count: int,
    seed: int,
) -> Array:
    """Logits of an answer of some networks that are drawn by dropout: for figures.

    Parameters
    ----------
    networks : sequence of Network
        An ensemble, or one.
    features : sequence of ndarray, shape (N, D)
        Each network's, of the same galaxies.
    question, answer : int
        Their places; of a question with two answers, the target's.
    count : int
        Networks to draw, of the whole ensemble together.
    seed : int
        The first network's masks are drawn from it, the next one's from the number after it.

    Returns
    -------
    ndarray, shape (N, T)
    """
    each = max(1, count // len(networks))
    samples = []
    for member, (network, features_ND) in enumerate(zip(networks, features, strict=True)):
        mask_TD = masks.drawn(each, network.width, network.design.dropout, seed + member)
        samples.append(network.sample(features_ND, question, answer, mask_TD))
    return np.concatenate(samples, axis=1)


def sampled_votes(
    model: Model, features: Sequence[Array], question: int, answer: str, n: int, count: int
) -> Array:
    """What single networks say of an answer's votes, not calibrated: for figures.

    Parameters
    ----------
    model : Model
        An opened model; its calibration is not used.
    features : sequence of ndarray, shape (N, D)
        What each network sees in the N galaxies: see `features_of`.
    question : int
        The question's place among the model's.
    answer : str
        One of its answers.
    n : int
        Volunteers whose answers are predicted.
    count : int
        Networks to draw.

    Returns
    -------
    ndarray, shape (N, T, n + 1)
        p(k of n) of each of T networks.
    """
    head = model.networks[0].design.heads[question]
    place = head.answers.index(answer)
    # Of two answers the network has the target's logit alone.
    other = head.kind == "sigmoid" and answer != head.target
    at = head.target_place if other else place
    logit_NT = sampled_logits(model.networks, features, question, at, count, SEED)
    scatter = float(np.mean([network.overdispersion[question] for network in model.networks]))
    p_NTK: Array = np.exp(np.stack([log_votes(logit_T, n, scatter) for logit_T in logit_NT]))
    return p_NTK[:, :, ::-1] if other else p_NTK


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
        _answers(
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
