"""The score catalogue for people: shown, filtered, and written in the formats of the field."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from zoo_bridge.config import Settings
from zoo_bridge.errors import InputError, NotReadyError, SettingsError
from zoo_bridge.files import replacing
from zoo_bridge.ledger import Ledger
from zoo_bridge.service.show import show_rows
from zoo_bridge.steps import catalogue
from zoo_bridge.steps.galaxies import scored_survey
from zoo_bridge.tables import sql_text

SHOWN = ("object_id", "question", "answer", "mean", "lo", "hi", "n_expected", "bald")
MEANINGS = {
    name: {"description": text}
    for name, text in {
        "object_id": "Identifier of the object in the survey",
        "uri": "Where the cutout is that was scored",
        "model_version": "The model that scored it",
        "question": "The question that volunteers are asked",
        "answer": "The answer that is predicted",
        "n_expected": "N, the number of volunteers that the prediction is for",
        "mean": "Posterior mean of the share k/N of volunteers who give the answer",
        "lo": "Lower end of the central 90 % credible interval of k/N",
        "hi": "Upper end of the central 90 % credible interval of k/N",
        "bald": "Mutual information of k and the weights of the networks (BALD), in nats",
        "target": "Whether the answer is the one that galaxies are ranked by",
    }.items()
}
FORMATS = {
    ".csv": "csv",
    ".parquet": "parquet",
    ".fits": "fits",
    ".fit": "fits",
    ".vot": "votable",
    ".votable": "votable",
    ".xml": "votable",
}


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
        Which rows.
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
    survey = scored_survey(settings, scores)
    if out is not None:
        kind = FORMATS.get(out.suffix.lower())
        if kind is None:
            raise SettingsError(
                f"{out} has no ending that names a format.",
                f"Known endings: {', '.join(FORMATS)}.",
            )
        with catalogue.query(
            scores.path, survey, wanted.sql, wanted.order, wanted.limit, everything=True
        ) as reader:
            facts = {
                "scores": scores.name,
                "model": str(scores.facts["model"]),
                "meanings": MEANINGS | (survey.meanings if survey else {}),
            }
            count = _write(reader, out, kind, facts)
        print(f"Wrote {count} rows of {scores.name} to {out}.")
        return
    with catalogue.query(
        scores.path, survey, wanted.sql, wanted.order, wanted.limit, everything=as_json
    ) as reader:
        rows = reader.read_all().to_pylist()
    if as_json:
        print(json.dumps({"scores": scores.name, **scores.facts, "rows": rows}, indent=2))
        return
    facts = scores.facts
    print(
        f"Scores {scores.name}: {facts['scored']} objects by model {facts['model']}, "
        f"{facts['rejected']} rejected"
    )
    show_rows(rows, SHOWN, False)


def _write(reader: pa.RecordBatchReader, out: Path, kind: str, facts: dict[str, Any]) -> int:
    """Write rows as they come, whole or not at all; FITS and VOTable need them in memory."""
    meanings = facts["meanings"]
    with replacing(out) as scratch:
        if kind in ("fits", "votable"):
            table = reader.read_all()
            _write_astropy(table, scratch, kind, facts)
            return int(table.num_rows)
        schema = pa.schema(
            [
                pa.field(field.name, field.type, metadata=meanings.get(field.name))
                for field in reader.schema
            ],
            metadata={"model": facts["model"], "scores": facts["scores"]},
        )
        return _write_arrow(reader, schema, scratch, kind)


def _write_arrow(reader: pa.RecordBatchReader, schema: pa.Schema, path: Path, kind: str) -> int:
    import pyarrow.csv
    import pyarrow.parquet as pq

    count = 0
    writer: Any
    if kind == "csv":
        writer = pyarrow.csv.CSVWriter(path, schema)
    else:
        writer = pq.ParquetWriter(path, schema, compression="zstd")
    with writer:
        for batch in reader:
            writer.write_table(pa.Table.from_batches([batch]).cast(schema))
            count += batch.num_rows
    return count


def _write_astropy(rows: pa.Table, path: Path, kind: str, facts: dict[str, Any]) -> None:
    from astropy.table import Column, Table
    from astropy.units import UnitsError

    table = Table()
    for name in rows.column_names:
        column = rows[name]
        if pa.types.is_nested(column.type):
            continue
        if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
            values = column.to_numpy(zero_copy_only=False)
        else:
            values = ["" if value is None else str(value) for value in column.to_pylist()]
        meaning = facts["meanings"].get(name, {})
        table[name] = Column(values, description=meaning.get("description"))
        # A unit that astropy does not know is no reason to write nothing.
        with suppress(UnitsError, ValueError):
            table[name].unit = meaning.get("unit")
    table.meta["MODEL"] = facts["model"]
    table.meta["SCORES"] = facts["scores"]
    try:
        table.write(path, format=kind, overwrite=True)
    except UnicodeEncodeError as error:
        raise InputError(
            f"A FITS table holds ASCII only, and {error.object!r} is not.",
            "Write a .vot or .parquet file, or leave the object out with --where.",
        ) from None
    if kind == "fits":
        _comment_columns(path, table)


def _comment_columns(path: Path, table: Any) -> None:
    """Descriptions as TCOMMn, which TOPCAT and others read."""
    from astropy.io import fits

    with fits.open(path, mode="update") as units:
        for number, name in enumerate(table.colnames, 1):
            if text := table[name].description:
                units[1].header[f"TCOMM{number}"] = text
