"""Subject sets and subjects, when the server misbehaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import requests

from zoo_bridge.errors import OutcomeUnknownError, ZooniverseError
from zoo_bridge.sandbox.server import Sandbox
from zoo_bridge.zooniverse import subjects
from zoo_bridge.zooniverse.session import Session

IMAGE = b"\xff\xd8\xff and a galaxy"
MIME = "image/jpeg"


@pytest.mark.parametrize("what", ["committed", "reset-after"])
def test_a_set_is_made_once_though_its_answer_is_lost(
    box: Sandbox, session: Session, fault: Callable[..., None], what: str
) -> None:
    fault(method="POST", path="/api/subject_sets", what=what)
    first = subjects.create_set(session, 1, "batch", {})
    assert subjects.create_set(session, 1, "batch", {}) == first
    assert len(box.state.all("SELECT * FROM subject_sets")) == 1


@pytest.mark.parametrize(
    "rule",
    [
        {"what": "status", "status": 500},
        {"what": "status", "status": 403},
        {"what": "reset"},
        {"what": "lose"},
    ],
)
def test_an_image_counts_when_it_can_be_fetched_back(
    session: Session, fault: Callable[..., None], rule: dict[str, Any]
) -> None:
    set_id = subjects.create_set(session, 1, "batch", {})
    subject = subjects.create(session, 1, set_id, {"#zoo_bridge_id": "G"}, MIME)
    fault(server="media", method="PUT", times=2, **rule)
    subjects.put_image(session, subject, IMAGE, MIME)
    (member,) = subjects.list_members(session, set_id)
    assert requests.get(member.urls[0], timeout=5).content == IMAGE
    fault(server="media", method="PUT", times=None, **rule)
    other = subjects.create(session, 1, set_id, {"#zoo_bridge_id": "H"}, MIME)
    with pytest.raises(ZooniverseError, match="did not arrive"):
        subjects.put_image(session, other, IMAGE, MIME)


def test_an_address_that_ended_is_renewed(box: Sandbox, session: Session) -> None:
    set_id = subjects.create_set(session, 1, "batch", {})
    subject = subjects.create(session, 1, set_id, {"#zoo_bridge_id": "G"}, MIME)
    box.state.advance(30 * 60)
    subjects.put_image(session, subject, IMAGE, MIME)
    (member,) = subjects.list_members(session, set_id)
    assert subjects.has_image(session, member.urls[0], IMAGE)


def test_a_create_without_an_answer_is_left_to_the_caller(
    box: Sandbox, session: Session, fault: Callable[..., None]
) -> None:
    set_id = subjects.create_set(session, 1, "batch", {})
    fault(method="POST", path="/api/subjects", what="committed")
    with pytest.raises(OutcomeUnknownError):
        subjects.create(session, 1, set_id, {"#zoo_bridge_id": "G"}, MIME)
    assert [m.metadata["#zoo_bridge_id"] for m in subjects.list_members(session, set_id)] == ["G"]


def test_links_go_through_a_stale_object(session: Session, fault: Callable[..., None]) -> None:
    set_id = subjects.create_set(session, 1, "batch", {})
    made = [subjects.create(session, 1, set_id, {"n": n}, MIME).subject_id for n in range(3)]
    path = "/links/subjects"
    fault(method="POST", path=path, what="status", status=409, times=2)
    subjects.link(session, set_id, made)
    fault(method="POST", path=path, what="status", status=409, times=None)
    with pytest.raises(ZooniverseError, match="409"):
        subjects.link(session, set_id, made)


def test_publishing_twice_and_withdrawing_twice_do_no_harm(
    session: Session, fault: Callable[..., None]
) -> None:
    set_id = subjects.create_set(session, 1, "batch", {})
    fault(method="POST", path="/api/workflows/1/links", what="committed")
    subjects.publish(session, 1, set_id)
    subjects.publish(session, 1, set_id)
    assert subjects.linked_sets(session, 1) == [set_id]
    fault(method="DELETE", path="/api/workflows/1/links", what="reset-after")
    subjects.withdraw(session, 1, set_id)
    subjects.withdraw(session, 1, set_id)
    assert subjects.linked_sets(session, 1) == []
