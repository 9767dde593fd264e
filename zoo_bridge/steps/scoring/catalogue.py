"""The score catalogue as a whole: what is new in the survey, what still holds, what is asked.

Everything here is a query of DuckDB over Parquet files. Sorting and joining go to a temporary
folder on disk where memory is short.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from zoo_bridge.acquisition.diversity import BITS, DIGITS
from zoo_bridge.cutouts.survey import Survey
from zoo_bridge.errors import SettingsError
from zoo_bridge.tables import (
    SCORES,
    sql_name,
    sql_text,
)

MEMORY = "1GiB"
BATCH_ROWS = 50_000
# For what somebody asks on a page.
CONFINED_SECONDS = 15.0
# For a file that somebody takes away.
EXPORT_SECONDS = 600.0
LONGEST = 4000
# What a parsed condition may consist of, and which functions it may call: none makes long texts or
# lists, or takes longer than it takes to look at a row.
PLAIN = (
    "BETWEEN", "CASE", "CAST", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT", "OPERATOR",
    "TYPE",
)  # fmt: skip
FUNCTIONS = (
    "+", "-", "*", "/", "//", "%", "**", "^", "~~", "!~~", "~~*", "!~~*", "abs", "acos", "asin",
    "atan", "atan2", "ceil", "contains", "cos", "degrees", "ends_with", "exp", "floor", "greatest",
    "isfinite", "isnan", "least", "length", "ln", "log", "log10", "log2", "lower", "pi", "pow",
    "power", "prefix", "radians", "regexp_matches", "round", "sign", "sin", "sqrt", "starts_with",
    "suffix", "tan", "upper",
)  # fmt: skip
MOST_SPILLED = "4GiB"


@contextmanager
def connect(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database without tables, that may spill into a folder.

    Parameters
    ----------
    folder : Path
        Where temporary files may be put.

    Yields
    ------
    duckdb.DuckDBPyConnection
    """
    with TemporaryDirectory(prefix=".spill-", dir=folder) as spill, duckdb.connect() as db:
        db.execute(f"SET memory_limit = '{MEMORY}'")
        db.execute("SET temp_directory = ?", [spill])
        yield db


def sql_uniform(seed: int, purpose: str) -> str:
    """`acquisition.diversity.uniform_of` the column object_id, in SQL."""
    digits = f"('0x' || substr(sha256('{purpose}:{seed}:' || object_id), 1, {DIGITS}))::BIGINT"
    return f"(({digits}) + 0.5) / {2**BITS}.0"


def parts(folder: Path) -> list[Path]:
    """The files of a catalogue."""
    return sorted(folder.glob("part-*.parquet"))


def count_rows(folder: Path) -> int:
    """How many rows a catalogue has: one for each object and question."""
    return sum(pq.read_metadata(path).num_rows for path in parts(folder))


@dataclass(frozen=True)
class Summary:
    """A question's information: its range, and how many values are no numbers."""

    rows: int
    lowest: float
    highest: float
    wrong: int


def summarise(folder: Path) -> dict[str, Summary]:
    """What there is to choose by: of each question's target answer."""
    files = [str(path) for path in parts(folder)]
    if not files:
        return {}
    with connect(folder) as db:
        db.read_parquet(files).create_view("scores")
        rows = db.execute(
            """
            SELECT question, count(*), coalesce(min(bald), 0), coalesce(max(bald), 0),
                   count(*) FILTER (NOT isfinite(bald)) FROM scores WHERE target GROUP BY question
            ORDER BY question
            """
        ).fetchall()
    return {question: Summary(*found) for question, *found in rows}


