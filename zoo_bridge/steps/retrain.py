"""Retrain: labels and cutouts to a model in ``models/``, put in use only if it is not worse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from zoo_bridge.errors import NotReadyError
from zoo_bridge.files import digest_value
from zoo_bridge.ledger import Artifact
from zoo_bridge.steps.context import (
    Context,
    Result,
    already_done,
    settings_digest,
    unchanged,
)
from zoo_bridge.steps.galaxies import preprocessing
from zoo_bridge.steps.judge import Judgement, gate, judge
from zoo_bridge.steps.labelled import (
    Labelled,
    balance_of,
    check_enough,
    heldout_roles,
    load_galaxies,
    read_labels,
    usable_labels,
)

if TYPE_CHECKING:
    from zoo_bridge.model.evaluate import Verdict
    from zoo_bridge.model.network import Network


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
    settings = settings_digest(ctx.settings, "model", "cutouts", "question", "survey", "seed")
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
    balance = balance_of(counts, len(data.ids))
    network, training = _train(ctx, data)
    judgement = judge(ctx, network, data)
    verdict = gate(ctx, data, judgement.log_p)
    metrics = judgement.metrics
    record = _register(ctx, network, labels, training, judgement, verdict)
    first = ctx.settings.question[0].name
    facts = {"metrics": metrics, "training": training, "verdict": verdict.reason}
    folder = ctx.work / "models" / record
    ctx.ledger.add_artifact("model", record, folder, digest_value(facts), ctx.run_id, facts)
    if verdict.promote:
        ctx.ledger.promote(record, "promote", verdict.reason)
    state = "in use" if verdict.promote else "kept out"
    text = (
        f"model {record} {state}: RMSE {metrics[first]['rmse']:.3f}, log-likelihood "
        f"{metrics[first]['log_likelihood']:.3f} on {metrics[first]['galaxies']} held out; "
        f"{verdict.reason}"
    )
    counts |= {"trained_on": training["galaxies"], "held_out": int(data.heldout.sum())}
    outcome = "done" if verdict.promote else "refused"
    return Result(outcome, text, counts, [balance], record, inputs, settings)


def _train(ctx: Context, data: Labelled) -> tuple[Network, dict[str, Any]]:
    from zoo_bridge.model.network import Network
    from zoo_bridge.model.train import Schedule, train

    config, how = ctx.settings.model, preprocessing(ctx.settings)
    network = Network(
        config.network, how.size, how.channels, data.k.shape[1], config.dropout, ctx.settings.seed
    )
    learn = ~data.heldout
    schedule = Schedule(
        config.epochs, config.patience, config.batch_size, config.learning_rate, ctx.settings.seed
    )
    votes = np.concatenate([data.k, data.n], axis=1)[learn]
    with ctx.progress.bar("training (epochs)", config.epochs) as advance:
        facts = train(network, data.images[learn], votes, schedule, advance)
    return network, {**facts, "galaxies": int(learn.sum())}


def _register(
    ctx: Context,
    network: Network,
    labels: Artifact,
    training: dict[str, Any],
    judgement: Judgement,
    verdict: Verdict,
) -> str:
    from zoo_bridge.model import registry

    how = preprocessing(ctx.settings)
    record = registry.Record(
        version=ctx.tag,
        network=ctx.settings.model.network,
        size=how.size,
        channels=how.channels,
        dropout=ctx.settings.model.dropout,
        seed=ctx.settings.seed,
        questions=[
            {"name": question.name, "target": question.target} for question in ctx.settings.question
        ],
        preprocessing=how.as_dict(),
        labels_digest=labels.digest,
        training=training,
        metrics=judgement.metrics,
        baselines=judgement.baselines,
        verdict=verdict.reason,
    )
    registry.save(ctx.work / "models" / ctx.tag, network, record)
    return ctx.tag
