"""Secrets are never shown or written: neither ours nor those that stand in addresses."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from zoo_bridge.config import secret
from zoo_bridge.errors import SettingsError

if TYPE_CHECKING:
    import pyarrow as pa

SECRETS = (
    "PANOPTES_PASSWORD",
    "PANOPTES_CLIENT_SECRET",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "ZOO_BRIDGE_NOTIFY_URLS",
    "ZOO_BRIDGE_PING_URL",
    "ZOO_BRIDGE_CONSOLE_PASSWORD",
    "ZOO_BRIDGE_CONSOLE_READER_PASSWORD",
    "ZOO_BRIDGE_CONSOLE_TOKEN",
    "ZOO_BRIDGE_CONSOLE_CLIENT_SECRET",
)
HIDDEN = "***"
# Shorter ones stand in ordinary words.
SHORTEST = 6
# Parts of an address that are as long may be tokens.
TOKEN = 10
# Whoever it is that an address is read as, with or without a password.
_USERINFO = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s?#'\"<>]*@")
# Databases take passwords with any letters in them.
_DATABASE = re.compile(
    r"(?i)\b((?:postgres(?:ql)?|mysql|mariadb|oracle|mssql|cockroachdb)(?:\+\w+)?://)\S*@"
)
# What signs an address (Azure, Amazon, Google), and what else is called a secret in one.
_SIGNED = re.compile(
    r"(?i)([?&;](?:amp;)?(?:sig|signature|awsaccesskeyid|x-amz-(?:signature|credential|security-token)"
    r"|x-goog-(?:signature|credential)|api_?key|access_?key|(?:access_|auth_)?token|(?:ssl)?password"
    r"|passwd|pwd|secret)=)[^&\s'\"<>)\\]+"
)
# Whatever else an address asks for: cutout services take tokens under any name.
_QUERY = re.compile(r"(?i)(\bhttps?://[^\s?#\"<>]*|\burl: /[^\s?#\"<>]*)\?[^\s\"<>]+")

# What must stand in a text for the pattern to be looked for, and what is put in its place.
_PATTERNS = (
    ("://", _DATABASE, rf"\1{HIDDEN}@"),
    ("://", _USERINFO, rf"\1{HIDDEN}@"),
    ("?", _QUERY, rf"\1?{HIDDEN}"),
    ("=", _SIGNED, rf"\1{HIDDEN}"),
)


def redact(text: str) -> str:
    """A text without secrets: those of the environment, and those in any URL.

    Parameters
    ----------
    text : str
        Whatever is about to be shown or written.

    Returns
    -------
    str
        The same, with three stars for user and password of a URL, for all that a web address asks
        for, for its signature, and for a secret that this process was given.
    """
    for value in _own():
        text = text.replace(value, HIDDEN)
    for mark, pattern, kept in _PATTERNS:
        if mark in text:
            text = pattern.sub(kept, text)
    return text


def redact_all(value: Any) -> Any:
    """The same of every text in a value that JSON can hold, and of what it cannot as text."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redact(str(key)): redact_all(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [redact_all(each) for each in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return redact(str(value))


def redact_column(batches: Iterable[pa.RecordBatch], name: str) -> Iterator[pa.RecordBatch]:
    """The same of the addresses in one column of a table's batches, whatever their number."""
    import pyarrow.compute as pc

    for batch in batches:
        place = batch.schema.get_field_index(name)
        if place >= 0:
            column = batch.column(place)
            for _, pattern, kept in _PATTERNS:
                column = pc.replace_substring_regex(column, pattern.pattern, kept)
            batch = batch.set_column(place, batch.schema.field(place), column)
        yield batch


def _own() -> list[str]:
    """The secrets that this process was given; the longest first, one may hold another."""
    given = [os.environ.get(each) for name in SECRETS for each in (name, f"{name}_FILE")]
    return _read(tuple(given))


@lru_cache(maxsize=8)
def _read(given: tuple[str | None, ...]) -> list[str]:
    """The same, read once for each state of the environment: some stand in files."""
    found = []
    for name in SECRETS:
        try:
            value = secret(name)
        except SettingsError:
            # Its file cannot be read: whoever needs it says so.
            continue
        found += _parts(value) if value and "://" in value else [value or ""]
    return sorted({each for each in found if len(each) >= SHORTEST}, key=len, reverse=True)


def _parts(value: str) -> list[str]:
    """Addresses that are secrets, and whatever in them may be a token, as libraries show it."""
    from urllib.parse import unquote

    found = [value]
    for url in value.split():
        scheme, _, rest = url.partition("://")
        pieces = [piece for piece in re.split(r"[/?&=:@,]", rest) if len(piece) >= TOKEN]
        found += [url, rest, *pieces, *map(unquote, pieces)]
        if scheme in ("http", "https", "json", "jsons", "xml", "xmls", "form", "forms"):
            # The host of a web address is no secret: errors are to say which one did not answer.
            host = re.split(r"[/?]", rest.rpartition("@")[2])[0]
            found = [each for each in found if each not in (host, host.partition(":")[0])]
    return found
