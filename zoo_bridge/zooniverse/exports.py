"""Data exports: look at the last one first, ask for a new one when it is too old, fetch it whole.

Panoptes makes one export a day. A second request within the day is accepted, resets the state to
"creating" and is then dropped without a word, while the last file stays where it was. So a new one
is asked for only when the last is old, the wait has an end, and the last file is the way out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from zoo_bridge.errors import NotReadyError
from zoo_bridge.files import replacing
from zoo_bridge.zooniverse.download import Content, download
from zoo_bridge.zooniverse.session import Session

log = logging.getLogger(__name__)

READY = ("ready", "finished")
DAY_SECONDS = 24 * 3600.0
NEWS_SECONDS = 60.0


@dataclass(frozen=True)
class Patience:
    """How old an export may be and how long to wait for a newer one, in seconds."""

    max_age: float
    stale_after: float
    wait: float
    poll: float


@dataclass(frozen=True)
class Export:
    """A fetched export: a gzipped CSV called after its digest, and what is in it.

    ``updated_at`` is when Zooniverse made it; ``again`` says that it is the file of last time.
    """

    path: Path
    digest: str
    content: Content
    updated_at: str
    age_seconds: float
    note: str = ""
    again: bool = False


def fetch(
    session: Session,
    resource: str,
    kind: str,
    folder: Path,
    patience: Patience,
    tick: Callable[[int], None] = lambda size: None,
    say: Callable[[str], None] = lambda text: None,
    known: Export | None = None,
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
    say : callable
        Called with a line of news while waiting.
    known : Export, optional
        The last one fetched: if the server has no newer one, nothing is downloaded.

    Returns
    -------
    Export

    Raises
    ------
    NotReadyError
        If there is no export that is fresh enough.
    InputError
        If what arrives is not such an export, or is empty.
    ZooniverseError
        If it cannot be downloaded whole.
    """
    path = f"/{resource}/{kind}_export"
    medium, age, note = _current(session, path, patience, say)
    if known and known.updated_at == medium["updated_at"] and known.path.is_file():
        return replace(known, age_seconds=age, note=note, again=True)
    scratch_name = folder / f".{kind}.part"
    with replacing(scratch_name) as scratch:
        content = download(
            lambda: str(session.get(path).body["media"][0]["src"]),
            scratch,
            kind,
            session.timeout,
            session.pause,
            tick,
        )
    final = scratch_name.replace(folder / f"{kind}-{content.digest}.csv.gz")
    return Export(final, content.digest, content, medium["updated_at"], age, note)


def find_last(session: Session, resource: str, kind: str) -> bool:
    """Whether Zooniverse has an export of this kind to download, of any age."""
    reply = session.find(f"/{resource}/{kind}_export")
    return bool(reply and reply.body["media"][0].get("src"))


def _current(
    session: Session, path: str, patience: Patience, say: Callable[[str], None]
) -> tuple[dict[str, Any], float, str]:
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
    if last and last.get("src") and patience.wait <= 0:
        return last, age, f"the last one, {age / DAY_SECONDS:.1f} days old"
    if last is None or age >= DAY_SECONDS or last["metadata"].get("state") == "failed":
        session.write("POST", path, {"media": {"content_type": "text/csv"}})
        say(f"asked Zooniverse for a new export; waiting {patience.wait / 60:.0f} minutes at most")
    medium = _wait(session, path, patience, last["updated_at"] if last else None, say)
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
    session: Session,
    path: str,
    patience: Patience,
    before: str | None,
    say: Callable[[str], None],
) -> dict[str, Any] | None:
    """Wait until an export newer than `before` is ready; None when time runs out."""
    began = told = time.monotonic()
    end = began + patience.wait
    while time.monotonic() < end:
        medium: dict[str, Any] = session.get(path).body["media"][0]
        state = medium["metadata"].get("state")
        if state in READY and (before is None or medium["updated_at"] != before):
            return medium
        if state == "failed":
            log.warning("Zooniverse says that the export failed")
            say("Zooniverse says that the export failed")
            return None
        if time.monotonic() - told >= NEWS_SECONDS:
            told = time.monotonic()
            say(f"still waiting after {(told - began) / 60:.0f} minutes; its state is {state}")
        time.sleep(min(patience.poll, max(0.0, end - time.monotonic())))
    return None


def _age(medium: dict[str, Any], now: float) -> float:
    """Age by the server's own clock, since ours may be off."""
    updated = datetime.fromisoformat(medium["updated_at"].replace("Z", "+00:00"))
    return max(0.0, now - updated.timestamp())
