"""Subject sets and subjects: created once, with their images, into a set nobody sees yet.

The members of the set are the record of what was created. Each carries the object id under a key
of its own, so that after any interruption they are read back and compared, and no create is ever
repeated in the dark.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import requests

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


def find_set(session: Session, project_id: int, name: str) -> str | None:
    """The id of the project's set of a name, which is unique in it."""
    found = session.list("subject_sets", project_id=project_id, display_name=name)
    return next((item["id"] for item in found if item["display_name"] == name), None)


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
    session: Session, project_id: int, set_id: str, metadata: dict[str, Any], mime: str
) -> Subject:
    """Create one subject, into a set in the same transaction.

    Raises
    ------
    OutcomeUnknownError
        If it may or may not exist now: read the members before anything else.
    ZooniverseError
        If the server said no.
    """
    links = {"project": str(project_id), "subject_sets": [set_id]}
    body = {"subjects": {"locations": [mime], "metadata": metadata, "links": links}}
    return _subject(session.write("POST", "/subjects", body).body["subjects"][0])


def fresh_address(session: Session, subject_id: str, mime: str) -> str:
    """A new signed address for a subject's image, when the first one ended before its use."""
    reply = session.get(f"/subjects/{subject_id}")
    body = {"subjects": {"locations": [mime]}}
    changed = session.write("PUT", f"/subjects/{subject_id}", body, etag=reply.etag)
    return _subject(changed.body["subjects"][0]).urls[0]


def put_image(session: Session, subject: Subject, image: bytes, mime: str) -> None:
    """Send a subject's image, and fetch it back: it counts when the same bytes come.

    Parameters
    ----------
    session : Session
        The log-in, for a fresh address.
    subject : Subject
        Just created, or one whose image is missing.
    image : bytes
        The file.
    mime : str
        Its type.

    Raises
    ------
    ZooniverseError
        If the image is not there after several attempts.
    """
    url = subject.urls[0]
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt or "sig=" not in url:
            time.sleep(session.pause * attempt / 2)
            url = fresh_address(session, subject.subject_id, mime)
        try:
            headers = {"Content-Type": mime, **PUT_HEADERS}
            answer = requests.put(url, data=image, headers=headers, timeout=session.timeout)
            reason = f"the blob store answered {answer.status_code}"
            if answer.ok and has_image(session, public_address(session, subject), image):
                return
        except requests.RequestException as error:
            reason = f"{type(error).__name__} while sending"
        log.warning("image of subject %s: %s, trying again", subject.subject_id, reason)
    raise ZooniverseError(
        f"The image of subject {subject.subject_id} did not arrive: {reason}.",
        "Run the same command again; the subject stays unpublished until its image is there.",
    )


def public_address(session: Session, subject: Subject) -> str:
    """Where everybody can see a subject's image."""
    reply = session.get(f"/subjects/{subject.subject_id}")
    return _subject(reply.body["subjects"][0]).urls[0]


def has_image(session: Session, url: str, image: bytes) -> bool:
    """Whether an address gives just these bytes."""
    try:
        answer = requests.get(url, timeout=session.timeout)
    except requests.RequestException:
        return False
    return answer.ok and answer.content == image


def link(session: Session, set_id: str, subject_ids: Sequence[str]) -> None:
    """Put subjects into a set; those already there do no harm.

    The call is idempotent, so it is the one write that may be sent again.
    """
    for start in range(0, len(subject_ids), LINK_SIZE):
        chunk = list(subject_ids[start : start + LINK_SIZE])
        _persist(session, f"/subject_sets/{set_id}/links/subjects", {"subjects": chunk})


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
