"""Subject sets and subjects, when the server misbehaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from zoo_bridge.errors import OutcomeUnknownError, ZooniverseError
from zoo_bridge.sandbox.server import Sandbox
from zoo_bridge.zooniverse import subjects
from zoo_bridge.zooniverse.session import Session

IMAGE = b"\xff\xd8\xff and a galaxy"
MIME = "image/jpeg"
PICTURE = subjects.Picture(IMAGE, MIME)


@pytest.mark.parametrize("what", ["committed", "reset-after"])
def test_a_set_is_made_once_though_its_answer_is_lost(
    box: Sandbox, session: Session, fault: Callable[..., None], what: str
) -> None:
    fault(method="POST", path="/api/subject_sets", what=what)
    first = subjects.create_set(session, 1, "batch", {})
    assert subjects.create_set(session, 1, "batch", {}) == first
    assert len(box.state.all("SELECT * FROM subject_sets")) == 1


def make(session: Session, set_id: str, *names: str) -> list[subjects.Subject]:
    wanted = [({"#zoo_bridge_id": name}, [MIME]) for name in names]
    return subjects.create(session, 1, set_id, wanted)


@pytest.fixture
def pictures() -> Iterator[subjects.Pictures]:
    with subjects.Pictures(4, 5, 0.01) as made:
        yield made


@pytest.mark.parametrize("what", [{"what": "status", "status": 500}, {"what": "reset"}])
def test_a_picture_is_sent_again_when_the_store_is_in_trouble(
    session: Session, fault: Callable[..., None], pictures: subjects.Pictures, what: dict[str, Any]
) -> None:
    set_id = subjects.create_set(session, 1, "batch", {})
    one, other = make(session, set_id, "G", "H")
    fault(server="media", method="PUT", times=2, **what)
    assert pictures.put(one.urls, [PICTURE]).result() == ""
    (member, _) = subjects.list_members(session, set_id)
    assert pictures.are_there(member.urls, [PICTURE]).result()
    fault(server="media", method="PUT", times=None, **what)
    assert pictures.put(other.urls, [PICTURE]).result() != ""


def test_what_the_store_lost_or_holds_wrong_is_seen(
    session: Session, fault: Callable[..., None], pictures: subjects.Pictures
) -> None:
    set_id = subjects.create_set(session, 1, "batch", {})
    wanted = [
        ({"#zoo_bridge_id": name}, [MIME] * frames)
        for name, frames in zip("abc", (1, 1, 2), strict=True)
    ]
    lost, wrong, two = subjects.create(session, 1, set_id, wanted)
    fault(server="media", method="PUT", what="lose")
    assert pictures.put(lost.urls, [PICTURE]).result() == ""
    assert pictures.put(wrong.urls, [subjects.Picture(b"another", MIME)]).result() == ""
    frames = [PICTURE, subjects.Picture(b"second frame", MIME)]
    assert pictures.put(two.urls, frames).result() == ""
    shown = {m.metadata["#zoo_bridge_id"]: m.urls for m in subjects.list_members(session, set_id)}
    assert not pictures.are_there(shown["a"], [PICTURE]).result()
    assert not pictures.are_there(shown["b"], [PICTURE]).result()
    assert pictures.are_there(shown["c"], frames).result()
    assert not pictures.are_there(shown["c"], frames[::-1]).result()
    assert not pictures.are_there(shown["c"], frames[:1]).result()


def test_an_address_that_ended_is_renewed(
    box: Sandbox, session: Session, pictures: subjects.Pictures
) -> None:
    set_id = subjects.create_set(session, 1, "batch", {})
    (subject,) = make(session, set_id, "G")
    box.state.advance(30 * 60)
    assert "403" in pictures.put(subject.urls, [PICTURE]).result()
    fresh = subjects.fresh_addresses(session, subject.subject_id, [MIME])
    assert pictures.put(fresh, [PICTURE]).result() == ""
    (member,) = subjects.list_members(session, set_id)
    assert pictures.are_there(member.urls, [PICTURE]).result()


def test_a_list_is_created_whole_or_not_at_all(box: Sandbox, session: Session) -> None:
    set_id = subjects.create_set(session, 1, "batch", {})
    with pytest.raises(ZooniverseError, match="not an accepted type"):
        subjects.create(session, 1, set_id, [({}, [MIME]), ({}, ["image/fits"])])
    assert subjects.list_members(session, set_id) == []
    made = make(session, set_id, "a", "b", "c")
    assert [each.metadata["#zoo_bridge_id"] for each in made] == ["a", "b", "c"]
    assert len(box.state.all("SELECT * FROM subjects")) == 3


def test_a_create_without_an_answer_is_left_to_the_caller(
    session: Session, fault: Callable[..., None]
) -> None:
    set_id = subjects.create_set(session, 1, "batch", {})
    fault(method="POST", path="/api/subjects", what="committed")
    with pytest.raises(OutcomeUnknownError):
        make(session, set_id, "G")
    assert [m.metadata["#zoo_bridge_id"] for m in subjects.list_members(session, set_id)] == ["G"]


def test_what_leaves_a_set_is_not_deleted(box: Sandbox, session: Session) -> None:
    set_id = subjects.create_set(session, 1, "batch", {})
    made = [each.subject_id for each in make(session, set_id, "a", "b")]
    subjects.unlink(session, set_id, made[:1])
    subjects.unlink(session, set_id, made[:1])
    assert [m.subject_id for m in subjects.list_members(session, set_id)] == made[1:]
    assert len(box.state.all("SELECT * FROM subjects")) == 2


def test_links_go_through_a_stale_object(session: Session, fault: Callable[..., None]) -> None:
    set_id = subjects.create_set(session, 1, "batch", {})
    made = [each.subject_id for each in make(session, set_id, "a", "b", "c")]
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
