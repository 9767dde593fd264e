"""Subject sets and subjects: created once, with their images, into a set nobody sees yet.

The members of the set are the record of what was created. Each carries the object id under a key
of its own, so that after any interruption they are read back and compared, and no create is ever
repeated in the dark.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import requests
from requests.adapters import HTTPAdapter

from zoo_bridge.errors import OutcomeUnknownError, ZooniverseError
from zoo_bridge.zooniverse.session import Session

log = logging.getLogger(__name__)

LINK_SIZE = 100
ATTEMPTS = 4
PUT_HEADERS = {"x-ms-blob-type": "BlockBlob"}


@dataclass(frozen=True)
class Subject:
    """A subject as Panoptes has it; just after a create, `urls` are the addresses to PUT to."""

    subject_id: str
    metadata: dict[str, Any]
    urls: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """One frame of a subject: a file and its type."""

    data: bytes
    mime: str


def find_set(session: Session, project_id: int, name: str) -> str | None:
    """The id of the project's set of a name, which is unique in it."""
    found = session.list("subject_sets", project_id=project_id, display_name=name)
    return next((item["id"] for item in found if item["display_name"] == name), None)


def foreign_sets(session: Session, project_id: int) -> list[str]:
    """When each of a project's subject sets was made that are not zoo_bridge's and not empty."""
    found = session.list("subject_sets", project_id=project_id)
    return [
        str(item.get("created_at") or "")
        for item in found
        if "#zoo_bridge" not in (item.get("metadata") or {})
        and item.get("set_member_subjects_count")
    ]


def create_set(session: Session, project_id: int, name: str, metadata: dict[str, Any]) -> str:
    """Make a subject set, or find the one that an earlier, interrupted run made.

    Parameters
    ----------
    session : Session
        The log-in.
    project_id : int
        Whose set.
    name : str
        Unique in the project.
    metadata : dict
        Kept with the set.

    Returns
    -------
    str
        Its id.
    """
    if existing := find_set(session, project_id, name):
        return existing
    links = {"project": str(project_id)}
    body = {"subject_sets": {"display_name": name, "metadata": metadata, "links": links}}
    try:
        created: str = session.write("POST", "/subject_sets", body).body["subject_sets"][0]["id"]
        return created
    except ZooniverseError as error:
        if error.status != 400 and not isinstance(error, OutcomeUnknownError):
            raise
        if existing := find_set(session, project_id, name):
            return existing
        raise


def list_members(session: Session, set_id: str) -> list[Subject]:
    """Every subject of a set, with metadata and the public addresses of its media."""
    return [_subject(item) for item in session.list("subjects", subject_set_id=set_id)]


def create(
    session: Session,
    project_id: int,
    set_id: str,
    subjects: Sequence[tuple[dict[str, Any], Sequence[str]]],
) -> list[Subject]:
    """Create subjects, all or none, into a set in the same transaction.

    Parameters
    ----------
    session : Session
        The log-in.
    project_id : int
        Whose subjects.
    set_id : str
        Where to.
    subjects : sequence of (metadata, types of the frames)
        What.

    Returns
    -------
    list of Subject
        In the same order, with the addresses to PUT their frames to.

    Raises
    ------
    OutcomeUnknownError
        If they may or may not exist now: read the members before anything else.
    ZooniverseError
        If the server said no.
    """
    links = {"project": str(project_id), "subject_sets": [set_id]}
    bodies = [
        {"locations": list(mimes), "metadata": metadata, "links": links}
        for metadata, mimes in subjects
    ]
    reply = session.write("POST", "/subjects", {"subjects": bodies})
    return [_subject(item) for item in reply.body.get("subjects", [])]


def fresh_addresses(session: Session, subject_id: str, mimes: Sequence[str]) -> tuple[str, ...]:
    """New signed addresses for a subject's frames, when the first ones ended before their use."""
    reply = session.get(f"/subjects/{subject_id}")
    body = {"subjects": {"locations": list(mimes)}}
    changed = session.write("PUT", f"/subjects/{subject_id}", body, etag=reply.etag)
    return _subject(changed.body["subjects"][0]).urls


