"""Getting an export's file: whole, or not at all; and what is in it."""

from __future__ import annotations

import gzip
import hashlib
import logging
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import requests
from urllib3.exceptions import HTTPError

from zoo_bridge.errors import EmptyError, InputError, ZooniverseError
from zoo_bridge.files import DIGEST_LENGTH
from zoo_bridge.rows import BROKEN_GZIP, read_rows

log = logging.getLogger(__name__)

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
ATTEMPTS = 4
BLOCK_BYTES = 2**16
# What a download that breaks off looks like, from the socket up to the end of the gzip stream.
BROKEN = (requests.RequestException, HTTPError, EOFError, zlib.error, gzip.BadGzipFile)


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


def download(
    find_address: Callable[[], str],
    target: Path,
    kind: str,
    timeout: float,
    pause: float,
    tick: Callable[[int], None],
) -> Content:
    """Download an export and see that it is whole; go on where a body broke off.

    Parameters
    ----------
    find_address : callable
        Gives a fresh address: one is good for a few minutes only.
    target : Path
        Where to; gzipped.
    kind : str
        classifications, subjects or workflows.
    timeout, pause : float
        Seconds without a byte after which an attempt has failed, and between attempts.
    tick : callable
        Called with the number of bytes that just arrived.

    Returns
    -------
    Content

    Raises
    ------
    ZooniverseError
        If no attempt brings it whole.
    InputError
        If it is not such an export, or is empty.
    """
    transfer = _Transfer(target, timeout, tick)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            transfer.run(find_address())
            return inspect(target, kind)
        except BROKEN as error:
            if attempt == ATTEMPTS:
                raise ZooniverseError(
                    f"The {kind} export could not be downloaded whole: {_why(error)}.",
                    "Run the same command again; what is there already is kept.",
                ) from None
            log.warning("download of the %s export failed (%s), trying again", kind, _why(error))
            time.sleep(min(2.0**attempt, 10) * pause / 2)
    raise AssertionError("unreachable")


def _why(error: Exception) -> str:
    """What went wrong, without the address: it carries a signature."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"status {error.response.status_code}"
    if isinstance(error, requests.RequestException | HTTPError):
        return type(error).__name__
    return str(error)


class _Transfer:
    """One file, in as many attempts as it takes."""

    def __init__(self, target: Path, timeout: float, tick: Callable[[int], None]) -> None:
        self.target = target
        self.timeout = timeout
        self.tick = tick
        self.etag = ""
        self.received = 0

    def run(self, address: str) -> None:
        """Bring the file, or what is missing of it; raises one of `BROKEN` if it breaks off."""
        wanted = {"Range": f"bytes={self.received}-"} if self.etag and self.received else {}
        with requests.get(address, stream=True, timeout=self.timeout, headers=wanted) as response:
            # A part is taken only if it is one of the same file, from the byte that was asked for.
            goes_on = (
                response.status_code == 206
                and response.headers.get("ETag") == self.etag
                and response.headers.get("Content-Range", "").startswith(f"bytes {self.received}-")
            )
            if response.status_code in (206, 416) and not goes_on:
                self.received, self.etag = 0, ""
                raise EOFError("the file changed while it was being downloaded")
            response.raise_for_status()
            if not goes_on:
                self.received = 0
            gzipped = goes_on or response.headers.get("Content-Encoding") == "gzip"
            # What is gzipped here has other bytes than what the server has: no going on.
            self.etag = response.headers.get("ETag", "") if gzipped else ""
            length = int(response.headers.get("Content-Length") or 0)
            expected = self.received + length if length else 0
            with self.target.open("ab" if goes_on else "wb") as raw:
                out: Any = raw if gzipped else gzip.GzipFile("", fileobj=raw, mode="wb", mtime=0)
                for block in response.raw.stream(BLOCK_BYTES, decode_content=False):
                    self.received += len(block)
                    out.write(block)
                    self.tick(len(block))
                if out is not raw:
                    out.close()
        if expected and self.received < expected:
            raise EOFError(f"the connection ended after {self.received} of {expected} bytes")
        # From here on a second attempt means that the content was bad: fetch all of it.
        self.etag = ""


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
