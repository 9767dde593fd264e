"""Data exports: look at the last one first, ask for a new one when it is too old, fetch it whole.

Panoptes makes one export a day. A second request within the day is accepted, resets the state to
"creating" and is then dropped without a word, while the last file stays where it was; an address is
given even where there is no file. So the file is asked and not its description: when it was written
last (``Last-Modified``, by the blob store's own clock), and whether it is there at all. A new one
is asked for only when the last is old, the wait has an end, and the last file is the way out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import requests

from zoo_bridge.errors import NotReadyError, OutcomeUnknownError, StaleError, ZooniverseError
from zoo_bridge.files import replacing
from zoo_bridge.retry import doubling, retry
from zoo_bridge.zooniverse.content import Content
from zoo_bridge.zooniverse.download import download
from zoo_bridge.zooniverse.session import READ_ATTEMPTS, Session

log = logging.getLogger(__name__)

DAY_SECONDS = 24 * 3600.0
NEWS_SECONDS = 60.0


@dataclass(frozen=True)
class Patience:
    """How old an export may be and how long to wait for a newer one, in seconds.

    Without ``ask`` the last one is taken, of whatever age.
    """

    max_age: float
    stale_after: float
    wait: float
    poll: float
    ask: bool = True


@dataclass(frozen=True)
class Export:
    """A fetched export: a gzipped CSV called after its digest, and what is in it.

    ``updated_at`` is when Zooniverse wrote the file, ``age_seconds`` how long ago that was by the
    store's own clock; ``note`` says why there is none that is newer; ``again`` says that it is that
    of last time.
    """

    path: Path
    digest: str
    content: Content
    updated_at: str
    age_seconds: float
    note: str = ""
    again: bool = False

    @property
    def overdue(self) -> bool:
        """Whether Zooniverse would have made a newer one by now, and has not."""
        return self.age_seconds >= DAY_SECONDS

    @property
    def days(self) -> float:
        """Its age."""
        return self.age_seconds / DAY_SECONDS


@dataclass(frozen=True)
class _File:
    """What the blob store says of an export: when it was written, and what time it is there.

    ``written`` is None where there is no file yet.
    """

    written: float | None
    now: float

    @property
    def age(self) -> float:
        """Seconds; none for a file that is not there."""
        return max(0.0, self.now - self.written) if self.written is not None else 0.0


@dataclass(frozen=True)
class _ExportStatus:
    """An export as it stands: how it is described, and its file."""

    state: str
    asked_at: float
    file: _File

    @property
    def is_there(self) -> bool:
        """Whether there is a file."""
        return self.file.written is not None

    @property
    def is_asked_for(self) -> bool:
        """Whether somebody asked for a new one within a day, which is all that is done in a day."""
        return self.state == "creating" and self.file.now - self.asked_at < DAY_SECONDS


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
        The log-in, of an owner or collaborator: to others it seems that there is none.
    resource : str
        Such as ``workflows/66`` or ``projects/55``.
    kind : str
        classifications, subjects or workflows.
    folder : Path
        Where ``<kind>-<digest>.csv.gz`` is put.
    patience : Patience
        How old a file may be, and how long a new one is waited for.
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
        If there is no export.
    StaleError
        If the last one is older than `patience` takes, and no newer one came.
    InputError
        If what arrives is not such an export, or is empty.
    ZooniverseError
        If it cannot be downloaded whole.
    """
    path = f"/{resource}/{kind}_export"
    file, note = _current(session, path, kind, patience, say)
    written = datetime.fromtimestamp(file.written or 0.0, UTC).isoformat()
    if known and known.updated_at == written and known.path.is_file():
        return replace(known, age_seconds=file.age, note=note, again=True)
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
    return Export(final, content.digest, content, written, file.age, note)


def ask_early(
    session: Session, resource: str, kind: str, patience: Patience, say: Callable[[str], None]
) -> None:
    """Ask for an export that `fetch` will have to ask for, so that it is made meanwhile.

    Parameters
    ----------
    session, resource, kind, patience, say
        As for `fetch`.
    """
    path = f"/{resource}/{kind}_export"
    last = _read_status(session, path)
    # As `_current` sees it: none is made within a day, and this one may be young enough.
    enough = max(DAY_SECONDS, patience.max_age)
    due = last is None or not last.is_there or last.file.age >= enough
    if patience.ask and due and (last is None or not last.is_asked_for):
        _ask(session, path)
        say(f"asked Zooniverse for a new {kind} export")


def _ask(session: Session, path: str) -> None:
    try:
        session.write("POST", path, {"media": {"content_type": "text/csv"}})
    except OutcomeUnknownError as error:
        # Asked or not, the file will tell.
        log.warning("%s", error.message)


