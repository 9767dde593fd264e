"""What a batch can be chosen from: the few objects of a catalogue that may come into it.

Questions combine: each one's information counts with its weight, times the probability that
volunteers reach it on this galaxy, which is what the networks say of the answers that lead there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from zoo_bridge.acquisition.diversity import LEAST
from zoo_bridge.config import Settings
from zoo_bridge.cutouts.survey import Survey
from zoo_bridge.errors import SettingsError
from zoo_bridge.ledger import Artifact
from zoo_bridge.steps.scoring.catalogue import connect, parts, sql_uniform
from zoo_bridge.steps.scoring.task import pool_share
from zoo_bridge.steps.scoring.todo import Pool
from zoo_bridge.tables import sql_name, sql_text

ROWS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Contender:
    """An object that may be chosen.

    ``bald`` is its information, all questions together, in nats; ``key`` what it is sorted by. Both
    are None before there is a catalogue.
    """

    object_id: str
    uri: str
    bald: float | None
    key: float | None


@dataclass(frozen=True)
class Term:
    """One question's part of the information: weight, and the answers that lead to it.

    ``reached`` has a pair (question, answers) for each question on the way down the tree.
    """

    question: str
    weight: float = 1.0
    reached: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True)
class Ranking:
    """How a catalogue is sorted.

    Parameters
    ----------
    terms : sequence of Term
        The questions that count.
    where : str
        A condition in SQL on the survey's columns, such as ``magnitude < 20``.
    power : float, optional
        Draw as PowerBALD does, in place of the top.
    seed : int
        Of that draw and of the random share.
    pool : Pool, optional
        What the random share is drawn from, where scores are of a pool: what came since then is
        scored, too, and would be drawn too often.
    """

    terms: Sequence[Term]
    where: str = ""
    power: float | None = None
    seed: int = 0
    pool: Pool | None = None

    @property
    def key(self) -> str:
        """In SQL; as `diversity.power_keys`."""
        if self.power is None:
            return "bald"
        uniform = sql_uniform(self.seed, "power")
        return f"{self.power!r} * ln(greatest(bald, {LEAST!r})) - ln(-ln({uniform}))"

    @property
    def drawn(self) -> str:
        """The random share's order, in SQL; as `select.share_of`."""
        return f"sha256('random share:{self.seed}:' || object_id)"

    @property
    def fair(self) -> str:
        """Whether an object may be drawn at random, in SQL."""
        return self.pool.holds if self.pool is not None else "true"


def ranking_of(settings: Settings, scores: Artifact | None = None) -> Ranking:
    """How the settings want it, with these scores."""
    by_name = {question.name: question for question in settings.question}
    terms = []
    for question in settings.question:
        reached, after = [], question.asked_after
        while after is not None:
            reached.append((after.question, tuple(after.answers)))
            after = by_name[after.question].asked_after
        weight = settings.weight_of(question.name)
        if weight:
            terms.append(Term(question.name, weight, tuple(reached)))
    config = settings.upload
    power = config.power if config.diversity == "power" else None
    share = pool_share(scores)
    pool = None if share is None else Pool(share, settings.seed)
    return Ranking(terms, config.where, power, settings.seed, pool)


def contenders(
    survey: Survey,
    folder: Path | None,
    excluded: Collection[str],
    best: int,
    drawn: int,
    ranking: Ranking,
) -> list[Contender]:
    """The objects that a batch can be chosen from.

    The best, and those that a draw at random takes first: `select` on these gives what it would
    give on the whole catalogue. All rows of an object lie in one part, so the catalogue is gone
    through a few parts at a time, and memory does not grow with it.

    Parameters
    ----------
    survey : Survey
        What objects must be in.
    folder : Path or None
        The catalogue; None before there is one.
    excluded : collection of str
        Objects that are not to be chosen.
    best, drawn : int
        How many of either kind. Some may be both.
    ranking : Ranking
        What is best.

    Returns
    -------
    list of Contender
        Sorted by id.

    Raises
    ------
    SettingsError
        If the condition is no SQL or names a column that is not there.
    """
    # Other answers than the targets are only needed for what leads down the tree.
    needed = "true" if any(term.reached for term in ranking.terms) else "target"
    # The random draw is from what a condition leaves, too: that is the survey that one asks about.
    inside = f"SELECT object_id, uri FROM survey WHERE ({ranking.where or 'true'})"
    with _explained(ranking.where, survey), connect(survey.folder) as db:
        db.read_parquet(str(survey.path)).create_view("survey")
        # In parentheses and alone: nothing that follows it is read as a command.
        db.sql(inside)
        if ranking.where:
            _require_meant(db, ranking.where, survey)
        db.register("excluded", pa.table({"object_id": pa.array(sorted(excluded), pa.string())}))
        db.execute(
            "CREATE TEMP TABLE open (object_id VARCHAR, uri VARCHAR, bald DOUBLE, key DOUBLE)"
        )
        first = f"(SELECT * FROM {{0}} ORDER BY key DESC, object_id LIMIT {best})"
        chance = (
            f"(SELECT * FROM {{0}} WHERE {ranking.fair} ORDER BY {ranking.drawn} LIMIT {drawn})"
        )
        if folder is None or not parts(folder):
            nothing = "NULL::DOUBLE AS bald, NULL::DOUBLE AS key"
            every = f"(SELECT object_id, uri, {nothing} FROM ({inside}) ANTI JOIN excluded"
            db.execute(f"INSERT INTO open {chance.format(every + ' USING (object_id))')}")
        else:
            for files in _some_parts(folder):
                db.read_parquet([str(path) for path in files]).create_view("scores", replace=True)
                db.execute(
                    f"""
                    CREATE OR REPLACE TEMP TABLE scored AS SELECT *, {ranking.key} AS key FROM (
                        SELECT object_id, any_value(uri) AS uri, {_information(ranking)} AS bald
                        FROM scores SEMI JOIN ({inside}) USING (object_id)
                                    ANTI JOIN excluded USING (object_id)
                        WHERE {needed} GROUP BY object_id
                    )
                    """
                )
                either = f"{first.format('scored')} UNION {chance.format('scored')}"
                db.execute(f"INSERT INTO open {either}")
        query = f"SELECT * FROM ({first.format('open')} UNION {chance.format('open')}) ORDER BY 1"
        rows = db.execute(query).fetchall()
    return [Contender(*row) for row in rows]


