"""Subject sets and subjects: created once, with their images, into a set nobody sees yet.

The members of the set are the record of what was created. Each carries the object id under a key
of its own, so that after any interruption they are read back and compared, and no create is ever
repeated in the dark.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self

import requests
from requests.adapters import HTTPAdapter

from zoo_bridge.errors import OutcomeUnknownError, ZooniverseError
from zoo_bridge.retry import growing, retry
from zoo_bridge.zooniverse.session import PAGE_SIZE, Session

log = logging.getLogger(__name__)

LINK_SIZE = 100
ATTEMPTS = 4
# How the reasons begin that say that the store is in trouble, and not the picture.
STORE_AWAY = "the blob store is away"
PUT_HEADERS = {"x-ms-blob-type": "BlockBlob"}
# Under which a set says whose batch it is.
BATCH_KEY = "#zoo_bridge"
# What the server says of a call that had been done already.
ALREADY_SHOWN = "Workflow has already been taken"
NOT_SHOWN = "Couldn't find SubjectSet"


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


def find_set(session: Session, project_id: int, name: str, batch: str) -> str | None:
    """The id of a batch's set: of several of its name and batch, the one that was made first.

    Two calls at the same moment can both be given a name, and others may have taken it.

    Parameters
    ----------
    session : Session
        A log-in that may read the project's sets.
    project_id : int
        The project's number on Zooniverse.
    name : str
        The set's name, which zoo_bridge keeps in its metadata.
    batch : str
        What the set says of itself under `BATCH_KEY`.
    """
    found = session.list("subject_sets", project_id=project_id, display_name=name, sort="id")
    ours = [
        int(item["id"])
        for item in found
        if item["display_name"] == name and (item.get("metadata") or {}).get(BATCH_KEY) == batch
    ]
    return str(min(ours)) if ours else None


def create_set(session: Session, project_id: int, name: str, batch: str) -> str:
    """Make a subject set, or find the one that an earlier, interrupted run made.

    Parameters
    ----------
    session : Session
        A log-in that may write to the project.
    project_id : int
        The project's number on Zooniverse.
    name : str
        Unique in the project, as far as the server sees to that.
    batch : str
        Kept with the set.

    Returns
    -------
    str
        Its id.

    Raises
    ------
    ZooniverseError
        If the server said no, or the name is taken by a set that is not this batch's.
    """
    if existing := find_set(session, project_id, name, batch):
        return existing
    links, metadata = {"project": str(project_id)}, {BATCH_KEY: batch}
    body = {"subject_sets": {"display_name": name, "metadata": metadata, "links": links}}
    try:
        created: str = session.write("POST", "/subject_sets", body).body["subject_sets"][0]["id"]
        return created
    except ZooniverseError as error:
        if error.status != 400 and not isinstance(error, OutcomeUnknownError):
            raise
        if existing := find_set(session, project_id, name, batch):
            return existing
        raise


def list_members(session: Session, set_id: str) -> list[Subject]:
    """Every subject of a set, oldest first, with metadata and the addresses of its media.

    Raises
    ------
    ZooniverseError
        404 if there is no such set: the members of one that is gone are an empty list.
    """
    session.get(f"/subject_sets/{set_id}")
    return [_subject(item) for item in session.list("subjects", subject_set_id=set_id)]


def newest_members(session: Session, set_id: str, above: int) -> list[Subject]:
    """The subjects of a set whose numbers are greater than one, newest first.

    Numbers only grow, so that what was created after some moment has greater ones than all before;
    that is one page, as a rule.

    Parameters
    ----------
    session : Session
        A log-in that may read the set.
    set_id : str
        Of a set that is there.
    above : int
        Where to stop.
    """
    return list(_newest(session, above, subject_set_id=set_id))


def newest_subjects(session: Session, project_id: int, above: int, most: int) -> list[Subject]:
    """As `newest_members`, of a project; not more than so many and one."""
    return list(islice(_newest(session, above, project_id=project_id), most + 1))


def sample_members(session: Session, set_id: str, most: int) -> list[Subject]:
    """Some subjects of a set, the newest; none if it is gone."""
    return list(islice(_newest(session, 0, subject_set_id=set_id), most))


def _newest(session: Session, above: int, **query: Any) -> Iterator[Subject]:
    path, asked = "/subjects", {**query, "sort": "-id", "page_size": PAGE_SIZE}
    while path:
        body = session.get(path, **asked).body
        for item in body.get("subjects", []):
            if int(item["id"]) <= above:
                return
            yield _subject(item)
        path, asked = body.get("meta", {}).get("subjects", {}).get("next_href") or "", {}


def create(
    session: Session,
    project_id: int,
    set_id: str,
    metadata: dict[str, Any],
    mimes: Sequence[str],
) -> Subject:
    """Create one subject, into a set by the same transaction: the server takes no lists.

    Parameters
    ----------
    session : Session
        A log-in that may write to the project.
    project_id : int
        The project's number on Zooniverse.
    set_id : str
        The set that the subject is put into by the same request.
    metadata : dict
        Keys and texts of the subject; the object id among them.
    mimes : sequence of str
        Types of its frames.

    Returns
    -------
    Subject
        With the addresses to PUT its frames to, good for five minutes.

    Raises
    ------
    OutcomeUnknownError
        If it may or may not exist now: read the members before anything else.
    ZooniverseError
        If the server said no.
    """
    links = {"project": str(project_id), "subject_sets": [set_id]}
    body = {"locations": list(mimes), "metadata": metadata, "links": links}
    reply = session.write("POST", "/subjects", {"subjects": body})
    return _subject(reply.body["subjects"][0])


def fresh_addresses(session: Session, subject_id: str) -> tuple[str, ...]:
    """New signed addresses of a subject's files, when the first ones ended before their use.

    Sending a subject the metadata that it has answers with addresses of the same files; sending
    locations would make new files, and take away what is there.
    """
    place = f"/subjects/{subject_id}"
    reply = session.get(place)
    body = {"subjects": {"metadata": reply.body["subjects"][0]["metadata"]}}
    changed = session.write("PUT", place, body, etag=reply.etag)
    return _subject(changed.body["subjects"][0]).urls


class _StoreAwayError(requests.RequestException):
    """The blob store answered, and is in trouble: the status."""


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
        headers = {"Content-Type": picture.mime, **PUT_HEADERS}

        def send() -> str:
            answer = self._ask("PUT", url, data=picture.data, headers=headers)
            # An address that has ended does not become good by waiting.
            return "" if answer.ok else f"the blob store answered {answer.status_code}"

        try:
            return retry(send, ATTEMPTS, growing(self._pause / 2), requests.RequestException)
        except _StoreAwayError as error:
            return f"{STORE_AWAY}: it answered {error}"
        except requests.RequestException as error:
            return f"{STORE_AWAY}: {type(error).__name__} while sending"

    def _ask(self, verb: str, url: str, **options: Any) -> requests.Response:
        """The store's answer; raises if it is in trouble, or gives none."""
        with self._lock:
            self.calls += 1
        answer = self._http.request(verb, url, timeout=self._timeout, **options)
        if answer.status_code >= 500:
            raise _StoreAwayError(str(answer.status_code))
        return answer

    def _check_all(self, urls: list[str], pictures: list[Picture]) -> bool:
        pairs = zip(urls, pictures, strict=False)
        return len(urls) == len(pictures) and all(self._is_there(*pair) for pair in pairs)

    def _is_there(self, url: str, picture: Picture) -> bool:
        return self._get(url) == picture.data

    def _get(self, url: str) -> bytes | None:
        """What is at an address; None if nothing is, or the store does not answer."""
        pause, kind = growing(self._pause / 2), requests.RequestException
        try:
            answer = retry(lambda: self._ask("GET", url), 2, pause, kind)
        except requests.RequestException:
            return None
        return answer.content if answer.ok else None


