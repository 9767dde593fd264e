"""What a report says of a run, by its job: sections in the order in which they are read."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from PIL import Image

from zoo_bridge.ledger import Artifact, Batch, RunRecord
from zoo_bridge.report.loop_figures import (
    draw_compared,
    draw_counts,
    draw_models,
    draw_spread,
    draw_weeks,
)
from zoo_bridge.report.pages import Gallery, Section, Table, Thumbnail
from zoo_bridge.service.reporting import facts
from zoo_bridge.service.reporting.facts import Plan
from zoo_bridge.steps.context import Context
from zoo_bridge.steps.shelf import here
from zoo_bridge.tables import REJECTS, read_table

SHOWN_PICKS, THUMBNAIL = 24, 200
Sections = Iterator[Section]


def of_pull(ctx: Context, run: RunRecord) -> Sections:
    """What came from Zooniverse."""
    yield from _changed(ctx, run)


def of_aggregate(ctx: Context, run: RunRecord) -> Sections:
    """Votes by week, labels by votes, and what was set aside."""
    labels = facts.artifact_of(ctx, "labels", run)
    if labels is not None:
        yield from _votes(labels)
        yield from _depth(ctx, labels)
        yield from _aside(labels, "rows")
    yield from _changed(ctx, run)


def of_retrain(ctx: Context, run: RunRecord) -> Sections:
    """What the model learned, and whether its error bars hold."""
    model = facts.artifact_of(ctx, "model", run)
    yield from _learned(ctx)
    if model is not None:
        yield from _card(ctx, model)
    yield from _changed(ctx, run)


def of_score(ctx: Context, run: RunRecord) -> Sections:
    """What the survey looks like to the model, and which cutouts could not be read."""
    scores = facts.artifact_of(ctx, "scores", run)
    if scores is not None:
        frame = facts.sample_scores(ctx, scores)
        question = ctx.settings.question[0]
        if len(frame):
            votes = scores.facts["n_expected"][question.name]
            yield Section(
                "What the model says of the survey",
                f"{question.name}: the predicted share of {votes} volunteers who would say "
                f'"{question.target}". {_sampled(len(frame), scores)}',
                draw_spread(
                    frame["mean"].to_numpy(), f'predicted share who say "{question.target}"'
                ),
                "Histogram of the predicted share",
            )
            yield Section(
                "Where it has most to learn",
                "Mutual information (BALD): high where networks are sure and disagree. The next "
                "batch is chosen from the right end.",
                draw_spread(frame["bald"].to_numpy(), "mutual information (nats)"),
                "Histogram of the mutual information",
            )
        yield from _aside(scores, "cutouts")
    yield from _changed(ctx, run)


def of_upload(ctx: Context, run: RunRecord) -> Sections:
    """What volunteers are to be asked: the picks, what they are like, what could not be shown."""
    batch = _batch_of(ctx, run)
    plan = Plan.of(here(ctx.settings, batch.path)) if batch else None
    if batch is not None and plan is not None:
        yield from _picks(plan)
        yield from _asked(ctx, batch, plan)
        yield from _left_out(plan)
    yield from _changed(ctx, run)


def of_cycle(ctx: Context, run: RunRecord) -> Sections:
    """The page that a project's team reads: votes, what was learned, what is asked for next."""
    parts = {part.job: part for part in ctx.ledger.list_parts(run.run_id)}
    yield Section("The five steps", "", _steps(parts))
    labels = ctx.ledger.newest("labels")
    if labels is not None:
        yield from _votes(labels)
        yield from _depth(ctx, labels)
    yield from _learned(ctx)
    trained = parts.get("retrain")
    model = facts.artifact_of(ctx, "model", trained) if trained else None
    if model is not None:
        yield from _card(ctx, model)
    if (uploaded := parts.get("upload")) is not None:
        yield from (each for each in of_upload(ctx, uploaded) if each.title != CHANGED)
    for job, kind, what in (("aggregate", "labels", "rows"), ("score", "scores", "cutouts")):
        made = facts.artifact_of(ctx, kind, parts[job]) if job in parts else None
        if made is not None:
            yield from _aside(made, what)


