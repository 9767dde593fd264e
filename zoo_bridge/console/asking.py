"""What pages ask of a catalogue, and of a batch's plan: rows, how many there are, how they spread.

Conditions come from whoever is at the page. They are read by a database that has only these tables,
cannot open a file beside them, and is stopped when it takes long. Artifacts do not change, so
answers are kept.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import duckdb
import polars as pl

from zoo_bridge.config import Settings
from zoo_bridge.errors import SettingsError
from zoo_bridge.ledger import Artifact, Batch, Ledger
from zoo_bridge.service.reporting.facts import Plan
from zoo_bridge.steps.inputs import scored_survey
from zoo_bridge.steps.scoring import catalogue
from zoo_bridge.steps.shelf import here
from zoo_bridge.tables import sql_name, sql_text

Value = TypeVar("Value")
BARS = 40
# By name: what it is called, and the order in SQL.
ORDERS = {
    "informative": ("most informative first", "bald DESC, object_id"),
    "uncertain": ("widest interval first", "hi - lo DESC, object_id"),
    "sure": ("narrowest interval first", "hi - lo, bald, object_id"),
    "yes": ("most votes for the answer first", "mean DESC, object_id"),
    "no": ("fewest votes for the answer first", "mean, object_id"),
}
PLAN_ORDERS = {"rank": ("as planned", "rank"), **ORDERS}


class Kept:
    """Answers to what was asked before; the oldest are forgotten."""

    def __init__(self, most: int = 500) -> None:
        self._most = most
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._guard = threading.Lock()

    def get(self, key: Hashable, find: Callable[[], Value]) -> Value:
        """An answer, found out if it is not known."""
        with self._guard:
            if key in self._kept:
                self._kept.move_to_end(key)
                return cast(Value, self._kept[key])
        found = find()
        with self._guard:
            self._kept[key] = found
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return found


_kept = Kept()


@dataclass(frozen=True)
class Asked:
    """What is asked: a condition in SQL, an order by its name, and which rows of it."""

    where: str = ""
    sort: str = "informative"
    offset: int = 0
    limit: int = 60


@dataclass(frozen=True)
class Found:
    """Rows, how many there are in all, and the columns that may be asked for."""

    rows: list[dict[str, Any]]
    total: int
    columns: list[str]


def order_of(sort: str, orders: dict[str, tuple[str, str]], columns: list[str]) -> str:
    """An order in SQL: one of those with names, or a column's, such as ``magnitude desc``."""
    if sort in orders:
        return orders[sort][1]
    name, _, way = sort.rpartition(" ")
    if way not in ("asc", "desc") or name not in columns:
        raise SettingsError(
            f"There is no order {sort!r}.",
            f"Orders: {', '.join(orders)}, or COLUMN asc, COLUMN desc.",
        )
    return f"{sql_name(name)} {way} NULLS LAST, object_id"


# the catalogue


def ask_catalogue(settings: Settings, scores: Artifact, question: str, asked: Asked) -> Found:
    """Rows of a catalogue: of one question, its target answer.

    Parameters
    ----------
    settings : Settings
        Of the project.
    scores : Artifact
        The catalogue.
    question : str
        One of the settings.
    asked : Asked
        The condition may name the survey's columns, too.

    Returns
    -------
    Found

    Raises
    ------
    SettingsError
        If it cannot be asked; it says why.
    """

    def find() -> Found:
        def both(db: duckdb.DuckDBPyConnection, view: str, columns: list[str]) -> Found:
            where = _of_target(question, asked.where)
            order = order_of(asked.sort, ORDERS, columns)
            page = f"LIMIT {asked.limit} OFFSET {asked.offset}"
            sql = f"SELECT * FROM {view} WHERE {where} ORDER BY {order} {page}"
            catalogue.require_question(db, sql)
            rows = db.sql(sql).to_arrow_table().to_pylist()
            count = f"SELECT count(*) FROM {view} WHERE {where}"
            catalogue.require_question(db, count)
            (total,) = db.execute(count).fetchall()[0]
            return Found(rows, int(total), columns)

        return _with(settings, scores, both)

    key = ("catalogue", scores.digest, scores.name, question, asked)
    return _kept.get(key, find)


@dataclass(frozen=True)
class Spread:
    """A column's histogram; None of numbers that are no numbers."""

    column: str
    edges: list[float]
    counts: list[int]


def spread_of(
    settings: Settings, scores: Artifact, question: str, where: str, column: str
) -> Spread | None:
    """How a column is spread over the rows that a condition chooses; None if none has a number.

    Raises
    ------
    SettingsError
        If there is no such column of numbers, or the condition cannot be asked.
    """

    def find() -> Spread | None:
        def ask(db: duckdb.DuckDBPyConnection, view: str, columns: list[str]) -> Spread | None:
            if column not in columns:
                raise SettingsError(
                    f"The catalogue has no column {column}.", f"It has {', '.join(columns)}."
                )
            value = f"TRY_CAST({sql_name(column)} AS DOUBLE)"
            rows = (
                f"SELECT {value} AS x FROM {view} WHERE {_of_target(question, where)} "
                f"AND isfinite({value})"
            )
            ends = f"SELECT min(x), max(x) FROM ({rows})"
            catalogue.require_question(db, ends)
            low, high = db.execute(ends).fetchall()[0]
            if low is None:
                return None
            width = (high - low) / BARS or 1.0
            counted = (
                f"SELECT least({BARS - 1}, floor((x - {low!r}) / {width!r}))::INT AS bar, count(*) "
                f"FROM ({rows}) GROUP BY bar"
            )
            found = dict(db.execute(counted).fetchall())
            edges = [low + width * place for place in range(BARS + 1)]
            return Spread(column, edges, [int(found.get(bar, 0)) for bar in range(BARS)])

        return _with(settings, scores, ask, named=column)

    return _kept.get(("spread", scores.digest, scores.name, question, where, column), find)


