"""The sandbox's Panoptes, asked by the real, unmodified panoptes-client and by plain requests."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from panoptes_client import Panoptes, Project, Subject, SubjectSet, User, Workflow
from panoptes_client.panoptes import PanoptesAPIException

from zoo_bridge.sandbox.server import Sandbox
from zoo_bridge.sandbox.world import CLIENT_ID, CLIENT_SECRET, LOGIN, PASSWORD, SLUG

DAY = 24 * 3600
HEADERS = {"Accept": "application/vnd.api+json; version=1", "Content-Type": "application/json"}


@pytest.fixture
def box(make_sandbox: Callable[..., Sandbox]) -> Sandbox:
    return make_sandbox(galaxies=30, votes=5)


@pytest.fixture
def client(box: Sandbox) -> Iterator[Panoptes]:
    with Panoptes(endpoint=box.urls["panoptes"], username=LOGIN, password=PASSWORD) as client:
        yield client


@pytest.fixture
def token(box: Sandbox) -> str:
    """A bearer token by client credentials, for requests that the client would not send."""
    form = {
        "grant_type": "client_credentials",
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
    }
    url = f"{box.urls['panoptes']}/oauth/token"
    return requests.post(url, data=form, timeout=10).json()["access_token"]


@pytest.fixture
def call(box: Sandbox, token: str) -> Callable[..., requests.Response]:
    """A request to the API; ``who=None`` makes it anonymous."""

    def send(verb: str, path: str, body: Any = None, **more: Any) -> requests.Response:
        headers = {**HEADERS, **more.pop("headers", {})}
        if more.pop("who", token):
            headers["Authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body)
        url = f"{box.urls['panoptes']}/api{path}"
        return requests.request(verb, url, data=data, headers=headers, timeout=10, **more)

    return send


def make_set(box: Sandbox, client: Panoptes, name: str, size: int = 2) -> SubjectSet:
    """A set with subjects, made with the client alone."""
    project = Project.find(slug=SLUG)
    chosen = SubjectSet()
    chosen.links.project = project
    chosen.display_name = name
    chosen.save()
    subjects = []
    for number in range(size):
        subject = Subject()
        subject.links.project = project
        subject.add_location(str(box.folder / "survey" / "jpeg" / f"ZB{number:06d}.jpg"))
        subject.metadata["#zoo_bridge_id"] = f"ZB{number:06d}"
        subject.save()
        subjects.append(subject)
    chosen.add(subjects)
    return chosen


# section 1: logging in


def test_a_wrong_password_is_refused(box: Sandbox) -> None:
    with pytest.raises(PanoptesAPIException, match="Invalid email or password"):
        Panoptes(endpoint=box.urls["panoptes"], username=LOGIN, password="wrong").__enter__()


def test_client_credentials_act_as_the_owner(box: Sandbox, call: Any) -> None:
    user = call("GET", "/me").json()["users"][0]
    assert user["login"] == LOGIN
    assert (user["uploaded_subjects_count"], user["subject_limit"]) == (0, 10_000)
    assert call("GET", "/me", who=None).status_code == 401


def test_without_the_accept_header_nothing_is_found(box: Sandbox) -> None:
    assert requests.get(f"{box.urls['panoptes']}/api/projects", timeout=10).status_code == 404


def test_an_expired_token_makes_writes_vanish_and_reads_go_on(box: Sandbox, call: Any) -> None:
    box.state.advance(3 * 3600)
    body = {"subject_sets": {"display_name": "x", "links": {"project": "1"}}}
    answer = call("POST", "/subject_sets", body)
    assert (answer.status_code, answer.content) == (401, b"")
    assert call("GET", "/me").status_code == 401
    assert call("GET", "/projects/1").status_code == 200


# section 2: reading


def test_projects_and_workflows_read_as_documented(client: Panoptes) -> None:
    assert User.me().login == LOGIN
    project = Project.find(slug=SLUG)
    workflow = project.links.workflows[0]
    assert workflow.version == "1.1"
    assert workflow.retirement["options"]["count"] == 5
    assert list(workflow.tasks) == ["T0", "T1"]
    assert list(Project.where(slug="nobody/nothing")) == []
    with pytest.raises(PanoptesAPIException, match="Could not find workflow"):
        Workflow.find(99)


def test_lists_come_in_pages_with_a_relative_next_href(
    box: Sandbox, client: Any, call: Any
) -> None:
    one = {"locations": ["image/jpeg"], "links": {"project": "1"}}
    made = [call("POST", "/subjects", {"subjects": one}).json() for _ in range(45)]
    ids = [answer["subjects"][0]["id"] for answer in made]
    chosen = make_set(box, client, "paged", size=0)
    call("POST", f"/subject_sets/{chosen.id}/links/subjects", {"subjects": ids})
    first = call("GET", f"/subjects?subject_set_id={chosen.id}").json()
    meta = first["meta"]["subjects"]
    assert (len(first["subjects"]), meta["count"], meta["page_count"]) == (20, 45, 3)
    assert meta["next_href"].startswith("/subjects?")
    many = call("GET", f"/subjects?subject_set_id={chosen.id}&page_size=1000").json()
    assert many["meta"]["subjects"]["page_size"] == 100
    assert [subject.id for subject in SubjectSet.find(chosen.id).subjects] == ids


# section 3: exports


def test_an_export_is_asked_for_waited_for_and_fetched(
    make_sandbox: Callable[..., Sandbox],
) -> None:
    # The client believes the state, which is behind if it changes within a second.
    box = make_sandbox(galaxies=30, votes=5, export_seconds=1.2)
    client = Panoptes(endpoint=box.urls["panoptes"], username=LOGIN, password=PASSWORD).__enter__()
    chosen = make_set(box, client, "first")
    Workflow.find(1).links.subject_sets.add(chosen)
    made = box.volunteers.classify(1)
    with Panoptes(endpoint=box.urls["panoptes"], username=LOGIN, password=PASSWORD):
        project = Project.find(slug=SLUG)
        export = project.get_export("classifications", generate=True, wait_timeout=20)
        rows = list(csv.DictReader(io.StringIO(export.content.decode("utf-8"))))
        subjects = project.get_export("subjects", generate=True, wait_timeout=20).content.decode()
    assert len(rows) == made["classifications"]
    assert {row["workflow_version"] for row in rows} == {"1.1"}
    answer = json.loads(rows[0]["annotations"])[0]
    assert answer["task"] == "T0"
    assert "](" in answer["value"]
    assert rows[0]["subject_ids"] in json.loads(rows[0]["subject_data"])
    assert any(not row["user_id"] for row in rows)
    assert any(row["user_id"] for row in rows)
    assert subjects.startswith("subject_id,project_id")


def wait_until_ready(call: Any, path: str) -> dict[str, Any]:
    """Ask for the file, which tells the truth, so often that a stuck export fails the test."""
    for _ in range(500):
        medium = call("GET", path).json()["media"][0]
        if requests.get(medium["src"], timeout=10).ok:
            return medium
    raise AssertionError(f"{path} stays in creation")


def test_a_second_request_within_a_day_hangs_in_creating_and_the_old_file_stays(
    box: Sandbox, call: Any
) -> None:
    path, body = "/projects/1/workflows_export", {"media": {"content_type": "text/csv"}}
    assert call("GET", path).status_code == 404
    assert call("POST", path, body).status_code == 201
    first = wait_until_ready(call, path)
    written = requests.head(first["src"], timeout=10).headers["Last-Modified"]
    box.state.advance(3600)
    assert call("POST", path, body).json()["media"][0]["metadata"]["state"] == "creating"
    stuck = call("GET", path).json()["media"][0]
    assert stuck["metadata"]["state"] == "creating"
    assert stuck["updated_at"] > first["updated_at"]
    assert "job_id" not in stuck["metadata"]
    answer = requests.get(stuck["src"], timeout=10)
    assert answer.text.startswith("workflow_id")
    assert answer.headers["Last-Modified"] == written


def test_links_to_exports_end_after_minutes_and_need_no_login(box: Sandbox, call: Any) -> None:
    path = "/projects/1/workflows_export"
    call("POST", path, {"media": {"content_type": "text/csv"}})
    link = wait_until_ready(call, path)["src"]
    answer = requests.get(link, timeout=10)
    assert answer.headers["Content-Encoding"] == "gzip"
    box.state.advance(6 * 60)
    assert requests.get(link, timeout=10).status_code == 403
    fresh = call("GET", path).json()["media"][0]["src"]
    assert requests.get(fresh, timeout=10).status_code == 200


def test_exports_are_for_those_with_rights(call: Any) -> None:
    path = "/projects/1/classifications_export"
    assert call("POST", path, {"media": {"content_type": "text/csv"}}, who=None).status_code == 401
    assert call("GET", path, who=None).status_code == 404


def test_the_classifications_api_goes_on_from_the_last_id(
    box: Sandbox, client: Panoptes, call: Any
) -> None:
    Workflow.find(1).links.subject_sets.add(make_set(box, client, "first", size=6))
    made = box.volunteers.classify(1)["classifications"]
    token = {"headers": {}}
    found, last = [], 0
    form = {
        "grant_type": "client_credentials",
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
    }
    fresh = requests.post(f"{box.urls['panoptes']}/oauth/token", data=form, timeout=10).json()
    token["headers"]["Authorization"] = f"Bearer {fresh['access_token']}"
    while True:
        path = f"/classifications/project?project_id=1&last_id={last}"
        page = call("GET", path, who=None, **token).json()["classifications"]
        if not page:
            break
        found += page
        last = int(page[-1]["id"])
    assert len(found) == made == len({item["id"] for item in found})
    assert isinstance(found[0]["annotations"][0]["value"], int)
    assert any(item["links"]["user"] is None for item in found)
    assert call("GET", path, who=None).status_code == 401


# sections 4 and 5: subject sets, subjects and their media


def test_names_of_sets_are_unique_in_a_project(box: Sandbox, client: Panoptes) -> None:
    make_set(box, client, "same", size=0)
    with pytest.raises(PanoptesAPIException, match="has already been taken"):
        make_set(box, client, "same", size=0)
    assert len(list(SubjectSet.where(project_id=1, display_name="same"))) == 1


def test_a_subject_can_be_created_into_its_set_and_its_image_put(box: Sandbox, call: Any) -> None:
    links = {"project": "1"}
    body = {"subject_sets": {"display_name": "s", "links": links}}
    set_id = call("POST", "/subject_sets", body).json()["subject_sets"][0]["id"]
    links = {"project": "1", "subject_sets": [set_id]}
    body = {"subjects": {"locations": ["image/jpeg"], "metadata": {"#id": "G"}, "links": links}}
    created = call("POST", "/subjects", body)
    assert created.status_code == 201
    subject = created.json()["subjects"][0]
    address = subject["locations"][0]["image/jpeg"]
    assert address.startswith(box.urls["media"])
    put = {"Content-Type": "image/jpeg", "x-ms-blob-type": "BlockBlob"}
    tampered = address.replace("sig=", "sig=0")
    assert requests.put(tampered, data=b"jpeg", headers=put, timeout=10).status_code == 403
    assert box.state.one("SELECT written_at FROM media")["written_at"] is None
    assert requests.put(address, data=b"jpeg", timeout=10).status_code == 400
    assert requests.put(address, data=b"jpeg", headers=put, timeout=10).status_code == 201
    member = call("GET", f"/subjects?subject_set_id={set_id}").json()["subjects"][0]
    assert member["metadata"] == {"#id": "G"}
    public = member["locations"][0]["image/jpeg"]
    assert requests.get(public, timeout=10).content == b"jpeg"
    box.state.advance(6 * 60)
    assert requests.put(address, data=b"other", headers=put, timeout=10).status_code == 403


@pytest.mark.parametrize(("locations", "status"), [(["image/fits"], 400), ("image/jpeg", 422)])
def test_bad_subjects_are_refused_and_leave_nothing(
    box: Sandbox, call: Any, locations: Any, status: int
) -> None:
    bad = {"locations": locations, "links": {"project": "1"}}
    assert call("POST", "/subjects", {"subjects": bad}).status_code == status
    assert box.state.all("SELECT * FROM subjects") == []


def test_a_list_of_subjects_is_more_than_the_server_can(box: Sandbox, call: Any) -> None:
    good = {"locations": ["image/jpeg"], "links": {"project": "1"}}
    answer = call("POST", "/subjects", {"subjects": [good]})
    assert (answer.status_code, answer.text[:15]) == (500, "<!DOCTYPE html>")
    assert box.state.all("SELECT * FROM subjects") == []


def test_the_quota_ends_at_its_limit(box: Sandbox, call: Any) -> None:
    with box.state.write() as db:
        db.execute("UPDATE users SET subject_limit = 3")
    body = {"subjects": {"locations": ["image/jpeg"], "links": {"project": "1"}}}
    answers = [call("POST", "/subjects", body) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [201, 201, 201, 403]
    assert "User has uploaded 3 subjects of 3 maximum" in answers[-1].text


def test_others_projects_are_out_of_reach(box: Sandbox, call: Any) -> None:
    with box.state.write() as db:
        db.execute("UPDATE projects SET owner_id = 2")
    body = {"subject_sets": {"display_name": "s", "links": {"project": "1"}}}
    assert call("POST", "/subject_sets", body).status_code == 422


# sections 6 and 7: links and changes


def test_links_know_members_unknown_ids_and_doubles(
    box: Sandbox, client: Panoptes, call: Any
) -> None:
    chosen = make_set(box, client, "linked")
    path = f"/subject_sets/{chosen.id}/links/subjects"
    assert call("POST", path, {"subjects": ["1", "2"]}).status_code == 200
    assert len(box.state.all("SELECT * FROM set_subjects")) == 2
    assert call("POST", path, {"subjects": ["1", "999"]}).status_code == 422
    assert call("POST", path, {"subjects": ["1", "1"]}).status_code == 422
    assert call("DELETE", f"{path}/1,2").status_code == 204
    assert box.state.all("SELECT * FROM set_subjects") == []


def test_a_set_is_linked_to_a_workflow_once(box: Sandbox, client: Panoptes, call: Any) -> None:
    chosen = make_set(box, client, "shown")
    path = "/workflows/1/links/subject_sets"
    assert call("POST", path, {"subject_sets": [chosen.id]}).status_code == 200
    assert call("POST", path, {"subject_sets": [chosen.id]}).status_code == 400

    def shown() -> dict[str, Any]:
        return call("GET", "/workflows/1").json()["workflows"][0]

    # Workers count later, and what was shown lately is shown again.
    assert (shown()["subjects_count"], shown()["links"]["subject_sets"]) == (0, [chosen.id])
    box.state.advance(600)
    assert shown()["subjects_count"] == 2
    assert call("DELETE", f"{path}/{chosen.id}").status_code == 204
    assert call("DELETE", f"{path}/{chosen.id}").status_code == 404
    box.state.advance(600)
    assert shown()["links"]["subject_sets"] == []


def test_changes_need_the_objects_own_etag(box: Sandbox, client: Panoptes, call: Any) -> None:
    make_set(box, client, "changed", size=1)
    body = {"subjects": {"metadata": {"a": 1}}}
    assert call("PUT", "/subjects/1", body).status_code == 428
    etag = call("GET", "/subjects/1").headers["ETag"]
    stale = {"headers": {"If-Match": etag}}
    changed = call("PUT", "/subjects/1", body, **stale)
    assert changed.status_code == 200
    assert "ETag" not in changed.headers
    assert call("PUT", "/subjects/1", body, **stale).status_code == 412
    weak = {"headers": {"If-Match": f"W/{call('GET', '/subjects/1').headers['ETag']}"}}
    assert call("PUT", "/subjects/1", body, **weak).status_code == 412


def test_retired_subjects_are_seen_no_more(box: Sandbox, client: Panoptes, call: Any) -> None:
    Workflow.find(1).links.subject_sets.add(make_set(box, client, "first", size=3))
    body = {"subject_ids": ["1"], "retirement_reason": "consensus"}
    assert call("POST", "/workflows/1/retired_subjects", body).status_code == 204
    assert box.volunteers.classify(1)["subjects"] == 2
    assert box.volunteers.classify(1)["subjects"] == 0
    statuses = call("GET", "/subject_workflow_statuses?workflow_id=1&subject_ids=1,2").json()
    counts = [row["classifications_count"] for row in statuses["subject_workflow_statuses"]]
    assert counts == [0, 5]


# the state, the volunteers and the faults


def test_everything_survives_a_restart_on_the_same_ports(
    box: Sandbox, client: Panoptes, tmp_path: Path
) -> None:
    make_set(box, client, "kept")
    address = Subject.find(1).locations[0]["image/jpeg"]
    picture = requests.get(address, timeout=10).content
    box.stop()
    with pytest.raises(requests.ConnectionError):
        requests.get(address, timeout=10)
    with Sandbox(box.folder, box.plan) as again:
        assert again.urls == box.urls
        assert requests.get(address, timeout=10).content == picture
        with Panoptes(endpoint=again.urls["panoptes"], username=LOGIN, password=PASSWORD):
            assert [item.display_name for item in SubjectSet.where(project_id=1)] == ["kept"]


def test_volunteers_are_many_and_scatter_more_than_a_binomial(
    make_sandbox: Callable[..., Sandbox],
) -> None:
    box = make_sandbox("crowd", galaxies=150, votes=20)
    with Panoptes(endpoint=box.urls["panoptes"], username=LOGIN, password=PASSWORD) as client:
        Workflow.find(1).links.subject_sets.add(make_set(box, client, "all", size=0))
        with box.state.write() as db:
            for number in range(150):
                db.execute(
                    "INSERT INTO subjects (project_id, uploader_id, metadata, locations,"
                    " created_at, updated_at) VALUES (1, 1, ?, '[]', '', '')",
                    (json.dumps({"#zoo_bridge_id": f"ZB{number:06d}"}),),
                )
                db.execute(
                    "INSERT INTO set_subjects (subject_set_id, subject_id) VALUES (1, ?)",
                    (number + 1,),
                )
    made = box.volunteers.classify(1)
    assert made["retired"] == 150
    rows = box.state.all("SELECT * FROM classifications")
    assert len(rows) == made["classifications"] > 150 * 20
    anonymous = sum(row["user_id"] is None for row in rows) / len(rows)
    assert 0.25 < anonymous < 0.45
    excess = []
    for number in range(150):
        chance = box.volunteers.truth[f"ZB{number:06d}"]["T0"][1]
        votes = [
            json.loads(row["annotations"])[0]["value"] == 1
            for row in rows
            if row["subject_id"] == number + 1 and 'already_seen": true' not in row["metadata"]
        ]
        binomial = chance * (1 - chance) / len(votes)
        excess.append((sum(votes) / len(votes) - chance) ** 2 / binomial)
    # 1 for a binomial; 1 + (n - 1) / 21, or 1.9, for the Dirichlet of concentration 20.
    assert 1.4 < sum(excess) / len(excess) < 2.5


def test_faults_come_when_and_where_they_are_asked_for(box: Sandbox, call: Any) -> None:
    control = f"{box.urls['panoptes']}/sandbox/faults"
    rule = {"method": "GET", "path": "/api/me", "what": "status", "status": 502, "after": 1}
    requests.post(control, json=rule, timeout=10)
    assert [call("GET", "/me").status_code for _ in range(3)] == [200, 502, 200]
    requests.post(control, json={"path": "/api/projects", "what": "html"}, timeout=10)
    page = call("GET", "/projects")
    assert (page.status_code, page.headers["Content-Type"]) == (503, "text/html")
    requests.post(control, json={"path": "/api/projects", "what": "reset"}, timeout=10)
    with pytest.raises(requests.ConnectionError):
        call("GET", "/projects")
    assert requests.post(control, json={"what": "nonsense"}, timeout=10).status_code == 422
    requests.post(control, json={"path": "/api/me", "what": "empty", "times": None}, timeout=10)
    requests.delete(control, timeout=10)
    assert call("GET", "/me").status_code == 200
