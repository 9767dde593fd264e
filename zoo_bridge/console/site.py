"""What every page is made with: the workflows, the templates, whoever asks, and what they may.

A page is a plain function of a `Visit`; `Site.page` looks at who asks before it is called, and
`Site.act` also that a change comes from one of our own pages.
"""

from __future__ import annotations

import functools
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from zoo_bridge.config import Settings
from zoo_bridge.config.tables import Console
from zoo_bridge.console import drawing, words
from zoo_bridge.console.acts import Acts
from zoo_bridge.console.drawn import Drawn
from zoo_bridge.console.later import Later
from zoo_bridge.console.people import Doors, Person, Role
from zoo_bridge.console.places import Place, Served, keys_of
from zoo_bridge.console.sessions import COOKIE, Session, Sessions
from zoo_bridge.console.zooniverse_login import SignIn
from zoo_bridge.errors import BusyError, RefusedError, ZooBridgeError
from zoo_bridge.ledger import Ledger
from zoo_bridge.redact import redact
from zoo_bridge.steps.context import Context
from zoo_bridge.trouble import unexpected
from zoo_bridge.version import __version__

# Of a form: five thousand galaxies may be marked.
MOST_FIELDS, MOST_BYTES, LONGEST = 20_000, 2**20, 1000
LINK_SECONDS = 300.0


@dataclass
class Visit:
    """One request: who asks, of what, with which form."""

    site: Site
    request: Request
    session: Session | None
    person: Person
    here: Place | None = None
    form: dict[str, list[str]] | None = None

    @property
    def place(self) -> Place:
        """The workflow that a page is of."""
        assert self.here is not None
        return self.here

    @property
    def settings(self) -> Settings:
        """Of the workflow."""
        return self.place.settings

    @property
    def ledger(self) -> Ledger:
        """Of the workflow."""
        return self.place.ledger

    @property
    def context(self) -> Context:
        """To read with."""
        return Context.reading(self.settings, self.ledger, "console")

    @property
    def may_change(self) -> bool:
        """Whether they are an administrator here."""
        key = self.here.key if self.here else None
        return self.person.is_known and self.person.may(key) >= Role.ADMINISTRATOR

    @property
    def is_fragment(self) -> bool:
        """Whether a part of a page is asked for, by a page that is there already."""
        return "hx-request" in self.request.headers

    def param(self, name: str) -> str:
        """A part of the address."""
        return str(self.request.path_params.get(name, ""))

    def asked(self, name: str, default: str = "") -> str:
        """What stands behind the question mark."""
        return self.request.query_params.get(name, default)

    def number(self, name: str, default: int, most: int) -> int:
        """The same, as a number from 0 to some most."""
        text = self.asked(name)
        return min(int(text), most) if text.isdecimal() and len(text) < 10 else default

    def given(self, name: str) -> str:
        """A field of the form."""
        values = (self.form or {}).get(name, [""])
        return _plain(values[0])[:LONGEST].strip()

    def chosen(self, name: str) -> list[str]:
        """A field of the form that may be there several times."""
        # As they are: names of things, which stand where no option can.
        return [value.replace("\0", "") for value in (self.form or {}).get(name, [])]

    def url(self, *path: str, **query: Any) -> str:
        """An address of the workflow's pages."""
        return link(self.place.key, *path, **query)

    def show(self, template: str, status: int = 200, **facts: Any) -> Response:
        """A page."""
        return self.site.show(self, template, status, **facts)

    def part(self, template: str, **facts: Any) -> Response:
        """A part of a page; a page of its own for browsers without scripts."""
        if self.is_fragment:
            return self.show(template, **facts)
        return self.show("part.html", part=template, **facts)


Handler = Callable[[Visit], Response]


def link(key: str, *path: str, **query: Any) -> str:
    """An address within the console: each part of the path, and of the question, as it must be."""
    parts = "/".join(quote(part, safe="") for part in path)
    kept = {name: value for name, value in query.items() if value not in (None, "")}
    asked = f"?{urlencode(kept)}" if kept else ""
    return f"/w/{quote(key, safe='')}/{parts}{asked}"


