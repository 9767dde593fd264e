"""Cutouts on the web, each at an address of its own."""

from __future__ import annotations

from functools import cached_property

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import LocationParseError
from urllib3.exceptions import ReadTimeoutError as ReadTimeoutOfOne
from urllib3.util import Retry

from zoo_bridge.cutouts.faults import SingleFaults
from zoo_bridge.cutouts.images import BadCutoutError
from zoo_bridge.errors import StorageError
from zoo_bridge.redact import redact

# What is wrong with an address itself, and with one answer.
NO_ADDRESS = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    LocationParseError,
    ValueError,
)
NO_ANSWER = (
    requests.exceptions.ReadTimeout,
    requests.exceptions.TooManyRedirects,
    requests.exceptions.ContentDecodingError,
    requests.exceptions.ChunkedEncodingError,
)


class Web:
    """Reads objects by ``http://`` or ``https://``.

    Parameters
    ----------
    threads : int
        How many connections to keep.
    single : SingleFaults
        Whether an object that cannot be read stands alone.
    """

    def __init__(self, threads: int, single: SingleFaults) -> None:
        self.threads = threads
        self._single = single

    def read(self, url: str) -> bytes | None:
        """An object's bytes; None if there is no such object; raises as `Store.read` does."""
        shown = redact(url)
        try:
            answer = self._session.get(url, timeout=(10, 60))
        except NO_ADDRESS as error:
            raise BadCutoutError("unreadable", f"it is no address: {redact(str(error))}") from None
        except requests.RequestException as error:
            # An answer that cannot be read, or none in time, may be that of one cutout alone.
            reason = getattr(error.args[0] if error.args else None, "reason", None)
            of_one = isinstance(error, NO_ANSWER) or isinstance(reason, ReadTimeoutOfOne)
            if of_one and self._single.is_one():
                why = "the server does not answer as it should"
                raise BadCutoutError("unreadable", f"{why}: {redact(str(error))}") from None
            raise _trouble(shown, redact(str(error))) from None
        if answer.status_code in (404, 410):
            return None
        if answer.status_code < 400:
            self._single.went_well()
            return answer.content
        said = f"the server answers {answer.status_code} {answer.reason or ''}".rstrip()
        # Too many questions are no fault of what was asked for.
        if answer.status_code != 429 and self._single.is_one():
            raise BadCutoutError("unreadable", said)
        raise _trouble(shown, said)

    @cached_property
    def _session(self) -> requests.Session:
        session = requests.Session()
        codes = (429, 500, 502, 503, 504)
        patience = Retry(5, backoff_factor=0.5, status_forcelist=codes, raise_on_status=False)
        adapter = HTTPAdapter(pool_maxsize=self.threads, max_retries=patience)
        for scheme in ("http://", "https://"):
            session.mount(scheme, adapter)
        return session


def _trouble(shown: str, why: str) -> StorageError:
    return StorageError(
        f"{shown} cannot be read: {why}.",
        "Can this machine reach it? Run the same command again; what was done is kept.",
    )
