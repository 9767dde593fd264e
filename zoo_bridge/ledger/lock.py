"""Locks with an owner and an expiry: two runs of one job stay apart, on any number of hosts."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import psutil
import sqlalchemy as sa

from zoo_bridge.errors import BusyError
from zoo_bridge.ledger.tables import locks

LOCK_SECONDS = 120
# What clocks of two hosts may be apart, at the very most.
MOST_AHEAD = 24 * 3600


def now() -> str:
    """The time in UTC as sortable ISO text, which every database keeps alike."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def this_owner() -> str:
    """How this thread signs its locks and its runs."""
    return f"{socket.gethostname()}:{os.getpid()}:{threading.get_ident()}"


class Locking:
    """What a ledger can do with the table of locks."""

    engine: sa.Engine
    _lost_lock = ""

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a lock while the block runs; it is renewed, and expires when its owner dies.

        Raises
        ------
        BusyError
            If somebody else holds it.
        """
        owner = this_owner()
        self._take(name, owner)
        done = threading.Event()
        keeper = threading.Thread(target=self._keep, args=(name, owner, done), daemon=True)
        keeper.start()
        try:
            yield
        finally:
            done.set()
            keeper.join()
            mine = sa.delete(locks).where(locks.c.name == name, locks.c.owner == owner)
            with self.engine.begin() as connection:
                connection.execute(mine)

    def _take(self, name: str, owner: str) -> None:
        for _ in range(2):
            try:
                with self.engine.begin() as connection:
                    row = {"name": name, "owner": owner, "expires_at": _expiry()}
                    connection.execute(sa.insert(locks).values(row))
                return
            except sa.exc.IntegrityError:
                held = self._holders(name)
                if held and _is_held(held[0]) and not self._stands_still(held[0]):
                    host, pid, _ = held[0].owner.split(":")
                    raise BusyError(
                        f"Another run holds the lock {name}: process {pid} on {host}.",
                        "Wait for it to end, or stop it; a lock without a process ends by itself.",
                    ) from None
                stale = [locks.c.name == name]
                if held:
                    stale.append(locks.c.owner == held[0].owner)
                with self.engine.begin() as connection:
                    connection.execute(sa.delete(locks).where(*stale))
        raise BusyError(
            f"Another run took the lock {name} just now.", "Try again when it has ended."
        )

    def _stands_still(self, row: sa.Row[tuple[str, str, str]]) -> bool:
        """Whether another host's lock that seems to last for days is renewed no more.

        Locks are taken for two minutes: either that host's clock is ahead, or was, and its process
        is gone. A process that lives renews its lock; it is waited for that long.
        """
        host = row.owner.partition(":")[0]
        if host == socket.gethostname() or row.expires_at < _in(MOST_AHEAD):
            return False
        time.sleep(LOCK_SECONDS / 12 * 2.5)
        return bool(self._holders(row.name) == [row])

    def require_lock(self) -> None:
        """See that a lock that was taken is still held: a machine that slept may have lost it.

        Raises
        ------
        BusyError
            If somebody else may have it by now.
        """
        if self._lost_lock:
            raise BusyError(
                f"The lock {self._lost_lock} ran out unrenewed: another run may have it.",
                "Was this machine asleep, or the ledger out of reach? Run the same command again.",
            )

    def living_owners(self) -> set[str]:
        """Who holds a lock by now: a run whose owner is not among them has ended."""
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(locks)).fetchall()
        return {row.owner for row in rows if _is_held(row)}

    def _keep(self, name: str, owner: str, done: threading.Event) -> None:
        mine = sa.update(locks).where(locks.c.name == name, locks.c.owner == owner)
        good_until = time.monotonic() + LOCK_SECONDS
        while not done.wait(LOCK_SECONDS / 12):
            late = time.monotonic() > good_until
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                with self.engine.begin() as connection:
                    held = connection.execute(mine.values(expires_at=_expiry())).rowcount
                late = late or not held
                good_until = time.monotonic() + LOCK_SECONDS
            if late:
                self._lost_lock = name
                return

    def _holders(self, name: str) -> list[sa.Row[tuple[str, str, str]]]:
        with self.engine.connect() as connection:
            return list(connection.execute(sa.select(locks).where(locks.c.name == name)))


def _expiry() -> str:
    return _in(LOCK_SECONDS)


def _in(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="microseconds")


def _is_held(row: sa.Row[tuple[str, str, str]]) -> bool:
    return bool(row.expires_at > now()) and not _is_dead(row.owner)


def _is_dead(owner: str) -> bool:
    """Whether a lock's owner was a process of this host that is no more."""
    host, pid, _ = owner.split(":")
    return host == socket.gethostname() and not psutil.pid_exists(int(pid))