STORIES: dict[str, Callable[[Context, RunRecord], Sections]] = {
    "pull": of_pull,
    "aggregate": of_aggregate,
    "retrain": of_retrain,
    "score": of_score,
    "upload": of_upload,
    "cycle": of_cycle,
}
CHANGED = "What changed since the last time"


def undo_of(ctx: Context, run: RunRecord) -> str:
    """How what a run did is undone."""
    if run.job == "cycle":
        told = [undo_of(ctx, part) for part in ctx.ledger.list_parts(run.run_id)]
        return " ".join(text for text in told if text) or "Nothing was changed."
    if run.artifact is None or run.outcome not in ("done", "refused"):
        return ""
    if run.job == "retrain":
        if run.kept_out:
            return (
                f"The model was kept out; to use it all the same: `zoo-bridge promote "
                f"{run.artifact}`."
            )
        return "To put the model before back in use: `zoo-bridge rollback`."
    if run.job == "upload":
        name = run.artifact
        return (
            f"To give the batch up before it is published: `zoo-bridge abandon {name}`; to take it "
            f"back from volunteers afterwards: `zoo-bridge withdraw {name}`. Nothing is deleted."
        )
    if run.job == "aggregate":
        return "To count another export: `zoo-bridge run aggregate --export FILE`."
    return ""


def _changed(ctx: Context, run: RunRecord) -> Sections:
    rows = facts.changes(run, facts.run_before(ctx, run))
    if rows:
        header = ("", "this time", "last time", "change")
        yield Section(CHANGED, "", Table(header, rows))


def _steps(parts: dict[str, RunRecord]) -> Table:
    rows = [(job, part.outcome, part.message or "") for job, part in parts.items()]
    return Table(("step", "outcome", "what came of it"), rows, words=True)


def _votes(labels: Artifact) -> Sections:
    weeks, counts, goes_on = facts.votes_by_week(labels)
    if not weeks:
        return
    text = f"{sum(counts):,} classifications that count, by the week in which they were made."
    if goes_on:
        text += " The last week is not over."
    alt = f"Bars: classifications by week, {counts[-1]:,} in the last"
    yield Section("Votes", text, draw_weeks(weeks, counts, goes_on), alt)


def _depth(ctx: Context, labels: Artifact) -> Sections:
    for question in ctx.settings.question[:1]:
        found = labels.facts.get("questions", {}).get(question.name)
        sizes = {int(n): many for n, many in (found or {}).get("n_of_labels", {}).items() if many}
        if found is None or len(sizes) < 2:
            continue
        names = range(min(sizes), max(sizes) + 1)
        yield Section(
            "How many volunteers each label has",
            f"{question.name}: {found['labels']:,} labels, half of them with {found['n_median']} "
            "votes or more.",
            draw_counts([str(n) for n in names], [sizes.get(n, 0) for n in names], "votes (N)"),
            "Bars: labels by their number of votes",
        )


def _learned(ctx: Context) -> Sections:
    points = facts.models_so_far(ctx, "rmse")
    if len(points) < 2:
        return
    yield Section(
        "Error by number of labels",
        "Error of the predicted vote fraction (RMSE) of each model, on the galaxies that were held "
        "out when it was trained; bars are 90 % intervals. Hollow: kept out of use.",
        draw_models(points, "held-out RMSE of the vote fraction"),
        f"Held-out error of {len(points)} models, the last {points[-1].value:.3f}",
    )


def _card(ctx: Context, model: Artifact) -> Sections:
    question = ctx.settings.question[0]
    stem = "".join(c if c.isalnum() else "-" for c in question.name)
    shown = (f"calibration-{stem}", f"predicted-{stem}", "posteriors")
    for each in facts.card_figures(model):
        if each.path.stem in shown:
            alt = f"{each.title}: {each.text}"
            yield Section(each.title, each.text, each.path.read_bytes(), alt)


