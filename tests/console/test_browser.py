"""An administrator's hours at the console, in a real browser."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe

from tests.console.conftest import OPEN, READ, Client, Window, put_batch
from tests.end_to_end.test_leaving_out import ids_in_set, seen_by_volunteers
from zoo_bridge.console.people import CLIENT_SECRET
from zoo_bridge.ledger import ObjectState

Look = Callable[..., Window]


@pytest.fixture
def staged(make_project: Callable[..., Any]) -> Any:
    """A project of 24 galaxies with a batch of 9 staged."""
    project = make_project({"galaxies": 24}, upload={"per_run": 9})
    project.done("upload")
    return project


def newest(project: Any) -> Any:
    return project.ledger.list_batches()[0]


def test_looking_through_a_batch_leaving_three_out_publishing_and_withdrawing(
    staged: Any, serve: Callable[..., Any], look: Look
) -> None:
    batch = newest(staged)
    window = look(serve(staged.settings.path).url)
    page = window.page
    window.go("/")
    # Readable, but nothing to press.
    assert page.locator("text=Show it to volunteers").count() == 0
    window.log_in("wrong")
    assert "That password is wrong" in page.inner_text("main")
    window.log_in()
    page.click("text=Look at it")
    assert page.locator(".gallery .about").count() == 9
    names = [each.inner_text() for each in page.locator(".about > a").all()]
    assert set(names) == ids_in_set(staged)
    # Every picture is there.
    window.until(
        "[...document.querySelectorAll('.gallery img')].every(i => i.complete && i.naturalWidth)"
    )
    for name in names[:3]:
        page.check(f"input[value='{name}']")
    assert page.inner_text("#marked") == "3 galaxies are marked"
    page.click("text=Leave out")
    # Without a reason nothing is done.
    assert "No reason is given" in page.inner_text("main")
    page.go_back()
    for name in names[:3]:
        page.check(f"input[value='{name}']")
    page.fill("#out [name=why]", 'a trail; --yes "quoted" <b>')
    page.click("text=Leave out")
    told = window.ended("done")
    assert "3 put in their place" in told
    page.click("text=Go on")
    assert len(ids_in_set(staged)) == 9
    assert not ids_in_set(staged) & set(names[:3])
    # It is said who did it and why, as it was written.
    assert 'a trail; --yes "quoted" <b>' in page.inner_text("main")
    event = next(e for e in staged.ledger.list_events(batch.name) if e.what == "left out")
    assert (event.who, event.through) == ("anna@127.0.0.1 as sandbox", "console")
    page.click("a:has-text('Show it to volunteers')")
    assert "Volunteers see these galaxies from then on" in page.inner_text("main")
    page.click("button:has-text('Show it to volunteers')")
    assert "is published" in window.ended("done")
    staged.box.volunteers.classify(1)
    assert seen_by_volunteers(staged) == ids_in_set(staged)
    page.click("text=Go on")
    assert page.locator("#out").count() == 0
    page.click("text=Take it back from volunteers")
    page.fill("[name=why]", "seen enough")
    page.click("button:has-text('Take it back')")
    assert "is withdrawn" in window.ended("done")
    window.go("/w/1/audit")
    audit = page.inner_text("main")
    for words in ("logged in", "published", "withdrawn", "seen enough", "anna@127.0.0.1"):
        assert words in audit
    page.click("text=Log out")
    assert urlsplit(page.url).path == "/login"


def test_an_expired_session_loses_nothing_and_says_so(
    staged: Any, serve: Callable[..., Any], look: Look
) -> None:
    # Long enough to log in and open a page, on a slow day.
    staged.edit("[serve]", "[console]\nsession_hours = 0.003\n\n[serve]")
    window = look(serve(staged.settings.path).url)
    window.log_in()
    window.go(f"/w/1/batches/{newest(staged).name}/publish")
    began = time.monotonic()
    key = next(c for c in window.context.cookies() if c["name"] == "zoo_bridge_session")
    client = Client(window.url, Cookie=f"zoo_bridge_session={key['value']}", Via="1.1 x")
    while client.get("/w/1/").status_code == 200:
        assert time.monotonic() - began < 60
        time.sleep(0.2)
    window.page.click("button:has-text('Show it to volunteers')")
    assert "logged in no longer. Nothing was done." in window.page.inner_text("main")
    assert newest(staged).state == "staged"
    window.page.fill("[name=name]", "anna")
    window.page.fill("[name=password]", OPEN)
    window.page.click("main button:has-text('Log in')")
    # Back to where it was asked.
    assert window.page.url.endswith("/publish")


def test_two_administrators_at_once(staged: Any, serve: Callable[..., Any], look: Look) -> None:
    url = serve(staged.settings.path).url
    anna, bert = look(url), look(url)
    path = f"/w/1/batches/{newest(staged).name}/publish"
    for window, name in ((anna, "anna"), (bert, "bert")):
        window.log_in(name=name)
        window.go(path)
    staged.fault(method="POST", path="/links/subject_sets", what="delay", seconds=2, times=1)
    anna.page.click("button:has-text('Show it to volunteers')")
    bert.page.click("button:has-text('Show it to volunteers')")
    for window in (anna, bert):
        window.page.wait_for_selector("text=Go on", timeout=90_000)
    told = sorted(window.page.inner_text("#act").split("\n")[0] for window in (anna, bert))
    # One did it; the other was told that somebody was at it, or had done it.
    assert told in (["busy (exit code 75)", "done"], ["done", "done"])
    done = [e for e in staged.ledger.list_events(newest(staged).name) if e.what == "published"]
    assert len(done) == 1
    bert.go(path)
    assert "is published: it cannot be done now" in bert.page.inner_text("main")


def test_killing_serve_in_mid_act_leaves_what_the_command_would_leave(
    staged: Any, serve: Callable[..., Any], look: Look
) -> None:
    serving = serve(staged.settings.path)
    window = look(serving.url)
    window.log_in()
    window.go(f"/w/1/batches/{newest(staged).name}/publish")
    staged.fault(method="POST", path="/links/subject_sets", what="delay", seconds=3, times=1)
    window.page.click("button:has-text('Show it to volunteers')")
    window.page.wait_for_selector(".state.running")
    serving.end(signal.SIGKILL)
    until = time.monotonic() + 60
    while newest(staged).state != "published":
        assert time.monotonic() < until
        time.sleep(0.1)
    events = staged.ledger.list_events(newest(staged).name)
    assert [each.what for each in events][-1] == "published"
    with staged.ledger.engine.connect() as connection:
        # Its lock is given back a moment later.
        while connection.exec_driver_sql("SELECT * FROM locks WHERE name != 'serve'").fetchall():
            assert time.monotonic() < until
            time.sleep(0.1)


def test_running_and_stopping_a_job_survives_a_reload(
    staged: Any, serve: Callable[..., Any], look: Look
) -> None:
    window = look(serve(staged.settings.path).url)
    page = window.page
    window.log_in()
    window.go("/w/1/runs")
    staged.fault(method="POST", path="export", what="delay", seconds=60, times=None)
    page.select_option("form[action$='/runs'] select[name=job]", "pull")
    page.click("text=Run it")
    page.wait_for_selector("#act .state.running")
    page.wait_for_selector("pre:has-text('pull')")
    page.reload()
    assert "running" in page.inner_text("#act")
    until = time.monotonic() + 60
    while not (runs := staged.ledger.list_runs("pull", 1)) or runs[0].outcome != "running":
        assert time.monotonic() < until
        time.sleep(0.1)
    assert (runs[0].who, runs[0].through) == ("anna@127.0.0.1", "console")
    window.go(f"/w/1/runs/{runs[0].run_id}")
    page.fill("form[action$='/stop'] [name=why]", "too slow")
    page.click("text=Stop it")
    assert "is told to stop" in window.ended("done")
    while staged.ledger.list_runs("pull", 1)[0].outcome == "running":
        assert time.monotonic() < until
        time.sleep(0.1)
    assert staged.ledger.list_runs("pull", 1)[0].outcome == "stopped"
    act = staged.ledger.list_acts("stopped")[0]
    assert (act.subject, act.text) == (runs[0].run_id, "too slow")


def test_the_schedule_is_paused_and_resumed(
    make_project: Callable[..., Any], serve: Callable[..., Any], look: Look
) -> None:
    month = (datetime.now(UTC) + timedelta(days=90)).month
    project = make_project({"galaxies": 12}, schedule={"cycle": f"0 0 1 {month} *"})
    window = look(serve(project.settings.path).url)
    window.log_in()
    window.go("/w/1/runs")
    window.page.fill("form[action$='/pause'] [name=why]", "holidays")
    window.page.click("button:has-text('Pause')")
    window.ended("done")
    act = project.ledger.paused()["cycle"]
    assert (act.who, act.text) == ("anna@127.0.0.1", "holidays")
    window.page.click("text=Go on")
    assert "paused by anna@127.0.0.1: holidays" in window.page.inner_text("main")
    window.page.click("button:has-text('Resume')")
    window.ended("done")
    assert project.ledger.paused() == {}


def test_a_model_is_looked_at_promoted_and_rolled_back(
    make_after: Callable[..., Any], serve: Callable[..., Any], look: Look
) -> None:
    project = make_after("score")
    first = project.ledger.model_in_use()
    project.done("retrain", force=True)
    second = project.ledger.list_artifacts("model")[0].name
    assert second != first
    if project.ledger.model_in_use() != first:
        project.ledger.promote(first, "promote", "so that the test can promote the other")
    window = look(serve(project.settings.path).url)
    page = window.page
    window.log_in()
    window.go(f"/w/1/models/{second}")
    window.until("[...document.images].length > 2")
    for words in ("The gate:", "Its worst misses", "Do its error bars hold?", "zoo_bridge 0"):
        assert words in page.inner_text("main")
    page.fill("[name=why]", "I looked at it")
    page.click("text=Put it in use")
    assert f"is now {second}" in window.ended("done")
    row = project.ledger.list_promotions()[0]
    assert (row.version, row.why, row.who) == (second, "I looked at it", "anna@127.0.0.1")
    page.click("text=Go on")
    page.fill("[name=why]", "worse than it looked")
    page.click("text=Put the model before back in use")
    assert f"is now {first}" in window.ended("done")
    # What it says of a galaxy, by the model itself.
    window.go("/w/1/catalogue")
    page.fill("[name=where]", "mean BETWEEN 0 AND 1 AND magnitude < 99")
    page.click("button:has-text('Ask')")
    assert page.locator("svg.bars rect").count() == 40
    page.click("tbody a >> nth=0")
    page.wait_for_selector("#posterior img", timeout=90_000)
    assert "volunteers would say" in page.inner_text("#posterior")
    titles = [each.inner_text() for each in page.locator(".plain-list a").all()]
    assert titles[:3] == ["Legacy Survey viewer", "Aladin Lite", "SIMBAD"]


def test_five_thousand_galaxies_scroll(
    project: Any, open_console: Callable[..., Client], look: Look
) -> None:
    name = put_batch(project, [f"G{number:05d}" for number in range(5000)])
    window = look(open_console(project).url)
    page = window.page
    window.log_in()
    window.go(f"/w/1/batches/{name}")
    assert "5,000 galaxies" in page.inner_text("main")
    shown = "document.getElementsByClassName('about').length"

    def scroll_to(count: int) -> None:
        until = time.monotonic() + 240
        while (now := page.evaluate(shown)) < count:
            assert time.monotonic() < until, now
            page.mouse.wheel(0, 100_000)
            page.wait_for_timeout(100)

    # All of them in one go take minutes of an idle machine: their beginning and their end do not.
    scroll_to(300)
    page.check("input[value='G00000']")
    scroll_to(360)
    # What was marked at the beginning still is, and goes with the rest.
    page.check("input[value='G00359']")
    assert page.inner_text("#marked") == "2 galaxies are marked"
    page.fill("[name=where]", "rank > 4700")
    page.click("form[method=get] button")
    scroll_to(300)
    assert page.locator(".about a[href$='G04999']").count() == 1
    assert page.locator("li.more").count() == 0
    page.fill("[name=where]", "rank > 4990 AND reason = 'bald'")
    page.click("form[method=get] button")
    assert page.locator(".gallery .about").count() == 8


def test_approval_from_a_phone_takes_five_taps_at_most(
    staged: Any, serve: Callable[..., Any], look: Look
) -> None:
    window = look(serve(staged.settings.path).url, 390, 844, has_touch=True, is_mobile=True)
    page = window.page
    taps = 1  # On the link in the message, which leads here.
    window.go(f"/w/1/batches/{newest(staged).name}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.tap("a:has-text('Log in') >> nth=0")
    page.fill("[name=name]", "anna")
    page.fill("[name=password]", OPEN)
    page.tap("main button:has-text('Log in')")
    page.tap("a:has-text('Show it to volunteers')")
    page.tap("button:has-text('Show it to volunteers')")
    taps += 4
    assert "is published" in window.ended("done")
    assert taps <= 5
    for path in ("", "batches", "runs", "audit", "models", "catalogue"):
        window.go(f"/w/1/{path}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path


def test_without_javascript_it_can_be_read_and_decided(
    staged: Any, serve: Callable[..., Any], look: Look
) -> None:
    window = look(serve(staged.settings.path).url, java_script_enabled=False)
    page = window.page
    window.log_in()
    assert "waits for your decision" in page.inner_text("main")
    page.click("text=Look at it")
    assert page.locator(".gallery .about").count() == 9
    name = page.locator(".about > a >> nth=0").inner_text()
    page.check(f"input[value='{name}']")
    page.fill("#out [name=why]", "a trail")
    page.click("text=Leave out")
    # The page asks again by itself.
    window.ended("done")
    page.click("text=Go on")
    page.click("a:has-text('Show it to volunteers')")
    page.click("button:has-text('Show it to volunteers')")
    window.ended("done")
    assert newest(staged).state == "published"
    assert name not in ids_in_set(staged)


def test_names_and_columns_are_texts_whatever_they_hold(
    make_after: Callable[..., Any], open_console: Callable[..., Client], look: Look
) -> None:
    project = make_after("score")
    scores = project.ledger.newest("scores")
    evil = "<script>alert(1)</script>\"'&</title><img src=x onerror=alert(2)>"
    name = put_batch(
        project, [evil, "a/../../b?c=d#e", "{{ 7 * 7 }}"], scores=scores.name, why=evil
    )
    window = look(open_console(project).url)
    window.log_in(name=evil[:60])
    window.go(f"/w/1/batches/{name}")
    assert [each.inner_text() for each in window.page.locator(".about > a").all()] == [
        evil, "a/../../b?c=d#e", "{{ 7 * 7 }}",
    ]  # fmt: skip
    window.page.click(".about > a >> nth=0")
    assert window.page.inner_text("h1") == evil
    window.go(f"/w/1/batches/{name}")
    window.page.click(".about > a >> nth=1")
    assert window.page.inner_text("h1") == "a/../../b?c=d#e"
    window.go("/w/1/audit")
    assert evil[:60] in window.page.inner_text("main")
    # A dialog, or a script that failed, would have been noted by the window.
    assert window.page.locator("main script, main img[onerror]").count() == 0


def serious(window: Window) -> list[str]:
    """What axe-core finds that is serious, or worse."""
    found = Axe().run(window.page).response["violations"]
    return [
        f"{each['id']}: {each['nodes'][0]['html'][:120]}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_can_be_used_by_everybody(
    make_after: Callable[..., Any], open_console: Callable[..., Client], look: Look, scheme: Any
) -> None:
    project = make_after("score")
    project.change(upload={"per_run": 6})
    run = project.done("upload")
    model = project.ledger.model_in_use()
    galaxy = project.ledger.list_objects(run.artifact)[0].object_id
    console = open_console(project)
    window = look(console.url, bypass_csp=True, color_scheme=scheme)
    window.go("/login")
    wrong = [f"login: {each}" for each in serious(window)]
    window.log_in()
    for path in (
        "", "batches", f"batches/{run.artifact}", f"batches/{run.artifact}/publish",
        f"batches/{run.artifact}/abandon", f"galaxy?id={galaxy}", "models", f"models/{model}",
        "asks", "catalogue", "catalogue?where=nonsense", "runs", f"runs/{run.run_id}", "audit",
        "no/such", "following",
    ):  # fmt: skip
        window.go(f"/w/1/{path}")
        wrong += [f"{path}: {each}" for each in serious(window)]
    assert wrong == []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_owners_and_collaborators_sign_in_with_zooniverse(
    staged: Any,
    serve: Callable[..., Any],
    look: Look,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state, port = staged.box.state, free_port()
    owner = state.one("SELECT id FROM users WHERE login = 'sandbox'")["id"]
    helper = state.add_user("helper", "pw-helper")
    state.add_user("cleo", "pw-cleo")
    project = state.one("SELECT id FROM projects WHERE slug = 'sandbox/galaxies'")["id"]
    state.insert("collaborators", project_id=project, user_id=helper)
    state.add_application("console-app", "console-secret-4711", owner, "public user project")
    state.add_redirect("console-app", f"http://localhost:{port}/login/callback")
    monkeypatch.setenv(CLIENT_SECRET, "console-secret-4711")
    text = staged.settings.path.read_text().replace("port = 0", f"port = {port}")
    console = (
        f'[console]\npublic_url = "http://localhost:{port}"\n'
        'zooniverse_client_id = "console-app"\ncollaborators = "reader"\n\n[serve]'
    )
    staged.settings.path.write_text(text.replace("[serve]", console))
    serve(staged.settings.path)
    url = f"http://localhost:{port}"

    def sign_in(login: str, password: str) -> Window:
        window = look(url)
        window.go("/login?next=/w/1/runs")
        window.page.click("text=Sign in with Zooniverse")
        window.page.fill("[name=login]", login)
        window.page.fill("[name=password]", password)
        window.page.click("text=Sign in")
        window.page.click("text=Authorize")
        return window

    password = state.one("SELECT password FROM users WHERE login = 'sandbox'")["password"]
    window = sign_in("sandbox", password)
    assert urlsplit(window.page.url).path == "/w/1/runs"
    assert window.page.locator("text=Run it").count() == 1
    assert window.page.inner_text(".who") == "sandbox"
    window = sign_in("helper", "pw-helper")
    # As the settings have it, a collaborator looks.
    assert urlsplit(window.page.url).path == "/w/1/runs"
    assert window.page.locator("text=Run it").count() == 0
    window = sign_in("cleo", "pw-cleo")
    assert "neither owner nor collaborator" in window.page.inner_text("main")
    # Its token was given back, each time.
    rows = state.all("SELECT revoked FROM tokens WHERE scopes = 'public user project'")
    assert [row["revoked"] for row in rows] == [1, 1, 1]
    # What comes back to a browser that did not leave is not let in.
    code = requests.get(f"{url}/login/callback?code=x&state=y", timeout=10)
    assert code.status_code == 400


def test_a_program_on_the_own_machine_is_handed_a_selection(
    make_after: Callable[..., Any], open_console: Callable[..., Client], tmp_path: Path
) -> None:
    from astropy.io.votable import parse_single_table

    project = make_after("score")
    console = open_console(project)
    console.log_in()
    lent = console.get("/w/1/catalogue/lend?where=mean>=0&sort=sure").json()
    path = tmp_path / "got.vot"
    # Without the log-in.
    path.write_bytes(requests.get(lent["url"], timeout=30).content)
    table = parse_single_table(path).to_table()
    assert len(table) == project.ledger.newest("scores").facts["scored"]
    widths = table["hi"] - table["lo"]
    assert list(widths) == sorted(widths)
    assert requests.get(lent["url"].replace("/lent/", "/lent/x"), timeout=10).status_code == 404


def test_a_selection_is_sent_to_a_program_that_speaks_samp(
    make_after: Callable[..., Any], open_console: Callable[..., Client], look: Look, tmp_path: Path
) -> None:
    from astropy.io.votable import parse_single_table
    from astropy.samp import SAMPHubServer, SAMPIntegratedClient
    from astropy.samp.hub import WebProfileDialog

    class Yes(WebProfileDialog):  # type: ignore[misc]
        """Somebody who allows the page to speak."""

        def show_dialog(self, *_: Any) -> None:
            self.consent()

    dialog = Yes()
    lock = str(tmp_path / "hub")
    hub = SAMPHubServer(
        web_profile=True, web_profile_dialog=dialog, lockfile=lock, addr="127.0.0.1"
    )
    hub.start()
    got: list[dict[str, Any]] = []
    program = SAMPIntegratedClient(name="a table program", addr="127.0.0.1")
    try:
        program.connect(hub_params=dict(hub.params))
        program.bind_receive_notification(
            "table.load.votable", lambda key, sender, mtype, params, extra: got.append(params)
        )
        project = make_after("score")
        window = look(open_console(project).url)
        window.go("/w/1/catalogue?where=mean<0.5")
        window.page.click("text=send it to TOPCAT or Aladin")
        until = time.monotonic() + 60
        while not got:
            dialog.handle_queue()
            assert time.monotonic() < until, window.page.inner_text("#samp")
            window.page.wait_for_timeout(100)
        window.page.wait_for_selector("#samp:has-text('Sent.')")
    finally:
        program.disconnect()
        hub.stop()
    path = tmp_path / "got.vot"
    path.write_bytes(requests.get(got[0]["url"], timeout=30).content)
    table = parse_single_table(path).to_table()
    assert len(table) > 0
    assert (table["mean"] < 0.5).all()


def test_the_log_in_of_a_reader_is_of_a_reader(
    staged: Any, open_console: Callable[..., Client], look: Look
) -> None:
    window = look(open_console(staged).url)
    window.log_in(READ)
    window.go(f"/w/1/batches/{newest(staged).name}")
    assert window.page.locator("input[name=object], #out").count() == 0
    states = {row.state for row in staged.ledger.list_objects(newest(staged).name)}
    assert states == {ObjectState.STAGED}