class Site:
    """The console of one ``zoo-bridge serve``.

    Parameters
    ----------
    served : sequence of Served
        The workflows.
    config : Console
        Who may see it, and for how long.
    """

    def __init__(self, served: Sequence[Served], config: Console) -> None:
        self.config = config
        self.doors = Doors(config)
        self.sessions = Sessions(3600 * config.session_hours)
        self.acts = Acts()
        self.drawn = Drawn()
        self.later = Later()
        self.places = {key: Place(key, each) for key, each in keys_of(served)}
        self.sign_in = SignIn(next(iter(self.places.values())).settings)
        self._links: dict[str, tuple[float, Callable[[], Response]]] = {}
        self._guard = threading.Lock()
        self.templates = Environment(
            loader=PackageLoader("zoo_bridge.console"),
            autoescape=select_autoescape(["html"]),
            undefined=StrictUndefined,
            # As they were when this process began: its code is of the same version.
            auto_reload=False,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.templates.globals.update(
            version=__version__,
            strip=drawing.strip,
            bars=drawing.bars,
        )
        self.templates.filters.update(
            when=words.when,
            number=words.number,
            redact=redact,
            share=words.share,
            ago=words.ago,
        )

    def close(self) -> None:
        """End what works for it."""
        self.acts.close()
        self.later.close()
        for place in self.places.values():
            place.posteriors.close()

    # pages

    def page(
        self, handler: Handler, role: Role = Role.READER, open_to_all: bool = False
    ) -> Callable[[Request], Any]:
        """An endpoint that shows something to whoever may see it."""
        return self._endpoint(handler, role, False, open_to_all)

    def act(
        self, handler: Handler, role: Role = Role.ADMINISTRATOR, open_to_all: bool = False
    ) -> Callable[[Request], Any]:
        """An endpoint that changes something, for whoever may, from a page of ours."""
        return self._endpoint(handler, role, True, open_to_all)

    def _endpoint(
        self, handler: Handler, role: Role, changes: bool, open_to_all: bool
    ) -> Callable[[Request], Any]:
        @functools.wraps(handler)
        async def endpoint(request: Request) -> Response:
            visit = self._visit(request)
            try:
                if changes:
                    visit.form = await _form_of(request)
                    if visit.form is None:
                        return self.sorry(visit, 413, "That is too much at once.")
                return await run_in_threadpool(
                    self._answer, visit, handler, role, changes, open_to_all
                )
            except ZooBridgeError as error:
                status = {BusyError: 409, RefusedError: 409}.get(type(error), 400)
                return self.sorry(visit, status, error.message, error.hint)
            except Exception as error:
                known = unexpected(error, "the console")
                return self.sorry(visit, 500, known.message, known.hint)

        return endpoint

    def _visit(self, request: Request) -> Visit:
        session = self.sessions.find(request.cookies.get(COOKIE))
        person = session.person if session and session.person else None
        found = person or self.doors.person_of(request)
        here = self.places.get(request.path_params.get("workflow", ""))
        address = self.doors.address_of(request)
        nobody = Person("nobody", address, "this machine", Role.NOBODY)
        return Visit(self, request, session, found or nobody, here)

    def _answer(
        self, visit: Visit, handler: Handler, role: Role, changes: bool, open_to_all: bool
    ) -> Response:
        if not open_to_all:
            if "workflow" in visit.request.path_params and visit.here is None:
                # Whoever may not read does not hear which workflows there are.
                known = visit.person.may(None) >= Role.READER
                return self.sorry(visit, 404, "There is no such workflow.") if known else ask(visit)
            held = visit.person.may(visit.here.key if visit.here else None)
            if held < Role.READER and visit.here is not None and visit.person.is_known:
                # Nor does whoever may read another one alone.
                return self.sorry(visit, 404, "There is no such workflow.")
            if held < role or (changes and not visit.person.is_known):
                if not visit.person.is_known:
                    return ask(visit)
                return self.sorry(
                    visit, 403, f"{visit.person.name} may not do that here.",
                    "It takes an administrator of this workflow.",
                )  # fmt: skip
        if changes and not self._is_ours(visit):
            return self.sorry(
                visit,
                403,
                "This form has ended, or came from elsewhere. Nothing was done.",
                "Go back, load the page again, and try again.",
            )
        return handler(visit)

    def _is_ours(self, visit: Visit) -> bool:
        """Whether a change was asked for on one of our pages; programs with a token have none."""
        headers = visit.request.headers
        if visit.person.how == "token" and visit.session is None:
            return True
        origin = headers.get("origin")
        # Behind a proxy the host's name may be another: then it is the public one.
        ours = {headers.get("host", ""), urlsplit(self.config.public_url or "").netloc} - {""}
        if origin is not None and urlsplit(origin).netloc not in ours:
            return False
        if visit.session is None:
            return False
        return visit.session.has(visit.given("csrf"))

    def show(self, visit: Visit, template: str, status: int = 200, **facts: Any) -> Response:
        """Render a page; a form on it carries the session's token."""
        fresh = None
        # What a trusted proxy names, and whoever is about to log in, needs a session for its forms.
        needs = visit.person.how == "proxy" or facts.get("has_form")
        if visit.session is None and needs:
            fresh = visit.session = self.sessions.begin()
        session = visit.session
        text = self.templates.get_template(template).render(
            visit=visit,
            site=self,
            place=visit.here,
            person=visit.person,
            may_change=visit.may_change,
            csrf=session.csrf if session else "",
            path=visit.request.url.path,
            url=functools.partial(link, visit.here.key) if visit.here else None,
            **facts,
        )
        answer = HTMLResponse(text, status)
        if fresh is not None:
            self.set_cookie(visit, answer, fresh)
        return answer

    def set_cookie(self, visit: Visit, answer: Response, session: Session | None) -> None:
        """Give a browser its session, or take it away."""
        if session is None:
            answer.delete_cookie(COOKIE, httponly=True, samesite="lax")
            return
        secure = (self.config.public_url or "").startswith("https://")
        answer.set_cookie(
            COOKIE,
            session.key,
            max_age=round(session.ends - time.monotonic()),
            httponly=True,
            samesite="lax",
            secure=secure,
        )

    def sorry(self, visit: Visit, status: int, text: str, hint: str = "") -> Response:
        """What went wrong, and what to do."""
        facts = {"text": redact(text), "hint": redact(hint)}
        name = "_sorry.html" if visit.is_fragment else "sorry.html"
        return self.show(visit, name, status, **facts)

    # what is handed to other programs

    def lend(self, make: Callable[[], Response]) -> str:
        """An address that works for some minutes, for a program without a log-in."""
        key = secrets.token_urlsafe(24)
        with self._guard:
            now = time.monotonic()
            self._links = {name: each for name, each in self._links.items() if each[0] > now}
            self._links[key] = now + LINK_SECONDS, make
        return key

    def lent(self, key: str) -> Callable[[], Response] | None:
        """What an address of `lend` is of."""
        with self._guard:
            until, make = self._links.get(key, (0.0, None))
        return make if until > time.monotonic() else None


def ask(visit: Visit) -> Response:
    """Ask somebody to log in, and remember where they were going."""
    request = visit.request
    back = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    if visit.is_fragment:
        # The page that this is a part of.
        whole = urlsplit(request.headers.get("hx-current-url", ""))
        back = whole.path + (f"?{whole.query}" if whole.query else "")
        back = back if whole.netloc == request.headers.get("host") else "/"
    if request.method != "GET":
        # What was sent is lost; the page that it was sent from is not.
        came = urlsplit(request.headers.get("referer", ""))
        back = came.path if came.netloc == request.headers.get("host") else "/"
    to = f"/login?{urlencode({'next': back, 'ended': int(request.method != 'GET')})}"
    if visit.is_fragment:
        return Response(status_code=401, headers={"HX-Redirect": to})
    return RedirectResponse(to, 303)


async def _form_of(request: Request) -> dict[str, list[str]] | None:
    """A form as browsers send it; None if it is larger than any of ours."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            return None
    try:
        return parse_qs(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        return None


def _plain(text: str) -> str:
    """A text without what ends a text in other programs, or moves what is written elsewhere."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
