"""Who may read and change what: from this machine, beyond it, by password, token and proxy."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from starlette.requests import Request

from tests.console.conftest import KEY, OPEN, READ, Client, put_batch
from zoo_bridge.config import load
from zoo_bridge.config.tables import Console
from zoo_bridge.console.people import Doors, Role
from zoo_bridge.console.zooniverse_login import SignIn
from zoo_bridge.ledger import Ledger

PAGES = ("", "batches", "models", "asks", "catalogue", "runs", "audit")
FAR = {"X-Forwarded-For": "192.0.2.7"}


@pytest.fixture
def console(project: Any, open_console: Callable[..., Client]) -> Client:
    return open_console(project)


def runs_of(project: Any) -> list[Any]:
    return list(project.ledger.list_runs())


def test_this_machine_may_read_everything_and_change_nothing(console: Client, project: Any) -> None:
    for page in PAGES:
        assert console.get(f"/w/1/{page}").status_code == 200, page
    answer = console.post("/w/1/runs", csrf="", job="pull")
    assert answer.status_code == 303
    assert answer.headers["Location"].startswith("/login?next=")
    assert runs_of(project) == []


@pytest.mark.parametrize(
    "headers",
    [FAR, {"X-Real-IP": "192.0.2.7"}, {"Via": "1.1 proxy"}, {"Forwarded": "for=192.0.2.7"}],
)
def test_beyond_this_machine_nothing_is_readable(console: Client, headers: dict[str, str]) -> None:
    for page in (*PAGES, "figures/weeks.png", "catalogue/scores.csv", "batches/x/picture"):
        answer = console.get(f"/w/1/{page}", headers=headers)
        assert (answer.status_code, answer.headers["Location"][:11]) == (303, "/login?next"), page
    # Which workflows there are is nothing for them, either.
    assert console.get("/w/9/", headers=headers).status_code == 303
    assert console.get("/", headers=headers).status_code == 303
    assert console.get("/healthz").status_code == 200


def test_a_page_of_another_name_that_leads_here_reads_nothing(console: Client) -> None:
    # As a browser sends it whose name server was made to say 127.0.0.1.
    assert console.get("/w/1/", headers={"Host": "evil.example"}).status_code == 303


def peer(address: str, **headers: str) -> Request:
    pairs = [
        (name.lower().replace("_", "-").encode(), text.encode()) for name, text in headers.items()
    ]
    pairs.append((b"host", b"localhost"))
    return Request(
        {
            "type": "http", "method": "GET", "path": "/", "query_string": b"", "scheme": "http",
            "server": ("localhost", 80), "client": (address, 4711), "headers": pairs,
        }
    )  # fmt: skip


def test_only_loopback_is_this_machine(secrets_set: None) -> None:
    doors = Doors(Console())
    for near in ("127.0.0.1", "::1", "127.9.9.9"):
        found = doors.person_of(peer(near))
        assert found is not None
        assert (found.may("1"), found.is_known) == (Role.READER, False)
    for far in ("192.0.2.7", "10.0.0.1", "172.17.0.1", "::ffff:192.0.2.7", "testclient"):
        assert doors.person_of(peer(far)) is None


def test_a_password_opens_and_its_cookie_is_out_of_reach_of_scripts(console: Client) -> None:
    answer = console.log_in()
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert OPEN not in cookie
    # Now also from afar.
    assert console.get("/w/1/", headers=FAR).status_code == 200


def test_behind_https_the_cookie_is_for_https_alone(
    project: Any, open_console: Callable[..., Client]
) -> None:
    console = open_console(project, public_url="https://bridge.example.org")
    csrf = console.csrf()
    cookie = {"Cookie": f"zoo_bridge_session={next(iter(console.session.cookies)).value}"}
    answer = console.post("/login", csrf=csrf, name="a", password=OPEN, headers=cookie)
    assert "; Secure" in answer.headers["Set-Cookie"]


def test_the_key_of_before_the_log_in_is_good_for_nothing_after_it(console: Client) -> None:
    console.csrf()
    before = console.session.cookies["zoo_bridge_session"]
    console.log_in()
    after = console.session.cookies["zoo_bridge_session"]
    assert before != after
    old = Client(console.url, Cookie=f"zoo_bridge_session={before}")
    assert old.get("/w/1/", headers=FAR).status_code == 303


def test_a_wrong_password_is_told_and_noted(console: Client, project: Any) -> None:
    answer = console.log_in("wrong")
    assert answer.status_code == 401
    assert "That password is wrong" in answer.text
    act = project.ledger.list_acts()[0]
    assert (act.what, act.who, act.through) == ("log-in refused", "anna@127.0.0.1", "console")
    assert console.post("/login", name="", password=OPEN).status_code == 400


def test_guessing_is_slowed_down_by_address(
    project: Any, open_console: Callable[..., Client]
) -> None:
    console = open_console(project, trusted_proxies=["127.0.0.1"])
    near, other = {"X-Forwarded-For": "192.0.2.7"}, {"X-Forwarded-For": "192.0.2.8"}
    codes = [console.log_in("wrong", headers=near).status_code for _ in range(7)]
    assert codes == [401] * 5 + [429] * 2
    # The right one, too: or one could tell it by that.
    answer = console.log_in(headers=near)
    assert (answer.status_code, int(answer.headers["Retry-After"]) > 200) == (429, True)
    # What a client says of its own address is not believed beyond the proxy's word.
    forged = {"X-Forwarded-For": "203.0.113.9, 192.0.2.7"}
    assert console.log_in(headers=forged).status_code == 429
    assert console.log_in(headers=other).status_code == 303


def test_a_session_ends_by_itself_and_by_logging_out(
    project: Any, open_console: Callable[..., Client]
) -> None:
    short = open_console(project, session_hours=1.5 / 3600)
    short.log_in()
    cookie = {"Cookie": f"zoo_bridge_session={short.session.cookies['zoo_bridge_session']}", **FAR}
    bare = Client(short.url)
    assert bare.get("/w/1/", headers=cookie).status_code == 200
    until = time.monotonic() + 20
    while bare.get("/w/1/", headers=cookie).status_code == 200:
        assert time.monotonic() < until
        time.sleep(0.1)
    console = open_console(project)
    console.log_in()
    key = console.session.cookies["zoo_bridge_session"]
    console.post("/logout", page="/w/1/audit")
    kept = Client(console.url, Cookie=f"zoo_bridge_session={key}", **FAR)
    assert kept.get("/w/1/").status_code == 303
    assert project.ledger.list_acts()[0].what == "logged out"


def test_a_change_needs_a_form_of_ours(console: Client, project: Any) -> None:
    console.log_in()
    csrf = console.csrf("/w/1/runs")
    other = Client(console.url)
    foreign = {"Origin": "https://evil.example"}
    for answer in (
        console.post("/w/1/runs", csrf="", job="pull"),
        console.post("/w/1/runs", csrf="made up", job="pull"),
        console.post("/w/1/runs", csrf=other.csrf(), job="pull"),
        console.post("/w/1/runs", csrf=csrf, job="pull", headers=foreign),
        console.post("/w/1/runs", csrf=csrf, job="pull", headers={"Origin": "null"}),
        console.get("/w/1/runs?job=pull&csrf=" + csrf),
    ):
        assert answer.status_code in (200, 403)
    assert runs_of(project) == []
    # Nor can somebody be logged in from elsewhere.
    assert Client(console.url).post("/login", csrf="", name="a", password=OPEN).status_code == 403


def test_a_reader_sees_all_and_changes_nothing(console: Client, project: Any) -> None:
    name = put_batch(project, ["A", "B"])
    console.log_in(READ)
    assert console.get(f"/w/1/batches/{name}").status_code == 200
    assert "Show it to volunteers" not in console.get(f"/w/1/batches/{name}").text
    csrf = console.csrf("/w/1/audit")
    for path, form in (
        ("runs", {"job": "pull"}),
        (f"batches/{name}/publish", {}),
        (f"batches/{name}/leave-out", {"object": "A", "why": "x"}),
        ("models/rollback", {"why": "x"}),
        ("schedule/pause", {}),
        ("acts/1/stop", {}),
        ("runs/x/stop", {}),
    ):
        assert console.post(f"/w/1/{path}", csrf=csrf, **form).status_code == 403, path
    assert console.get(f"/w/1/batches/{name}/publish").status_code == 403
    assert runs_of(project) == []


def test_a_program_has_a_token_and_needs_no_form(console: Client) -> None:
    program = Client(console.url, Authorization=f"Bearer {KEY}", **FAR)
    assert program.get("/w/1/runs").status_code == 200
    answer = program.post("/w/1/runs", csrf="", job="pull")
    assert answer.headers["Location"].startswith("/w/1/acts/")
    wrong = Client(console.url, Authorization="Bearer token-for-programs-4712")
    # A wrong one is nobody, though it comes from this machine.
    assert wrong.get("/w/1/runs").status_code == 303


def test_what_a_trusted_proxy_says_is_believed_and_no_one_else(
    project: Any, open_console: Callable[..., Client]
) -> None:
    named = {"X-Forwarded-User": "mallory", **FAR}
    assert open_console(project).get("/w/1/", headers=named).status_code == 303
    console = open_console(project, trusted_proxies=["127.0.0.0/8"], administrators=["anna"])
    assert console.get("/w/1/", headers=named).status_code == 200
    assert console.get("/w/1/", headers=FAR).status_code == 303
    reader, admin = Client(console.url, **named), Client(console.url, **named)
    admin.session.headers["X-Forwarded-User"] = "anna"
    assert reader.post("/w/1/runs", page="/w/1/runs", job="pull").status_code == 403
    csrf = admin.csrf("/w/1/runs")
    assert admin.post("/w/1/runs", csrf="", job="pull").status_code == 403
    assert admin.post("/w/1/runs", csrf=csrf, job="pull").status_code == 303


def test_with_a_public_address_nobody_is_from_this_machine(
    project: Any, open_console: Callable[..., Client]
) -> None:
    # Whatever brings people here may not say where they are.
    console = open_console(project, public_url="https://bridge.example.org")
    assert console.get("/w/1/").status_code == 303
    assert open_console(project, public_url="http://localhost:1").get("/w/1/").status_code == 200


def test_what_is_typed_cannot_be_another_argument_or_line(console: Client, project: Any) -> None:
    console.log_in(name="anna\n2026 serve: all is well\x00")
    csrf = console.csrf("/w/1/runs")
    assert "anna 2026 serve: all is well" in console.get("/w/1/audit").text
    for path, form in (
        ("batches/x/publish", {"why": "--config=/etc/passwd\x00"}),
        ("models/promote", {"why": "x", "version": "--config=/etc/passwd"}),
        ("runs", {"job": "pull --force"}),
        ("schedule/pause", {"job": "--help", "why": "x"}),
    ):
        answer = console.post(f"/w/1/{path}", csrf=csrf, **form)
        assert answer.status_code in (303, 400), path
        if answer.status_code == 303:
            page = answer.headers["Location"]
            until = time.monotonic() + 60
            while "Go on" not in (text := console.get(page).text):
                assert time.monotonic() < until
                time.sleep(0.1)
            assert "There is no model --config=/etc/passwd" in html.unescape(text)


def test_a_body_without_end_is_not_read(console: Client) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 16 * 2**20:
            sent += 2**16
            yield b"x" * 2**16

    try:
        answer = console.session.post(console.url + "/login", data=endless(), timeout=60)
        assert answer.status_code == 413
    except requests.ConnectionError:
        # It was cut off, once it was too much.
        assert sent > 2**20
    many = "&".join(f"a{n}=1" for n in range(30_000))
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = console.session.post(console.url + "/login", data=many, headers=headers, timeout=60)
    assert answer.status_code == 413


def test_a_page_of_somebody_elses_asks_for_nothing_here(console: Client) -> None:
    picture = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"}
    assert console.get("/w/1/catalogue", headers=picture).status_code == 303
    # Somebody who follows a link comes themselves.
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}
    assert console.get("/w/1/catalogue", headers=link).status_code == 200


def test_a_header_that_stands_twice_is_read_whole(secrets_set: None) -> None:
    doors = Doors(Console(trusted_proxies=["10.0.0.0/8"], administrators=["anna"]))

    def asked(*pairs: tuple[str, str]) -> Request:
        request = peer("10.0.0.1")
        more = [(name.encode(), value.encode()) for name, value in pairs]
        request.scope["headers"] = [*more, *request.scope["headers"]]
        return Request(request.scope)

    # What a client sent itself, and below it what the proxy added.
    both = asked(("x-forwarded-for", "203.0.113.9"), ("x-forwarded-for", "192.0.2.7"))
    assert doors.address_of(both) == "192.0.2.7"
    forged = asked(("x-forwarded-user", "anna"), ("x-forwarded-user", "mallory"))
    assert doors.person_of(forged) is None


def test_one_goes_back_to_our_own_pages_only(console: Client) -> None:
    for path in ("//evil.example", "https://evil.example", "/\\evil.example", "/login", "x"):
        fresh = Client(console.url)
        answer = fresh.post("/login", name="a", password=OPEN, next=path)
        assert answer.headers["Location"] == "/", path
    fresh = Client(console.url)
    answer = fresh.post("/login", name="a", password=OPEN, next="/w/1/batches?sort=bald")
    assert answer.headers["Location"] == "/w/1/batches?sort=bald"


def test_every_answer_says_what_a_browser_may_do_with_it(console: Client) -> None:
    for path in ("/", "/w/1/", "/nothing", "/login", "/static/console.css", "/healthz", "/w/1/x/y"):
        headers = console.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy, path
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
    assert console.get("/w/1/").headers["Cache-Control"] == "no-store"


def test_without_a_password_nobody_can_log_in(
    project: Any, monkeypatch: pytest.MonkeyPatch, open_console: Callable[..., Client]
) -> None:
    for name in ("PASSWORD", "READER_PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"ZOO_BRIDGE_CONSOLE_{name}")
    console = open_console(project)
    assert "No password is set" in console.get("/login").text
    assert console.post("/login", name="a", password="").status_code == 403


def test_a_hash_is_as_good_as_a_password(
    project: Any, monkeypatch: pytest.MonkeyPatch, open_console: Callable[..., Client]
) -> None:
    from argon2 import PasswordHasher

    hashed = PasswordHasher().hash("from a manager")
    monkeypatch.setenv("ZOO_BRIDGE_CONSOLE_PASSWORD", hashed)
    console = open_console(project)
    assert console.log_in(hashed).status_code == 401
    assert console.log_in("from a manager").status_code == 303


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="public_url"):
        Console(zooniverse_client_id="x")
    with pytest.raises(ValueError, match="public_url"):
        Console(zooniverse_client_id="x", public_url="http://127.0.0.1:8470")
    with pytest.raises(ValueError):
        Console(trusted_proxies=["everywhere"])
    Console(zooniverse_client_id="x", public_url="http://localhost:8470")


def test_owners_of_a_project_are_nobody_on_another_server(
    project: Any, monkeypatch: pytest.MonkeyPatch, open_console: Callable[..., Client]
) -> None:
    monkeypatch.setenv("ZOO_BRIDGE_CONSOLE_CLIENT_SECRET", "console-secret-4711")
    path = project.settings.path.with_name("elsewhere.toml")
    address = project.settings.project.endpoint
    path.write_text(project.settings.path.read_text().replace(address, "http://127.0.0.1:9"))
    settings = load(path)
    other = SimpleNamespace(settings=settings, ledger=Ledger.of(settings))
    asked: list[Any] = []

    def finish(
        self: SignIn, code: str, verifier: str, projects: Any
    ) -> tuple[str, dict[str, Role]]:
        asked.extend(projects)
        return "owner", {key: Role.ADMINISTRATOR for key, _ in projects}

    monkeypatch.setattr(SignIn, "finish", finish)
    console = open_console(
        project, other, zooniverse_client_id="x", public_url="http://localhost:1"
    )
    went = console.get("/login/zooniverse").headers["Location"]
    state = parse_qs(urlsplit(went).query)["state"][0]
    assert console.get(f"/login/callback?code=c&state={state}").status_code == 303
    assert asked == [("1-1", "sandbox/galaxies")]
    assert console.get("/w/1-1/").status_code == 200
    assert console.get("/w/1-2/").status_code == 404
