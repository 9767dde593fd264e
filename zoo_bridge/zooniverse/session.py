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
import time
from dataclasses import dataclass
from typing import Any, Self

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import NewConnectionError

from zoo_bridge.config import Settings, secret
from zoo_bridge.errors import (
    NotSentError,
    OutcomeUnknownError,
    SettingsError,
    SwitchedOffError,
    ZooniverseError,
)

# Importing the client sets up the root logger, which is the run's to set up.
_HANDLERS = list(logging.getLogger().handlers)
from panoptes_client.panoptes import Panoptes, PanoptesAPIException  # noqa: E402

logging.getLogger().handlers[:] = _HANDLERS
log = logging.getLogger(__name__)

READ_ATTEMPTS = 4
PAGE_SIZE = 100
SWITCHED_OFF = "temporarily disabled"


@dataclass(frozen=True)
class Reply:
    """An answer of the API: status, JSON body, ETag."""

    status: int
    body: dict[str, Any]
    etag: str | None


class _Patience(HTTPAdapter):
    """Gives every request of a session a time-out, and a connection each to so many at once."""

    def __init__(self, seconds: float, connections: int) -> None:
        super().__init__(pool_connections=connections, pool_maxsize=connections)
        self.seconds = seconds

    def send(self, *args: Any, **options: Any) -> requests.Response:
        options["timeout"] = options.get("timeout") or self.seconds
        return super().send(*args, **options)


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
            settings.pull.timeout_seconds,
            project.pause_seconds,
            settings.upload.connections,
        )

    def _log_in(self) -> _Client:
        """Sign in; tried again, as reads are, while the server is in trouble."""
        pause = self.pause
        for attempt in range(1, READ_ATTEMPTS + 1):
            try:
                return self._log_in_once()
            except ZooniverseError as error:
                if attempt == READ_ATTEMPTS or 400 <= error.status < 500:
                    raise
                log.warning("signing in failed (%s), trying again", error.message)
                time.sleep(pause)
                pause *= 2
        raise AssertionError("unreachable")

    def _log_in_once(self) -> _Client:
        who = _Credentials.from_environment()
        client = _Client(self.endpoint, self.timeout, self.connections)
        try:
            client.sign_in(who)
        except (PanoptesAPIException, KeyError, ValueError, requests.RequestException) as error:
            raise self._explain(who, client.last, error) from None
        return client

    def _explain(
        self, who: _Credentials, answer: requests.Response | None, error: Exception
    ) -> Exception:
        """Why signing in failed: the server's trouble, or what is in the settings."""
        no_json = isinstance(error, requests.exceptions.JSONDecodeError)
        unanswered = isinstance(error, requests.RequestException) and not no_json
        if answer is None or unanswered:
            return ZooniverseError(
                f"No answer from {self.endpoint}: {_cause(error)}.",
                "Is project.endpoint right, and can this machine reach it?",
            )
        parsed = _json(answer)
        if answer.status_code == 422 and not answer.text:
            return SettingsError(
                f"{self.endpoint} did not let {who.name} in: this application is unknown or may "
                "not sign in in this way.",
                "Correct PANOPTES_CLIENT_ID: make an application under "
                f"{self.endpoint}/oauth/applications, or sign in by name and password.",
            )
        if answer.status_code == 401 and parsed is not None:
            return SettingsError(
                f"{self.endpoint} did not let {who.name} in: {_reason(parsed, answer.text)}",
                f"Correct {who.variables}.",
            )
        return ZooniverseError(
            f"{self.endpoint} did not answer as Panoptes does when {who.name} signed in: "
            f"{answer.status_code}, {_reason(parsed, answer.text)}.",
            "Is project.endpoint right, and is Zooniverse up? See status.zooniverse.org.",
            answer.status_code,
        )

    def get(self, path: str, **params: Any) -> Reply:
        """Read; tried again when the server is in trouble.

        Parameters
        ----------
        path : str
            After ``/api``, such as ``/projects``.
        **params
            The query.

        Returns
        -------
        Reply

        Raises
        ------
        ZooniverseError
            With the status, when the server says no or stays in trouble.
        """
        pause = self.pause
        for attempt in range(1, READ_ATTEMPTS + 1):
            try:
                return self._ask("GET", path, params, None, None)
            except ZooniverseError as error:
                settled = 0 < error.status < 500 or isinstance(error, SwitchedOffError)
                if attempt == READ_ATTEMPTS or settled:
                    raise
                log.warning("GET %s failed (%s), trying again", path, error.message)
                time.sleep(pause)
                pause *= 2
        raise AssertionError("unreachable")

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
            The query.

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
            After ``/api``.
        body : object, optional
            Sent as JSON.
        etag : str, optional
            For If-Match.

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

    def _renewed(self, old: _Client) -> _Client:
        """A log-in in place of one that ended; one for all threads that meet its end."""
        with self._lock:
            if self._client is old:
                self._client = self._log_in()
            return self._client

    def _send(
        self, client: _Client, verb: str, path: str, params: Any, body: Any, etag: str | None
    ) -> Reply:
        trouble: type[ZooniverseError] = OutcomeUnknownError if verb != "GET" else ZooniverseError
        try:
            client.get_bearer_token()
        except (PanoptesAPIException, KeyError, ValueError, requests.RequestException) as error:
            # It could not be renewed, and nothing was sent yet.
            raise ZooniverseError(f"{verb} {path}: {error}", _ADVICE[401], 401) from None
        with self._count:
            self.calls += 1
        try:
            response = client.ask(verb, path, dict(params), body, etag)
        except requests.RequestException as error:
            if _never_connected(error):
                trouble = NotSentError
            raise trouble(
                f"{verb} {path}: no answer from {self.endpoint} ({_cause(error)}).",
                "Run the same command again when Zooniverse answers; nothing is done twice.",
            ) from None
        status = response.status_code
        text = response.text
        parsed = _json(response)
        reason = _reason(parsed, text)
        said = f"{verb} {path}: {self.endpoint} answered {status}: {reason}"
        if status == 503 and parsed and SWITCHED_OFF in reason:
            # An answer like any other, and not a doubt.
            raise SwitchedOffError(
                said,
                "Zooniverse has switched this off for now; see status.zooniverse.org.",
                status,
                reason,
            )
        if status >= 500 or (parsed is None and text and status < 400):
            raise trouble(
                said,
                "Zooniverse is in trouble; run the same command again later.",
                status if status >= 400 else 502,
            )
        if status >= 400 or "errors" in (parsed or {}):
            advice = _SCOPES if status == 403 and not text else _ADVICE.get(status, "")
            raise ZooniverseError(said, advice, status, reason)
        return Reply(status, parsed or {}, response.headers.get("ETag"))


