"""Subject sets and subjects, when the server misbehaves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from zoo_bridge.errors import OutcomeUnknownError, ZooniverseError
from zoo_bridge.sandbox.server import Sandbox
from zoo_bridge.sandbox.world import SLUG
from zoo_bridge.zooniverse import subjects
from zoo_bridge.zooniverse.project import find_project
from zoo_bridge.zooniverse.session import Session

IMAGE = b"\xff\xd8\xff and a galaxy"
MIME = "image/jpeg"
PICTURE = subjects.Picture(IMAGE, MIME)


@pytest.mark.parametrize("what", ["committed", "reset-after"])
def test_a_set_is_made_once_though_its_answer_is_lost(
    box: Sandbox, session: Session, fault: Callable[..., None], what: str
) -> None:
    fault(method="POST", path="/api/subject_sets", what=what)
    first = subjects.create_set(session, 1, "batch", "b1")
    assert subjects.create_set(session, 1, "batch", "b1") == first
    assert len(box.state.all("SELECT * FROM subject_sets")) == 1


def make(session: Session, set_id: str, *names: str) -> list[subjects.Subject]:
    return [subjects.create(session, 1, set_id, {"#zoo_bridge_id": name}, [MIME]) for name in names]


@pytest.fixture
def pictures() -> Iterator[subjects.Pictures]:
    with subjects.Pictures(4, 5, 0.01) as made:
        yield made


@pytest.mark.parametrize("what", [{"what": "status", "status": 500}, {"what": "reset"}])
def test_a_picture_is_sent_again_when_the_store_is_in_trouble(
    session: Session, fault: Callable[..., None], pictures: subjects.Pictures, what: dict[str, Any]
) -> None:
    set_id = subjects.create_set(session, 1, "batch", "b1")
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
    set_id = subjects.create_set(session, 1, "batch", "b1")
    lost, wrong, two = (
        subjects.create(session, 1, set_id, {"#zoo_bridge_id": name}, [MIME] * frames)
        for name, frames in zip("abc", (1, 1, 2), strict=True)
    )
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
    set_id = subjects.create_set(session, 1, "batch", "b1")
    (subject,) = make(session, set_id, "G")
    box.state.advance(30 * 60)
    assert "403" in pictures.put(subject.urls, [PICTURE]).result()
    fresh = subjects.fresh_addresses(session, subject.subject_id)
    # Of the same files: what somebody may have stored there is not taken away.
    assert [url.partition("?")[0] for url in fresh] == [
        url.partition("?")[0] for url in subject.urls
    ]
    assert pictures.put(fresh, [PICTURE]).result() == ""
    (member,) = subjects.list_members(session, set_id)
    assert pictures.are_there(member.urls, [PICTURE]).result()


def test_one_subject_is_created_by_a_call(box: Sandbox, session: Session) -> None:
    set_id = subjects.create_set(session, 1, "batch", "b1")
    with pytest.raises(ZooniverseError, match="Locations is invalid"):
        subjects.create(session, 1, set_id, {}, ["image/fits"])
    assert subjects.list_members(session, set_id) == []
    made = make(session, set_id, "a", "b", "c")
    assert [each.metadata["#zoo_bridge_id"] for each in made] == ["a", "b", "c"]
    assert len(box.state.all("SELECT * FROM subjects")) == 3


def test_members_of_a_set_that_is_gone_are_not_an_empty_list(session: Session) -> None:
    with pytest.raises(ZooniverseError, match="Could not find subject_set"):
        subjects.list_members(session, "99")


def test_the_newest_members_are_read_down_to_a_number(session: Session) -> None:
    set_id = subjects.create_set(session, 1, "batch", "b1")
    ids = [int(each.subject_id) for each in make(session, set_id, *"abcdef")]
    before = session.calls
    newest = subjects.newest_members(session, set_id, ids[3])
    assert [int(each.subject_id) for each in newest] == [ids[5], ids[4]]
    assert session.calls == before + 1
    assert len(subjects.newest_subjects(session, 1, 0, 4)) == 5


def test_of_two_sets_of_one_name_the_first_that_names_the_batch_is_ours(
    box: Sandbox, session: Session
) -> None:
    now = box.state.stamp()
    for batch in ("somebody else's", "b1", "b1"):
        about = json.dumps({subjects.BATCH_KEY: batch})
        box.state.insert(
            "subject_sets",
            project_id=1,
            display_name="batch",
            metadata=about,
            created_at=now,
            updated_at=now,
        )
    assert subjects.create_set(session, 1, "batch", "b1") == "2"
    with pytest.raises(ZooniverseError, match="has already been taken"):
        subjects.create_set(session, 1, "batch", "b2")


def test_a_create_without_an_answer_is_left_to_the_caller(
    session: Session, fault: Callable[..., None]
) -> None:
    set_id = subjects.create_set(session, 1, "batch", "b1")
    fault(method="POST", path="/api/subjects", what="committed")
    with pytest.raises(OutcomeUnknownError):
        make(session, set_id, "G")
    assert [m.metadata["#zoo_bridge_id"] for m in subjects.list_members(session, set_id)] == ["G"]


def test_what_leaves_a_set_is_not_deleted(box: Sandbox, session: Session) -> None:
    set_id = subjects.create_set(session, 1, "batch", "b1")
    made = [each.subject_id for each in make(session, set_id, "a", "b")]
    subjects.unlink(session, set_id, made[:1])
    subjects.unlink(session, set_id, made[:1])
    assert [m.subject_id for m in subjects.list_members(session, set_id)] == made[1:]
    assert len(box.state.all("SELECT * FROM subjects")) == 2


def test_links_go_through_a_stale_object(session: Session, fault: Callable[..., None]) -> None:
    set_id = subjects.create_set(session, 1, "batch", "b1")
    made = [each.subject_id for each in make(session, set_id, "a", "b", "c")]
    path = "/links/subjects"
    fault(method="POST", path=path, what="status", status=409, times=2)
    subjects.link(session, set_id, made)
    fault(method="POST", path=path, what="status", status=409, times=None)
    with pytest.raises(ZooniverseError, match="409"):
        subjects.link(session, set_id, made)


def linked(box: Sandbox) -> list[int]:
    return [row["subject_set_id"] for row in box.state.all("SELECT * FROM workflow_sets")]


def test_publishing_and_withdrawing_say_whether_they_changed_anything(
    box: Sandbox, session: Session, fault: Callable[..., None]
) -> None:
    set_id = subjects.create_set(session, 1, "batch", "b1")
    assert subjects.publish(session, 1, set_id)
    assert not subjects.publish(session, 1, set_id)
    assert linked(box) == [int(set_id)]
    assert subjects.withdraw(session, 1, set_id)
    assert not subjects.withdraw(session, 1, set_id)
    assert linked(box) == []
    # Carried out, and the answer was lost: said again, it proves itself.
    fault(method="POST", path="/api/workflows/1/links", what="committed")
    subjects.publish(session, 1, set_id)
    assert linked(box) == [int(set_id)]
    fault(method="DELETE", path="/api/workflows/1/links", what="reset-after")
    subjects.withdraw(session, 1, set_id)
    assert linked(box) == []


def test_no_stale_read_keeps_a_set_from_being_shown_or_taken_back(
    box: Sandbox, session: Session
) -> None:
    """Within a second of another change, the workflow reads as it was before it."""
    set_id = subjects.create_set(session, 1, "batch", "b1")
    box.state.stop_clock(box.state.time())
    subjects.publish(session, 1, set_id)
    assert find_project(session, SLUG, 1).workflow.subject_sets == (set_id,)
    subjects.withdraw(session, 1, set_id)
    assert find_project(session, SLUG, 1).workflow.subject_sets == (set_id,)
    subjects.publish(session, 1, set_id)
    assert linked(box) == [int(set_id)]
    subjects.withdraw(session, 1, set_id)
    assert linked(box) == []


def test_want_of_rights_is_no_proof_of_anything(box: Sandbox, session: Session) -> None:
    set_id = subjects.create_set(session, 1, "batch", "b1")
    subjects.publish(session, 1, set_id)
    with box.state.write() as db:
        db.execute("UPDATE projects SET owner_id = 99")
    with pytest.raises(ZooniverseError, match="Could not find workflow"):
        subjects.withdraw(session, 1, set_id)
    with pytest.raises(ZooniverseError, match="Could not find workflow"):
        subjects.publish(session, 1, set_id)
    assert linked(box) == [int(set_id)]
