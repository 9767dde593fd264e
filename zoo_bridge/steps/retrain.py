"""Retrain: labels and cutouts to a model in ``models/``, put in use only if it is not worse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from zoo_bridge.acquisition.select import share_of
from zoo_bridge.errors import InputError, NotReadyError
from zoo_bridge.files import digest_value
from zoo_bridge.ledger import Artifact
from zoo_bridge.steps.context import (
    Balance,
    Context,
    Result,
    already_done,
    settings_digest,
    unchanged,
)
from zoo_bridge.steps.galaxies import (
    Nodes,
    analytic,
    open_loader,
    open_store,
    preprocessing,
    read_survey,
    single,
)
from zoo_bridge.tables import LABELS, read_table

if TYPE_CHECKING:
    from zoo_bridge.model.evaluate import Verdict
    from zoo_bridge.model.network import Network

Array = NDArray[Any]
MIN_HELDOUT = 10


@dataclass(frozen=True)
class Labelled:
    """Galaxies with votes: ids, URIs, images, and k and n of each question's target.

    ``images`` has shape (N, size, size, channels), ``k`` and ``n`` (N, Q); ``heldout`` marks the
    galaxies that are never trained on.
    """

    ids: list[str]
    images: Array
    k: Array
    n: Array
    heldout: NDArray[np.bool_]


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
    frame = pl.DataFrame(read_table(labels.path / "labels.parquet", LABELS))
    labelled = set(frame["object_id"])
    roles = {name: held for name, held in heldout_roles(ctx).items() if name in labelled}
    inputs = digest_value([labels.digest, sorted(roles.items())])
    settings = settings_digest(ctx.settings, "model", "cutouts", "question", "survey", "seed")
    if done := already_done(ctx, "retrain", "model", inputs, settings):
        return unchanged(
            f"the model {done.name} was trained on these labels", done, inputs, settings
        )
    table, tally = _usable_labels(ctx, frame, roles)
    counts: dict[str, Any] = dict(tally)
    _check_enough(ctx, table)
    train_count, held = int((~table["heldout"]).sum()), int(table["heldout"].sum())
    ctx.say(f"{train_count} galaxies to learn from, {held} held out")
    if ctx.options.dry_run:
        message = f"would train on {train_count} galaxies and judge on {held}"
        return Result("planned", message, counts, [_balance(counts, len(table))])
    data = _load(ctx, table, counts)
    balance = _balance(counts, len(data.ids))
    network, training = _train(ctx, data)
    metrics, baselines, log_p = _evaluate(ctx, network, data)
    verdict = _gate(ctx, data, log_p)
    record = _register(ctx, network, labels, training, metrics, baselines, verdict)
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


def heldout_roles(ctx: Context) -> dict[str, bool]:
    """For every object that we uploaded: whether it is held out.

    What BALD chose is for learning; the random share of every batch is held out; the random first
    batch, made before there was a model, is split by a hash like everything else.
    """
    project = ctx.settings.project.slug
    kinds = {batch["name"]: batch["kind"] for batch in ctx.ledger.list_batches(project)}
    return {
        row["object_id"]: row["reason"] == "random"
        for row in ctx.ledger.list_objects(project)
        if kinds.get(row["batch"]) != "start"
    }


def _usable_labels(
    ctx: Context, frame: pl.DataFrame, roles: dict[str, bool]
) -> tuple[pl.DataFrame, dict[str, int]]:
    """One row a galaxy: object_id, uri, k_<q> and n_<q> of each question, heldout."""
    survey = read_survey(ctx, open_store(ctx.settings))
    places = pl.DataFrame(survey.table.select(["object_id", "uri"]))
    wide = frame.select("object_id").unique()
    for place, question in enumerate(ctx.settings.question):
        # Two subjects of one object are one galaxy: their votes add up.
        votes = (
            frame.filter(question=question.name, answer=question.target)
            .group_by("object_id")
            .agg(pl.col("k").sum().alias(f"k_{place}"), pl.col("n").sum().alias(f"n_{place}"))
        )
        wide = wide.join(votes, on="object_id", how="left")
    wide = wide.fill_null(0)
    found = wide.join(places, on="object_id", how="inner").sort("object_id")
    enough = found.filter(pl.col("n_0") >= ctx.settings.model.min_votes)
    share, seed = ctx.settings.model.heldout_share, ctx.settings.seed
    held = [
        roles.get(name, share_of(name, seed, "held out") < share) for name in enough["object_id"]
    ]
    tally = {
        "labelled": len(wide),
        "not_in_survey": len(wide) - len(found),
        "too_few_votes": len(found) - len(enough),
    }
    if tally["not_in_survey"]:
        missing = wide.join(places, on="object_id", how="anti")["object_id"].sort()[:3].to_list()
        ctx.say(
            f"{tally['not_in_survey']} labelled objects are not in the survey, such as "
            + ", ".join(missing)
        )
    return enough.with_columns(pl.Series("heldout", held, dtype=pl.Boolean)), tally


def _check_enough(ctx: Context, table: pl.DataFrame) -> None:
    needed = ctx.settings.model.min_labels
    if len(table) < needed:
        raise NotReadyError(
            f"There are labels for {len(table)} galaxies of the survey, fewer than the {needed} "
            "needed to train.",
            "Wait for more votes, check votes.object_id_keys, or lower model.min_labels.",
        )
    if table["heldout"].sum() < MIN_HELDOUT:
        raise NotReadyError(
            f"Only {table['heldout'].sum()} labelled galaxies are held out, too few to judge a "
            f"model by (at least {MIN_HELDOUT}).",
            "Wait for more votes, or raise model.heldout_share.",
        )


def _load(ctx: Context, table: pl.DataFrame, counts: dict[str, Any]) -> Labelled:
    loader = open_loader(ctx, open_store(ctx.settings))
    objects = list(zip(table["object_id"].to_list(), table["uri"].to_list(), strict=True))
    with ctx.progress.bar("cutouts", len(objects)) as advance:
        batch = loader.load(objects, advance)
    for reject in batch.rejects[:3]:
        ctx.say(f"cutout {reject.uri} set aside: {reject.reason} ({reject.detail})")
    counts["bad_cutouts"] = len(batch.rejects)
    if not batch.places:
        raise InputError(
            f"None of the {len(objects)} cutouts can be used, such as {objects[0][1]}.",
            "Check the [survey] table and the files.",
        )
    kept = table[batch.places]
    questions = range(len(ctx.settings.question))
    return Labelled(
        kept["object_id"].to_list(),
        batch.images,
        kept.select(f"k_{place}" for place in questions).to_numpy(),
        kept.select(f"n_{place}" for place in questions).to_numpy(),
        kept["heldout"].to_numpy(),
    )


def _balance(counts: dict[str, Any], used: int) -> Balance:
    aside = ("not_in_survey", "too_few_votes", "bad_cutouts")
    parts = {name: counts.get(name, 0) for name in aside}
    return Balance("labelled objects", counts["labelled"], {"used": used, **parts})


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


def _evaluate(
    ctx: Context, network: Network, data: Labelled
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, dict[str, float]]], Array]:
    """Metrics and baselines of each question, and the log-likelihood of each held-out galaxy."""
    from zoo_bridge.model.evaluate import summarise

    held = data.heldout
    features = network.features(data.images[held])
    mean_NQ, spread_NQ = network.logit_moments(features)
    metrics, baselines = {}, {}
    total = np.zeros(int(held.sum()))
    for place, question in enumerate(ctx.settings.question):
        asked = data.n[held, place] > 0
        k, n = data.k[held, place][asked], data.n[held, place][asked]
        if not len(k):
            continue
        learn = ~held
        rate = data.k[learn, place].sum() / max(data.n[learn, place].sum(), 1)
        constant = np.log(np.clip(rate, 1e-3, 1 - 1e-3) / (1 - np.clip(rate, 1e-3, 1 - 1e-3)))
        ours = analytic(mean_NQ[asked, place], spread_NQ[asked, place])
        total[asked] += ours.log_p(k, n)
        seed = ctx.settings.seed
        metrics[question.name] = summarise(predictions(ours, k, n), k, n, seed)
        baselines[question.name] = {
            name: summarise(predictions(nodes, k, n), k, n, seed)
            for name, nodes in {
                "one network, no dropout": single(mean_NQ[asked, place]),
                "mean vote fraction": single(np.full(len(k), constant)),
            }.items()
        }
    return metrics, baselines, total


def predictions(nodes: Nodes, k: Array, n: Array) -> Any:
    """What a posterior says of votes that came."""
    from zoo_bridge.model.evaluate import Predictions

    inside = {level: nodes.inside(k, n, level / 100) for level in (50, 80, 90)}
    return Predictions(nodes.log_p(k, n), nodes.mean, inside)


def _gate(ctx: Context, data: Labelled, candidate: Array) -> Verdict:
    """Compare with the model in use, on the same held-out galaxies."""
    from zoo_bridge.errors import RefusedError
    from zoo_bridge.model import registry
    from zoo_bridge.model.evaluate import Verdict, compare

    version = ctx.ledger.model_in_use()
    if version is None:
        return Verdict(True, "the first model", 0.0, 0.0)
    how = preprocessing(ctx.settings).as_dict()
    try:
        current, record = registry.load(ctx.work / "models" / version, how)
    except (RefusedError, InputError) as error:
        return Verdict(True, f"{version} cannot be used any more: {error.message}", 0.0, 0.0)
    asked = [question.name for question in ctx.settings.question]
    if [question["name"] for question in record.questions] != asked:
        return Verdict(True, f"{version} answers other questions", 0.0, 0.0)
    _, _, log_p = _evaluate(ctx, current, data)
    confidence = ctx.settings.model.gate_confidence
    return compare(candidate, log_p, confidence, ctx.settings.seed)


def _register(
    ctx: Context,
    network: Network,
    labels: Artifact,
    training: dict[str, Any],
    metrics: dict[str, dict[str, float]],
    baselines: dict[str, dict[str, dict[str, float]]],
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
        metrics=metrics,
        baselines=baselines,
        verdict=verdict.reason,
    )
    registry.save(ctx.work / "models" / ctx.tag, network, record)
    return ctx.tag
