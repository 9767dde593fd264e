"""The gate: a model that is surely worse, or whose intervals do not hold, is kept out of use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from zoo_bridge.acquisition.evaluate import Verdict, beats, compare, off_calibration
from zoo_bridge.errors import InputError, RefusedError
from zoo_bridge.steps.context import Context
from zoo_bridge.steps.inputs import heads_of, open_model
from zoo_bridge.steps.training.candidate import Candidate
from zoo_bridge.steps.training.judge import FEWEST_FOR_COVERAGE, Judgement, at_levels, judge


def gate(ctx: Context, candidate: Candidate, judgement: Judgement) -> Verdict:
    """Compare a candidate with the model in use, on the same held-out galaxies.

    It is put in use if its likelihood is not worse by a paired bootstrap and its error bars are
    not surely off by more than ``model.gate_calibration``, or no more than those of the model in
    use are. The first model must be better than the mean vote fraction, and its error bars hold.

    Parameters
    ----------
    ctx : Context
        The settings' tolerances; the ledger knows the model in use.
    candidate : Candidate
        Its galaxies judge both.
    judgement : Judgement
        How the candidate does on the held-out galaxies.

    Returns
    -------
    Verdict
        Whether to put it in use, and why. A model that cannot be used any more is no rival.
    """
    version = ctx.ledger.model_in_use()
    if version is None:
        return _first(ctx, judgement)
    try:
        current = open_model(ctx.settings, version)
    except (RefusedError, InputError) as error:
        return Verdict(True, f"{version} cannot be used any more: {error.message}", 0.0, 0.0)
    if current.networks[0].design.heads != heads_of(ctx.settings):
        return Verdict(True, f"{version} answers other questions", 0.0, 0.0)
    rival = judge(ctx, Candidate.of_model(current, candidate.data))
    confidence = ctx.settings.model.gate_confidence
    verdict = compare(judgement.log_p, rival.log_p, confidence, ctx.settings.seed)
    if verdict.promote and (wrong := _lost_calibration(ctx, judgement, rival)):
        return Verdict(False, wrong, verdict.difference, verdict.worse_probability)
    return verdict


def _first(ctx: Context, judgement: Judgement) -> Verdict:
    """Whether the first model says more of a galaxy than the mean of all galaxies does."""
    config, seed = ctx.settings.model, ctx.settings.seed
    verdict = beats(judgement.gain, config.gate_confidence, seed)
    if config.first_model == "any":
        return replace(verdict, promote=True, reason="the first model")
    if not verdict.promote:
        return verdict
    wrong = next(_wrong_intervals(ctx, judgement), None)
    if wrong:
        return replace(verdict, promote=False, reason=f"{wrong.text} of the votes")
    return replace(verdict, reason=f"the first model, {verdict.reason}")


@dataclass(frozen=True)
class _Wrong:
    """A credible interval that surely does not hold what it should."""

    question: str
    answer: str
    level: int
    covered: float

    @property
    def text(self) -> str:
        return (
            f"error bars of {self.question}, {self.answer}, are off: its {self.level} % intervals "
            f"hold {self.covered:.0%}"
        )


def _wrong_intervals(ctx: Context, judgement: Judgement) -> Iterator[_Wrong]:
    """Those of every answer that is off by more than ``model.gate_calibration``."""
    tolerance, seed = ctx.settings.model.gate_calibration, ctx.settings.seed
    for question in ctx.settings.question:
        said = judgement.said.get(question.name)
        if said is None or len(said.k) < FEWEST_FOR_COVERAGE:
            continue
        for answer, forecast in said.answers.items():
            wrong = off_calibration(at_levels(forecast), tolerance, seed)
            for level, covered in wrong.items():
                yield _Wrong(question.name, list(question.answers)[answer], level, covered)


def _lost_calibration(ctx: Context, judgement: Judgement, rival: Judgement) -> str:
    """What is wrong with the candidate's error bars that is not as wrong with the rival's."""
    for wrong in _wrong_intervals(ctx, judgement):
        before = rival.answers[wrong.question][wrong.answer][f"coverage_{wrong.level}"]
        if abs(wrong.covered - wrong.level / 100) > abs(before - wrong.level / 100):
            return f"{wrong.text} of the votes, those of the model in use {before:.0%}"
    return ""
