"""The log-in: who may come in, what is tried again, and what is never sent twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from zoo_bridge.errors import (
    NotSentError,
    OutcomeUnknownError,
    RefusedError,
    SettingsError,
    SwitchedOffError,
    ZooniverseError,
)
from zoo_bridge.sandbox.server import Sandbox
from zoo_bridge.sandbox.world import CLIENT_ID, CLIENT_SECRET, SLUG
from zoo_bridge.zooniverse.project import find_access, find_account, find_project
from zoo_bridge.zooniverse.session import Session

SET = {"subject_sets": {"display_name": "a set", "links": {"project": "1"}}}


def test_the_project_and_the_account_are_found(session: Session) -> None:
    project = find_project(session, SLUG, 1)
    assert (project.name, project.workflow.limit) == ("Sandbox Galaxies", 12)
    account = find_account(session)
    assert (account.login, account.left(), account.left(9_990)) == ("sandbox", 10_000, 10)


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
            updated_at=box.state.stamp(),
        )
    assert len(session.list("subject_sets", project_id=1)) == 230


def test_unknown_projects_and_workflows_say_what_there_is(session: Session) -> None:
    with pytest.raises(SettingsError, match="no project nobody/nothing"):
        find_project(session, "nobody/nothing", 1)
    with pytest.raises(SettingsError, match="no workflow 77") as caught:
        find_project(session, SLUG, 77)
    assert "it has 1" in caught.value.hint


BLIPS = [
    {"what": "status", "status": 500},
    {"what": "status", "status": 502},
    {"what": "status", "status": 503},
    {"what": "status", "status": 504},
    {"what": "html"},
    {"what": "reset"},
]


@pytest.mark.parametrize("rule", BLIPS)
@pytest.mark.parametrize("path", ["/users/sign_in", "/oauth/token"])
def test_signing_in_is_tried_again(
    box: Sandbox,
    fault: Callable[..., None],
    rule: dict,  # type: ignore[type-arg]
    path: str,
) -> None:
    fault(path=path, times=2, **rule)
    assert find_account(Session(box.urls["panoptes"], 5, 0.01)).login == "sandbox"
    fault(path=path, times=None, **rule)
    with pytest.raises(ZooniverseError) as caught:
        Session(box.urls["panoptes"], 5, 0.01)
    # The password is right: nobody is to correct it.
    assert "PASSWORD" not in str(caught.value)
    assert caught.value.exit_code == 1


def test_an_application_that_nobody_knows_is_a_setting(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PANOPTES_PASSWORD")
    monkeypatch.setenv("PANOPTES_CLIENT_ID", "nobody")
    monkeypatch.setenv("PANOPTES_CLIENT_SECRET", "a secret that is never shown")
    with pytest.raises(SettingsError, match="is unknown or may not sign in in this way") as caught:
        Session(box.urls["panoptes"], 5, 0.01)
    assert "Correct PANOPTES_CLIENT_ID" in caught.value.hint
    assert "never shown" not in str(caught.value)


def test_a_password_is_not_sent_with_the_id_of_ones_own_application(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PANOPTES_CLIENT_ID", CLIENT_ID)
    monkeypatch.setenv("PANOPTES_CLIENT_SECRET", CLIENT_SECRET)
    assert find_account(Session(box.urls["panoptes"], 5, 0.01)).login == "sandbox"


def test_a_scope_that_is_missing_is_named(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PANOPTES_PASSWORD")
    monkeypatch.setenv("PANOPTES_CLIENT_ID", CLIENT_ID)
    monkeypatch.setenv("PANOPTES_CLIENT_SECRET", CLIENT_SECRET)
    with box.state.write() as db:
        db.execute(
            "UPDATE applications SET scopes = 'public project' WHERE client_id = ?", (CLIENT_ID,)
        )
    session = Session(box.urls["panoptes"], 5, 0.01)
    with pytest.raises(ZooniverseError, match="403: an empty answer") as caught:
        session.write("POST", "/subjects", {"subjects": {"links": {"project": "1"}}})
    assert "needs project, subject and classification" in caught.value.hint
    # The token itself says so, before anything is tried.
    access = find_access(session, "sandbox/galaxies", 1)
    assert not access.may_change
    with pytest.raises(RefusedError, match="lacks the scope subject and classification") as refused:
        access.require_rights()
    assert "Give the application of PANOPTES_CLIENT_ID the scopes" in refused.value.hint


def test_whose_rights_are_wanting_is_said(box: Sandbox, session: Session) -> None:
    with box.state.write() as db:
        db.execute("UPDATE projects SET owner_id = 99")
    body = {"subjects": {"locations": ["image/png"], "metadata": {}, "links": {"project": "1"}}}
    with pytest.raises(ZooniverseError) as caught:
        session.write("POST", "/subjects", body)
    assert caught.value.status == 422
    assert caught.value.hint.startswith("Perhaps sandbox has no rights there: only the project's")
    with pytest.raises(ZooniverseError) as caught:
        session.get("/projects/1/subjects_export")
    assert caught.value.status == 404
    assert "or sandbox has no rights to it" in caught.value.hint


def test_what_is_switched_off_is_an_answer_and_no_doubt(box: Sandbox, session: Session) -> None:
    box.state.switch("uploads", False)
    body = {"subjects": {"locations": [], "links": {"project": "1"}}}
    with pytest.raises(SwitchedOffError, match="temporarily disabled"):
        session.write("POST", "/subjects", body)


def test_what_was_never_sent_is_no_doubt_either(box: Sandbox, session: Session) -> None:
    box.stop()
    with pytest.raises(NotSentError):
        session.write("POST", "/subject_sets", SET)


def test_threads_have_an_answer_each_and_one_log_in(box: Sandbox, session: Session) -> None:
    """Answers are not mixed up, calls are all counted, and an ended token is renewed once."""
    before = session.calls
    made = len(box.state.all("SELECT * FROM tokens"))
    box.state.advance(3 * 3600)

    def ask(number: int) -> tuple[int, str]:
        name = f"set {number}"
        body = {"subject_sets": {"display_name": name, "links": {"project": "1"}}}
        answer = session.write("POST", "/subject_sets", body).body["subject_sets"][0]
        try:
            session.get(f"/workflows/{1000 + number}")
        except ZooniverseError as error:
            return error.status, f"{answer['display_name']}, {error.reason}"
        raise AssertionError("there is no such workflow")

    with ThreadPoolExecutor(8) as crowd:
        told = list(crowd.map(ask, range(40)))
    assert told == [
        (404, f"set {n}, Could not find workflow with id='{1000 + n}'") for n in range(40)
    ]
    renewed = len(box.state.all("SELECT * FROM tokens")) - made
    assert renewed == 1
    assert 80 <= session.calls - before <= 88
