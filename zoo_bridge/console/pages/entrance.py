"""Coming in and going out: passwords, signing in with Zooniverse, which workflows there are."""

from __future__ import annotations

import threading

from starlette.responses import RedirectResponse, Response

from zoo_bridge.console.people import PASSWORD, Person, Role
from zoo_bridge.console.site import Visit, ask, link
from zoo_bridge.errors import ZooniverseError
from zoo_bridge.ledger.actors import CONSOLE, acting

LONGEST_NAME = 60
# Looking at a password takes memory by design: some at a time.
_looking = threading.BoundedSemaphore(2)


def home(visit: Visit) -> Response:
    """The workflows that somebody may see; of one alone, its own page."""
    seen = [
        place for key, place in visit.site.places.items() if visit.person.may(key) >= Role.READER
    ]
    if not seen:
        return ask(visit)
    if len(seen) == 1:
        return RedirectResponse(link(seen[0].key), 303)
    return visit.show("workflows.html", places=seen)


def log_in_form(visit: Visit) -> Response:
    """Where one logs in."""
    told = "You are logged in no longer. Nothing was done." if visit.asked("ended") == "1" else ""
    return _form(visit, told)


def _form(visit: Visit, told: str, status: int = 200) -> Response:
    goes = _inside(visit.asked("next") or visit.given("next"))
    return visit.show("login.html", status, told=told, next=goes, has_form=True, password=PASSWORD)


def log_in(visit: Visit) -> Response:
    """Look at a password."""
    address = visit.person.address
    if (wait := visit.site.doors.wait_for(address)) > 0:
        answer = _form(visit, "Too many wrong passwords. Wait some minutes.", 429)
        answer.headers["Retry-After"] = str(round(wait) + 1)
        return answer
    name = visit.given("name")[:LONGEST_NAME]
    with _looking:
        # Others from there may have tried while this one waited.
        if visit.site.doors.wait_for(address) > 0:
            return _form(visit, "Too many wrong passwords. Wait some minutes.", 429)
        role = visit.site.doors.role_of(visit.given("password"))
        if role == Role.NOBODY:
            visit.site.doors.failed(address)
    if role == Role.NOBODY:
        _note(visit, f"{name or 'somebody'}@{address}", "log-in refused")
        return _form(visit, "That password is wrong.", 401)
    if not name:
        return _form(visit, "Say who you are: it stands beside what you do.", 400)
    return _enter(visit, Person(name, address, "password", role), visit.given("next"))


def _enter(visit: Visit, person: Person, goes: str) -> Response:
    # A key that was known before the log-in is good for nothing after it.
    visit.site.sessions.end(visit.session)
    session = visit.site.sessions.begin(person)
    answer = RedirectResponse(_inside(goes), 303)
    visit.site.set_cookie(visit, answer, session)
    _note(visit, person.signature, "logged in", person)
    return answer


def log_out(visit: Visit) -> Response:
    """End the session."""
    person = visit.person
    visit.site.sessions.end(visit.session)
    answer = RedirectResponse("/login", 303)
    visit.site.set_cookie(visit, answer, None)
    _note(visit, person.signature, "logged out", person)
    return answer


def to_zooniverse(visit: Visit) -> Response:
    """Send somebody to Zooniverse, who is to come back to this browser."""
    if not visit.site.doors.takes_zooniverse:
        return visit.site.sorry(visit, 404, "Nobody can sign in with Zooniverse here.")
    url, notes = visit.site.sign_in.begin()
    session = visit.session or visit.site.sessions.begin()
    session.notes = {**notes, "next": _inside(visit.asked("next"))}
    answer = RedirectResponse(url, 303)
    visit.site.set_cookie(visit, answer, session)
    return answer


def from_zooniverse(visit: Visit) -> Response:
    """Somebody comes back: with a code, if they agreed."""
    notes = visit.session.notes if visit.session else {}
    state = notes.pop("state", "")
    if not state or visit.asked("state") != state:
        return _form(visit, "This way in has ended, or began in another browser. Try again.", 400)
    if not visit.asked("code"):
        return _form(visit, "Zooniverse did not let you in, or you did not agree.", 403)
    # Whose slug is the same on another server is nobody there.
    projects = [
        (key, place.settings.project.slug)
        for key, place in visit.site.places.items()
        if place.settings.project.endpoint == visit.site.sign_in.endpoint
    ]
    try:
        login, roles = visit.site.sign_in.finish(
            visit.asked("code"), notes.pop("verifier", ""), projects
        )
    except ZooniverseError as error:
        return _form(visit, f"{error.message} {error.hint}", 502)
    person = Person(login, visit.person.address, "Zooniverse", Role.NOBODY, roles)
    if person.may(None) == Role.NOBODY:
        _note(visit, person.signature, "log-in refused")
        told = f"{login} is neither owner nor collaborator of a project here."
        return _form(visit, told, 403)
    return _enter(visit, person, notes.pop("next", "/"))


def _inside(path: str) -> str:
    """Where to go, if it is one of our own pages."""
    good = path.startswith("/") and not path.startswith(("//", "/\\", "/login", "/logout"))
    return path if good and "\\" not in path and "\n" not in path else "/"


def _note(visit: Visit, who: str, what: str, person: Person | None = None) -> None:
    """Stands in the audit of each workflow that it is about."""
    for key, place in visit.site.places.items():
        if person is None or person.may(key) > Role.NOBODY:
            with acting(who, CONSOLE):
                text = None if person is None else f"by {person.how}, as {_named(person.may(key))}"
                place.ledger.note_act(what, "console", text)


def _named(role: Role) -> str:
    return role.name.lower()