def _of_target(question: str, where: str) -> str:
    # On a line of its own: a comment in the condition must not take the rest with it.
    own = f"(\n{where}\n) AND " if where.strip() else ""
    return f"{own}target AND question = {sql_text(question)}"


def _with(
    settings: Settings,
    scores: Artifact,
    ask: Callable[[duckdb.DuckDBPyConnection, str, list[str]], Value],
    named: str = "",
) -> Value:
    """Ask the catalogue alone, or with the survey where that is what is asked of."""
    survey = scored_survey(settings, scores)
    with catalogue.opened(scores.path, survey, confined=True) as db:
        own, every = db.table("scores").columns, db.table("all_columns").columns
        try:
            try:
                if named and named not in own:
                    return ask(db, "all_columns", every)
                return ask(db, "scores", every)
            except duckdb.BinderException:
                return ask(db, "all_columns", every)
        except duckdb.Error as error:
            raise catalogue.not_asked(error, every) from None


def rows_of(settings: Settings, scores: Artifact, object_id: str) -> list[dict[str, Any]]:
    """Everything that a catalogue says of an object: each question, each answer."""

    def find() -> list[dict[str, Any]]:
        where = f"object_id = {sql_text(object_id)}"
        order = "question, target DESC, answer"
        with catalogue.query(scores.path, None, where, order) as reader:
            return list(reader.read_all().to_pylist())

    return _kept.get(("object", scores.digest, scores.name, object_id), find)


# a batch


def gallery_of(settings: Settings, ledger: Ledger, batch: Batch) -> pl.DataFrame:
    """A batch's plan, with what was predicted of each object and what the survey says of it.

    Returns
    -------
    polars.DataFrame
        The plan's columns; ``mean``, ``lo``, ``hi`` and ``n_expected`` of the first question's
        target, null before there was a model; the survey's columns.

    Raises
    ------
    SettingsError
        If the batch's folder is gone.
    """
    folder = here(settings, batch.path)
    path = folder / "plan.parquet"
    if not path.exists():
        raise SettingsError(
            f"The folder of {batch.name} is gone: {folder}.",
            "zoo-bridge tidy frees pictures of batches that volunteers have had for long.",
        )
    stamp = path.stat().st_mtime_ns

    def find() -> pl.DataFrame:
        plan = Plan.of(folder)
        assert plan is not None
        frame = pl.DataFrame(plan.rows, infer_schema_length=None).with_columns(
            pl.col("bald").cast(pl.Float64)
        )
        scores = ledger.find_artifact("scores", batch.scores) if batch.scores else None
        nothing = dict.fromkeys(("mean", "lo", "hi"), pl.Float64) | {"n_expected": pl.Int32}
        if scores is None or not scores.exists:
            return frame.with_columns(
                pl.lit(None, dtype=kind).alias(name) for name, kind in nothing.items()
            )
        question = settings.question[0].name
        names = ", ".join(sql_text(name) for name in frame["object_id"]) or "''"
        where = f"target AND question = {sql_text(question)} AND object_id IN ({names})"
        with catalogue.query(scores.path, None, where) as reader:
            said = pl.DataFrame(reader.read_all()).select("object_id", *nothing)
        frame = frame.join(said, "object_id", "left", maintain_order="left")
        survey = scored_survey(settings, scores)
        if survey is not None:
            own = [name for name in survey.columns if name not in frame.columns]
            looks = survey.find(frame["object_id"].to_list(), own)
            frame = frame.join(looks, "object_id", "left", maintain_order="left")
        return frame

    return _kept.get(("gallery", str(path), stamp), find)


def ask_gallery(frame: pl.DataFrame, asked: Asked) -> Found:
    """Rows of a batch, as somebody wants to see them.

    Raises
    ------
    SettingsError
        If that cannot be asked; it says why.
    """
    columns = frame.columns
    with duckdb.connect() as db:
        db.register("plan", frame.to_arrow())
        with catalogue.confine(db):
            where = f"(\n{asked.where}\n)" if asked.where.strip() else "true"
            order = order_of(asked.sort, PLAN_ORDERS, columns)
            page = f"LIMIT {asked.limit} OFFSET {asked.offset}"
            sql = f"SELECT * FROM plan WHERE {where} ORDER BY {order} {page}"
            count = f"SELECT count(*) FROM plan WHERE {where}"
            try:
                catalogue.require_question(db, sql)
                catalogue.require_question(db, count)
                rows = db.sql(sql).to_arrow_table().to_pylist()
                (total,) = db.execute(count).fetchall()[0]
            except duckdb.Error as error:
                raise catalogue.not_asked(error, columns) from None
    return Found(rows, int(total), columns)