def _some_parts(folder: Path) -> Iterator[list[Path]]:
    """The files of a catalogue, some at a time: each of so many rows as memory takes easily."""
    some: list[Path] = []
    rows = 0
    for path in parts(folder):
        some.append(path)
        rows += pq.read_metadata(path).num_rows
        if rows >= ROWS_AT_ONCE:
            yield some
            some, rows = [], 0
    if some:
        yield some


def _information(ranking: Ranking) -> str:
    """An object's information, all questions together, over its rows, in SQL."""
    return " + ".join(_term(term) for term in ranking.terms)


def _term(term: Term) -> str:
    of_question = f"question = {sql_text(term.question)}"
    factors = [
        repr(float(term.weight)),
        f"coalesce(max(bald::DOUBLE) FILTER (WHERE target AND {of_question}), 0)",
    ]
    for question, answers in term.reached:
        chosen = ", ".join(sql_text(answer) for answer in answers)
        leads = f"question = {sql_text(question)} AND answer IN ({chosen})"
        # A share of votes, though calibrated shares may add up to a little more than one.
        factors.append(f"least(1, coalesce(sum(mean::DOUBLE) FILTER (WHERE {leads}), 1))")
    return " * ".join(factors)


def count_chosen(survey: Survey, where: str) -> int:
    """How many objects of a survey a condition chooses.

    Raises
    ------
    SettingsError
        If it is no SQL, names a column that is not there, takes texts for numbers, or chooses none.
    """
    with _explained(where, survey), connect(survey.folder) as db:
        db.read_parquet(str(survey.path)).create_view("survey")
        return _require_meant(db, where, survey)


def _require_meant(db: duckdb.DuckDBPyConnection, where: str, survey: Survey) -> int:
    """How many objects a condition chooses; raise where it cannot be what was meant."""
    kinds = _text_columns(db, where)
    bare = _without_texts(where)
    for name in kinds:
        ordered = rf'(?i)(?<![\w"])"?{re.escape(name)}"?\)*\s*(?:<(?!>)|>|(?:NOT\s+)?BETWEEN\b)'
        if not re.search(ordered, bare):
            continue
        quoted = sql_name(name)
        known, numbers, odd, shortest, longest = db.execute(
            f"SELECT count({quoted}), count(TRY_CAST({quoted} AS DOUBLE)), count(*) FILTER (WHERE "
            f"regexp_matches({quoted}, '[^0-9]')), min(length({quoted})), max(length({quoted})) "
            "FROM survey"
        ).fetchall()[0]
        # Of digits alone, all of one length, texts are in the order of their numbers.
        in_order = not odd and shortest == longest
        if known and known == numbers and not in_order:
            kind = "DOUBLE" if odd else "BIGINT"
            raise _not_asked(
                where,
                f"the column {name} holds its numbers as texts, of which '5' is more than '20'",
                f"Write CAST({quoted} AS {kind}) in place of {name}.",
            )
    (chosen,) = db.execute(f"SELECT count(*) FROM survey WHERE ({where})").fetchall()[0]
    if not chosen and len(survey):
        raise _not_asked(
            where,
            f"it chooses none of the survey's {len(survey)} objects",
            f"{_casts(kinds)}The survey's columns are {', '.join(survey.columns)}.",
        )
    return int(chosen)


def _text_columns(db: duckdb.DuckDBPyConnection, where: str) -> list[str]:
    """Columns of texts that a condition names."""
    described = db.execute("SELECT * FROM survey LIMIT 0").description or []
    texts = [name for name, kind, *_ in described if str(kind) == "VARCHAR"]
    bare = _without_texts(where)
    return [name for name in texts if re.search(rf"(?i)(?<!\w){re.escape(name)}(?!\w)", bare)]


def _without_texts(where: str) -> str:
    """A condition without what stands in its texts."""
    return re.sub(r"'(?:[^']|'')*'", "''", where)


def _casts(texts: Sequence[str]) -> str:
    return "".join(
        f"{name} is a text: for numbers write CAST({sql_name(name)} AS DOUBLE). " for name in texts
    )


def _not_asked(where: str, why: str, hint: str) -> SettingsError:
    return SettingsError(f"upload.where = {where!r} cannot be asked: {why}.", hint)


@contextmanager
def _explained(where: str, survey: Survey) -> Iterator[None]:
    """What is wrong with a condition is a matter of the settings, whenever it is found."""

    def wrong(why: str) -> SettingsError:
        with duckdb.connect() as db:
            db.read_parquet(str(survey.path)).create_view("survey")
            texts = _text_columns(db, where) if "VARCHAR" in why or "convert string" in why else []
        hint = f"{_casts(texts)}The survey's columns are {', '.join(survey.columns)}."
        return _not_asked(where, why.splitlines()[0].rstrip("."), hint)

    if any(mark in _without_texts(where) for mark in ("--", "/*", ";")):
        raise wrong("it is to be one condition, without comments")
    try:
        yield
    except duckdb.Error as error:
        if not where:
            raise
        raise wrong(str(error)) from None
