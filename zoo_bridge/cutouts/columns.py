"""The columns of a catalogue: which are numbers, which are ids, what stands for no value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import duckdb

from zoo_bridge.cutouts.catalogues import BROKEN
from zoo_bridge.errors import SettingsError
from zoo_bridge.tables import sql_name, sql_text

# What the survey's own making calls its columns; a catalogue's of these names are left out.
OWN = ("__file", "file_row_number", "__key", "__why")
# Rows that tell which columns of texts are not worth a closer look.
SAMPLE = 10_000
# Whole numbers beyond these are not all there in a floating-point column.
EXACT = {"DOUBLE": 2**53, "FLOAT": 2**24}
# What stands for no value in a column of numbers, whatever the catalogue declares.
MISSING = ("", "n/a", "na", "nan", "null", "none", "-", "--", "...")
WHOLE = r"[+-]?\d+"
DECIMAL = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"


@dataclass(frozen=True)
class Columns:
    """Columns of the view ``raw`` of a database.

    Parameters
    ----------
    db : duckdb.DuckDBPyConnection
        It has the view.
    kinds : dict
        DuckDB's type of each column.
    texts : bool
        All are texts, of which some may be numbers.
    missing : tuple of str
        What the settings declare to be no value.
    """

    db: duckdb.DuckDBPyConnection
    kinds: dict[str, str]
    texts: bool
    missing: tuple[str, ...]

    @classmethod
    def of(
        cls,
        db: duckdb.DuckDBPyConnection,
        paths: Sequence[Path],
        texts: bool,
        missing: Sequence[str],
    ) -> Self:
        """Make the view ``raw`` of Parquet files, and see what is in it."""
        files = ", ".join(sql_text(str(path)) for path in paths)
        more = "union_by_name = true, filename = '__file', file_row_number = true"
        db.execute(f"CREATE VIEW raw AS SELECT * FROM read_parquet([{files}], {more})")
        described = db.execute("SELECT * FROM raw LIMIT 0").description or []
        kinds = {name: str(kind) for name, kind, *_ in described if name.lower() not in OWN}
        return cls(db, kinds, texts, tuple(missing))

    def broken_texts(self, needed: Sequence[str]) -> dict[str, str]:
        """Columns that nobody needs with bytes that are no UTF-8, and what is told of them."""
        told = "it holds bytes that are no UTF-8"
        names = [n for n, kind in self.kinds.items() if kind == "VARCHAR" and n not in needed]
        if not names:
            return {}
        if self.texts:
            broken = self._ask(
                *(f"bool_or(contains({sql_name(n)}, {sql_text(BROKEN)}))" for n in names)
            )
            return {name: told for name, bad in zip(names, broken, strict=True) if bad}
        if not self._cannot_be_read(names):
            return {}
        return {name: told for name in names if self._cannot_be_read([name])}

    def _cannot_be_read(self, names: Sequence[str]) -> bool:
        try:
            self._ask("0", *(f"max(length({sql_name(name)}))" for name in names))
        except duckdb.InvalidInputException:
            return True
        return False

    def _ask(self, *terms: str, of: str = "raw") -> tuple[Any, ...]:
        row = self.db.execute(f"SELECT {', '.join(terms)} FROM {of}").fetchone()
        return row or (None,) * len(terms)

    def select(self, names: Sequence[str]) -> list[str]:
        """What to select so that numbers are numbers, and what is no value is null."""
        texts = [name for name in names if self.kinds[name] == "VARCHAR"]
        numbers = self._numbers_in(texts) if self.texts else {}
        return [f"{self._value(name, numbers.get(name, ''))} AS {sql_name(name)}" for name in names]

    def _value(self, name: str, number: str) -> str:
        quoted, kind = sql_name(name), self.kinds[name]
        if kind == "VARCHAR":
            plain = self._declared(f"trim({quoted})", quoted)
            if not number:
                return plain
            value = f"TRY_CAST({self._text_or_null(quoted)} AS {number})"
            return _without_nan(value) if number == "DOUBLE" else value
        declared = [text for text in self.missing if _number(text) is not None]
        if declared and (kind in NUMBERS or kind.startswith("DECIMAL")):
            # Each as this column has it: a float32 holds no -99.9.
            same = " OR ".join(
                f"{quoted} = TRY_CAST({sql_text(text)} AS {kind})" for text in declared
            )
            quoted = f"CASE WHEN {same} THEN NULL ELSE {quoted} END"
        # No number is no value: a condition must not take it for a large one.
        return _without_nan(quoted) if kind in EXACT else quoted

    def _declared(self, value: str, otherwise: str) -> str:
        """A text, or null where it is what the settings declare to be no value."""
        if not self.missing:
            return otherwise
        listed = ", ".join(map(sql_text, self.missing))
        return f"CASE WHEN {value} IN ({listed}) THEN NULL ELSE {otherwise} END"

    def _text_or_null(self, quoted: str) -> str:
        """The text of what may be a number; null where it stands for no value."""
        trimmed = f"trim({quoted})"
        marks = ", ".join(map(sql_text, MISSING))
        listed = [each for each in map(_number, self.missing) if each is not None]
        value = f"CASE WHEN lower({trimmed}) IN ({marks}) THEN NULL"
        if listed:
            value += f" WHEN TRY_CAST({trimmed} AS DOUBLE) IN ({', '.join(map(repr, listed))})"
            value += " THEN NULL"
        return f"{value} ELSE {self._declared(trimmed, trimmed)} END"

    def _numbers_in(self, names: Sequence[str]) -> dict[str, str]:
        """The type of number that all texts of a column are, for those that are numbers.

        Not where one would lose a leading zero.
        """
        sampled = f"(SELECT * FROM raw LIMIT {SAMPLE})"
        perhaps = [name for name, kind in self._types(names, sampled).items() if kind is not None]
        found = self._types(perhaps, "raw")
        return {name: kind for name, kind in found.items() if kind}

    def _types(self, names: Sequence[str], of: str) -> dict[str, str | None]:
        """Of each column: a type, None if it holds texts, empty if it holds nothing."""
        if not names:
            return {}
        terms: list[str] = []
        for name in names:
            value = self._text_or_null(sql_name(name))
            number = f"(regexp_full_match({value}, '{DECIMAL}|[+-]?inf(inity)?', 'i'))"
            whole = f"regexp_full_match({value}, '{WHOLE}')"
            terms += [
                f"count({value})",
                f"count(CASE WHEN {whole} THEN TRY_CAST({value} AS BIGINT) END)",
                f"count(CASE WHEN {whole} THEN TRY_CAST({value} AS UBIGINT) END)",
                f"count(CASE WHEN {whole} THEN 1 END)",
                f"count(CASE WHEN {number} THEN TRY_CAST({value} AS DOUBLE) END)",
                f"coalesce(bool_or(regexp_matches({value}, '^[+-]?0[0-9]')), false)",
                f"coalesce(bool_or(regexp_matches({value}, '[.0-9]')), false)",
            ]
        row = self._ask(*terms, of=of)
        found: dict[str, str | None] = {}
        for place, name in enumerate(names):
            some = row[7 * place : 7 * place + 7]
            known, signed, unsigned, whole_, decimal, padded, digits = some
            kind: str | None = None
            if not known:
                kind = ""
            elif padded or not digits or decimal < known:
                kind = None
            elif signed == known:
                kind = "BIGINT"
            elif unsigned == known:
                kind = "UBIGINT"
            elif whole_ < known:
                kind = "DOUBLE"
            found[name] = kind
        return found

    def as_id(self, name: str, catalogue: str) -> str:
        """A column of ids as text: whole numbers stay whole, whatever they went through.

        Raises
        ------
        SettingsError
            If digits of them are lost.
        """
        quoted, kind = sql_name(name), self.kinds[name]
        if kind in EXACT:
            most, odd, example = self._ask(
                f"max(abs({quoted})) FILTER (WHERE isfinite({quoted}))",
                f"count(*) FILTER (WHERE isfinite({quoted}) AND {quoted} <> trunc({quoted}))",
                f"arg_max({quoted}, abs({quoted})) FILTER (WHERE isfinite({quoted}))",
            )
            if odd or (most is not None and most > EXACT[kind]):
                raise _lost(name, catalogue, repr(example))
            value = f"CAST(TRY_CAST({quoted} AS BIGINT) AS VARCHAR)"
            return self._declared(value, value)
        if kind != "VARCHAR":
            return self.declared(name)
        value = self._text_or_null(quoted)
        known, decimal, power, pointed, whole, most, example = self._ask(
            f"count({value})",
            f"count(*) FILTER (WHERE regexp_full_match({value}, '{DECIMAL}'))",
            # As floating-point numbers are written: 12e4 may be a name.
            f"count(*) FILTER (WHERE regexp_matches({value}, '[.][0-9]*[eE]|[eE][+]'))",
            f"count(*) FILTER (WHERE contains({value}, '.'))",
            f"count(*) FILTER (WHERE regexp_full_match({value}, '[+-]?\\d+(\\.0*)?'))",
            f"max(abs(TRY_CAST({value} AS DOUBLE)))",
            f"min({value}) FILTER (WHERE regexp_matches({value}, '[eE.]'))",
        )
        if not known or decimal < known or not (power or pointed):
            return self.declared(name)
        # All of them are numbers, and some were written as floating-point ones are.
        if power or (whole == known and most > EXACT["DOUBLE"]):
            raise _lost(name, catalogue, example)
        if whole < known:
            return self.declared(name)
        return f"regexp_replace({value}, '\\.0*$', '')"

    def declared(self, name: str) -> str:
        """A column as text, null where the settings say that there is no value."""
        value = f"CAST({sql_name(name)} AS VARCHAR)"
        return self._declared(f"trim({value})", value)


NUMBERS = {
    *EXACT,
    *("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"),
    *("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"),
}


def _without_nan(value: str) -> str:
    return f"CASE WHEN NOT isnan({value}) THEN {value} END"


def _number(text: str) -> float | int | None:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return None
    return number if number - number == 0 else None


def _lost(name: str, catalogue: str, example: str) -> SettingsError:
    return SettingsError(
        f"The column {name} of {catalogue} holds ids that have lost digits, such as {example}: "
        "they went through floating-point numbers.",
        "Write the catalogue anew with ids as texts or 64-bit integers (in pandas: dtype Int64, "
        "which takes gaps).",
    )
