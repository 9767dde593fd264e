"""Sessions: who is logged in, for how long, and the token that their changes must carry.

They are kept by this process alone: whoever is logged in when it ends logs in again.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from dataclasses import dataclass, field

from zoo_bridge.console.people import Person

COOKIE = "zoo_bridge_session"
# Pages of those who have not logged in yet.
GUEST_SECONDS = 3600.0
MOST = 10_000


@dataclass
class Session:
    """One browser.

    ``csrf`` must come with every change; ``notes`` is for what is under way: where to go after the
    log-in, and what Zooniverse is to bring back.
    """

    key: str
    ends: float
    person: Person | None = None
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    notes: dict[str, str] = field(default_factory=dict)

    def has(self, csrf: str) -> bool:
        """Whether a change came from a page of ours."""
        return hmac.compare_digest(self.csrf.encode(), csrf.encode())


class Sessions:
    """All of them.

    Parameters
    ----------
    seconds : float
        For which one lasts, however it is used.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._by_key: dict[str, Session] = {}
        self._guard = threading.Lock()

    def find(self, key: str | None) -> Session | None:
        """That of a cookie, unless it has ended."""
        with self._guard:
            found = self._by_key.get(key or "")
            if found is not None and found.ends <= time.monotonic():
                del self._by_key[found.key]
                return None
            return found

    def begin(self, person: Person | None = None) -> Session:
        """A new one, with a key that nobody knew before."""
        lasts = self.seconds if person else min(self.seconds, GUEST_SECONDS)
        made = Session(secrets.token_urlsafe(32), time.monotonic() + lasts, person)
        with self._guard:
            now = time.monotonic()
            if len(self._by_key) >= MOST:
                kept = [each for each in self._by_key.values() if each.ends > now]
                # Of too many, guests go first, then those that end soonest.
                kept.sort(key=lambda each: (each.person is not None, each.ends))
                self._by_key = {each.key: each for each in kept[MOST // 10 :]}
            self._by_key[made.key] = made
        return made

    def end(self, session: Session | None) -> None:
        """Log out."""
        with self._guard:
            if session is not None:
                self._by_key.pop(session.key, None)
