"""A log-in to Panoptes that does not hang, does not swallow errors and knows its HTTP statuses.

panoptes-client signs in and keeps the token; requests go out through its ``http_request``, which
sends exactly what is asked and gives the answer back whole. What the client lacks is added at that
door: a time-out on every request, statuses, an expired token (a 401 with an empty body), and an
HTML page where JSON should be. Writes are never retried here: whoever wrote must look first.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Self

import requests
from requests.adapters import HTTPAdapter

from zoo_bridge.config import Settings, secret
from zoo_bridge.errors import OutcomeUnknownError, SettingsError, ZooniverseError

# Importing the client sets up the root logger, which is the run's to set up.
_HANDLERS = list(logging.getLogger().handlers)
from panoptes_client.panoptes import Panoptes, PanoptesAPIException  # noqa: E402

logging.getLogger().handlers[:] = _HANDLERS
log = logging.getLogger(__name__)

READ_ATTEMPTS = 4
PAGE_SIZE = 100


@dataclass(frozen=True)
class Reply:
    """An answer of the API: status, JSON body, ETag and the server's clock (seconds since 1970)."""

    status: int
    body: dict[str, Any]
    etag: str | None
    server_time: float


class _Patience(HTTPAdapter):
    """Gives every request of a session a time-out."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def send(self, *args: Any, **options: Any) -> requests.Response:
        options["timeout"] = options.get("timeout") or self.seconds
        return super().send(*args, **options)


class Session:
    """One log-in, for one job, in one thread.

    Parameters
    ----------
    endpoint : str
        The server, such as ``https://www.zooniverse.org``.
    timeout : float
        Seconds without an answer after which a request has failed.
    pause : float
        Seconds before the second attempt of a read; doubled each time.

    Attributes
    ----------
    calls : int
        Requests to the API so far, log-in aside.

    Raises
    ------
    SettingsError
        If there are no credentials, or the server does not accept them.
    ZooniverseError
        If there is no server.
    """

    def __init__(self, endpoint: str, timeout: float = 60.0, pause: float = 1.0) -> None:
        self.endpoint = endpoint
        self.timeout = timeout
        self.pause = pause
        self.calls = 0
        self._client = self._log_in()

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The log-in of a settings file."""
        project = settings.project
        return cls(project.endpoint, settings.pull.timeout_seconds, project.pause_seconds)

    def _log_in(self) -> Panoptes:
        username, password = secret("PANOPTES_USERNAME"), secret("PANOPTES_PASSWORD")
        client_id, client_secret = secret("PANOPTES_CLIENT_ID"), secret("PANOPTES_CLIENT_SECRET")
        by_password = bool(username and password)
        if not by_password and not (client_id and client_secret):
            raise SettingsError(
                "There are no Zooniverse credentials in the environment.",
                "Set PANOPTES_USERNAME and PANOPTES_PASSWORD (or PANOPTES_CLIENT_ID and "
                "PANOPTES_CLIENT_SECRET), or the same names with _FILE.",
            )
        try:
            client = _Client(self.endpoint, self.timeout)
            if by_password:
                client.login(username, password)
            else:
                client.client_id, client.client_secret = client_id, client_secret
                client.logged_in = True
            client.get_bearer_token()
        except (PanoptesAPIException, KeyError, ValueError) as error:
            who = username if by_password else client_id
            # A missing header or a page that is not JSON: something other than Panoptes answered.
            if not isinstance(error, PanoptesAPIException) and by_password:
                raise ZooniverseError(
                    f"{self.endpoint} did not answer as Panoptes does when {who} signed in.",
                    "Is project.endpoint right, and is Zooniverse up? See status.zooniverse.org.",
                ) from None
            user = "USERNAME" if by_password else "CLIENT_ID"
            name = "PASSWORD" if by_password else "CLIENT_SECRET"
            raise SettingsError(
                f"{self.endpoint} did not let {who} in: {str(error) or 'no reason given'}",
                f"Correct PANOPTES_{user} and PANOPTES_{name}.",
            ) from None
        except requests.RequestException as error:
            raise ZooniverseError(
                f"No answer from {self.endpoint}: {_cause(error)}.",
                "Is project.endpoint right, and can this machine reach it?",
            ) from None
        return client

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
                if attempt == READ_ATTEMPTS or 0 < error.status < 500:
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
        try:
            return self._send(verb, path, params, body, etag)
        except ZooniverseError as error:
            if error.status != 401:
                raise
            # Nothing was done. The token ended in the middle: have a new one and say it again.
            self._client = self._log_in()
            return self._send(verb, path, params, body, etag)

    def _send(self, verb: str, path: str, params: Any, body: Any, etag: str | None) -> Reply:
        writing = verb != "GET"
        trouble = OutcomeUnknownError if writing else ZooniverseError
        self.calls += 1
        try:
            response = self._client.ask(verb, path, dict(params), body, etag)
        except requests.RequestException as error:
            raise trouble(
                f"{verb} {path}: no answer from {self.endpoint} ({_cause(error)}).",
                "Run the same command again when Zooniverse answers; nothing is done twice.",
            ) from None
        except PanoptesAPIException as error:
            # The client could not renew its token: nothing was sent.
            raise ZooniverseError(f"{verb} {path}: {error}", _ADVICE[401], 401) from None
        status = response.status_code
        text = response.text
        parsed = _json(response)
        if status >= 500 or (parsed is None and text and status < 400):
            raise trouble(
                f"{verb} {path}: {self.endpoint} answered {status}: {_reason(parsed, text)}",
                "Zooniverse is in trouble; run the same command again later.",
                status if status >= 400 else 502,
            )
        if status >= 400 or "errors" in (parsed or {}):
            raise ZooniverseError(
                f"{verb} {path}: {self.endpoint} answered {status}: {_reason(parsed, text)}",
                _ADVICE.get(status, ""),
                status,
            )
        date = response.headers.get("Date")
        server_time = parsedate_to_datetime(date).timestamp() if date else time.time()
        return Reply(status, parsed or {}, response.headers.get("ETag"), server_time)


