"""What pages ask of a catalogue, and of a batch's plan: rows, how many there are, how they spread.

Conditions come from whoever is at the page. They are read by a database that has only these tables,
cannot open a file beside them, and is stopped when it takes long. Artifacts do not change, so
answers are kept.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import duckdb
import polars as pl

from zoo_bridge.config import Settings
from zoo_bridge.cutouts.survey import Survey
from zoo_bridge.errors import SettingsError
from zoo_bridge.ledger import Artifact, Batch, Ledger
from zoo_bridge.service.reporting.facts import Plan
from zoo_bridge.steps.inputs import scored_survey
from zoo_bridge.steps.scoring import catalogue
from zoo_bridge.steps.shelf import here
from zoo_bridge.tables import sql_name, sql_text

Value = TypeVar("Value")
BARS = 40
# Columns that go from none to all.
SHARES = ("mean", "lo", "hi")
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


@dataclass(frozen=True)
class Spread:
    """A column's histogram, of numbers that are numbers."""

    column: str
    edges: list[float]
    counts: list[int]


def ask_catalogue(
    settings: Settings, scores: Artifact, question: str, asked: Asked, column: str
) -> tuple[Found, Spread | None]:
    """Rows of a catalogue, of one question, its target answer; and how a column is spread.

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
    column : str
        A column of numbers, of the catalogue or the survey.

    Returns
    -------
    tuple of Found, Spread or None
        No spread if none of the rows has a number in that column.

    Raises
    ------
    SettingsError
        If it cannot be asked; it says why.
    """

    def find() -> tuple[Found, Spread | None]:
        catalogue.require_condition(asked.where)
        kept, db = _opened(settings, scores)
        where = _of_target(question, asked.where)
        if column not in kept.columns:
            raise SettingsError(
                f"The catalogue has no column {column}.", f"It has {', '.join(kept.columns)}."
            )
        order = order_of(asked.sort, ORDERS, kept.columns)
        page = f"LIMIT {asked.limit} OFFSET {asked.offset}"

        def both(view: str) -> tuple[Found, Spread | None]:
            sql = f"SELECT * FROM {view} WHERE {where} ORDER BY {order} {page}"
            rows = _rows(db.execute(sql))
            total, spread = _counted(kept, db, view, where, column)
            return Found(rows, total, kept.columns), spread

        try:
            with catalogue.limited(db):
                try:
                    return both("scores" if column in kept.own else "all_columns")
                except duckdb.BinderException:
                    return both("all_columns")
        except duckdb.Error as error:
            raise catalogue.not_asked(error, kept.columns) from None

    return _kept.get(("catalogue", scores.name, scores.digest, question, asked, column), find)


def _counted(
    kept: _Open, db: duckdb.DuckDBPyConnection, view: str, where: str, column: str
) -> tuple[int, Spread | None]:
    """How many rows there are, and how a column is spread over them, between its ends."""
    value = f"TRY_CAST({sql_name(column)} AS DOUBLE)"
    low, high = kept.ends_of(db, column)
    width = (high - low) / BARS or 1.0
    place = f"floor(({value} - {low!r}) / {width!r})"
    bar = f"CASE WHEN isfinite({value}) THEN least({BARS - 1}, greatest(0, {place}))::INT END"
    counted = f"SELECT {bar} AS bar, count(*) FROM {view} WHERE {where} GROUP BY bar"
    found: dict[int | None, int] = dict(db.execute(counted).fetchall())
    total = sum(found.values())
    found.pop(None, None)
    if not found:
        return total, None
    edges = [low + width * place for place in range(BARS + 1)]
    return total, Spread(column, edges, [int(found.get(bar, 0)) for bar in range(BARS)])


def _of_target(question: str, where: str) -> str:
    # On a line of its own: a comment in the condition must not take the rest with it.
    own = f"(\n{where}\n) AND " if where.strip() else ""
    return f"{own}target AND question = {sql_text(question)}"


def rows_of(settings: Settings, scores: Artifact, object_id: str) -> list[dict[str, Any]]:
    """Everything that a catalogue says of an object: each question, each answer."""
    sql = "SELECT * FROM scores WHERE object_id = ? ORDER BY question, target DESC, answer"
    kept, db = _opened(settings, scores)
    with _explained(kept):
        return _rows(db.execute(sql, [object_id]))


def survey_row(settings: Settings, scores: Artifact, object_id: str) -> dict[str, Any] | None:
    """What the survey that was scored says of an object, its columns and ``uri``."""
    kept, db = _opened(settings, scores)
    if kept.survey is None:
        return None
    with _explained(kept):
        rows = _rows(db.execute("SELECT * FROM survey WHERE object_id = ?", [object_id]))
    return rows[0] if rows else None


