"""Data exports: look at the last one first, ask for a new one when it is too old, fetch it whole.

Panoptes makes one export a day. A second request within the day is accepted, resets the state to
"creating" and is then dropped without a word, while the last file stays where it was. So a new one
is asked for only when the last is old, the wait has an end, and the last file is the way out.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import logging
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import requests
from urllib3.exceptions import HTTPError

from zoo_bridge.errors import InputError, NotReadyError, ZooniverseError
from zoo_bridge.files import DIGEST_LENGTH, open_text, replacing
from zoo_bridge.zooniverse.session import Session

log = logging.getLogger(__name__)

READY = ("ready", "finished")
DAY_SECONDS = 24 * 3600.0
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
    ],
    "workflows": ["workflow_id", "version", "tasks", "strings", "minor_version"],
}
DOWNLOAD_ATTEMPTS = 4
# What a download that breaks off looks like, from the socket up to the end of the gzip stream.
BROKEN = (requests.RequestException, HTTPError, EOFError, zlib.error, gzip.BadGzipFile)


@dataclass(frozen=True)
class Patience:
    """How old an export may be and how long to wait for a newer one, in seconds."""

    max_age: float
    stale_after: float
    wait: float
    poll: float


@dataclass(frozen=True)
class Export:
    """A fetched export: a gzipped CSV called after its digest, and what is in it."""

    path: Path
    digest: str
    rows: int
    age_seconds: float
    note: str


def fetch(
    session: Session,
    resource: str,
    kind: str,
    folder: Path,
    patience: Patience,
    tick: Callable[[int], None] = lambda size: None,
) -> Export:
    """Fetch an export, a new one if the last is older than it may be.

    Parameters
    ----------
    session : Session
        The log-in.
    resource : str
        Such as ``workflows/66`` or ``projects/55``.
    kind : str
        classifications, subjects or workflows.
    folder : Path
        Where ``<kind>-<digest>.csv.gz`` is put.
    patience : Patience
        See there.
    tick : callable
        Called with the number of bytes that just arrived.

    Returns
    -------
    Export

    Raises
    ------
    NotReadyError
        If there is no export that is fresh enough.
    InputError
        If what arrives is not such an export, or is empty.
    """
    path = f"/{resource}/{kind}_export"
    medium, age, note = _current(session, path, patience)
    scratch_name = folder / f".{kind}.part"
    with replacing(scratch_name) as scratch:
        for attempt in range(1, DOWNLOAD_ATTEMPTS + 1):
            try:
                _download(medium["src"], scratch, session.timeout, tick)
                digest = _digest_content(scratch)
                break
            except BROKEN as error:
                if attempt == DOWNLOAD_ATTEMPTS:
                    raise ZooniverseError(
                        f"The {kind} export could not be downloaded whole: {error}.",
                        "Run the same command again; what is there already is kept.",
                    ) from None
                log.warning("download of the %s export failed (%s), trying again", kind, error)
                time.sleep(min(2.0**attempt, 10) * session.pause / 2)
                # Its address is good for a few minutes only.
                medium = session.get(path).body["media"][0]
        rows = check(scratch, kind)
    final = scratch_name.replace(folder / f"{kind}-{digest}.csv.gz")
    return Export(final, digest, rows, age, note)


def _current(session: Session, path: str, patience: Patience) -> tuple[dict[str, Any], float, str]:
    """The export to download, its age, and a remark if it is not as new as was wished."""
    reply = session.find(path)
    last = reply.body["media"][0] if reply else None
    age = _age(last, reply.server_time) if reply and last else 0.0
    ready = last is not None and last["metadata"].get("state") in READY
    if last and ready and age <= patience.max_age:
        return last, age, ""
    if last and ready and age < DAY_SECONDS:
        # Asking within a day of the last run is accepted, never done, and spoils the state.
        return last, age, f"{age / 3600:.0f} hours old; Zooniverse makes one a day"
    if last is None or age >= DAY_SECONDS or last["metadata"].get("state") == "failed":
        session.write("POST", path, {"media": {"content_type": "text/csv"}})
    medium = _wait(session, path, patience, last["updated_at"] if last else None)
    if medium is not None:
        return medium, 0.0, ""
    if last and last.get("src") and age <= patience.stale_after:
        note = f"no new export came in time; using the last, {age / DAY_SECONDS:.1f} days old"
        return last, age, note
    raise NotReadyError(
        f"No export came within {patience.wait / 60:.0f} minutes, and there is no recent one.",
        "Zooniverse makes one a day; try later, or raise pull.wait_minutes or "
        "pull.stale_after_days.",
    )


def _wait(
    session: Session, path: str, patience: Patience, before: str | None
) -> dict[str, Any] | None:
    """Wait until an export newer than `before` is ready; None when time runs out."""
    end = time.monotonic() + patience.wait
    while time.monotonic() < end:
        medium: dict[str, Any] = session.get(path).body["media"][0]
        state = medium["metadata"].get("state")
        if state in READY and (before is None or medium["updated_at"] != before):
            return medium
        if state == "failed":
            log.warning("Zooniverse says that the export failed")
            return None
        time.sleep(min(patience.poll, max(0.0, end - time.monotonic())))
    return None


def _age(medium: dict[str, Any], now: float) -> float:
    """Age by the server's own clock, since ours may be off."""
    updated = datetime.fromisoformat(medium["updated_at"].replace("Z", "+00:00"))
    return max(0.0, now - updated.timestamp())


def _download(url: str, target: Path, timeout: float, tick: Callable[[int], None]) -> None:
    """Stream the file to disk, gzipped as it is on the wire, and see that it is whole."""
    with requests.get(url, stream=True, timeout=timeout) as response:
        response.raise_for_status()
        gzipped = response.headers.get("Content-Encoding") == "gzip"
        expected = int(response.headers.get("Content-Length") or 0)
        received = 0
        with target.open("wb") as raw:
            out: Any = raw if gzipped else gzip.GzipFile(fileobj=raw, mode="wb", mtime=0)
            for block in response.raw.stream(2**16, decode_content=False):
                received += len(block)
                out.write(block)
                tick(len(block))
            if out is not raw:
                out.close()
        if expected and received < expected:
            raise EOFError(f"the connection ended after {received} of {expected} bytes")


def _digest_content(path: Path) -> str:
    """The digest of what is inside, reading to the end: a file cut short is an EOFError."""
    with gzip.open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:DIGEST_LENGTH]


def check(path: Path, kind: str) -> int:
    """See that a file is an export of a kind, and count its rows.

    Parameters
    ----------
    path : Path
        A CSV file, gzipped or not.
    kind : str
        classifications, subjects or workflows.

    Returns
    -------
    int
        The number of rows below the header.

    Raises
    ------
    InputError
        If columns are missing or there are no rows.
    """
    with open_text(path) as file:
        reader = csv.reader(file)
        header = next(reader, [])
        missing = [name for name in COLUMNS[kind] if name not in header]
        if missing:
            raise InputError(
                f"{path.name} is not a {kind} export: it lacks the column {', '.join(missing)}.",
                "Download it anew from the project's Data Exports page.",
            )
        rows = sum(1 for _ in reader)
    if rows == 0:
        raise InputError(
            f"The {kind} export {path.name} is empty: there is a header and no row.",
            "Has the workflow been classified, and is project.workflow the right one?",
        )
    return rows
