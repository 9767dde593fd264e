"""Judging models on galaxies that none of them learned from, and the gate that keeps worse out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zoo_bridge.acquisition import calibration
from zoo_bridge.acquisition.evaluate import (
    LEVELS,
    Verdict,
    beats,
    compare,
    join,
    off_calibration,
    summarise,
)
from zoo_bridge.acquisition.posterior import Calibration, Forecast, Posterior, normal
from zoo_bridge.acquisition.select import share_of
from zoo_bridge.errors import InputError, RefusedError
from zoo_bridge.steps.context import Context
from zoo_bridge.steps.galaxies import preprocessing
from zoo_bridge.steps.labelled import Labelled
from zoo_bridge.steps.posteriors import features_of, posterior_of

if TYPE_CHECKING:
    from zoo_bridge.model.network import Network
    from zoo_bridge.model.registry import Model

Array = NDArray[Any]
Metrics = dict[str, dict[str, float]]
THIS, UNCALIBRATED = "", "the same, not calibrated"
ONE_NETWORK, MEAN = "one network, no dropout", "mean vote fraction"
# Below so many galaxies, coverage tells next to nothing.
FEWEST_FOR_COVERAGE = 50
CURVE = tuple(range(5, 100, 5))


@dataclass(frozen=True)
class Said:
    """Votes on one question, and what several posteriors said of them.

    ``held`` are the places of the galaxies among the held-out ones, ``k`` and ``n`` their votes;
    ``forecasts`` has the model's own under the empty name, and the baselines'.
    """

    held: Array
    k: Array
    n: Array
    forecasts: dict[str, Forecast]


@dataclass(frozen=True)
class Judgement:
    """How a model does on held-out galaxies.

    ``metrics[question]`` and ``baselines[question][name]`` are `acquisition.evaluate.summarise`'s;
    ``log_p``, shape (N,), is the log-likelihood of each held-out galaxy, all questions together;
    ``calibration`` is fitted on all held-out galaxies, by question; ``gain``, shape (N,), is what
    each galaxy's log-likelihood is above that of the mean vote fraction, both calibrated.
    """

    metrics: Metrics
    baselines: dict[str, Metrics]
    log_p: Array
    said: dict[str, Said]
    calibration: dict[str, Calibration]
    gain: Array


def judge(
    ctx: Context,
    networks: Sequence[Network],
    features: Sequence[Array],
    estimator: dict[str, Any],
    data: Labelled,
) -> Judgement:
    """Judge networks on the held-out galaxies, and calibrate their error bars.

    The calibration is fitted on one half of the held-out galaxies to judge the other, and on all of
    them for use. Which half a galaxy belongs to is drawn from its object id. Every model is judged
    so, the one in use too: else the one whose calibration has seen these galaxies had the better of
    the other.

    Parameters
    ----------
    ctx : Context
        The run.
    networks : sequence of Network
        Whose predictions.
    features : sequence of ndarray, shape (N, D)
        Each network's, of the held-out galaxies.
    estimator : dict
        See `posteriors.posterior_of`.
    data : Labelled
        Galaxies with votes; those that are not held out only give the mean vote fraction.

    Returns
    -------
    Judgement
    """
    held, learned, seed = data.heldout, ~data.heldout, ctx.settings.seed
    names = [name for name, out in zip(data.ids, held, strict=True) if out]
    fold = np.array([share_of(name, seed, "calibration") < 0.5 for name in names], dtype=bool)
    found = Judgement({}, {}, np.zeros(len(names)), {}, {}, np.zeros(len(names)))
    for place, question in enumerate(ctx.settings.question):
        k_all, n_all = data.target(place)
        asked = np.flatnonzero(n_all[held] > 0)
        k, n = k_all[held][asked], n_all[held][asked]
        if not len(k):
            continue
        some = [features_ND[asked] for features_ND in features]
        whole = posterior_of(networks, some, place, estimator)
        known = calibration.fit(whole, k, n) if ctx.settings.model.calibrate else None
        own = whole.forecast(k, n, CURVE)
        if known:
            found.calibration[question.name] = known
        rate = np.clip(k_all[learned].sum() / max(n_all[learned].sum(), 1), 1e-3, 1 - 1e-3)
        plain = networks[0].plain(some[0], place, networks[0].design.heads[place].target_place)
        average = Posterior([normal(np.full(len(k), np.log(rate / (1 - rate))), 0.0)])
        forecasts = {
            THIS: _cross_fitted(whole, k, n, fold[asked]) if known else own,
            UNCALIBRATED: own,
            ONE_NETWORK: Posterior([normal(plain, 0.0)]).forecast(k, n, CURVE),
            MEAN: average.forecast(k, n, CURVE),
        }
        found.log_p[asked] += forecasts[THIS].log_p
        # Both with error bars fitted to few galaxies, too, or the mean is no rival.
        if ctx.settings.model.calibrate:
            own, mean = (_cross_fitted(each, k, n, fold[asked]) for each in (whole, average))
        else:
            mean = forecasts[MEAN]
        found.gain[asked] += own.log_p - mean.log_p
        rows = {name: summarise(_at_levels(each), k, n, seed) for name, each in forecasts.items()}
        found.metrics[question.name] = rows.pop(THIS)
        found.baselines[question.name] = rows
        found.said[question.name] = Said(asked, k, n, forecasts)
    return found


def _cross_fitted(whole: Posterior, k: Array, n: Array, fold: Array) -> Forecast:
    parts = []
    for learn in (fold, ~fold):
        half = calibration.fit(whole.at(learn), k[learn], n[learn], fewest=1)
        at = np.flatnonzero(~learn)
        parts.append((at, whole.at(at).calibrated(half).forecast(k[at], n[at], CURVE)))
    return join(len(k), parts)


def judge_model(ctx: Context, model: Model, data: Labelled) -> Judgement:
    """Judge a model from disk as `judge` does."""
    features = features_of(model, data.images[data.heldout])
    return judge(ctx, model.networks, features, model.record.estimator, data)


def _at_levels(forecast: Forecast) -> Forecast:
    inside = {level: forecast.inside[level] for level in LEVELS}
    return Forecast(forecast.log_p, forecast.mean, inside, forecast.mode_error, forecast.near_NW)


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
    return {
        name: judge_model(ctx, registry.load(ctx.work / "models" / name, how), data)
        for name in versions
    }


def gate(ctx: Context, data: Labelled, candidate: Judgement) -> Verdict:
    """Compare a candidate with the model in use, on the same held-out galaxies.

    It is put in use if its likelihood is not worse by a paired bootstrap and its error bars are
    not surely off by more than ``model.gate_calibration``, or no more than those of the model in
    use are. The first model must be better than the mean vote fraction, and its error bars hold.

    Parameters
    ----------
    ctx : Context
        The run.
    data : Labelled
        The galaxies.
    candidate : Judgement
        The candidate's.

    Returns
    -------
    Verdict
        A model that cannot be used any more is no rival.
    """
    from zoo_bridge.model import registry

    version = ctx.ledger.model_in_use()
    if version is None:
        return _first(ctx, candidate)
    how = preprocessing(ctx.settings).as_dict()
    try:
        current = registry.load(ctx.work / "models" / version, how)
    except (RefusedError, InputError) as error:
        return Verdict(True, f"{version} cannot be used any more: {error.message}", 0.0, 0.0)
    asked = [question.name for question in ctx.settings.question]
    if [head["name"] for head in current.record.heads] != asked:
        return Verdict(True, f"{version} answers other questions", 0.0, 0.0)
    rival = judge_model(ctx, current, data)
    confidence = ctx.settings.model.gate_confidence
    verdict = compare(candidate.log_p, rival.log_p, confidence, ctx.settings.seed)
    if verdict.promote and (wrong := _lost_calibration(ctx, candidate, rival)):
        return Verdict(False, wrong, verdict.difference, verdict.worse_probability)
    return verdict


def _first(ctx: Context, candidate: Judgement) -> Verdict:
    """Whether the first model says more of a galaxy than the mean of all galaxies does."""
    config, seed = ctx.settings.model, ctx.settings.seed
    told = beats(candidate.gain, config.gate_confidence, seed)
    if config.first_model == "any":
        return replace(told, promote=True, reason="the first model")
    if not told.promote:
        return told
    for question, said in candidate.said.items():
        if len(said.k) >= FEWEST_FOR_COVERAGE:
            own = _at_levels(said.forecasts[THIS])
            for level, covered in off_calibration(own, config.gate_calibration, seed).items():
                reason = (
                    f"error bars of {question} are off: its {level} % intervals hold "
                    f"{covered:.0%} of the votes"
                )
                return replace(told, promote=False, reason=reason)
    return replace(told, reason=f"the first model, {told.reason}")


def _lost_calibration(ctx: Context, candidate: Judgement, rival: Judgement) -> str:
    """What is wrong with the candidate's error bars that is not as wrong with the rival's."""
    tolerance, seed = ctx.settings.model.gate_calibration, ctx.settings.seed
    for question, said in candidate.said.items():
        if len(said.k) < FEWEST_FOR_COVERAGE:
            continue
        for level, covered in off_calibration(
            _at_levels(said.forecasts[THIS]), tolerance, seed
        ).items():
            before = rival.metrics[question][f"coverage_{level}"]
            if abs(covered - level / 100) > abs(before - level / 100):
                return (
                    f"error bars of {question} are off: its {level} % intervals hold "
                    f"{covered:.0%} of the votes, those of the model in use {before:.0%}"
                )
    return ""