class _Client(Panoptes):
    """panoptes-client with a time-out, and without a log-in before its settings are complete."""

    def __init__(self, endpoint: str, timeout: float) -> None:
        super().__init__(endpoint=endpoint, username="", password="")
        adapter = _Patience(timeout)
        self.session.mount("http://", adapter)
        self.session.mount("https://", adapter)
        self._last: requests.Response | None = None
        self.session.hooks["response"].append(self._keep)

    def _keep(self, response: requests.Response, *_: Any, **__: Any) -> None:
        self._last = response

    def ask(
        self, verb: str, path: str, params: dict[str, Any], body: Any, etag: str | None
    ) -> requests.Response:
        """``http_request``, which gives every answer back but those of 500 and above.

        It throws these away for an exception without status or text; the answer itself is kept by
        a hook of the HTTP session.
        """
        self._last = None
        try:
            return self.http_request(verb, path, params=params, headers={}, json=body, etag=etag)
        except PanoptesAPIException:
            if self._last is None or self._last.status_code < 500:
                raise
            return self._last


_ADVICE = {
    401: "The log-in is no longer good; check PANOPTES_USERNAME and PANOPTES_PASSWORD.",
    403: "The account has reached a limit or lacks the right; see its settings on Zooniverse.",
    404: "It does not exist, or this account has no rights to it.",
    409: "Somebody changed it at the same time; run the same command again.",
}


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
        return str(parsed["error"])
    if text.lstrip().startswith("<"):
        return "an HTML page, such as one shown during maintenance"
    return text[:120] or "an empty answer"


def _cause(error: requests.RequestException) -> str:
    if isinstance(error, requests.Timeout):
        return "it took too long"
    if isinstance(error, requests.ConnectionError):
        return "the connection failed"
    return type(error).__name__
