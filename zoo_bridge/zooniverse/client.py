"""panoptes-client, made fit to be relied on: time-outs, threads, and why signing in failed."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import Any, Self

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import NewConnectionError

from zoo_bridge.config import secret
from zoo_bridge.errors import SettingsError, ZooniverseError

# Importing the client sets up the root logger, which is the run's to set up.
_HANDLERS = list(logging.getLogger().handlers)
from panoptes_client.panoptes import Panoptes, PanoptesAPIException  # noqa: E402

logging.getLogger().handlers[:] = _HANDLERS

# What signing in, or renewing a token, can end with: the client keeps nothing back.
SIGN_IN_ERRORS = (PanoptesAPIException, KeyError, ValueError, requests.RequestException)


class _Patience(HTTPAdapter):
    """Gives every request of a session a time-out, and a connection each to so many at once."""

    def __init__(self, seconds: float, connections: int) -> None:
        super().__init__(pool_connections=connections, pool_maxsize=connections)
        self.seconds = seconds

    def send(self, *args: Any, **options: Any) -> requests.Response:
        options["timeout"] = options.get("timeout") or self.seconds
        return super().send(*args, **options)


@dataclass(frozen=True)
class Credentials:
    """Who signs in: a name and a password, or an application and its secret."""

    name: str
    secret: str
    by_password: bool

    @classmethod
    def from_environment(cls) -> Self:
        """Those that the environment names; raise `SettingsError` if there are none."""
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
    def described(self) -> str:
        """Who it is, in a sentence."""
        return self.name if self.by_password else f"the application {self.name}"

    @property
    def variables(self) -> str:
        """What to correct."""
        if self.by_password:
            return "PANOPTES_USERNAME and PANOPTES_PASSWORD"
        return "PANOPTES_CLIENT_ID and PANOPTES_CLIENT_SECRET"


class Client(Panoptes):
    """panoptes-client with a time-out, and without a log-in before its settings are complete."""

    def __init__(self, endpoint: str, timeout: float, connections: int) -> None:
        super().__init__(endpoint=endpoint, username="", password="")
        adapter = _Patience(timeout, connections)
        self.session.mount("http://", adapter)
        self.session.mount("https://", adapter)
        self._kept = threading.local()
        self._token = threading.Lock()
        self.session.hooks["response"].append(self._keep)
        self.who = ""
        self.scopes: frozenset[str] | None = None

    def sign_in(self, who: Credentials) -> None:
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
        self.who = who.described
        answer = (json_of(self.last) if self.last is not None else None) or {}
        # What the token is good for; nothing is said of it by old servers.
        self.scopes = frozenset(str(answer["scope"]).split()) if "scope" in answer else None

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


def sign_in(endpoint: str, timeout: float, connections: int) -> Client:
    """Sign in with the credentials of the environment.

    Parameters
    ----------
    endpoint : str
        The server, such as ``https://www.zooniverse.org``.
    timeout : float
        Seconds without an answer.
    connections : int
        How many threads will make calls.

    Returns
    -------
    Client

    Raises
    ------
    SettingsError
        If there are no credentials, or the server says that they are wrong.
    ZooniverseError
        If the server is in trouble, away, or something else.
    """
    who = Credentials.from_environment()
    client = Client(endpoint, timeout, connections)
    try:
        client.sign_in(who)
    except SIGN_IN_ERRORS as error:
        raise _explain(endpoint, who, client.last, error) from None
    return client


def _explain(
    endpoint: str, who: Credentials, answer: requests.Response | None, error: Exception
) -> Exception:
    """Why signing in failed: the server's trouble, or what is in the settings."""
    no_json = isinstance(error, requests.exceptions.JSONDecodeError)
    unanswered = isinstance(error, requests.RequestException) and not no_json
    if answer is None or unanswered:
        return ZooniverseError(
            f"No answer from {endpoint}: {cause_of(error)}.",
            "Is project.endpoint right, and can this machine reach it?",
        )
    parsed = json_of(answer)
    if answer.status_code == 422 and not answer.text:
        return SettingsError(
            f"{endpoint} did not let {who.name} in: this application is unknown or may "
            "not sign in in this way.",
            "Correct PANOPTES_CLIENT_ID: make an application under "
            f"{endpoint}/oauth/applications, or sign in by name and password.",
        )
    if answer.status_code == 401 and parsed is not None:
        return SettingsError(
            f"{endpoint} did not let {who.name} in: {reason_of(parsed, answer.text)}",
            f"Correct {who.variables}.",
        )
    return ZooniverseError(
        f"{endpoint} did not answer as Panoptes does when {who.name} signed in: "
        f"{answer.status_code}, {reason_of(parsed, answer.text)}.",
        "Is project.endpoint right, and is Zooniverse up? See status.zooniverse.org.",
        answer.status_code if parsed is not None or answer.status_code >= 500 else 502,
    )


def json_of(response: requests.Response) -> dict[str, Any] | None:
    """An answer's JSON object; None if it has none."""
    try:
        value = response.json()
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def reason_of(parsed: dict[str, Any] | None, text: str) -> str:
    """Why the server refused, in its own words."""
    if parsed and parsed.get("errors"):
        return ", ".join(str(error.get("message", error)) for error in parsed["errors"])
    if parsed and parsed.get("error"):
        return str(parsed.get("error_description") or parsed["error"])
    if text.lstrip().startswith("<"):
        return "an HTML page, such as one shown during maintenance"
    return text[:120] or "an empty answer"


def never_connected(error: requests.RequestException) -> bool:
    """Whether there was no connection to begin with."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return True
    inner = error.args[0] if error.args else None
    return isinstance(getattr(inner, "reason", inner), NewConnectionError)


def cause_of(error: Exception) -> str:
    """Why a request had no answer, in a few words."""
    if isinstance(error, requests.Timeout):
        return "it took too long"
    if isinstance(error, requests.ConnectionError):
        return "the connection failed"
    return type(error).__name__
