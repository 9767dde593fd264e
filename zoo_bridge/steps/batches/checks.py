"""A check: something that was looked at before volunteers see anything, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from zoo_bridge.errors import RefusedError


@dataclass(frozen=True)
class Check:
    """Something that was looked at: what was found, and what would change a refusal's mind."""

    name: str
    ok: bool
    text: str
    hint: str = ""


def refuse_unless(checks: Iterable[Check]) -> None:
    """Raise `RefusedError` for the first check that failed, naming the others."""
    failed = [check for check in checks if not check.ok]
    if not failed:
        return
    more = f" Failed too: {', '.join(check.name for check in failed[1:])}." if failed[1:] else ""
    raise RefusedError(f"{failed[0].text}{more}", failed[0].hint)


def as_rows(checks: Iterable[Check]) -> list[dict[str, Any]]:
    """For ``checks.json``."""
    return [asdict(check) for check in checks]
