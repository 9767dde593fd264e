"""Which object of the survey each subject shows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from zoo_bridge.rows import read_rows
from zoo_bridge.votes.rules import find_object_id, is_training, read_json

SEEN = {"subject_id": pl.Int64, "object_id": pl.String, "classification_id": pl.Int64}
MOST_REMEMBERED = 100_000
# So many subjects tell which keys a project's metadata have.
MOST_CARRIED = 500
LONGEST_VALUE = 200
COMPACT_EVERY = 500_000
EXAMPLES = 5
_NUMBER = re.compile(r"\s*[0-9]{1,18}\s*")


@dataclass(frozen=True)
class Objects:
    """The object id of each subject, and what is odd about them.

    ``table`` has subject_id and object_id, one row a subject. ``missing`` subjects have none of the
    configured keys and go by their subject id; ``ambiguous`` ones were seen with several ids;
    ``shared`` maps object ids to their subjects where there are several. All are sorted.
    """

    table: pl.DataFrame
    missing: list[int] = field(default_factory=list)
    ambiguous: dict[int, list[str]] = field(default_factory=dict)
    shared: dict[str, list[int]] = field(default_factory=dict)

    def only(self, subjects: pl.Series) -> Objects:
        """The same of some subjects (unique ids)."""
        known = set(subjects)
        shared = {
            name: kept
            for name, ids in self.shared.items()
            if len(kept := [ident for ident in ids if ident in known]) > 1
        }
        return Objects(
            self.table.filter(pl.col("subject_id").is_in(subjects.implode())),
            [ident for ident in self.missing if ident in known],
            {ident: names for ident, names in self.ambiguous.items() if ident in known},
            shared,
        )

    def summary(self) -> dict[str, Any]:
        """As it is kept beside the labels: how many, and a few of each."""
        odd: dict[str, Mapping[Any, Any] | list[int]] = {
            "missing": self.missing,
            "ambiguous": self.ambiguous,
            "shared": self.shared,
        }
        return {
            name: {
                "count": len(found),
                "examples": found[:EXAMPLES]
                if isinstance(found, list)
                else {str(key): found[key] for key in list(found)[:EXAMPLES]},
            }
            for name, found in odd.items()
        }


@dataclass(slots=True)
class _Known:
    """What the last classification of a subject said of it, and the newest that said the same."""

    digest: int
    training: bool
    object_id: str | None
    newest: int


class Subjects:
    """Collects what exports say of subjects.

    A subjects export, if there is one, has the last word; else the newest classification has.

    Parameters
    ----------
    keys : sequence of str
        Metadata keys of the object id; the first that is there counts.

    Attributes
    ----------
    newest : int
        The greatest number of a subject that an export had.
    carried : dict
        The metadata of the first few hundred subjects that have votes, by their number.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = tuple(keys)
        self._exported = pl.DataFrame(schema={"subject_id": pl.Int64, "object_id": pl.String})
        self._seen: list[pl.DataFrame] = []
        self._rows = 0
        self._remembered: dict[int, _Known] = {}
        self.newest = 0
        self.carried: dict[int, dict[str, str]] = {}

    @property
    def exported(self) -> pl.DataFrame:
        """What exports said: subject_id and object_id, without subjects that have none."""
        return self._exported

    def read_export(self, path: Path) -> list[dict[str, str]]:
        """Take a subjects export; returns its rows that cannot be read, as rejects."""
        rejects: list[tuple[int, str]] = []
        frames = [self._exported]
        for piece in read_rows(path, ("subject_id", "metadata"), "subjects"):
            rejects += [(reject.line, reject.detail) for reject in piece.rejects]
            rows = zip(piece.lines, *map(pa_list, piece.table.columns), strict=True)
            found = []
            for line, subject, metadata in rows:
                try:
                    ident = _subject_id(subject)
                    self.newest = max(self.newest, ident)
                    found.append((ident, find_object_id(_object(metadata), self.keys)))
                except ValueError as error:
                    rejects.append((line, str(error)))
            frames.append(pl.DataFrame(found, schema=self._exported.schema, orient="row"))
        # One row for each subject, workflow and set: the metadata are the same in all.
        self._exported = pl.concat(frames).drop_nulls().unique(keep="first", maintain_order=True)
        return [
            {
                "object_id": "",
                "uri": f"{path.name}:{line}",
                "reason": "subjects export",
                "detail": why[:200],
            }
            for line, why in rejects
        ]

    def take(
        self, frame: pl.DataFrame, texts: pa.Array
    ) -> tuple[NDArray[np.bool_], dict[int, str]]:
        """Look at the subjects of some classifications.

        Parameters
        ----------
        frame : polars.DataFrame
            With classification_id, subject_id and subject_data (the place of its text).
        texts : pyarrow.Array
            The different subject data (JSON).

        Returns
        -------
        training : ndarray of bool
            For each row, whether its subject is marked as a training image.
        bad : dict
            Rows whose subject_data cannot be read, and why.
        """
        if len(self._remembered) > MOST_REMEMBERED:
            self._forget()
        keys = ("subject_id", "subject_data")
        different = frame.group_by(keys).agg(pl.col("classification_id").max())
        marked: set[tuple[int, int]] = set()
        broken: dict[tuple[int, int], str] = {}
        for subject, place, ident in different.iter_rows():
            text = texts[place].as_py()
            digest = hash(text)
            known = self._remembered.get(subject)
            if known is not None and known.digest == digest:
                known.newest = max(known.newest, ident)
            else:
                try:
                    facts = _object(text).get(str(subject), {})
                except ValueError as error:
                    broken[subject, place] = f"subject_data: {error}"
                    continue
                if known is not None:
                    self._keep([(subject, known.object_id, known.newest)])
                facts = facts if isinstance(facts, dict) else {}
                found = find_object_id(facts, self.keys)
                if len(self.carried) < MOST_CARRIED:
                    self.carried[subject] = plain_metadata(facts)
                known = _Known(digest, is_training(facts), found, ident)
                self._remembered[subject] = known
            if known.training:
                marked.add((subject, place))
        if not marked and not broken:
            return np.zeros(len(frame), dtype=bool), {}
        rows = list(frame.select(keys).iter_rows())
        training = np.array([row in marked for row in rows], dtype=bool)
        return training, {place: broken[row] for place, row in enumerate(rows) if row in broken}

    def _forget(self) -> None:
        """Keep what was remembered as a table, which is smaller."""
        self._keep(
            [(key, known.object_id, known.newest) for key, known in self._remembered.items()]
        )
        self._remembered.clear()

    def _keep(self, found: list[tuple[int, str | None, int]]) -> None:
        self._seen.append(pl.DataFrame(found, schema=SEEN, orient="row"))
        self._rows += len(found)
        if self._rows > COMPACT_EVERY:
            self._compact()

    def _compact(self) -> pl.DataFrame:
        """One row for each subject and id: the newest."""
        seen = pl.concat([pl.DataFrame(schema=SEEN), *self._seen])
        seen = seen.group_by("subject_id", "object_id").agg(pl.col("classification_id").max())
        self._seen, self._rows = [seen], 0
        return seen

    def resolve(self) -> Objects:
        """The objects of all subjects that were seen in classifications."""
        self._forget()
        compact = self._compact()
        wanted = compact.select("subject_id").unique()
        seen = compact.drop_nulls("object_id")
        exported = self._exported.join(wanted, on="subject_id", how="semi").with_columns(
            classification_id=pl.lit(2**62, pl.Int64)
        )
        every = pl.concat([seen, exported.select(seen.columns)])
        several = (
            every.group_by("subject_id")
            .agg(pl.col("object_id").unique().sort())
            .filter(pl.col("object_id").list.len() > 1)
            .sort("subject_id")
        )
        best = (
            every.sort("classification_id", "object_id", descending=True)
            .unique("subject_id", keep="first", maintain_order=True)
            .select("subject_id", "object_id")
        )
        table = wanted.join(best, on="subject_id", how="left").sort("subject_id")
        missing = table.filter(pl.col("object_id").is_null())["subject_id"].to_list()
        # The number of a subject without an id may be the id of another's object.
        number = pl.col("subject_id").cast(pl.String)
        taken = number.is_in(best["object_id"].implode())
        named = pl.when(taken).then(pl.format("subject {}", number)).otherwise(number)
        table = table.with_columns(pl.col("object_id").fill_null(named))
        shared = (
            table.group_by("object_id")
            .agg(pl.col("subject_id").sort())
            .filter(pl.col("subject_id").list.len() > 1)
            .sort("object_id")
        )
        return Objects(table, missing, dict(several.iter_rows()), dict(shared.iter_rows()))


def plain_metadata(metadata: Mapping[str, Any]) -> dict[str, str]:
    """What of a subject's metadata may be an object id: single values, and not very long ones."""
    return {
        str(key): str(value)
        for key, value in metadata.items()
        if isinstance(value, str | int) and 0 < len(str(value).strip()) <= LONGEST_VALUE
    }


def _subject_id(text: str) -> int:
    text = text.strip().removesuffix(".0")
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"subject_id is {text[:60]!r}")
    return int(text)


def pa_list(column: Any) -> list[str]:
    """An Arrow column of text as a list."""
    values: list[str] = column.to_pylist()
    return values


def _object(text: str) -> dict[str, Any]:
    value = read_json(text)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value