def _batch_of(ctx: Context, run: RunRecord) -> Batch | None:
    return next((row for row in ctx.ledger.list_batches() if row.name == run.artifact), None)


def _picks(plan: Plan) -> Sections:
    shown: list[Thumbnail] = []
    for row in [*plan.picks, *(row for row in plan.rows if row["reason"] != "bald")]:
        picture = plan.picture(row) if len(shown) < SHOWN_PICKS else None
        if picture is not None:
            bald = "at random" if row["bald"] is None else f"BALD {row['bald']:.3f}"
            caption = f"{row['object_id']}: {bald}"
            shown.append(Thumbnail(_small(picture), f"Galaxy {row['object_id']}", caption))
    if shown:
        yield Section(
            "The galaxies",
            f"{len(plan.picks)} were chosen by what they would teach; {len(shown)} of "
            f"{len(plan.rows)} are shown, as volunteers see them.",
            Gallery(shown),
        )


def _small(picture: bytes) -> bytes:
    """A thumbnail: a report is to be fit for mail."""
    with Image.open(io.BytesIO(picture)) as opened:
        small = opened.convert("RGB")
        small.thumbnail((THUMBNAIL, THUMBNAIL))
    kept = io.BytesIO()
    small.save(kept, "JPEG", quality=85)
    return kept.getvalue()


def _asked(ctx: Context, batch: Batch, plan: Plan) -> Sections:
    scores = ctx.ledger.find_artifact("scores", batch.scores) if batch.scores else None
    if scores is None or not scores.exists:
        return
    compared = facts.compare_with_survey(ctx, scores, plan)
    if not compared:
        return
    first = compared[0]
    text = (
        f'Of the picks, {first.picks.mean():.0%} would say "{ctx.settings.question[0].target}" on '
        f"average; of the survey, {first.survey.mean():.0%}."
    )
    others = [
        f"{each.name}: {_middle(each.picks)} and {_middle(each.survey)}" for each in compared[1:]
    ]
    if others:
        text += f" Medians of the picks and of the survey: {'; '.join(others)}."
    yield Section(
        "What it asks for",
        f"{text} A survey that is large is sampled.",
        draw_compared(compared),
        "Histograms of the picks over those of the survey",
    )


def _middle(values: Any) -> str:
    import numpy as np

    return f"{float(np.median(values)):.3g}"


def _left_out(plan: Plan) -> Sections:
    reasons: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for row in plan.rows:
        if row["action"] == "skip":
            reasons[row["why"]] += 1
            examples.setdefault(row["why"], row["object_id"])
    if reasons:
        rows = [(why, str(count), examples[why]) for why, count in reasons.most_common(20)]
        header = ("why", "how many", "such as")
        yield Section("Planned, and not shown", "", Table(header, rows, words=True))


def _aside(artifact: Artifact, what: str) -> Sections:
    """What was set aside, by reason, each with an example."""
    path = artifact.path / "rejects.parquet"
    table = read_table(path, REJECTS) if path.exists() else None
    if table is None or not table.num_rows:
        return
    reasons: Counter[str] = Counter()
    examples: dict[str, tuple[str, str]] = {}
    for batch in table.select(REJECTS.names).to_batches():
        for row in batch.to_pylist():
            reasons[row["reason"]] += 1
            name = row["object_id"] or row["uri"] or ""
            examples.setdefault(row["reason"], (name, row["detail"] or ""))
    rows = [(why, f"{count:,}", *examples[why]) for why, count in reasons.most_common(20)]
    header = ("why", "how many", "such as", "what there is to say of it")
    title = f"{what.capitalize()} that were set aside"
    text = f"{table.num_rows:,} {what}. All of them: `zoo-bridge rejects`."
    yield Section(title, text, Table(header, rows, words=True))


def _sampled(count: int, scores: Artifact) -> str:
    scored = scores.facts["scored"]
    return f"{count:,} of {scored:,} galaxies." if count < scored else f"{scored:,} galaxies."
