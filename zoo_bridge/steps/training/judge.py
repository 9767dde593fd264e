"""Judging models on galaxies that none of them learned from, and calibrating their error bars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from zoo_bridge.acquisition import calibration
from zoo_bridge.acquisition.calibration import Evidence
from zoo_bridge.acquisition.evaluate import (
    LEVELS,
    join,
    summarise,
)
from zoo_bridge.acquisition.logits import normal
from zoo_bridge.acquisition.posterior import Calibration, Forecast, Posterior
from zoo_bridge.acquisition.select import share_of
from zoo_bridge.acquisition.threads import pieces
from zoo_bridge.model.predict import posteriors_of
from zoo_bridge.steps.context import Context
from zoo_bridge.steps.inputs import open_model
from zoo_bridge.steps.training.candidate import Candidate
from zoo_bridge.steps.training.labelled import Labelled

if TYPE_CHECKING:
    from zoo_bridge.model.heads import Head

Array = NDArray[Any]
Metrics = dict[str, dict[str, float]]
THIS, UNCALIBRATED = "", "the same, not calibrated"
ONE_NETWORK, MEAN = "one network, no dropout", "mean vote fraction"
# Below so many galaxies, coverage tells next to nothing.
FEWEST_FOR_COVERAGE = 50
# More votes than this on one galaxy are judged as so many with the same fraction: thousands on a
# galaxy that all volunteers were trained on say no more of a model.
MOST_JUDGED = 250
CURVE = tuple(range(5, 100, 5))
# Galaxies whose posteriors are in memory together.
AT_ONCE = 4096


@dataclass(frozen=True)
class Said:
    """Votes on one question, and what several posteriors said of them.

    ``held`` are the places of the galaxies among the held-out ones, ``k`` and ``n`` their votes for
    the target; ``forecasts`` has the model's own of it under the empty name, and the baselines';
    ``answers`` has the model's own of each answer that has a forecast of its own, by its place.
    """

    held: Array
    k: Array
    n: Array
    forecasts: dict[str, Forecast]
    answers: dict[int, Forecast]


@dataclass(frozen=True)
class Judgement:
    """How a model does on held-out galaxies.

    ``metrics[question]`` and ``baselines[question][name]`` are `acquisition.evaluate.summarise`'s
    of the target answers, ``answers[question][answer]`` of each answer that has a forecast of its
    own; ``log_p``, shape (N,), is the log-likelihood of each held-out galaxy, the targets of all
    questions together; ``calibration`` is fitted on all held-out galaxies, by question and answer;
    ``gain``, shape (N,), is what each galaxy's log-likelihood is above that of the mean vote
    fraction, both calibrated.
    """

    metrics: Metrics
    baselines: dict[str, Metrics]
    answers: dict[str, Metrics]
    log_p: Array
    said: dict[str, Said]
    calibration: dict[str, dict[str, Calibration]]
    gain: Array


def judge(ctx: Context, candidate: Candidate) -> Judgement:
    """Judge networks on the held-out galaxies, and calibrate their error bars.

    The calibration is fitted on one half of the held-out galaxies to judge the other, and on all of
    them for use. Which half a galaxy belongs to is drawn from its object id. Every model is judged
    so, the one in use too: else the one whose calibration has seen these galaxies had the better of
    the other.

    Parameters
    ----------
    ctx : Context
        The settings' questions, their seed, and whether models are calibrated.
    candidate : Candidate
        The networks; of its galaxies those that are not held out only give the mean vote fraction.

    Returns
    -------
    Judgement
        Of every question that has votes on held-out galaxies.
    """
    data, networks = candidate.data, candidate.networks
    held, seed = data.heldout, ctx.settings.seed
    names = [name for name, out in zip(data.ids, held, strict=True) if out]
    fold = np.array([share_of(name, seed, "calibration") < 0.5 for name in names], dtype=bool)
    found = Judgement({}, {}, {}, np.zeros(len(names)), {}, {}, np.zeros(len(names)))
    for place, question in enumerate(ctx.settings.question):
        votes = _votes_on(networks[0].design.heads, place, data)
        if not len(votes.places):
            continue
        asked = votes.places
        rivals = _rivals(candidate, place, votes)
        said, known, gain = _judge_question(ctx, rivals, votes, fold[asked])
        found.said[question.name] = said
        if known:
            found.calibration[question.name] = known
        found.log_p[asked] += said.forecasts[THIS].log_p
        found.gain[asked] += gain
        rows = {
            name: summarise(at_levels(each), said.k, said.n, seed)
            for name, each in said.forecasts.items()
        }
        found.metrics[question.name] = rows.pop(THIS)
        found.baselines[question.name] = rows
        found.answers[question.name] = {
            votes.head.answers[answer]: summarise(at_levels(each), votes.k(answer), said.n, seed)
            for answer, each in said.answers.items()
        }
    return found


@dataclass(frozen=True)
class _Votes:
    """Votes of held-out galaxies on a question.

    ``places`` are those that have some, ``k_NA`` and ``n`` their votes, ``rate`` the mean fraction
    of the target among the galaxies that are learned from.
    """

    head: Head
    places: Array
    k_NA: Array
    n: Array
    rate: float

    def k(self, answer: int) -> Array:
        """For an answer: shape (N,)."""
        column: Array = self.k_NA[:, answer]
        return column


def _votes_on(heads: Sequence[Head], place: int, data: Labelled) -> _Votes:
    from zoo_bridge.model.heads import vote_slices

    k_all, n_all = data.target(place)
    held, learned = data.heldout, ~data.heldout
    asked = np.flatnonzero(n_all[held] > 0)
    k_NA = data.votes[held][asked][:, vote_slices(heads)[place]][:, :-1].astype(np.int64)
    n = n_all[held][asked].astype(np.int64)
    share_N = np.minimum(1, MOST_JUDGED / np.maximum(n, 1))
    # Rounded to whole votes, none of more than there are.
    n = np.round(n * share_N).astype(np.int64)
    k_NA = np.minimum(np.round(k_NA * share_N[:, None]).astype(np.int64), n[:, None])
    rate = np.clip(k_all[learned].sum() / max(n_all[learned].sum(), 1), 1e-3, 1 - 1e-3)
    return _Votes(heads[place], asked, k_NA, n, float(rate))


# What is said of some of the galaxies, by answer.
_Say = Callable[[Array], dict[int, Posterior]]


def _rivals(candidate: Candidate, place: int, votes: _Votes) -> dict[str, _Say]:
    """What the networks say of a question, one of them alone, and the mean vote fraction."""
    networks, estimator = candidate.networks, candidate.estimator
    features = [features_ND[votes.places] for features_ND in candidate.features]
    target = votes.head.target_place
    answers = 2 if votes.head.kind == "independent" else len(votes.head.answers)

    def whole(at: Array) -> dict[int, Posterior]:
        some = [features_ND[at] for features_ND in features]
        return posteriors_of(networks, some, place, estimator, votes.n[at])

    def one_logit(logit_N: Array, n: Array) -> dict[int, Posterior]:
        return {target: replace(Posterior.of([normal(logit_N, 0.0)], n), answers=answers)}

    def one_network(at: Array) -> dict[int, Posterior]:
        return one_logit(networks[0].plain(features[0][at], place, target), votes.n[at])

    def mean(at: Array) -> dict[int, Posterior]:
        logit = np.log(votes.rate / (1 - votes.rate))
        return one_logit(np.full(len(at), logit), votes.n[at])

    return {THIS: whole, ONE_NETWORK: one_network, MEAN: mean}


def _judge_question(
    ctx: Context, rivals: dict[str, _Say], votes: _Votes, fold: Array
) -> tuple[Said, dict[str, Calibration], Array]:
    """What was said of one question, its answers' calibrations by name, and the target's gain."""
    head, target = votes.head, votes.head.target_place
    own = _forecast(rivals[THIS], votes)
    one, mean = (_forecast(rivals[name], votes) for name in (ONE_NETWORK, MEAN))
    # That of a known fraction is exact, however unlikely the votes.
    exact = np.asarray(binom.logpmf(votes.k(target), votes.n, votes.rate))
    mean[target] = replace(mean[target], log_p=exact)
    shown, fitted, fitted_mean, known = own, own, mean, {}
    if ctx.settings.model.calibrate:
        fitted, calibrations = _fit(rivals[THIS], votes, fold)
        # Its error bars are fitted to few galaxies, too, or the mean is no rival.
        fitted_mean, _ = _fit(rivals[MEAN], votes, fold)
        if calibrations:
            shown = fitted
            # Of two answers the other's votes scatter as the target's do.
            known = {
                name: calibrations.get(answer, calibrations[target])
                for answer, name in enumerate(head.answers)
            }
    forecasts = {
        THIS: shown[target],
        UNCALIBRATED: own[target],
        ONE_NETWORK: one[target],
        MEAN: mean[target],
    }
    said = Said(votes.places, votes.k(target), votes.n, forecasts, shown)
    return said, known, fitted[target].log_p - fitted_mean[target].log_p


def _forecast(say: _Say, votes: _Votes) -> dict[int, Forecast]:
    """Of each answer, not calibrated."""
    return _joined(_each_forecast(say, votes, np.arange(len(votes.n)), {}), len(votes.n))


def _fit(
    say: _Say, votes: _Votes, fold: Array
) -> tuple[dict[int, Forecast], dict[int, Calibration]]:
    """Forecasts of each answer, calibrated on one half of the galaxies for the other.

    And the calibrations on all of them, if they are enough.
    """
    evidence = _evidence(say, votes)
    parts = []
    for learn in (fold, ~fold):
        some = [each.at(learn[: len(each.asked_N)]) for each in evidence.values()]
        known = calibration.fit(some, fewest=1)
        half = dict(zip(evidence, known, strict=False))
        parts += _each_forecast(say, votes, np.flatnonzero(~learn), half)
    whole = calibration.fit(list(evidence.values()))
    return _joined(parts, len(fold)), dict(zip(evidence, whole, strict=False))


def _evidence(say: _Say, votes: _Votes) -> dict[int, Evidence]:
    parts: dict[int, list[Evidence]] = {}
    # Of either half as many as are fitted to.
    for at in pieces(np.arange(min(len(votes.n), 2 * calibration.MOST)), AT_ONCE):
        for answer, said in say(at).items():
            evidence = Evidence.of(said, votes.k(answer)[at], votes.n[at])
            parts.setdefault(answer, []).append(evidence)
    return {answer: Evidence.join(each) for answer, each in parts.items()}


def _each_forecast(
    say: _Say, votes: _Votes, places: Array, known: dict[int, Calibration]
) -> list[tuple[Array, dict[int, Forecast]]]:
    """Some galaxies at a time: which, and the forecast of each answer."""
    return [
        (
            at,
            {
                answer: said.calibrated(known.get(answer)).forecast(
                    votes.k(answer)[at], votes.n[at], CURVE
                )
                for answer, said in say(at).items()
            },
        )
        for at in pieces(places, AT_ONCE)
    ]


def _joined(parts: list[tuple[Array, dict[int, Forecast]]], size: int) -> dict[int, Forecast]:
    answers = parts[0][1]
    return {answer: join(size, [(at, each[answer]) for at, each in parts]) for answer in answers}


def at_levels(forecast: Forecast) -> Forecast:
    """A forecast with the intervals that are reported alone, without those of the curve."""
    inside = {level: forecast.inside[level] for level in LEVELS}
    return Forecast(forecast.log_p, forecast.mean, inside, forecast.mode_error, forecast.near_NW)


def judge_models(ctx: Context, data: Labelled, versions: Sequence[str]) -> dict[str, Judgement]:
    """Judge several models on the same held-out galaxies.

    Parameters
    ----------
    ctx : Context
        The settings; models are in their ``work_dir``.
    data : Labelled
        Galaxies with votes.
    versions : sequence of str
        Names of models.

    Returns
    -------
    dict
        By version.

    Raises
    ------
    RefusedError
        If a model was trained with other preprocessing.
    """
    models = ((name, open_model(ctx.settings, name)) for name in versions)
    return {name: judge(ctx, Candidate.of_model(model, data)) for name, model in models}
