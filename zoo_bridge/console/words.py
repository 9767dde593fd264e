"""How times, numbers and shares are written on pages."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

from zoo_bridge.redact import redact


def when(value: str | None) -> Markup:
    """A time of the ledger's, to the minute; the whole of it on demand."""
    if not value:
        return Markup("–")
    text = value[:16].replace("T", " ")
    return Markup('<time datetime="{}" title="{} UTC">{}</time>').format(value, value[:19], text)


def ago(value: str | None) -> str:
    """How long ago that was."""
    if not value:
        return "never"
    moment = datetime.fromisoformat(value)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    seconds = (datetime.now(UTC) - moment).total_seconds()
    for size, unit in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'' if count == 1 else 's'} ago"
    return "just now"


def number(value: Any) -> str:
    """A number for people, or whatever else it is as text."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return redact(str(value))
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:.4g}"


def share(value: float | None) -> str:
    """As per cent."""
    return "–" if value is None else f"{value:.0%}"
