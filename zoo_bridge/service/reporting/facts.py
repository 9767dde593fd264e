"""What reports are made of: numbers of this run and the last, votes by week, picks and survey."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from zoo_bridge.ledger import Artifact, RunRecord
from zoo_bridge.report.loop_figures import Compared, ModelPoint
from zoo_bridge.service.counts import numbers_of
from zoo_bridge.steps.context import Context
from zoo_bridge.steps.inputs import scored_survey
from zoo_bridge.steps.scoring import catalogue
from zoo_bridge.tables import BATCH, read_table, sql_text

# Parts of a catalogue, or row groups of a survey, that stand for all of it.
PIECES = 6
# Columns of a survey that say how galaxies look to a survey, by the names that they have.
LOOKS = (
    ("redshift", r"^(z|.*redshift.*|z_?(phot|spec|best).*|photo_?z.*)$"),
    ("magnitude", r"^(.*mag(nitude)?(_.*)?|[ugriy])$"),
    ("size", r"^(.*(rad(ius)?|th(eta)?_?[59]0|r_?[59]0|r_?eff|fwhm)(_[a-z])?|size)$"),
)
MOST_WEEKS = 52


def changes(run: RunRecord, last: RunRecord | None) -> list[tuple[str, str, str, str]]:
    """Each number of a run, beside that of the last run and the difference."""
    now = _named(run)
    then = _named(last) if last else {}
    rows = []
    for name, value in now.items():
        old = then.get(name)
        if not value and not old:
            continue
        change = "" if old is None else f"{value - old:+,.4g}"
        before = "" if old is None else f"{old:,.10g}"
        rows.append((name, f"{value:,.10g}", before, "=" if change == "+0" else change))
    return rows


def _named(run: RunRecord) -> dict[str, float]:
    """The numbers among a run's counts, those by reason as ``dropped: gold standard``."""
    return {": ".join(path).replace("_", " "): value for path, value in numbers_of(run.counts)}


def run_before(ctx: Context, run: RunRecord) -> RunRecord | None:
    """The run of the same job before this one that ended as well."""
    for each in ctx.ledger.list_runs(run.job, 30):
        if (each.number or 0) < (run.number or 0) and each.outcome == run.outcome:
            return each
    return None


def artifact_of(ctx: Context, kind: str, run: RunRecord) -> Artifact | None:
    """What a run made, if it is still there."""
    found = ctx.ledger.find_artifact(kind, run.artifact) if run.artifact else None
    return found if found is not None and found.exists else None