def survey_rows(
    settings: Settings, scores: Artifact, names: list[str], columns: list[str]
) -> dict[str, dict[str, Any]]:
    """Some columns of the survey for some objects, by object."""
    kept, db = _opened(settings, scores)
    if kept.survey is None or not columns or not names:
        return {}
    wanted = ", ".join(map(sql_name, columns))
    listed = ", ".join(map(sql_text, names))
    sql = f"SELECT object_id, {wanted} FROM survey WHERE object_id IN ({listed})"
    with _explained(kept):
        return {row["object_id"]: row for row in _rows(db.execute(sql))}


@contextmanager
def _explained(kept: _Open) -> Iterator[None]:
    """What is wrong with a catalogue that is asked by us: its files are gone, say."""
    try:
        yield
    except duckdb.Error as error:
        raise catalogue.not_asked(error, kept.columns) from None


def _rows(asked: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    names = [name for name, *_ in asked.description or []]
    return [dict(zip(names, row, strict=True)) for row in asked.fetchall()]


class _Open:
    """An open catalogue: to be asked by several at once, each with a cursor of its own."""

    def __init__(self, scores: Artifact, survey: Survey | None) -> None:
        self.survey = survey
        self._stack = ExitStack()
        self.db = self._stack.enter_context(catalogue.opened(scores.path, survey, confined=True))
        self.own = self.db.table("scores").columns
        self.columns = self.db.table("all_columns").columns

        self._ends: dict[str, tuple[float, float]] = dict.fromkeys(SHARES, (0.0, 1.0))

    def ends_of(self, db: duckdb.DuckDBPyConnection, column: str) -> tuple[float, float]:
        """Least and largest number of a column, in the whole catalogue: the same for all asked."""
        if column not in self._ends:
            value = f"TRY_CAST({sql_name(column)} AS DOUBLE)"
            view = "scores" if column in self.own else "survey"
            sql = f"SELECT min({value}), max({value}) FROM {view} WHERE isfinite({value})"
            low, high = db.execute(sql).fetchall()[0]
            self._ends[column] = (0.0, 1.0) if low is None else (low, high)
        return self._ends[column]


# Of a project: the newest, and the one that somebody still looks at.
MOST_OPEN = 2
_open: OrderedDict[tuple[str, str], _Open] = OrderedDict()
_opening = threading.Lock()


def _opened(settings: Settings, scores: Artifact) -> tuple[_Open, duckdb.DuckDBPyConnection]:
    """A catalogue that stays open, and a cursor to ask it with."""
    survey = scored_survey(settings, scores)
    key = str(scores.path), str(survey.folder) if survey else ""
    with _opening:
        if key not in _open:
            _open[key] = _Open(scores, survey)
        _open.move_to_end(key)
        # Whoever still asks one that is forgotten keeps it until it has answered.
        of_project = [each for each in _open if Path(each[0]).parent == scores.path.parent]
        for old in of_project[:-MOST_OPEN]:
            del _open[old]
        return _open[key], _open[key].db.cursor()


# a batch


@dataclass(frozen=True)
class Gallery:
    """A batch as it is looked at: ``key`` is another when anything of it has changed.

    ``frame`` has the plan's columns; ``mean``, ``lo``, ``hi`` and ``n_expected`` of the first
    question's target, null before there was a model; and the survey's columns.
    """

    key: tuple[Hashable, ...]
    frame: pl.DataFrame


def gallery_of(settings: Settings, ledger: Ledger, batch: Batch) -> Gallery:
    """A batch's plan, with what was predicted of each object and what the survey says of it.

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

    question = settings.question[0]
    key = str(path), stamp, batch.scores, question.name, question.target
    return Gallery(key, _kept.get(("gallery", *key), find))


def ask_gallery(gallery: Gallery, asked: Asked) -> Found:
    """Rows of a batch, as somebody wants to see them.

    Raises
    ------
    SettingsError
        If that cannot be asked; it says why.
    """
    return _kept.get(("rows of", *gallery.key, asked), lambda: _ask_gallery(gallery.frame, asked))


def _ask_gallery(frame: pl.DataFrame, asked: Asked) -> Found:
    columns = frame.columns
    order = order_of(asked.sort, PLAN_ORDERS, columns)
    where = f"(\n{asked.where}\n)" if asked.where.strip() else "true"
    catalogue.require_condition(asked.where)
    with duckdb.connect() as db:
        db.register("plan", frame.to_arrow())
        db.execute("SET memory_limit = '512MiB'; SET temp_directory = ''")
        catalogue.confine(db)
        # The rows' places first: most columns of most rows are not shown.
        sql = f"SELECT rank FROM plan WHERE {where} ORDER BY {order} LIMIT {len(frame)}"
        try:
            with catalogue.limited(db):
                ranks = [rank for (rank,) in db.execute(sql).fetchall()]
        except duckdb.Error as error:
            raise catalogue.not_asked(error, columns) from None
    chosen = ranks[asked.offset : asked.offset + asked.limit]
    places = {rank: place for place, rank in enumerate(chosen)}
    rows = frame.filter(pl.col("rank").is_in(chosen)).to_dicts()
    rows.sort(key=lambda row: places[row["rank"]])
    return Found(rows, len(ranks), columns)
