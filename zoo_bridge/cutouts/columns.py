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

OWN = ("__file", "file_row_number")
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
        kinds = {name: str(kind) for name, kind, *_ in described if name not in OWN}
        return cls(db, kinds, texts, tuple(missing))

    def broken_texts(self, needed: Sequence[str]) -> dict[str, str]:
        """Columns that nobody needs with bytes that are no UTF-8, and what is told of them."""
        told = "it holds bytes that are no UTF-8"
        names = [n for n, kind in self.kinds.items() if kind == "VARCHAR" and n not in needed]
        if self.texts:
            return {name: told for name in names if self._has_broken(name)}
        if not self._cannot_be_read(names):
            return {}
        return {name: told for name in names if self._cannot_be_read([name])}

    def _has_broken(self, name: str) -> bool:
        return bool(self._ask(f"bool_or(contains({sql_name(name)}, {sql_text(BROKEN)}))"))

    def _cannot_be_read(self, names: Sequence[str]) -> bool:
        try:
            self._ask("0", *(f"max(length({sql_name(name)}))" for name in names))
        except duckdb.InvalidInputException:
            return True
        return False

    def _ask(self, *terms: str) -> Any:
        row = self.db.execute(f"SELECT {', '.join(terms)} FROM raw").fetchone() or ()
        return row if len(terms) > 1 else row[0]

    def select(self, names: Sequence[str]) -> list[str]:
        """What to select so that numbers are numbers, and what is no value is null."""
        return [f"{self._value(name)} AS {sql_name(name)}" for name in names]

    def _value(self, name: str) -> str:
        quoted, kind = sql_name(name), self.kinds[name]
        if kind == "VARCHAR":
            number = self._number_of(name) if self.texts else ""
            plain = self._declared(f"trim({quoted})", quoted)
            if not number:
                return plain
            value = f"TRY_CAST({self._text_or_null(quoted)} AS {number})"
            return _without_nan(value) if number == "DOUBLE" else value
        numbers = [each for each in map(_number, self.missing) if each is not None]
        if numbers and kind in NUMBERS:
            listed = ", ".join(map(repr, numbers))
            quoted = f"CASE WHEN {quoted} IN ({listed}) THEN NULL ELSE {quoted} END"
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

    def _number_of(self, name: str) -> str:
        """The type of number that all texts of a column are; empty if they are not.

        Not where one would lose a leading zero.
        """
        value = self._text_or_null(sql_name(name))
        known, whole, decimal, padded = self._ask(
            f"count({value})",
            f"count(CASE WHEN regexp_full_match({value}, '{WHOLE}') THEN"
            f" TRY_CAST({value} AS BIGINT) END)",
            f"count(TRY_CAST({value} AS DOUBLE))",
            f"coalesce(bool_or(regexp_matches({value}, '^[+-]?0[0-9]')), false)",
        )
        if not known or padded:
            return ""
        return "BIGINT" if whole == known else "DOUBLE" if decimal == known else ""

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
            return f"CAST(TRY_CAST({quoted} AS BIGINT) AS VARCHAR)"
        if kind != "VARCHAR":
            return f"CAST({quoted} AS VARCHAR)"
        trimmed = f"nullif(trim({quoted}), '')"
        known, decimal, power, pointed, whole, most, example = self._ask(
            f"count({trimmed})",
            f"count(*) FILTER (WHERE regexp_full_match({trimmed}, '{DECIMAL}')"
            f" OR lower({trimmed}) = 'nan')",
            f"count(*) FILTER (WHERE regexp_matches({trimmed}, '[0-9.][eE]'))",
            f"count(*) FILTER (WHERE contains({trimmed}, '.'))",
            f"count(*) FILTER (WHERE regexp_full_match({trimmed}, '[+-]?\\d+(\\.0*)?')"
            f" OR lower({trimmed}) = 'nan')",
            f"max(abs(TRY_CAST({trimmed} AS DOUBLE))) FILTER (WHERE isfinite(TRY_CAST({trimmed}"
            " AS DOUBLE)))",
            f"min({trimmed}) FILTER (WHERE regexp_matches({trimmed}, '[eE.]'))",
        )
        if not known or decimal < known or not (power or pointed):
            return quoted
        # All of them are numbers, and some were written as floating-point ones are.
        if power or (whole == known and most > EXACT["DOUBLE"]):
            raise _lost(name, catalogue, example)
        if whole < known:
            return quoted
        return (
            f"CASE WHEN lower({trimmed}) <> 'nan' THEN regexp_replace({trimmed}, '\\.0*$', '') END"
        )


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