def link(session: Session, set_id: str, subject_ids: Sequence[str]) -> None:
    """Put subjects into a set; those already there do no harm.

    Raises
    ------
    ZooniverseError
        422 if one of them does not exist, 404 if the set does not, or the account has no rights.
    """
    for start in range(0, len(subject_ids), LINK_SIZE):
        chunk = list(subject_ids[start : start + LINK_SIZE])
        _persist(session, "POST", f"/subject_sets/{set_id}/links/subjects", {"subjects": chunk})


def touch(session: Session, set_id: str) -> None:
    """Link nothing into a set: a write that does nothing, if the server takes writes.

    Raises
    ------
    ZooniverseError
        If it does not.
    """
    try:
        session.write("POST", f"/subject_sets/{set_id}/links/subjects", {"subjects": []})
    except ZooniverseError as error:
        # Another write was in its way: it does take them.
        if error.status != 409:
            raise


def unlink(session: Session, set_id: str, subject_ids: Sequence[str]) -> None:
    """Take subjects out of a set; they are not deleted."""
    for start in range(0, len(subject_ids), LINK_SIZE):
        ids = ",".join(subject_ids[start : start + LINK_SIZE])
        _persist(session, "DELETE", f"/subject_sets/{set_id}/links/subjects/{ids}")


def publish(session: Session, workflow_id: int, set_id: str) -> bool:
    """Show a set to volunteers; False if they saw it already.

    The call is always sent: what is read of a workflow may be five minutes old. Its answer is the
    proof, that it was done, or that it had been done already.

    Raises
    ------
    ZooniverseError
        If the set may not be shown by now.
    """
    path = f"/workflows/{workflow_id}/links/subject_sets"
    try:
        _persist(session, "POST", path, {"subject_sets": [set_id]})
    except ZooniverseError as error:
        if error.status != 400 or ALREADY_SHOWN not in error.reason:
            raise
        return False
    return True


def withdraw(session: Session, workflow_id: int, set_id: str) -> bool:
    """Take a set back from volunteers, nothing is deleted; False if they did not see it.

    Always sent, as `publish`.

    Raises
    ------
    ZooniverseError
        If volunteers may still see it.
    """
    try:
        _persist(session, "DELETE", f"/workflows/{workflow_id}/links/subject_sets/{set_id}")
    except ZooniverseError as error:
        if error.status != 404 or not error.reason.startswith(NOT_SHOWN):
            raise
        return False
    return True


def _persist(session: Session, verb: str, path: str, body: Any = None) -> None:
    """Say it until it is answered: links may be said twice, and side by side they collide."""
    retry(
        lambda: session.write(verb, path, body),
        ATTEMPTS,
        growing(session.pause),
        ZooniverseError,
        lambda error: isinstance(error, OutcomeUnknownError) or error.status == 409,
        f"{verb} {path}",
    )


def _subject(raw: dict[str, Any]) -> Subject:
    urls = tuple(str(url) for location in raw["locations"] for url in location.values())
    return Subject(raw["id"], raw.get("metadata") or {}, urls)
