"""The ways to somebody who does not look: apprise's hundred services, and pings of an address.

Addresses are secrets: they come from the environment or from files. What cannot be sent fails no
job; it is noted in the ledger and the log, and health shows it.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import Any

from zoo_bridge.config import secret
from zoo_bridge.errors import SettingsError, ZooBridgeError
from zoo_bridge.redact import redact

URLS, PING = "ZOO_BRIDGE_NOTIFY_URLS", "ZOO_BRIDGE_PING_URL"
# A service that does not answer is not waited for any longer.
SECONDS = 30.0
PING_SECONDS, PING_TRIES = 8.0, 2
JOB = "{job}"
# Lines of apprise's that are passed on.
MOST_SAID = 3


class NotTold(ZooBridgeError):
    """Somebody could not be told; ``took`` is the number of addresses that were."""

    def __init__(self, message: str, hint: str, took: int = 0) -> None:
        super().__init__(message, hint)
        self.took = took


@dataclass(frozen=True)
class Message:
    """What is sent.

    Parameters
    ----------
    title : str
        One line: which project, and what.
    body : str
        A line or two for each thing.
    good : bool
        Whether it is good news.
    """

    title: str
    body: str
    good: bool = False


class Channels:
    """Where messages go.

    Parameters
    ----------
    urls : tuple of str
        Addresses as apprise reads them: ``mailto://``, ``slack://``, ``ntfy://`` and the like.
    """

    def __init__(self, urls: tuple[str, ...]) -> None:
        self.urls = urls

    @classmethod
    def of_environment(cls) -> Channels:
        """Those of ``ZOO_BRIDGE_NOTIFY_URLS``: addresses with spaces or line ends between them.

        Raises
        ------
        SettingsError
            If the file that is to hold them cannot be read.
        """
        return cls(tuple((secret(URLS) or "").split()))

    def __bool__(self) -> bool:
        return bool(self.urls)

    def send(self, message: Message) -> None:
        """Send a message to every address.

        Parameters
        ----------
        message : Message
            Secrets are taken out of it first.

        Raises
        ------
        NotTold
            If an address did not take it; the others have it.
        """
        apprise = _apprise()
        kind = apprise.NotifyType.SUCCESS if message.good else apprise.NotifyType.WARNING
        answers: dict[int, str] = {}

        def send(number: int, url: str) -> None:
            try:
                answers[number] = _send(apprise, url, message, kind)
            except Exception as error:
                answers[number] = redact(f"{type(error).__name__}: {error}")

        # Libraries for a hundred services have a hundred ways to hang: none holds up the others.
        threads = [
            threading.Thread(target=send, args=each, daemon=True)
            for each in enumerate(self.urls, 1)
        ]
        with _listening() as said:
            for thread in threads:
                thread.start()
            until = time.monotonic() + SECONDS
            for thread in threads:
                thread.join(max(0.0, until - time.monotonic()))
        failed = []
        for number, url in enumerate(self.urls, 1):
            why = answers.get(number, f"no answer within {SECONDS:.0f} s")
            if why:
                failed.append(f"{number} ({_scheme(url)}) {why}")
        if failed:
            # Its threads are its own: which of them said what is not known.
            words = "; ".join(dict.fromkeys(said[:MOST_SAID]))
            raise NotTold(
                f"{len(failed)} of {len(self.urls)} addresses did not take it: "
                f"{'; '.join(failed)}{f' ({words})' if words else ''}.",
                f"Correct {URLS}, and try it with: zoo-bridge notify --test.",
                len(self.urls) - len(failed),
            )


def _scheme(url: str) -> str:
    """What an address may be called: its kind, never more of it."""
    return url.partition("://")[0] if "://" in url else "no address"


def _send(apprise: Any, url: str, message: Message, kind: Any) -> str:
    """Send to one address; why it was not taken, or nothing."""
    one = apprise.Apprise()
    if not one.add(url):
        return "is none that apprise knows"
    title, body = redact(message.title), redact(message.body)
    return "" if one.notify(title=title, body=body, notify_type=kind) else "refused"


def _apprise() -> Any:
    try:
        import apprise
    except ImportError:
        raise SettingsError(
            f"{URLS} is set, and apprise, which sends, is not installed.",
            "Install it with: pip install 'zoo-bridge[notify]'.",
        ) from None
    return apprise


class _listening(logging.Handler):
    """What apprise says of a failure, which it tells its log alone."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(redact(record.getMessage()).strip().rstrip("."))

    def __enter__(self) -> list[str]:
        logger = logging.getLogger("apprise")
        # Its own words may hold addresses: they go nowhere but through here.
        logger.propagate = False
        logger.addHandler(self)
        return self.said

    def __exit__(self, *_: object) -> None:
        logging.getLogger("apprise").removeHandler(self)


def ping(job: str, state: str, text: str = "") -> str | None:
    """Tell a service that counts runs, such as healthchecks, that one began or ended.

    Parameters
    ----------
    job : str
        Stands where the address has ``{job}``; without that, only the widest job pings.
    state : str
        start, success or fail: what is added to the address (for success nothing).
    text : str
        Sent along, so that the service shows it.

    Returns
    -------
    str or None
        What went wrong.
    """
    try:
        url = secret(PING)
    except SettingsError as error:
        return error.message
    if not url or not _pings(url, job):
        return None
    import requests

    url = url.replace(JOB, job).rstrip("/")
    if state != "success":
        head, mark, query = url.partition("?")
        url = f"{head}/{state}{mark}{query}"
    why = ""
    for _ in range(PING_TRIES):
        try:
            answer = requests.post(url, data=redact(text).encode(), timeout=PING_SECONDS)
            if answer.ok:
                return None
            why = f"HTTP {answer.status_code}"
        except requests.RequestException as error:
            why = type(error).__name__
    return f"The ping of {job} ({state}) was not taken: {why}."


def _pings(url: str, job: str) -> bool:
    """One address counts one thing: without a place for the job, that is the cycle."""
    return JOB in url or job == "cycle"