@contextmanager
def opened(
    folder: Path, survey: Survey | None, confined: bool = False
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database with the views ``scores`` and, with the survey's columns, ``all_columns``.

    Parameters
    ----------
    folder : Path
        A folder of parts, of a catalogue.
    survey : Survey or None
        The survey, whose columns may be named too.
    confined : bool
        For what others ask: nothing but these files can be read. See `limited`, too.

    Yields
    ------
    duckdb.DuckDBPyConnection
    """
    files = [str(path) for path in parts(folder)]
    with connect(folder) as db:
        if files:
            db.read_parquet(files).create_view("scores")
        else:
            db.register("nothing", SCORES.empty_table())
            db.execute("CREATE TABLE scores AS SELECT * FROM nothing")
        if survey is not None:
            db.read_parquet(str(survey.path)).create_view("survey")
            names = [name for name in db.table("survey").columns if name not in SCORES.names]
            more = "".join(f", survey.{sql_name(name)}" for name in names)
            db.execute(
                f"CREATE VIEW all_columns AS SELECT scores.*{more} "
                "FROM scores LEFT JOIN survey USING (object_id)"
            )
        else:
            db.execute("CREATE VIEW all_columns AS SELECT * FROM scores")
        if confined:
            confine(db, [*files, *([str(survey.path)] if survey is not None else [])])
        yield db


def confine(db: duckdb.DuckDBPyConnection, files: Sequence[str] = ()) -> None:
    """Let a database read nothing but some files from now on.

    What an administrator types at a command line may read whatever that person may; what somebody
    types on a page must not.
    """
    (spill,) = db.execute("SELECT current_setting('temp_directory')").fetchall()[0]
    db.execute(f"SET max_temp_directory_size = '{MOST_SPILLED}'")
    db.execute(f"SET allowed_paths = [{', '.join(map(sql_text, files))}]")
    db.execute(f"SET allowed_directories = [{sql_text(str(spill))}]")
    for setting in ("enable_external_access", "python_enable_replacements"):
        db.execute(f"SET {setting} = false")
    db.execute("SET lock_configuration = true")


@contextmanager
def limited(db: duckdb.DuckDBPyConnection, seconds: float | None = None) -> Iterator[None]:
    """Stop what a database does when it takes longer than others can wait."""
    over = threading.Event()
    seconds = CONFINED_SECONDS if seconds is None else seconds

    def watch() -> None:
        wait = seconds
        # Again and again: what is interrupted may go on with the next question.
        while not over.wait(wait):
            db.interrupt()
            wait = 0.5

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def require_condition(where: str) -> None:
    """See that a text is one condition on columns, of which none can take long or much memory.

    What is typed at a command line may be any SQL. On a page it compares columns, with arithmetic
    and the functions of `FUNCTIONS`.

    Raises
    ------
    SettingsError
        If it is something else.
    """
    if not where.strip():
        return
    try:
        # By itself: it must not be the end of a question and another one.
        duckdb.SQLExpression(where)
    except duckdb.Error as error:
        raise not_asked(error) from None
    with duckdb.connect() as db:
        asked = f"SELECT 1 FROM scores WHERE (\n{where}\n)"
        (tree,) = db.execute("SELECT json_serialize_sql(?)", [asked]).fetchall()[0]
    found = _parts_of(json.loads(tree)["statements"][0]["node"]["where_clause"])
    other = sorted({name for name in found if name not in FUNCTIONS})
    if other or len(where) > LONGEST:
        why = f"{', '.join(other)} cannot be used on a page" if other else "it is too long"
        raise SettingsError(
            f"The catalogue cannot be asked that: {why}.",
            'Compare columns, such as "bald > 0.1 AND abs(dec) < 10"; zoo-bridge scores --where '
            "takes any SQL.",
        )


def _parts_of(node: Any) -> Iterator[str]:
    """Functions of a parsed condition, and whatever else is no comparison of columns."""
    if isinstance(node, dict):
        kind = node.get("class")
        if kind == "FUNCTION":
            yield str(node["function_name"]).lower()
        elif kind is not None and kind not in PLAIN:
            yield str(kind).lower()
        for each in node.values():
            yield from _parts_of(each)
    elif isinstance(node, list):
        for each in node:
            yield from _parts_of(each)


def not_asked(error: duckdb.Error, known: Sequence[str] = ()) -> SettingsError:
    """What is wrong with an expression, for people."""
    columns = f"Its columns are {', '.join(known)}; " if known else ""
    if isinstance(error, duckdb.InterruptException):
        why = f"it took longer than {CONFINED_SECONDS:.0f} s"
    else:
        why = str(error).splitlines()[0].rstrip(".")
    return SettingsError(
        f"The catalogue cannot be asked that: {why}.", f'{columns}try --where "bald > 0.1".'
    )


@contextmanager
def query(
    folder: Path,
    survey: Survey | None,
    where: str = "",
    order: str = "",
    limit: int | None = None,
    everything: bool = False,
    confined: bool = False,
) -> Iterator[pa.RecordBatchReader]:
    """Rows of a catalogue, as they are asked for in SQL.

    Parameters
    ----------
    folder : Path
        A folder of parts, of a catalogue.
    survey : Survey or None
        The survey, whose columns may be named too.
    where, order : str
        Expressions of SQL, such as ``bald > 0.1 AND magnitude < 20`` and ``bald DESC``.
    limit : int, optional
        Rows at most.
    everything : bool
        Give the survey's columns, too, though no expression names one.
    confined : bool
        As `opened` takes it.

    Yields
    ------
    pyarrow.RecordBatchReader
        The rows, some at a time.

    Raises
    ------
    SettingsError
        If an expression is no SQL or names a column that is not there.
    """
    with opened(folder, survey, confined) as db:
        sql = "SELECT * FROM {}"
        sql += f" WHERE {where}" if where else ""
        sql += f" ORDER BY {order}" if order else ""
        sql += f" LIMIT {limit}" if limit is not None else ""
        known = db.table("all_columns").columns
        if confined:
            require_condition(where)
        try:
            with ExitStack() as stack:
                if confined:
                    stack.enter_context(limited(db, EXPORT_SECONDS))
                yield _asked(db, sql, survey, everything)
        except duckdb.Error as error:
            raise not_asked(error, known) from None


def _asked(
    db: duckdb.DuckDBPyConnection, sql: str, survey: Survey | None, everything: bool
) -> pa.RecordBatchReader:
    try:
        # Without the survey where it is not needed: joining it is most of the work.
        rows = db.sql(sql.format("all_columns" if everything else "scores"))
    except duckdb.BinderException:
        if survey is None:
            raise
        rows = db.sql(sql.format("all_columns"))
    return rows.to_arrow_reader(BATCH_ROWS)


# Anything that changes what is written of the same galaxies.
FORM = 2
