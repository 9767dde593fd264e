"""What is in an export's file: rows, how far it reaches, and whether it is whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from zoo_bridge.errors import EmptyError, InputError
from zoo_bridge.files import DIGEST_LENGTH
from zoo_bridge.rows import BROKEN_GZIP, read_rows


@dataclass(frozen=True)
class Content:
    """What is in an export.

    ``size`` is the number of rows, or of subjects in a subjects export, which has several rows for
    some; ``newest`` the newest date in it. ``frontier`` is for classifications only.
    """

    digest: str
    rows: int
    size: int
    newest: str = ""
    frontier: Frontier = field(default_factory=lambda: Frontier())


class Frontier:
    """Where to go on reading classifications by number.

    Numbers are given out before they can be seen: one may appear after a greater one. So reading
    goes on two hours back, and the numbers in these hours are remembered.

    Parameters
    ----------
    last_id : int
        Everything up to here is known.
    hours : dict, optional
        What is known beyond it, by hour (``2026-11-01 12``).
    """

    def __init__(self, last_id: int = 0, hours: dict[str, list[int]] | None = None) -> None:
        self.last_id = last_id
        self.hours = {hour: list(ids) for hour, ids in (hours or {}).items()}

    @property
    def recent(self) -> set[int]:
        """Known numbers above `last_id`."""
        return {ident for ids in self.hours.values() for ident in ids}

    def add(self, hour: str, ids: Iterable[int]) -> None:
        """Numbers given out in an hour; hours without any do not count."""
        known = self.hours.setdefault(hour, [])
        known.extend(sorted(set(ids) - set(known)))
        for old in sorted(self.hours)[:-3]:
            self.last_id = max(self.last_id, *self.hours.pop(old))


def inspect(path: Path, kind: str) -> Content:
    """See that a file is a whole export of a kind, and what is in it; it is read once.

    Parameters
    ----------
    path : Path
        A CSV file, gzipped or not.
    kind : str
        classifications, subjects or workflows.

    Returns
    -------
    Content

    Raises
    ------
    InputError
        If columns are missing or there are no rows.
    EOFError
        If it ends before its gzip stream does, or in the middle of a row.
    """
    digest = hashlib.sha256()
    date, counted = DATES[kind], COUNTED[kind]
    wanted = [name for name in ("classification_id", date, counted) if name in COLUMNS[kind]]
    wanted = wanted or ["workflow_id"]
    rows, newest, whole = 0, "", True
    ids = [pl.Series(dtype=pl.String)]
    frontier = Frontier()
    try:
        for piece in read_rows(path, wanted, kind, digest=digest, required=COLUMNS[kind]):
            rows += piece.table.num_rows + len(piece.rejects)
            whole = not piece.open_end
            frame = pl.DataFrame(piece.table)
            if date and len(frame):
                newest = max(newest, str(frame[date].max()))
            if counted:
                ids = [pl.concat([*ids, frame[counted]]).unique()]
            if kind == "classifications":
                _advance(frontier, frame)
    except InputError as error:
        if isinstance(error.__context__, BROKEN_GZIP):
            raise EOFError(error.message) from None
        raise
    if rows == 0:
        raise EmptyError(
            f"The {kind} export {path.name} is empty: there is a header and no row.",
            "Has the workflow been classified, and is project.workflow the right one?",
        )
    if not whole:
        raise EOFError("its last row is cut short")
    size = len(ids[0]) if counted else rows
    return Content(digest.hexdigest()[:DIGEST_LENGTH], rows, size, newest, frontier)


def _advance(frontier: Frontier, frame: pl.DataFrame) -> None:
    hours = frame.select(
        hour=pl.col("created_at").str.slice(0, 13),
        ident=pl.col("classification_id").str.strip_chars().cast(pl.Int64, strict=False),
    ).drop_nulls()
    for hour, part in sorted(hours.group_by("hour"), key=lambda item: str(item[0])):
        frontier.add(str(hour[0]), part["ident"].to_list())


COLUMNS = {
    "classifications": [
        "classification_id",
        "user_name",
        "user_id",
        "user_ip",
        "workflow_id",
        "workflow_name",
        "workflow_version",
        "created_at",
        "gold_standard",
        "expert",
        "metadata",
        "annotations",
        "subject_data",
        "subject_ids",
    ],
    "subjects": [
        "subject_id",
        "project_id",
        "workflow_id",
        "subject_set_id",
        "metadata",
        "locations",
        "created_at",
    ],
    "workflows": ["workflow_id", "version", "tasks", "strings", "minor_version"],
}


# What grows from one export to the next: the column of dates, and what is counted once.
DATES = {"classifications": "created_at", "subjects": "created_at", "workflows": None}
COUNTED = {"classifications": None, "subjects": "subject_id", "workflows": None}
