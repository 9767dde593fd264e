"""From a model's networks to a posterior over votes, and the way of computing it to be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from zoo_bridge.acquisition import masks
from zoo_bridge.acquisition.information import log_votes
from zoo_bridge.acquisition.logits import Dropped, Logits, Sampled
from zoo_bridge.acquisition.posterior import Calibration, Posterior, lay
from zoo_bridge.errors import RefusedError

if TYPE_CHECKING:
    from zoo_bridge.model.heads import Head
    from zoo_bridge.model.last_layer import LastLayer
    from zoo_bridge.model.network import Network
    from zoo_bridge.model.record import Reader
    from zoo_bridge.model.registry import Model

    # What it takes to go on from features.
    Layer: TypeAlias = Network | LastLayer

Array = NDArray[Any]
# Answers that share a softmax are sampled either way; all others, with the first, by all masks.
ANALYTIC: dict[str, Any] = {"kind": "analytic"}
SAMPLED: dict[str, Any] = {"kind": "masks"}
SEED = 1
# Of an ensemble, together. The rarer an answer is, the fewer show its counts to a hundredth.
MASKS_OF_FEW_ANSWERS, MASKS = 4096, 2048
FEW_ANSWERS = 6
# Networks drawn by dropout in a figure of posteriors, in grey.
FIGURE_NETWORKS = 30


def features_of(model: Model, images: Array) -> list[Array]:
    """Each network's features of images, by the model's runtime: M arrays of shape (N, D).

    Networks that share a trunk have the same array.
    """
    told = {id(trunk): trunk(images) for trunk in model.trunks}
    return [told[id(trunk)] for trunk in model.trunks]


def features_as_kept(model: Model, images: Array) -> list[Array]:
    """`features_of`, in half precision as `score` keeps them: what the catalogue is made of."""
    return [each.astype(np.float16).astype(np.float32) for each in features_of(model, images)]


def posteriors_of(
    networks: Sequence[Layer],
    features: Sequence[Array],
    question: int,
    estimator: dict[str, Any],
    n: int | NDArray[np.integer[Any]],
    many: bool = False,
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
    many : bool
        Whether this is for a catalogue: see `lay`.

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
    drawn = [(count, seed) for seed in seeds]
    return answers_of(networks, features, question, drawn, n, sampled, many)


def masks_of(head: Head, ensemble: int, width: int, rate: float) -> int:
    """How many balanced masks each network of an ensemble is sampled by."""
    together = MASKS_OF_FEW_ANSWERS if len(head.answers) <= FEW_ANSWERS else MASKS
    each = 2 ** int(np.ceil(np.log2(together / ensemble)))
    return max(each, masks.fewest(width, rate))


def answers_of(
    networks: Sequence[Layer],
    features: Sequence[Array],
    question: int,
    drawn: Sequence[tuple[int, int]],
    n: int | NDArray[np.integer[Any]],
    sampled: bool,
    many: bool = False,
) -> dict[int, Posterior]:
    """Of each answer, with so many masks from such a seed for each network."""
    # Read out of Keras once.
    layers = [network.last for network in networks]
    head = layers[0].design.heads[question]
    scatter = float(np.mean([layer.overdispersion[question] for layer in layers]))

    def of(answer: int | None) -> list[Posterior]:
        logits: list[Logits] = []
        for layer, features_ND, (count, seed) in zip(layers, features, drawn, strict=True):
            rate = layer.design.dropout
            if answer is not None and not sampled:
                mean_N, term_ND = layer.linear(features_ND, question, answer)
                logits.append(Dropped(mean_N, term_ND, rate))
                continue
            weight_DL, bias_L = layer.weights(question)
            if answer is not None and head.kind == "independent":
                weight_DL, bias_L = weight_DL[:, [answer]], bias_L[[answer]]
            mask_TD = _masks(count, layer.width, rate, seed)
            seen_ND = layer.seen(features_ND)
            logits.append(Sampled(seen_ND, weight_DL, bias_L, mask_TD, answer is None))
        return lay(logits, n, scatter, many)

    if head.kind == "softmax":
        return dict(enumerate(of(None)))
    if head.kind == "independent":
        return {answer: of(answer)[0] for answer in range(len(head.answers))}
    return {head.target_place: of(head.target_place)[0]}


@lru_cache(maxsize=64)
def _masks(count: int, width: int, rate: float, seed: int) -> NDArray[np.float32]:
    return masks.balanced(count, width, rate, seed)


def calibrations_of(model: Model | Reader, question: int) -> dict[int, Calibration]:
    """A model's calibrations of a question, by the answer's place."""
    from zoo_bridge.model.record import calibration_by_answer

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
    model: Model | Reader, features: Sequence[Array], question: int, n: int
) -> dict[str, Prediction]:
    """What a model says of a question, of galaxies by what its networks see in them.

    Parameters
    ----------
    model : Model or Reader
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
    said = posteriors_of(model.networks, features, question, model.record.estimator, n, many=True)
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
    networks: Sequence[Layer],
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
