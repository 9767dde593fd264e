"""Registering a candidate: everything that is needed to use it again, in a folder of its own."""

from __future__ import annotations

import shutil
from typing import Any

from zoo_bridge.acquisition.evaluate import Verdict
from zoo_bridge.files import digest_value
from zoo_bridge.ledger import Artifact
from zoo_bridge.steps.context import Context
from zoo_bridge.steps.inputs import preprocessing_of
from zoo_bridge.steps.training.candidate import Candidate
from zoo_bridge.steps.training.ensemble import checkpoints_of
from zoo_bridge.steps.training.judge import Judgement


def register(
    ctx: Context, candidate: Candidate, judgement: Judgement, verdict: Verdict, labels: Artifact
) -> None:
    """Save a candidate with its card, and put it in use if the verdict says so.

    Parameters
    ----------
    ctx : Context
        The run: the model is called after its tag.
    candidate : Candidate
        What was trained.
    judgement : Judgement
        How it does on held-out galaxies; its calibration becomes the model's.
    verdict : Verdict
        The gate's; one that is kept out is registered all the same.
    labels : Artifact
        What it learned from.
    """
    from zoo_bridge.model import registry
    from zoo_bridge.steps.training.card_figures import draw_figures

    record = registry.Record(
        version=ctx.tag,
        design=candidate.networks[0].design.as_dict(),
        seeds=[network.seed for network in candidate.networks],
        preprocessing=preprocessing_of(ctx.settings).as_dict(),
        labels_digest=labels.digest,
        training=candidate.training,
        estimator=candidate.estimator,
        agreement=candidate.agreement,
        calibration={
            question: {answer: vars(numbers) for answer, numbers in known.items()}
            for question, known in judgement.calibration.items()
        },
        metrics=judgement.metrics,
        baselines=judgement.baselines,
        answers=judgement.answers,
        verdict=verdict.reason,
        runtime=ctx.settings.score.runtime,
    )
    folder = ctx.work / "models" / ctx.tag
    figures = draw_figures(ctx, candidate, judgement)
    saved = registry.save(folder, candidate.networks, record, figures)
    shutil.rmtree(checkpoints_of(ctx), ignore_errors=True)
    facts: dict[str, Any] = {
        "metrics": judgement.metrics,
        "training": candidate.training,
        "verdict": verdict.reason,
        "agreement": candidate.agreement,
        "trunk": saved.trunk,
    }
    ctx.ledger.add_artifact("model", ctx.tag, folder, digest_value(facts), ctx.run_id, facts)
    if verdict.promote:
        ctx.ledger.promote(ctx.tag, "promote", verdict.reason)


def describe(ctx: Context, judgement: Judgement, verdict: Verdict) -> str:
    """What became of a candidate, in one line."""
    first = judgement.metrics[ctx.settings.question[0].name]
    state = "put in use" if verdict.promote else "kept out"
    inside = "/".join(f"{100 * first[f'coverage_{level}']:.0f}" for level in (50, 80, 90))
    text = (
        f"model {ctx.tag} {state}: RMSE {first['rmse']:.3f}, log-likelihood "
        f"{first['log_likelihood']:.3f}, {inside} % inside 50/80/90 % intervals on "
        f"{first['galaxies']} held out; {verdict.reason}"
    )
    if not verdict.promote and ctx.ledger.model_in_use() is None:
        text += "; until a model is in use, batches are drawn at random"
    return text