@dataclass(frozen=True)
class _Credentials:
    """Who signs in: a name and a password, or an application and its secret."""

    name: str
    secret: str
    by_password: bool

    @classmethod
    def from_environment(cls) -> Self:
        username, password = secret("PANOPTES_USERNAME"), secret("PANOPTES_PASSWORD")
        if username and password:
            return cls(username, password, True)
        client_id, client_secret = secret("PANOPTES_CLIENT_ID"), secret("PANOPTES_CLIENT_SECRET")
        if client_id and client_secret:
            return cls(client_id, client_secret, False)
        raise SettingsError(
            "There are no Zooniverse credentials in the environment.",
            "Set PANOPTES_USERNAME and PANOPTES_PASSWORD (or PANOPTES_CLIENT_ID and "
            "PANOPTES_CLIENT_SECRET), or the same names with _FILE.",
        )

    @property
    def variables(self) -> str:
        """What to correct."""
        if self.by_password:
            return "PANOPTES_USERNAME and PANOPTES_PASSWORD"
        return "PANOPTES_CLIENT_ID and PANOPTES_CLIENT_SECRET"


class _Client(Panoptes):
    """panoptes-client with a time-out, and without a log-in before its settings are complete."""

    def __init__(self, endpoint: str, timeout: float, connections: int) -> None:
        super().__init__(endpoint=endpoint, username="", password="")
        adapter = _Patience(timeout, connections)
        self.session.mount("http://", adapter)
        self.session.mount("https://", adapter)
        self._kept = threading.local()
        self._token = threading.Lock()
        self.session.hooks["response"].append(self._keep)

    def sign_in(self, who: _Credentials) -> None:
        """Get a token; what goes wrong is told by an exception and by `last`."""
        if who.by_password:
            # An application of one's own in the environment may not sign in by password.
            self.client_id = self._endpoint_client_ids.get(
                self.endpoint, self._endpoint_client_ids["default"]
            )
            self.client_secret = None
            self.login(who.name, who.secret)
        else:
            self.client_id, self.client_secret = who.name, who.secret
            self.logged_in = True
        self.get_bearer_token()

    def get_bearer_token(self) -> Any:
        """The token; of several threads that find it old, one renews it."""
        with self._token:
            return super().get_bearer_token()

    @property
    def last(self) -> requests.Response | None:
        """The last answer to a call of this thread; None after one that was not answered."""
        return getattr(self._kept, "answer", None)

    def _keep(self, response: requests.Response, *_: Any, **__: Any) -> None:
        self._kept.answer = response

    def ask(
        self, verb: str, path: str, params: dict[str, Any], body: Any, etag: str | None
    ) -> requests.Response:
        """``http_request``, which gives every answer back but those of 500 and above.

        It throws these away for an exception without status or text; the answer itself is kept by
        a hook of the HTTP session.
        """
        self._kept.answer = None
        try:
            return self.http_request(verb, path, params=params, headers={}, json=body, etag=etag)
        except PanoptesAPIException:
            if self.last is None or self.last.status_code < 500:
                raise
            return self.last


_ADVICE = {
    401: "The log-in is no longer good; check PANOPTES_USERNAME and PANOPTES_PASSWORD.",
    403: "The account has reached a limit or lacks the right; see its settings on Zooniverse.",
    404: "It does not exist, or this account has no rights to it.",
    409: "Somebody changed it at the same time; run the same command again.",
}
_SCOPES = (
    "The application of PANOPTES_CLIENT_ID lacks a scope; it needs project, subject and "
    "classification."
)


def _json(response: requests.Response) -> dict[str, Any] | None:
    try:
        value = response.json()
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _reason(parsed: dict[str, Any] | None, text: str) -> str:
    if parsed and parsed.get("errors"):
        return ", ".join(str(error.get("message", error)) for error in parsed["errors"])
    if parsed and parsed.get("error"):
        return str(parsed.get("error_description") or parsed["error"])
    if text.lstrip().startswith("<"):
        return "an HTML page, such as one shown during maintenance"
    return text[:120] or "an empty answer"


def _never_connected(error: requests.RequestException) -> bool:
    """Whether there was no connection to begin with."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return True
    inner = error.args[0] if error.args else None
    return isinstance(getattr(inner, "reason", inner), NewConnectionError)


def _cause(error: Exception) -> str:
    if isinstance(error, requests.Timeout):
        return "it took too long"
    if isinstance(error, requests.ConnectionError):
        return "the connection failed"
    return type(error).__name__