class Pictures:
    """Sends pictures to the blob store and fetches them back, several at a time.

    Parameters
    ----------
    connections : int
        How many at once.
    timeout, pause : float
        Seconds: without an answer, and before the second attempt.

    Attributes
    ----------
    calls : int
        Requests so far.
    """

    def __init__(self, connections: int, timeout: float, pause: float) -> None:
        self._timeout = timeout
        self._pause = pause
        self._http = requests.Session()
        adapter = HTTPAdapter(pool_connections=connections, pool_maxsize=connections)
        for scheme in ("http://", "https://"):
            self._http.mount(scheme, adapter)
        self._pool = ThreadPoolExecutor(connections)
        self._lock = threading.Lock()
        self.calls = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._http.close()

    def put(self, urls: Sequence[str], pictures: Sequence[Picture]) -> Future[str]:
        """Send a subject's frames to their addresses; in the end, why that failed, or nothing.

        That nothing went wrong says little: the store may answer 201 and keep nothing.
        """
        return self._pool.submit(self._put_all, list(urls), list(pictures))

    def are_there(self, urls: Sequence[str], pictures: Sequence[Picture]) -> Future[bool]:
        """Whether addresses give just these pictures."""
        return self._pool.submit(self._check_all, list(urls), list(pictures))

    def are_seen(self, urls: Sequence[str]) -> Future[bool]:
        """Whether there is something at each of some addresses, and at least one of them."""
        return self._pool.submit(self._see_all, list(urls))

    def _see_all(self, urls: list[str]) -> bool:
        return bool(urls) and all(self._get(url) for url in urls)

    def _put_all(self, urls: list[str], pictures: list[Picture]) -> str:
        if len(urls) != len(pictures):
            return f"there are {len(urls)} addresses for {len(pictures)} frames"
        for url, picture in zip(urls, pictures, strict=True):
            if reason := self._put(url, picture):
                return reason
        return ""

    def _put(self, url: str, picture: Picture) -> str:
        reason = ""
        for attempt in range(ATTEMPTS):
            time.sleep(self._pause * attempt / 2)
            headers = {"Content-Type": picture.mime, **PUT_HEADERS}
            try:
                answer = self._ask("PUT", url, data=picture.data, headers=headers)
            except requests.RequestException as error:
                reason = f"{type(error).__name__} while sending"
                continue
            if answer.ok:
                return ""
            reason = f"the blob store answered {answer.status_code}"
            if answer.status_code < 500:
                # The address has ended: it does not become good by waiting.
                return reason
        return reason

    def _ask(self, verb: str, url: str, **options: Any) -> requests.Response:
        with self._lock:
            self.calls += 1
        return self._http.request(verb, url, timeout=self._timeout, **options)

    def _check_all(self, urls: list[str], pictures: list[Picture]) -> bool:
        pairs = zip(urls, pictures, strict=False)
        return len(urls) == len(pictures) and all(self._is_there(*pair) for pair in pairs)

    def _is_there(self, url: str, picture: Picture) -> bool:
        return self._get(url) == picture.data

    def _get(self, url: str) -> bytes | None:
        """What is at an address; None if nothing is, or the store does not answer."""
        for attempt in range(2):
            time.sleep(self._pause * attempt / 2)
            try:
                answer = self._ask("GET", url)
            except requests.RequestException:
                continue
            if answer.status_code < 500:
                return answer.content if answer.ok else None
        return None


def link(session: Session, set_id: str, subject_ids: Sequence[str]) -> None:
    """Put subjects into a set; those already there do no harm.

    The call is idempotent, so it is the one write that may be sent again.
    """
    for start in range(0, len(subject_ids), LINK_SIZE):
        chunk = list(subject_ids[start : start + LINK_SIZE])
        _persist(session, f"/subject_sets/{set_id}/links/subjects", {"subjects": chunk})


def unlink(session: Session, set_id: str, subject_ids: Sequence[str]) -> None:
    """Take subjects out of a set; they are not deleted."""
    for start in range(0, len(subject_ids), LINK_SIZE):
        ids = ",".join(subject_ids[start : start + LINK_SIZE])
        try:
            session.write("DELETE", f"/subject_sets/{set_id}/links/subjects/{ids}")
        except OutcomeUnknownError:
            # Taking out what is out already does no harm.
            session.write("DELETE", f"/subject_sets/{set_id}/links/subjects/{ids}")


def _persist(session: Session, path: str, body: dict[str, Any]) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            session.write("POST", path, body)
            return
        except ZooniverseError as error:
            again = error.status == 409 or isinstance(error, OutcomeUnknownError)
            if attempt == ATTEMPTS or not again:
                raise
            log.warning("POST %s failed (%s), trying again", path, error.message)
            time.sleep(session.pause * attempt)


def linked_sets(session: Session, workflow_id: int) -> list[str]:
    """The subject sets that volunteers of a workflow see."""
    raw = session.get(f"/workflows/{workflow_id}").body["workflows"][0]
    return list(raw["links"].get("subject_sets", []))


def publish(session: Session, workflow_id: int, set_id: str) -> None:
    """Show a set to volunteers. Linking one that is linked already is a 400: look first."""
    if set_id in linked_sets(session, workflow_id):
        return
    try:
        path = f"/workflows/{workflow_id}/links/subject_sets"
        session.write("POST", path, {"subject_sets": [set_id]})
    except OutcomeUnknownError:
        if set_id not in linked_sets(session, workflow_id):
            raise


def withdraw(session: Session, workflow_id: int, set_id: str) -> None:
    """Take a set back from volunteers; nothing is deleted."""
    if set_id not in linked_sets(session, workflow_id):
        return
    try:
        session.write("DELETE", f"/workflows/{workflow_id}/links/subject_sets/{set_id}")
    except OutcomeUnknownError:
        if set_id in linked_sets(session, workflow_id):
            raise


def _subject(raw: dict[str, Any]) -> Subject:
    urls = tuple(str(url) for location in raw["locations"] for url in location.values())
    return Subject(raw["id"], raw.get("metadata") or {}, urls)
