"""Retrain: labels and cutouts to a model in ``models/``, put in use only if it is not worse."""

from __future__ import annotations

import shutil
from typing import Any

from numpy.typing import NDArray

from zoo_bridge.errors import NotReadyError
from zoo_bridge.files import digest_value
from zoo_bridge.model.predict import choose_estimator
from zoo_bridge.steps.context import Context, Result, already_done, settings_digest, unchanged
from zoo_bridge.steps.inputs import expected_votes, preprocessing, read_labels
from zoo_bridge.steps.training.card_figures import draw_figures
from zoo_bridge.steps.training.ensemble import checkpoints_of, train_ensemble
from zoo_bridge.steps.training.gate import gate
from zoo_bridge.steps.training.judge import Judgement, judge
from zoo_bridge.steps.training.labelled import (
    balance_of,
    check_enough,
    check_images,
    heldout_roles,
    load_galaxies,
    usable_labels,
)

Array = NDArray[Any]


def retrain(ctx: Context) -> Result:
    """Train a model on the newest labels and put it in use unless it is worse.

    Parameters
    ----------
    ctx : Context
        The run.

    Returns
    -------
    Result
        The artifact ``model`` is a folder; outcome ``refused`` if the gate kept it out.

    Raises
    ------
    NotReadyError
        If there are no labels, or too few.
    """
    labels = ctx.ledger.newest("labels")
    if labels is None:
        raise NotReadyError(
            "There are no labels to learn from.",
            "Make them with: zoo-bridge run pull, then zoo-bridge run aggregate.",
        )
    frame = read_labels(labels)
    roles = heldout_roles(ctx, frame)
    inputs = digest_value([labels.digest, sorted(roles.items())])
    sections = ("model", "cutouts", "question", "survey", "seed")
    runtime = ctx.settings.score.runtime
    settings = digest_value([settings_digest(ctx.settings, *sections), runtime])
    if done := already_done(ctx, "retrain", "model", inputs, settings):
        return unchanged(
            f"the model {done.name} was trained on these labels", done, inputs, settings
        )
    table, tally = usable_labels(ctx, frame, roles)
    counts: dict[str, Any] = dict(tally)
    check_enough(ctx, table)
    train_count, held = int((~table["heldout"]).sum()), int(table["heldout"].sum())
    ctx.say(f"{train_count} galaxies to learn from, {held} held out")
    if ctx.options.dry_run:
        message = f"would train on {train_count} galaxies and judge on {held}"
        return Result("planned", message, counts, [balance_of(counts, len(table))])
    data = load_galaxies(ctx, table, counts)
    check_images(data)
    balance = balance_of(counts, len(data.ids))
    # What a killed training goes on from belongs to these galaxies and settings alone.
    networks, training = train_ensemble(ctx, data, digest_value([inputs, settings, data.ids]))
    features = [network.features(data.images[data.heldout]) for network in networks]
    votes = expected_votes(ctx)
    expected = [votes[question.name] for question in ctx.settings.question]
    estimator, agreement = choose_estimator(networks, features, expected, ctx.settings.seed)
    judgement = judge(ctx, networks, features, estimator, data)
    verdict = gate(ctx, data, judgement)
    metrics = judgement.metrics
    from zoo_bridge.model import registry

    record = registry.Record(
        version=ctx.tag,
        design=networks[0].design.as_dict(),
        seeds=[network.seed for network in networks],
        preprocessing=preprocessing(ctx.settings).as_dict(),
        labels_digest=labels.digest,
        training=training,
        estimator=estimator,
        agreement=agreement,
        calibration={
            question: {answer: vars(numbers) for answer, numbers in known.items()}
            for question, known in judgement.calibration.items()
        },
        metrics=metrics,
        baselines=judgement.baselines,
        answers=judgement.answers,
        verdict=verdict.reason,
        runtime=runtime,
    )
    figures = draw_figures(ctx, networks, features, estimator, data, judgement)
    folder = ctx.work / "models" / ctx.tag
    registry.save(folder, networks, record, figures)
    shutil.rmtree(checkpoints_of(ctx), ignore_errors=True)
    facts = {
        "metrics": metrics,
        "training": training,
        "verdict": verdict.reason,
        "agreement": agreement,
    }
    ctx.ledger.add_artifact("model", ctx.tag, folder, digest_value(facts), ctx.run_id, facts)
    if verdict.promote:
        ctx.ledger.promote(ctx.tag, "promote", verdict.reason)
    text = _told(ctx, judgement, verdict.promote, verdict.reason)
    counts |= {"trained_on": training["galaxies"], "held_out": int(data.heldout.sum())}
    if not verdict.promote and ctx.ledger.model_in_use() is None:
        text += "; until a model is in use, batches are drawn at random"
    outcome = "done" if verdict.promote else "refused"
    return Result(outcome, text, counts, [balance], ctx.tag, inputs, settings)


def _told(ctx: Context, judgement: Judgement, promoted: bool, reason: str) -> str:
    first = judgement.metrics[ctx.settings.question[0].name]
    state = "put in use" if promoted else "kept out"
    inside = "/".join(f"{100 * first[f'coverage_{level}']:.0f}" for level in (50, 80, 90))
    return (
        f"model {ctx.tag} {state}: RMSE {first['rmse']:.3f}, log-likelihood "
        f"{first['log_likelihood']:.3f}, {inside} % inside 50/80/90 % intervals on "
        f"{first['galaxies']} held out; {reason}"
    )
