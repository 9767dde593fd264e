"""The demo's report: all models judged on one held-out set, and three figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zoo_bridge.model.predict import FIGURE_NETWORKS
from zoo_bridge.report.figures import (
    Picks,
    Point,
    draw_learning,
    draw_picks,
    draw_posteriors,
)
from zoo_bridge.report.pages import Section, Table, write_report
from zoo_bridge.steps.context import Context
from zoo_bridge.steps.inputs import open_model, read_labels
from zoo_bridge.steps.training.candidate import Candidate
from zoo_bridge.steps.training.card_figures import choose_galaxies
from zoo_bridge.steps.training.judge import Judgement, judge_models
from zoo_bridge.steps.training.labelled import Labelled, heldout_roles, load_galaxies, usable_labels
from zoo_bridge.tables import BATCH, read_table

SHOWN_PICKS = 8


def judge_rounds(ctx: Context, rounds: Sequence[Round]) -> tuple[Labelled, dict[str, Judgement]]:
    """Judge the model in use after each round on all held-out galaxies; note it in the rounds.

    Held-out galaxies are never learned from, so those of later rounds judge earlier models too.
    """
    artifact = ctx.ledger.newest("labels")
    assert artifact is not None
    frame = read_labels(artifact)
    table, counts = usable_labels(ctx, frame, heldout_roles(ctx, frame))
    data = load_galaxies(ctx, table, dict(counts))
    judged = judge_models(ctx, data, sorted({each.model for each in rounds}))
    for each in rounds:
        metrics = next(iter(judged[each.model].metrics.values()))
        each.rmse_common = metrics["rmse"]
        each.rmse_common_interval = (metrics["rmse_lo"], metrics["rmse_hi"])
        each.log_likelihood_common = metrics["log_likelihood"]
        each.log_likelihood_common_interval = (
            metrics["log_likelihood_lo"],
            metrics["log_likelihood_hi"],
        )
    return data, judged


def write_demo_report(
    path: Path,
    ctx: Context,
    story: Story,
    data: Labelled,
    judged: dict[str, Judgement],
    lead: Sequence[str],
) -> None:
    """Write the demo's ``report.html``.

    Parameters
    ----------
    path : Path
        The report's HTML file.
    ctx : Context
        To find models and batches.
    story : Story
        Rounds, counts and errors of the demo.
    data : Labelled
        All labelled galaxies.
    judged : dict
        By model version.
    lead : sequence of str
        Lines for the top.
    """
    answer = ctx.settings.question[0].target
    rounds = story.rounds
    model = open_model(ctx.settings, rounds[-1].model)
    galaxies = choose_galaxies(ctx, Candidate.of_model(model, data))
    sections = [
        Section(
            "Held-out error by round",
            "The model in use after each round, judged on the same galaxies. They were drawn at "
            "random and never learned from. Bars: 90 % bootstrap intervals over galaxies.",
            draw_learning(*_points(rounds), story.held_out_common),
            "Held-out RMSE and log-likelihood against the number of labelled galaxies",
        ),
        Section("Rounds", "At the time: on the galaxies held out until then.", _rounds(rounds)),
        Section(
            "The last model against simpler ones",
            "Coverage: how often the votes fell into the credible interval of that size. The "
            "model's error bars were fitted on held-out galaxies of its time.",
            _baselines(judged[rounds[-1].model]),
        ),
        Section(
            "Posteriors",
            f'How many of {data.n[data.heldout][0, 0]} volunteers would say "{answer}"? '
            "Held-out galaxies: the two that the networks agree on most, then those with the "
            "highest mutual information (BALD). Dashed: what volunteers said. Grey: "
            f"{FIGURE_NETWORKS} networks drawn by dropout.",
            draw_posteriors(galaxies, answer),
            "Images of galaxies beside the posterior of one network and of many",
        ),
        Section(
            "What each round asked volunteers about",
            "The galaxies of highest mutual information in each batch, as volunteers saw them. "
            "A fifth of every batch is drawn at random, to judge models by.",
            draw_picks([_picks(ctx, each) for each in rounds]),
            "Galaxies picked in each round",
        ),
    ]
    title = f"zoo_bridge demo: {len(rounds)} rounds on {story.galaxies} invented galaxies"
    write_report(path, title, lead, sections)


def _points(rounds: Sequence[Round]) -> tuple[list[Point], list[Point]]:
    rmse = [Point(r.labelled, r.rmse_common, *r.rmse_common_interval) for r in rounds]
    likely = [
        Point(r.labelled, r.log_likelihood_common, *r.log_likelihood_common_interval)
        for r in rounds
    ]
    return rmse, likely


def _rounds(rounds: Sequence[Round]) -> Table:
    header = (
        "round",
        "labelled",
        "learned from",
        "held out",
        "RMSE at the time",
        "RMSE, same galaxies",
        "log-likelihood, same",
        "uploaded",
        "seconds",
    )
    rows = [
        (
            str(r.number),
            str(r.labelled),
            str(r.trained_on),
            str(r.held_out),
            f"{r.rmse:.3f}",
            f"{r.rmse_common:.3f}",
            f"{r.log_likelihood_common:.3f}",
            str(r.uploaded),
            f"{r.seconds:.0f}",
        )
        for r in rounds
    ]
    return Table(header, rows)


def _baselines(judgement: Judgement) -> Table:
    question, metrics = next(iter(judgement.metrics.items()))
    rows = {"the model in use": metrics, **judgement.baselines[question]}
    header = ("model", "RMSE", "log-likelihood", "inside 50 %", "inside 80 %", "inside 90 %")
    return Table(
        header,
        [
            (
                name,
                f"{row['rmse']:.3f}",
                f"{row['log_likelihood']:.3f}",
                *(f"{100 * row[f'coverage_{level}']:.0f} %" for level in (50, 80, 90)),
            )
            for name, row in rows.items()
        ],
    )


def _picks(ctx: Context, each: Round) -> Picks:
    folder = ctx.work / "batches" / each.batch
    plan = read_table(folder / "plan.parquet", BATCH).to_pylist()
    best = [row for row in plan if row["action"] == "create" and row["reason"] == "bald"]
    best = best[:SHOWN_PICKS]
    pictures = [(folder / "previews" / f"{row['rank']:06d}-1.jpg").read_bytes() for row in best]
    return Picks(f"round {each.number}", pictures, [f"{row['bald']:.2f} nats" for row in best])


@dataclass
class Round:
    """What one round did; ``*_common`` is measured at the end, for all rounds on one set."""

    number: int
    labelled: int
    trained_on: int
    held_out: int
    model: str
    verdict: str
    rmse: float
    log_likelihood: float
    batch: str
    uploaded: int
    classifications: int
    seconds: float = 0.0
    rmse_common: float = float("nan")
    rmse_common_interval: tuple[float, float] = (float("nan"), float("nan"))
    log_likelihood_common: float = float("nan")
    log_likelihood_common_interval: tuple[float, float] = (float("nan"), float("nan"))


@dataclass
class Story:
    """The whole demo: ``summary.json``."""

    galaxies: int
    seed: int
    rounds: list[Round] = field(default_factory=list)
    held_out_common: int = 0
    shown: int = 0
    classifications: int = 0
    votes_kept: int = 0
    repeats: int = 0
    seconds: float = 0.0
