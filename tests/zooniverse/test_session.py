"""The log-in: who may come in, what is tried again, and what is never sent twice."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from zoo_bridge.errors import OutcomeUnknownError, SettingsError, ZooniverseError
from zoo_bridge.sandbox.server import Sandbox
from zoo_bridge.sandbox.world import CLIENT_ID, CLIENT_SECRET, SLUG
from zoo_bridge.zooniverse.project import find_account, find_project
from zoo_bridge.zooniverse.session import Session

SET = {"subject_sets": {"display_name": "a set", "links": {"project": "1"}}}


def test_the_project_and_the_account_are_found(session: Session) -> None:
    project = find_project(session, SLUG, 1)
    assert (project.name, project.workflow.limit) == ("Sandbox Galaxies", 12)
    account = find_account(session)
    assert (account.login, account.left) == ("sandbox", 10_000)


def test_client_credentials_do_as_well(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PANOPTES_PASSWORD")
    monkeypatch.setenv("PANOPTES_CLIENT_ID", CLIENT_ID)
    monkeypatch.setenv("PANOPTES_CLIENT_SECRET", CLIENT_SECRET)
    assert find_account(Session(box.urls["panoptes"], 5)).login == "sandbox"
    monkeypatch.setenv("PANOPTES_CLIENT_SECRET", "wrong")
    with pytest.raises(SettingsError, match="did not let"):
        Session(box.urls["panoptes"], 5)


def test_wrong_and_missing_credentials_are_settings(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PANOPTES_PASSWORD", "wrong-password")
    with pytest.raises(SettingsError, match="did not let sandbox in: Invalid email") as caught:
        Session(box.urls["panoptes"], 5)
    assert "wrong-password" not in str(caught.value)
    monkeypatch.delenv("PANOPTES_USERNAME")
    with pytest.raises(SettingsError, match="no Zooniverse credentials"):
        Session(box.urls["panoptes"], 5)


def test_another_server_or_none_is_said(box: Sandbox) -> None:
    with pytest.raises(ZooniverseError, match="did not answer as Panoptes does"):
        Session(box.urls["s3"], 5)
    with pytest.raises(ZooniverseError, match="No answer from"):
        Session("http://127.0.0.1:9", 5)


@pytest.mark.parametrize(
    "rule", [{"what": "status", "status": 502}, {"what": "html"}, {"what": "reset"}]
)
def test_reads_are_tried_again(session: Session, fault: Callable[..., None], rule: dict) -> None:  # type: ignore[type-arg]
    fault(path="/api/projects", times=2, **rule)
    assert find_project(session, SLUG, 1).project_id == 1
    fault(path="/api/projects", times=None, **rule)
    with pytest.raises(ZooniverseError):
        find_project(session, SLUG, 1)


def test_a_silent_server_is_not_waited_for_for_ever(
    box: Sandbox, fault: Callable[..., None]
) -> None:
    session = Session(box.urls["panoptes"], timeout=0.3, pause=0.01)
    fault(path="/api/me", times=None, what="delay", seconds=2)
    began = time.monotonic()
    with pytest.raises(ZooniverseError, match="it took too long"):
        find_account(session)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "rule",
    [
        {"what": "status", "status": 500},
        {"what": "committed", "status": 504},
        {"what": "reset"},
        {"what": "reset-after"},
        {"what": "html"},
    ],
)
def test_a_write_without_an_answer_is_never_sent_twice(
    box: Sandbox,
    session: Session,
    fault: Callable[..., None],
    rule: dict,  # type: ignore[type-arg]
) -> None:
    fault(method="POST", path="/api/subject_sets", **rule)
    with pytest.raises(OutcomeUnknownError):
        session.write("POST", "/subject_sets", SET)
    committed = rule["what"] in ("committed", "reset-after")
    assert len(box.state.all("SELECT * FROM subject_sets")) == int(committed)


def test_a_write_under_an_expired_token_is_sent_again_after_a_new_log_in(
    box: Sandbox, session: Session, fault: Callable[..., None]
) -> None:
    fault(method="POST", path="/api/subject_sets", what="empty", status=401)
    assert session.write("POST", "/subject_sets", SET).status == 201
    fault(method="POST", path="/api/subject_sets", what="empty", status=401, times=None)
    with pytest.raises(ZooniverseError, match="401"):
        session.write("POST", "/subject_sets", SET)
    assert len(box.state.all("SELECT * FROM subject_sets")) == 1


def test_all_pages_are_read(box: Sandbox, session: Session) -> None:
    for number in range(230):
        box.state.insert(
            "subject_sets",
            project_id=1,
            display_name=f"set {number}",
            metadata="{}",
            created_at=box.state.stamp(),
        )
    assert len(session.list("subject_sets", project_id=1)) == 230


def test_unknown_projects_and_workflows_say_what_there_is(session: Session) -> None:
    with pytest.raises(SettingsError, match="no project nobody/nothing"):
        find_project(session, "nobody/nothing", 1)
    with pytest.raises(SettingsError, match="no workflow 77") as caught:
        find_project(session, SLUG, 77)
    assert "it has 1" in caught.value.hint
