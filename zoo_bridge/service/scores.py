"""The score catalogue for people: shown, filtered, and written in the formats of the field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from zoo_bridge import tables
from zoo_bridge.config import Settings
from zoo_bridge.errors import InputError, NotReadyError
from zoo_bridge.ledger import Artifact, Ledger
from zoo_bridge.redact import redact, redact_column
from zoo_bridge.report import table_formats
from zoo_bridge.service.rejects import find_rejects
from zoo_bridge.service.show import print_json, show_rows
from zoo_bridge.steps.inputs import scored_survey
from zoo_bridge.steps.scoring import catalogue
from zoo_bridge.tables import sql_text

SHOWN = ("object_id", "question", "answer", "mean", "lo", "hi", "n_expected", "bald")
MEANINGS = {name: {"description": text} for name, text in tables.MEANINGS["scores"].items()}


@dataclass(frozen=True)
class Wanted:
    """Which rows: SQL expressions over the catalogue's columns and the survey's."""

    where: str = ""
    order: str = "bald DESC, object_id"
    limit: int | None = 20
    objects: Sequence[str] = ()
    question: str | None = None
    all_answers: bool = False

    @property
    def sql(self) -> str:
        """The condition."""
        conditions = [f"({self.where})"] if self.where else []
        if self.objects:
            names = ", ".join(sql_text(name) for name in self.objects)
            conditions.append(f"object_id IN ({names})")
        if self.question:
            conditions.append(f"question = {sql_text(self.question)}")
        if not self.all_answers:
            conditions.append("target")
        return " AND ".join(conditions)


def show_scores(
    settings: Settings, ledger: Ledger, wanted: Wanted, out: Path | None, as_json: bool
) -> None:
    """Show rows of the newest scores, or write them to a file.

    Parameters
    ----------
    settings : Settings
        Of the project.
    ledger : Ledger
        Where the scores are noted.
    wanted : Wanted
        Conditions, order and number of the rows.
    out : Path, optional
        A file whose name ends in .csv, .parquet, .fits or .vot.
    as_json : bool
        JSON in place of a table.

    Raises
    ------
    NotReadyError
        If there are no scores yet.
    SettingsError
        If the file's name ends otherwise, or an expression is no SQL.
    """
    scores = ledger.newest("scores")
    if scores is None:
        raise NotReadyError("There are no scores yet.", "Make them: zoo-bridge run score.")
    if out is not None:
        table_formats.format_of(out)
        count = write_scores(settings, scores, wanted, out)
        print(f"Wrote {count} rows of {scores.name} to {out}.")
        return
    survey = scored_survey(settings, scores)
    with catalogue.query(
        scores.path, survey, wanted.sql, wanted.order, wanted.limit, everything=as_json
    ) as reader:
        rows = reader.read_all().to_pylist()
    aside = _set_aside(ledger, scores, [name for name in wanted.objects if not _has(rows, name)])
    if as_json:
        print_json({"scores": scores.name, **scores.facts, "rows": rows, "rejected": aside})
        return
    facts = scores.facts
    print(
        f"Scores {scores.name}: {facts['scored']} objects by model {facts['model']}, "
        f"{facts['rejected']} rejected"
    )
    for row in aside:
        print(redact(f"{row['object_id']} was set aside: {row['reason']} ({row['detail']})"))
    if rows or not aside:
        show_rows(rows, SHOWN, False)


def write_scores(
    settings: Settings, scores: Artifact, wanted: Wanted, out: Path, confined: bool = False
) -> int:
    """Write rows of a catalogue, with the survey's columns, to a file.

    Parameters
    ----------
    settings : Settings
        Of the project.
    scores : Artifact
        The catalogue.
    wanted : Wanted
        Conditions, order and number of the rows.
    out : Path
        Its name ends in .csv, .parquet, .fits or .vot.
    confined : bool
        For what others ask: see `catalogue.opened`.

    Returns
    -------
    int
        How many rows were written.
    """
    survey = scored_survey(settings, scores)
    with catalogue.query(
        scores.path, survey, wanted.sql, wanted.order, wanted.limit, True, confined
    ) as reader:
        about = table_formats.About(
            {"MODEL": str(scores.facts["model"]), "SCORES": scores.name},
            MEANINGS | (survey.meanings if survey else {}),
        )
        public = pa.RecordBatchReader.from_batches(reader.schema, redact_column(reader, "uri"))
        return table_formats.write(public, out, about)


def _has(rows: Sequence[dict[str, Any]], name: str) -> bool:
    return any(row["object_id"] == name for row in rows)


def _set_aside(ledger: Ledger, scores: Artifact, names: Sequence[str]) -> list[dict[str, Any]]:
    """Why objects have no scores.

    Raises
    ------
    InputError
        If one was not scored and was not set aside either, whatever other conditions there are.
    """
    if not names:
        return []
    rejects = find_rejects(ledger).filter(pl.col("by") == "score")
    found = rejects.filter(pl.col("object_id").is_in(list(names))).to_dicts()
    unknown = [name for name in names if not _has(found, name)]
    listed = ", ".join(sql_text(name) for name in unknown)
    if unknown:
        with catalogue.query(
            scores.path, None, f"object_id IN ({listed})", "object_id", None
        ) as reader:
            known = {row["object_id"] for row in reader.read_all().to_pylist()}
        if lost := [name for name in unknown if name not in known]:
            raise InputError(
                f"{', '.join(lost)}: not in the survey that {scores.name} is of.",
                "Object ids are those of survey.object_id_column; a new survey is scored with: "
                "zoo-bridge run score.",
            )
    return found