def find_last(session: Session, resource: str, kind: str) -> bool:
    """Whether Zooniverse has an export of this kind to download, of any age."""
    status = _read_status(session, f"/{resource}/{kind}_export")
    return status is not None and status.is_there


def _read_status(session: Session, path: str) -> _ExportStatus | None:
    """How an export stands; None if nobody ever asked for one."""
    try:
        return retry(
            lambda: _read_status_once(session, path),
            READ_ATTEMPTS,
            doubling(session.pause),
            _NotToldError,
            what="asking the store of exports",
        )
    except _NotToldError as error:
        raise ZooniverseError(
            f"The store of exports did not say whether there is a file: {error}.",
            "Run the same command again later.",
        ) from None


class _NotToldError(Exception):
    """The store of exports did not say whether there is a file, and why."""


def _read_status_once(session: Session, path: str) -> _ExportStatus | None:
    """One look; its address, which may have ended before the next one, is new each time."""
    reply = session.find(path)
    if reply is None:
        return None
    medium = reply.body["media"][0]
    try:
        # The store says when a file was written without sending it.
        answer = requests.head(str(medium["src"]), timeout=session.timeout)
    except requests.RequestException as error:
        raise _NotToldError(type(error).__name__) from None
    if answer.status_code not in (200, 404):
        raise _NotToldError(f"status {answer.status_code}")
    asked = datetime.fromisoformat(medium["updated_at"].replace("Z", "+00:00"))
    state = str((medium.get("metadata") or {}).get("state"))
    file = _File(_time(answer, "Last-Modified"), _time(answer, "Date") or time.time())
    return _ExportStatus(state, asked.timestamp(), file)


def _time(answer: requests.Response, header: str) -> float | None:
    if answer.status_code == 404 and header == "Last-Modified":
        return None
    text = answer.headers.get(header)
    return parsedate_to_datetime(text).timestamp() if text else None


def _current(
    session: Session, path: str, kind: str, patience: Patience, say: Callable[[str], None]
) -> tuple[_File, str]:
    """The file to download, and a remark if it is not as new as was wished."""
    last = _read_status(session, path)
    if last and last.is_there:
        if last.file.age <= patience.max_age:
            return last.file, ""
        if last.file.age < DAY_SECONDS:
            # Asking within a day of the last run is accepted, never done, and spoils the state.
            return last.file, f"{last.file.age / 3600:.0f} hours old; Zooniverse makes one a day"
        if not patience.ask:
            return last.file, "nobody waits for a newer one"
    if last is None or not last.is_asked_for:
        _ask(session, path)
        say(f"asked Zooniverse for a new export; waiting {patience.wait / 60:.0f} minutes at most")
    found = _wait(session, path, patience, last, say)
    if isinstance(found, _File):
        return found, ""
    in_vain = found
    if last is None or not last.is_there:
        raise NotReadyError(
            f"There is no {kind} export: {in_vain}, and there is no file yet.",
            "Zooniverse makes one a day; try later, or raise pull.wait_minutes.",
        )
    if last.file.age >= patience.stale_after:
        raise StaleError(
            f"The {kind} export is {last.file.age / DAY_SECONDS:.1f} days old, and {in_vain}.",
            "Zooniverse has stopped making it: write to its team. Until then votes come with "
            'pull.mode = "incremental", or raise pull.stale_after_days to go on without new ones.',
        )
    return last.file, in_vain


def _wait(
    session: Session,
    path: str,
    patience: Patience,
    last: _ExportStatus | None,
    say: Callable[[str], None],
) -> _File | str:
    """Wait until the file is a newer one than that of `last`; or why there is none."""
    before, asked_at = (last.file.written, last.asked_at) if last else (None, 0.0)
    began = told = time.monotonic()
    end = began + patience.wait
    state = "unknown"
    while True:
        try:
            status = _read_status(session, path)
        except ZooniverseError as error:
            if 0 < error.status < 500:
                raise
            log.warning("%s", error.message)
            status = None
        # The description may be five minutes behind, or say "creating" for ever.
        if status and status.is_there and status.file.written != before:
            return status.file
        state = status.state if status else state
        # The description of an earlier try may be read for five minutes more.
        if state == "failed" and status and status.asked_at > asked_at:
            return "Zooniverse says that making a new one failed"
        if time.monotonic() >= end:
            return f"no new one came in time, and its state is {state}"
        if time.monotonic() - told >= NEWS_SECONDS:
            told = time.monotonic()
            say(f"still waiting after {(told - began) / 60:.0f} minutes; its state is {state}")
        time.sleep(min(patience.poll, max(0.0, end - time.monotonic())))
