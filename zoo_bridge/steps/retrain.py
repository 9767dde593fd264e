"""Retrain: labels and cutouts to a model in ``models/``, put in use only if it is not worse."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zoo_bridge.errors import InputError, NotReadyError, RefusedError
from zoo_bridge.files import digest_value
from zoo_bridge.steps.context import (
    Context,
    Result,
    already_done,
    settings_digest,
    unchanged,
)
from zoo_bridge.steps.expected import expected_votes
from zoo_bridge.steps.galaxies import open_store, preprocessing
from zoo_bridge.steps.judge import Judgement, gate, judge
from zoo_bridge.steps.labelled import (
    Labelled,
    balance_of,
    check_enough,
    check_images,
    heads_of,
    heldout_roles,
    load_galaxies,
    read_labels,
    usable_labels,
)
from zoo_bridge.steps.portraits import draw_figures
from zoo_bridge.steps.posteriors import choose_estimator

if TYPE_CHECKING:
    from zoo_bridge.model.network import Design, Network
    from zoo_bridge.model.registry import Model

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
    networks, training = _train_all(ctx, data, digest_value([inputs, settings, data.ids]))
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
    shutil.rmtree(_checkpoints(ctx), ignore_errors=True)
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


def _checkpoints(ctx: Context) -> Path:
    return ctx.work / "models" / ".training"


def _train_all(ctx: Context, data: Labelled, identity: str) -> tuple[list[Network], dict[str, Any]]:
    """Train the ensemble; a training that was killed goes on."""
    from zoo_bridge.model.network import Network
    from zoo_bridge.model.train import Checkpoint, Schedule, train

    config, learn = ctx.settings.model, ~data.heldout
    images = data.images[learn]
    current, start = _current(ctx)
    design = current.networks[0].design if current else design_of(ctx, images)
    networks, members = [], []
    for member in range(config.ensemble):
        # Far apart, so that the next seed of the settings is another ensemble altogether.
        seed = ctx.settings.seed + 1000 * member
        network = Network(design, seed)
        if current:
            of = current.networks[member % len(current.networks)]
            network.model.set_weights(of.model.get_weights())
        elif config.pretrained_weights:
            _load_pretrained(ctx, network, config.pretrained_weights)
        schedule = Schedule(
            config.epochs, config.patience, config.batch_size, config.learning_rate, seed
        )
        checkpoint = Checkpoint(_checkpoints(ctx) / f"{member}.npz", f"{identity} {member} {start}")
        name = "training (epochs)"
        if config.ensemble > 1:
            name = f"training {member + 1} of {config.ensemble} (epochs)"
        with ctx.progress.bar(name, config.epochs) as advance:
            facts = train(network, images, data.votes[learn], schedule, advance, checkpoint)
        if facts["resumed_from"]:
            ctx.say(
                f"the training that was broken off went on after {facts['resumed_from']} epochs"
            )
        networks.append(network)
        members.append(facts)
    return networks, {"galaxies": int(learn.sum()), "start": start, "members": members}


def design_of(ctx: Context, images: Array) -> Design:
    """The network of the settings, for images of this mean and spread."""
    from zoo_bridge.model.network import Design

    config, how = ctx.settings.model, preprocessing(ctx.settings)
    return Design(
        config.network,
        how.size,
        how.channels,
        heads_of(ctx.settings),
        config.dropout,
        config.likelihood,
        round(float(images.mean(dtype=np.float64)), 6),
        round(float(images.std(dtype=np.float64)), 6),
    )


def _current(ctx: Context) -> tuple[Model | None, str]:
    """The model to go on from, if the settings want one and it fits; and what to call the start."""
    from zoo_bridge.model import registry

    version = ctx.ledger.model_in_use()
    if ctx.settings.model.start == "scratch" or version is None:
        return None, "scratch"
    how = preprocessing(ctx.settings).as_dict()
    try:
        model = registry.load(ctx.work / "models" / version, how)
    except (RefusedError, InputError) as error:
        ctx.say(f"training starts from scratch: {error.message}")
        return None, "scratch"
    wanted = design_of(ctx, np.zeros(1)).as_dict()
    there = {**model.record.design, "pixel_mean": 0.0, "pixel_spread": 0.0}
    if {**wanted, "pixel_mean": 0.0, "pixel_spread": 0.0} != there:
        ctx.say(f"training starts from scratch: {version} is another network or asks otherwise")
        return None, "scratch"
    return model, f"the weights of {version}"


def _load_pretrained(ctx: Context, network: Network, uri: str) -> None:
    content = open_store(ctx.settings).read_whole(uri)
    if content is None:
        raise InputError(
            f"There is no file {uri} (model.pretrained_weights).",
            "Name the weights without their top, on disk or as s3://bucket/key.",
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(uri).name
        path.write_bytes(content)
        network.load_pretrained(path)
