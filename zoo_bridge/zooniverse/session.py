"""A log-in to Panoptes that does not hang, does not swallow errors and knows its HTTP statuses.

panoptes-client signs in and keeps the token; requests go out through its ``http_request``, which
sends exactly what is asked and gives the answer back whole. What the client lacks is added at that
door: a time-out on every request, statuses, an expired token (a 401 with an empty body), an HTML
page where JSON should be, and calls side by side. Writes are never retried here: whoever wrote must
look first.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import Any, Self

import requests

from zoo_bridge.config import Settings
from zoo_bridge.errors import (
    NotSentError,
    OutcomeUnknownError,
    SwitchedOffError,
    ZooniverseError,
)
from zoo_bridge.retry import doubling, retry
from zoo_bridge.zooniverse.client import (
    SIGN_IN_ERRORS,
    Client,
    cause_of,
    json_of,
    never_connected,
    reason_of,
    sign_in,
)

log = logging.getLogger(__name__)

READ_ATTEMPTS = 4
PAGE_SIZE = 100
SWITCHED_OFF = "temporarily disabled"
# For sets, exports and retirement; for creates; for listing votes.
SCOPES = ("project", "subject", "classification")
ONLY_THEY = "only the project's owner and collaborators may do this"


@dataclass(frozen=True)
class Reply:
    """An answer of the API: status, JSON body, ETag."""

    status: int
    body: dict[str, Any]
    etag: str | None


class Session:
    """One log-in, for one job; its calls may be made by several threads.

    Parameters
    ----------
    endpoint : str
        The server, such as ``https://www.zooniverse.org``.
    timeout : float
        Seconds without an answer after which a request has failed.
    pause : float
        Seconds before the second attempt of a read; doubled each time.
    connections : int
        How many threads will make calls.

    Attributes
    ----------
    calls : int
        Requests to the API so far, log-in aside.

    Raises
    ------
    SettingsError
        If there are no credentials, or the server does not accept them.
    ZooniverseError
        If there is no server, or it stays in trouble.
    """

    def __init__(
        self, endpoint: str, timeout: float = 60.0, pause: float = 1.0, connections: int = 1
    ) -> None:
        self.endpoint = endpoint
        self.timeout = timeout
        self.pause = pause
        self.connections = connections
        self.calls = 0
        self._lock = threading.Lock()
        self._count = threading.Lock()
        self._client = self._log_in()

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The log-in of a settings file."""
        project = settings.project
        return cls(
            project.endpoint,
            settings.project.timeout_seconds,
            project.pause_seconds,
            settings.upload.connections,
        )

    @property
    def who(self) -> str:
        """Who is logged in: a name, or an application."""
        return self._client.who

    @property
    def lacking(self) -> tuple[str, ...]:
        """Scopes that are needed and that the token has not; none if it does not say."""
        scopes = self._client.scopes
        return () if scopes is None else tuple(name for name in SCOPES if name not in scopes)

    def _log_in(self) -> Client:
        """Sign in; tried again, as reads are, while the server is in trouble."""
        return retry(
            lambda: sign_in(self.endpoint, self.timeout, self.connections),
            READ_ATTEMPTS,
            doubling(self.pause),
            ZooniverseError,
            lambda error: not 400 <= error.status < 500,
            "signing in",
        )

    def get(self, path: str, **params: Any) -> Reply:
        """Read; tried again when the server is in trouble.

        Parameters
        ----------
        path : str
            After ``/api``, such as ``/projects``.
        **params
            The query's parameters, such as ``slug``.

        Returns
        -------
        Reply

        Raises
        ------
        ZooniverseError
            With the status, when the server says no or stays in trouble.
        """
        return retry(
            lambda: self._ask("GET", path, params, None, None),
            READ_ATTEMPTS,
            doubling(self.pause),
            ZooniverseError,
            lambda error: not (0 < error.status < 500 or isinstance(error, SwitchedOffError)),
            f"GET {path}",
        )

    def find(self, path: str, **params: Any) -> Reply | None:
        """Read something that may not be there: None for a 404."""
        try:
            return self.get(path, **params)
        except ZooniverseError as error:
            if error.status == 404:
                return None
            raise

    def list(self, kind: str, **params: Any) -> list[dict[str, Any]]:
        """Every item of a listing, all pages of it.

        Parameters
        ----------
        kind : str
            Such as ``subjects``.
        **params
            The query's parameters, such as ``workflow_id``.

        Returns
        -------
        list of dict
        """
        items: list[dict[str, Any]] = []
        path, query = f"/{kind}", {**params, "page_size": PAGE_SIZE}
        while path:
            reply = self.get(path, **query)
            items += reply.body.get(kind, [])
            path = reply.body.get("meta", {}).get(kind, {}).get("next_href") or ""
            query = {}
        return items

    def write(self, verb: str, path: str, body: Any = None, etag: str | None = None) -> Reply:
        """Change something: one request, sent once more only if the token had expired.

        Parameters
        ----------
        verb : str
            POST, PUT or DELETE.
        path : str
            What follows ``/api``, such as ``/subjects``.
        body : object, optional
            Sent as JSON.
        etag : str, optional
            The version that is to be changed: sent as If-Match.

        Returns
        -------
        Reply

        Raises
        ------
        OutcomeUnknownError
            If no usable answer came, so that it may or may not have been done.
        ZooniverseError
            If the server said no.
        """
        return self._ask(verb, path, {}, body, etag)

    def _ask(self, verb: str, path: str, params: Any, body: Any, etag: str | None) -> Reply:
        client = self._client
        try:
            return self._send(client, verb, path, params, body, etag)
        except ZooniverseError as error:
            if error.status != 401:
                raise
            # Nothing was done. The token ended in the middle: have a new one and say it again.
            return self._send(self._renewed(client), verb, path, params, body, etag)

    def _renewed(self, old: Client) -> Client:
        """A log-in in place of one that ended; one for all threads that meet its end."""
        with self._lock:
            if self._client is old:
                self._client = self._log_in()
            return self._client

    def _send(
        self, client: Client, verb: str, path: str, params: Any, body: Any, etag: str | None
    ) -> Reply:
        trouble: type[ZooniverseError] = OutcomeUnknownError if verb != "GET" else ZooniverseError
        try:
            client.get_bearer_token()
        except SIGN_IN_ERRORS as error:
            # It could not be renewed, and nothing was sent yet.
            raise ZooniverseError(f"{verb} {path}: {error}", _ADVICE[401], 401) from None
        with self._count:
            self.calls += 1
        try:
            response = client.ask(verb, path, dict(params), body, etag)
        except requests.RequestException as error:
            if never_connected(error):
                trouble = NotSentError
            raise trouble(
                f"{verb} {path}: no answer from {self.endpoint} ({cause_of(error)}).",
                "Run the same command again when Zooniverse answers; nothing is done twice.",
            ) from None
        status = response.status_code
        text = response.text
        parsed = json_of(response)
        reason = reason_of(parsed, text)
        said = f"{verb} {path}: {self.endpoint} answered {status}: {reason}"
        if status == 503 and parsed and SWITCHED_OFF in reason:
            # An answer like any other, and not a doubt.
            raise SwitchedOffError(
                said,
                "Zooniverse has switched this off for now; see status.zooniverse.org.",
                status,
                reason,
            )
        # A page is no answer of Panoptes', whatever its status: something in between spoke.
        is_page = parsed is None and (status < 400 or text.lstrip().startswith("<"))
        if status >= 500 or (is_page and text):
            raise trouble(
                said,
                "Zooniverse is in trouble; run the same command again later.",
                status if status >= 500 else 502,
            )
        if status >= 400 or "errors" in (parsed or {}):
            raise ZooniverseError(said, _advice(client.who, status, reason, text), status, reason)
        return Reply(status, parsed or {}, response.headers.get("ETag"))


_ADVICE = {
    401: "The log-in is no longer good; check PANOPTES_USERNAME and PANOPTES_PASSWORD.",
    403: "The account has reached a limit or lacks the right; see its settings on Zooniverse.",
    409: "Somebody changed it at the same time; run the same command again.",
}
# What Panoptes says of want of rights, as if something were missing.
_NO_RIGHTS = "for current user"


def _advice(who: str, status: int, reason: str, text: str) -> str:
    """What to do about an answer; where rights may be wanting, whose."""
    if status == 403 and not text:
        return (
            "The application of PANOPTES_CLIENT_ID lacks a scope; it needs project, subject and "
            "classification."
        )
    if status == 404:
        return f"It does not exist, or {who} has no rights to it: {ONLY_THEY}."
    if status == 422 and _NO_RIGHTS in reason:
        return f"Perhaps {who} has no rights there: {ONLY_THEY}."
    return _ADVICE.get(status, "")
