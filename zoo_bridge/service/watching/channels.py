"""The ways to somebody who does not look: apprise's hundred services, and pings of an address.

Addresses are secrets: they come from the environment or from files. What cannot be sent fails no
job; it is noted in the ledger and the log, and health shows it.
"""

from __future__ import annotations

import logging
import threading
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

log = logging.getLogger("zoo_bridge.notify")


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
        failed: list[str] = []
        ended = threading.Event()

        def work() -> None:
            try:
                failed.extend(_send_all(self.urls, message))
            except Exception as error:
                failed.append(redact(f"{type(error).__name__}: {error}"))
            finally:
                ended.set()

        # Libraries for a hundred services have a hundred ways to hang.
        threading.Thread(target=work, daemon=True).start()
        if not ended.wait(SECONDS):
            raise NotTold(f"No answer within {SECONDS:.0f} s.", "Is the address right?")
        if failed:
            raise NotTold(
                f"{len(failed)} of {len(self.urls)} addresses did not take it: "
                f"{'; '.join(failed)}.",
                f"Correct {URLS}, and try it with: zoo-bridge notify --test.",
                max(0, len(self.urls) - len(failed)),
            )


def _send_all(urls: tuple[str, ...], message: Message) -> list[str]:
    """Send to each by itself; which failed: its kind and its place, never its address."""
    apprise = _apprise()
    kind = apprise.NotifyType.SUCCESS if message.good else apprise.NotifyType.WARNING
    failed = []
    for number, url in enumerate(urls, 1):
        scheme = url.partition("://")[0] if "://" in url else "no address"
        what = f"{number} ({scheme})"
        one = apprise.Apprise()
        with _listening() as said:
            if not one.add(url):
                failed.append(f"{what} is none that apprise knows")
                continue
            took = one.notify(
                title=redact(message.title), body=redact(message.body), notify_type=kind
            )
        if not took:
            why = f": {said[-1]}" if said else ""
            failed.append(f"{what}{why}")
    return failed


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
    """What apprise says of a failure, which it tells its log alone; without secrets."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(redact(record.getMessage()).strip().rstrip("."))

    def __enter__(self) -> list[str]:
        logger = logging.getLogger("apprise")
        self._before = logger.propagate
        # Its own words may hold addresses: they go nowhere but through here.
        logger.propagate = False
        logger.addHandler(self)
        return self.said

    def __exit__(self, *_: object) -> None:
        logger = logging.getLogger("apprise")
        logger.removeHandler(self)
        logger.propagate = self._before


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
