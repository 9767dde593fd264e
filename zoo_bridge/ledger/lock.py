"""Locks with an owner and an expiry: two runs of one job stay apart, on any number of hosts."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from zoo_bridge.errors import BusyError
from zoo_bridge.ledger.database import Database
from zoo_bridge.ledger.owners import (
    in_seconds,
    is_dead,
    is_held,
    named,
    process_of,
    this_owner,
)
from zoo_bridge.ledger.tables import locks

LOCK_SECONDS = 120
# What clocks of two hosts may be apart, at the very most.
MOST_AHEAD = 24 * 3600
# A machine that was asleep for longer was switched off: its processes are other ones.
MOST_ASLEEP = 30 * 24 * 3600


@dataclass(frozen=True)
class Lease:
    """A lock that this process holds, or wants: of one workflow, or of a whole project.

    Parameters
    ----------
    name : str
        What is done under it, such as a job.
    workflow_key : int
        The ledger's key of the workflow; 0 for a whole project.
    owner : str
        The process that wants it: see `owners.this_owner`.
    """

    name: str
    workflow_key: int
    owner: str


class Locking(Database):
    """What a ledger can do with the table of locks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lost_locks: set[str] = set()

    @contextmanager
    def lock(
        self, name: str, whole_project: bool = False, seconds: float = LOCK_SECONDS
    ) -> Iterator[None]:
        """Hold a lock while the block runs; it is renewed, and expires when its owner dies.

        Parameters
        ----------
        name : str
            What is done under it, such as a job.
        whole_project : bool
            Keep the project's other workflows out, too.
        seconds : float
            After which it is free, if its owner dies on another host.

        Raises
        ------
        BusyError
            If somebody else holds it.
        """
        lease = Lease(name, 0 if whole_project else self.workflow_key, this_owner())
        self._take(lease, seconds)
        self._lost_locks.discard(name)
        done = threading.Event()
        keeper = threading.Thread(target=self._keep, args=(lease, seconds, done), daemon=True)
        keeper.start()
        try:
            yield
        finally:
            done.set()
            keeper.join()
            with self.engine.begin() as connection:
                connection.execute(sa.delete(locks).where(self._is_mine(lease)))

    def _of_name(self, lease: Lease) -> sa.ColumnElement[bool]:
        """The lock of a lease, whoever holds it."""
        # A log-in may find the project to be another than it was when the lock was taken.
        return (
            (locks.c.name == lease.name)
            & (locks.c.workflow_key == lease.workflow_key)
            & (locks.c.project_key == self.project_key)
        )

    def _is_mine(self, lease: Lease) -> sa.ColumnElement[bool]:
        return self._of_name(lease) & (locks.c.owner == lease.owner)

    def _take(self, lease: Lease, seconds: float) -> None:
        name = lease.name
        for _ in range(2):
            try:
                with self.engine.begin() as connection:
                    row = {
                        **vars(lease),
                        "project_key": self.project_key,
                        "expires_at": in_seconds(seconds),
                    }
                    connection.execute(sa.insert(locks).values(row))
                return
            except sa.exc.IntegrityError:
                held = self._holders(lease)
                if held and self._is_in_use(lease, held[0], seconds):
                    raise BusyError(
                        f"Another run holds the lock {name}: {named(held[0].owner)}.",
                        "Wait for it to end, or stop it; a lock without a process ends by itself.",
                    ) from None
                if held:
                    # As it was seen: if it was renewed, or is another's by now, it stays.
                    seen = self._of_name(lease) & (locks.c.owner == held[0].owner)
                    stale = sa.delete(locks).where(seen, locks.c.expires_at == held[0].expires_at)
                    with self.engine.begin() as connection:
                        connection.execute(stale)
        raise BusyError(
            f"Another run took the lock {name} just now.", "Try again when it has ended."
        )

    def _is_in_use(self, lease: Lease, row: sa.Row[Any], seconds: float) -> bool:
        """Whether somebody has a lock; where the clock does not tell, it is seen if it is renewed.

        Locks are taken for two minutes. One of another host that seems to last for days: that
        host's clock is ahead, or was, and its process is gone. One that has run out though its
        process lives, here: this machine was asleep, and both have just woken up.
        """
        here = row.owner.partition(":")[0] == socket.gethostname()
        held = _still_held(row)
        doubtful = (
            row.expires_at > in_seconds(MOST_AHEAD)
            if held
            else row.expires_at > in_seconds(-MOST_ASLEEP)
        )
        own = process_of(row.owner) == process_of(this_owner())
        if not doubtful or here == held or own or (here and is_dead(row.owner)):
            return held
        time.sleep(seconds / 12 * 2.5)
        return bool(self._holders(lease) != [row])

    def require_lock(self) -> None:
        """See that a lock that was taken is still held: a machine that slept may have lost it.

        Raises
        ------
        BusyError
            If somebody else may have it by now.
        """
        if self._lost_locks:
            raise BusyError(
                f"The lock {min(self._lost_locks)} ran out unrenewed: another run may have it.",
                "Was this machine asleep, or the ledger out of reach? Run the same command again.",
            )

    def has_lost(self, name: str) -> bool:
        """Whether a lock that was taken here may be somebody else's by now."""
        return name in self._lost_locks

    def holder_of(self, name: str) -> str | None:
        """Who holds a lock of this workflow, for a message; None if nobody does."""
        held = self._holders(Lease(name, self.workflow_key, ""))
        return named(held[0].owner) if held and _still_held(held[0]) else None

    def living_owners(self) -> set[str]:
        """Who holds a lock by now: a run whose owner is not among them has ended."""
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(locks)).fetchall()
        return {row.owner for row in rows if _still_held(row)}

    def _keep(self, lease: Lease, seconds: float, done: threading.Event) -> None:
        mine = sa.update(locks).where(self._is_mine(lease))
        good_until = time.monotonic() + seconds
        while not done.wait(seconds / 12):
            late = time.monotonic() > good_until
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                with self.engine.begin() as connection:
                    held = connection.execute(mine.values(expires_at=in_seconds(seconds))).rowcount
                late = late or not held
                good_until = time.monotonic() + seconds
            if late:
                self._lost_locks.add(lease.name)
                return

    def _holders(self, lease: Lease) -> list[sa.Row[Any]]:
        with self.engine.connect() as connection:
            return list(connection.execute(sa.select(locks).where(self._of_name(lease))))


def _still_held(row: sa.Row[Any]) -> bool:
    return is_held(row.owner, row.expires_at)
