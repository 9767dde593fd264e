"""Getting an export's file: whole, or not at all; and what is in it."""

from __future__ import annotations

import gzip
import logging
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
from urllib3.exceptions import HTTPError

from zoo_bridge.errors import ZooniverseError
from zoo_bridge.retry import doubling, retry
from zoo_bridge.zooniverse.content import Content, inspect

log = logging.getLogger(__name__)

ATTEMPTS = 4
BLOCK_BYTES = 2**16
# Larger than any export there is, by far; a stream without an end would fill the disk.
MOST_BYTES = 200 * 2**30
# What a download that breaks off looks like, from the socket up to the end of the gzip stream.
BROKEN = (requests.RequestException, HTTPError, EOFError, zlib.error, gzip.BadGzipFile)


def download(
    find_address: Callable[[], str],
    target: Path,
    kind: str,
    timeout: float,
    pause: float,
    tick: Callable[[int], None],
) -> Content:
    """Download an export and see that it is whole; go on where a body broke off.

    Parameters
    ----------
    find_address : callable
        Gives a fresh address: one is good for a few minutes only.
    target : Path
        Where to; gzipped.
    kind : str
        classifications, subjects or workflows.
    timeout, pause : float
        Seconds without a byte after which an attempt has failed, and between attempts.
    tick : callable
        Called with the number of bytes that just arrived.

    Returns
    -------
    Content

    Raises
    ------
    ZooniverseError
        If no attempt brings it whole.
    InputError
        If it is not such an export, or is empty.
    """
    transfer = _Transfer(target, timeout, tick)

    def bring() -> Content:
        try:
            transfer.run(find_address())
            return inspect(target, kind)
        except BROKEN as error:
            raise _BrokenOffError(_why(error)) from None

    try:
        what = f"download of the {kind} export"
        return retry(bring, ATTEMPTS, doubling(pause, 5 * pause), _BrokenOffError, what=what)
    except _BrokenOffError as error:
        raise ZooniverseError(
            f"The {kind} export could not be downloaded whole: {error}.",
            "Run the same command again; what is there already is kept.",
        ) from None


class _BrokenOffError(Exception):
    """A transfer did not end well, and why, without the address."""


def _why(error: Exception) -> str:
    """What went wrong, without the address: it carries a signature."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"status {error.response.status_code}"
    if isinstance(error, requests.RequestException | HTTPError):
        return type(error).__name__
    return str(error)


class _Transfer:
    """One file, in as many attempts as it takes."""

    def __init__(self, target: Path, timeout: float, tick: Callable[[int], None]) -> None:
        self.target = target
        self.timeout = timeout
        self.tick = tick
        self.etag = ""
        self.received = 0

    def run(self, address: str) -> None:
        """Bring the file, or what is missing of it; raises one of `BROKEN` if it breaks off."""
        wanted = {"Range": f"bytes={self.received}-"} if self.etag and self.received else {}
        with requests.get(address, stream=True, timeout=self.timeout, headers=wanted) as response:
            # A part is taken only if it is one of the same file, from the byte that was asked for.
            goes_on = (
                response.status_code == 206
                and response.headers.get("ETag") == self.etag
                and response.headers.get("Content-Range", "").startswith(f"bytes {self.received}-")
            )
            if response.status_code in (206, 416) and not goes_on:
                self.received, self.etag = 0, ""
                raise EOFError("the file changed while it was being downloaded")
            response.raise_for_status()
            if not goes_on:
                self.received = 0
            gzipped = goes_on or response.headers.get("Content-Encoding") == "gzip"
            # What is gzipped here has other bytes than what the server has: no going on.
            self.etag = response.headers.get("ETag", "") if gzipped else ""
            length = int(response.headers.get("Content-Length") or 0)
            expected = self.received + length if length else 0
            with self.target.open("ab" if goes_on else "wb") as raw:
                out: Any = raw if gzipped else gzip.GzipFile("", fileobj=raw, mode="wb", mtime=0)
                for block in response.raw.stream(BLOCK_BYTES, decode_content=False):
                    self.received += len(block)
                    if self.received > MOST_BYTES:
                        raise ZooniverseError(
                            f"An export has more than {MOST_BYTES // 2**30} GiB, and does not end.",
                            "Is project.endpoint the real server? Fetch the export by hand, look "
                            "at it, and count it: zoo-bridge run aggregate --export FILE.",
                        )
                    out.write(block)
                    self.tick(len(block))
                if out is not raw:
                    out.close()
        if expected and self.received < expected:
            raise EOFError(f"the connection ended after {self.received} of {expected} bytes")
        # From here on a second attempt means that the content was bad: fetch all of it.
        self.etag = ""