def votes_by_week(labels: Artifact) -> tuple[list[date], list[int], bool]:
    """Classifications by week, of the last year: Mondays, counts, whether the last goes on."""
    path = labels.path / "votes.parquet"
    if not path.exists():
        return [], [], False
    weeks = pl.col("created_at").dt.truncate("1w").dt.date().alias("week")
    table = (
        pl.scan_parquet(path)
        .group_by(weeks)
        .agg(pl.col("classification_id").n_unique().alias("count"))
        .sort("week")
        .collect()
    )
    known = dict(zip(table["week"].to_list(), table["count"].to_list(), strict=True))
    if not known:
        return [], [], False
    last, week = max(known), timedelta(weeks=1)
    first = max(min(known), last - (MOST_WEEKS - 1) * week)
    mondays = [first + number * week for number in range((last - first).days // 7 + 1)]
    goes_on = last + week > datetime.now(UTC).date()
    return mondays, [known.get(monday, 0) for monday in mondays], goes_on


def models_so_far(ctx: Context, metric: str) -> list[ModelPoint]:
    """Every model with its held-out error, in the order in which they were trained."""
    question = ctx.settings.question[0].name
    used = {row.version for row in ctx.ledger.list_promotions()}
    points = []
    for artifact in reversed(ctx.ledger.list_artifacts("model")):
        found = artifact.facts.get("metrics", {}).get(question)
        if not found or metric not in found:
            continue
        value, low, high = (found.get(metric + end, found[metric]) for end in ("", "_lo", "_hi"))
        galaxies = artifact.facts["training"]["galaxies"]
        points.append(ModelPoint(artifact.name, galaxies, value, low, high, artifact.name in used))
    return points


@dataclass(frozen=True)
class CardFigure:
    """A figure of a model's card: its file, title, what there is to see, and of which question."""

    path: Path
    title: str
    text: str
    of: str = ""


# By how their files' names begin, in the order in which they are looked at.
CARD_FIGURES = (
    (
        "calibration-",
        "Do its error bars hold?",
        "How often held-out votes lie inside its credible intervals, against what these promise: "
        "on the diagonal they hold.",
    ),
    ("predicted-", "Predicted and observed", "Each point is a held-out galaxy."),
    (
        "misses",
        "Its worst misses",
        "Held-out galaxies whose votes it thought least likely; dashed: what volunteers said.",
    ),
    (
        "posteriors",
        "What it says of single galaxies",
        "Left the galaxy, then one network's posterior over the votes, then many and their mean; "
        "dashed: what volunteers said.",
    ),
)


def card_figures(model: Artifact) -> list[CardFigure]:
    """The figures of a model's card that are there."""
    folder = model.path / "figures"
    return [
        CardFigure(path, title, text, path.stem.removeprefix(begins))
        for begins, title, text in CARD_FIGURES
        for path in sorted(folder.glob(f"{begins}*.png"))
    ]


@dataclass(frozen=True)
class Plan:
    """A batch's plan: rows as dictionaries, and the folder that its pictures are in."""

    rows: list[dict[str, Any]]
    folder: Path

    @classmethod
    def of(cls, folder: Path) -> Plan | None:
        """That of a batch's folder, if it is still there."""
        path = folder / "plan.parquet"
        return cls(read_table(path, BATCH).to_pylist(), folder) if path.exists() else None

    @property
    def picks(self) -> list[dict[str, Any]]:
        """Those that were chosen for what they teach, best first."""
        return [row for row in self.rows if row["reason"] == "bald" and row["action"] != "skip"]

    def picture(self, row: dict[str, Any]) -> bytes | None:
        """What volunteers see of an object."""
        found = sorted((self.folder / "previews").glob(f"{row['rank']:06d}-1.*"))
        return found[0].read_bytes() if found else None


def compare_with_survey(ctx: Context, scores: Artifact, plan: Plan) -> list[Compared]:
    """What the picks of a batch are like beside the survey: what is predicted, and how they look.

    Parameters
    ----------
    ctx : Context
        The settings' first question, and the survey.
    scores : Artifact
        What the batch was chosen from.
    plan : Plan
        Of the batch.

    Returns
    -------
    list of Compared
        The predicted share, and columns of the catalogue that say redshift, magnitude and size.
        The survey is sampled, in pieces of neighbours.
    """
    question = ctx.settings.question[0]
    survey = scored_survey(ctx.settings, scores)
    names = ", ".join(sql_text(row["object_id"]) for row in plan.picks)
    if not names:
        return []
    where = f"target AND question = {sql_text(question.name)} AND object_id IN ({names})"
    with catalogue.query(scores.path, survey, where, "", None, everything=True) as reader:
        picks = pl.DataFrame(reader.read_all())
    asked = sample_scores(ctx, scores)
    found = [
        Compared(
            f'predicted share who say "{question.target}"',
            picks["mean"].cast(pl.Float64).to_numpy(),
            asked["mean"].cast(pl.Float64).to_numpy(),
        )
    ]
    if survey is None:
        return found
    columns = look_columns(survey.path)
    if columns:
        sample = pl.DataFrame(_row_groups(survey.path, list(columns)))
        for name, what in columns.items():
            title = name if name.lower() == what else f"{name} ({what})"
            of_picks, of_all = (_finite(frame[name]) for frame in (picks, sample))
            if len(of_picks) and len(of_all):
                found.append(Compared(title, of_picks, of_all))
    return found


def look_columns(path: Path) -> dict[str, str]:
    """Numeric columns that seem to be redshift, magnitude and size: one of each at most."""
    schema = pq.read_schema(path)
    numeric = [
        field.name for field in schema if str(field.type).startswith(("float", "double", "int"))
    ]
    chosen: dict[str, str] = {}
    for what, pattern in LOOKS:
        fitting = [name for name in numeric if re.match(pattern, name, re.IGNORECASE)]
        # The plainest name is the quantity itself; others are of it, such as its error.
        plainest = sorted((name for name in fitting if "err" not in name.lower()), key=len)
        chosen |= {name: what for name in plainest[:1] if name not in chosen}
    return chosen


def _row_groups(path: Path, columns: list[str]) -> Any:
    with pq.ParquetFile(path) as file:
        count = file.num_row_groups
        some = sorted(random.Random(0).sample(range(count), min(PIECES, count)))
        return file.read_row_groups(some, columns=columns)


def sample_scores(ctx: Context, scores: Artifact) -> pl.DataFrame:
    """Predicted share and mutual information of the first question, for some of the survey.

    Some parts of the catalogue, always the same.
    """
    question = ctx.settings.question[0].name
    paths = catalogue.parts(scores.path)
    some = sorted(random.Random(0).sample(list(paths), min(PIECES, len(paths))))
    columns = ["question", "target", "mean", "bald"]
    frame = pl.concat([pl.read_parquet(path, columns=columns) for path in some])
    return frame.filter(pl.col("target") & (pl.col("question") == question))


def _finite(column: pl.Series) -> np.ndarray[Any, np.dtype[np.float64]]:
    values = column.cast(pl.Float64, strict=False).drop_nulls().to_numpy()
    return values[np.isfinite(values)]
