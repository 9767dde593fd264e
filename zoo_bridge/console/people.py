"""Who somebody is, and what they may do: by password, token, a trusted proxy, or Zooniverse."""

from __future__ import annotations

import hmac
import ipaddress
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from urllib.parse import urlsplit

from starlette.requests import Request

from zoo_bridge.config import secret
from zoo_bridge.config.tables import Console

PASSWORD = "ZOO_BRIDGE_CONSOLE_PASSWORD"
READER_PASSWORD = "ZOO_BRIDGE_CONSOLE_READER_PASSWORD"
TOKEN = "ZOO_BRIDGE_CONSOLE_TOKEN"
CLIENT_SECRET = "ZOO_BRIDGE_CONSOLE_CLIENT_SECRET"
# What a proxy on this machine leaves in a request: it is not from this machine then.
FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
# Failed log-ins of one address, and of all, within so many seconds.
WINDOW, MOST_OF_ONE, MOST_OF_ALL = 300.0, 5, 300
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


class Role(IntEnum):
    """What somebody may do; each may do what those before it may."""

    NOBODY = 0
    READER = 1
    ADMINISTRATOR = 2


@dataclass(frozen=True)
class Person:
    """Somebody at the console.

    Parameters
    ----------
    name : str
        As they called themselves, or as a proxy or Zooniverse says.
    address : str
        Where they are.
    how : str
        Through what they are known: password, token, proxy, Zooniverse, or this machine.
    role : Role
        Of every workflow that `roles` does not name.
    roles : mapping
        By a workflow's key.
    """

    name: str
    address: str
    how: str
    role: Role
    roles: Mapping[str, Role] = field(default_factory=dict)

    @property
    def signature(self) -> str:
        """As acts are signed."""
        return f"{self.name}@{self.address}"

    @property
    def is_known(self) -> bool:
        """Whether they logged in, in whatever way."""
        return self.how != "this machine"

    def may(self, workflow: str | None) -> Role:
        """What they may do with a workflow; with none of all, the most."""
        if workflow is None:
            return max([self.role, *self.roles.values()])
        return self.roles.get(workflow, self.role)


class Doors:
    """The ways in that settings and environment open.

    Parameters
    ----------
    config : Console
        Names, networks and headers.
    """

    def __init__(self, config: Console) -> None:
        from argon2 import PasswordHasher

        self.config = config
        self._hasher = PasswordHasher()
        self._hashes = [
            (role, self._hash(value))
            for name, role in ((PASSWORD, Role.ADMINISTRATOR), (READER_PASSWORD, Role.READER))
            if (value := secret(name))
        ]
        self._token = secret(TOKEN)
        self._networks = [ipaddress.ip_network(text, False) for text in config.trusted_proxies]
        self._failures: dict[str, deque[float]] = {}
        self._guard = threading.Lock()

    def _hash(self, value: str) -> str:
        return value if value.startswith("$argon2") else self._hasher.hash(value)

    @property
    def takes_passwords(self) -> bool:
        """Whether there is a password, or a token, to log in with."""
        return bool(self._hashes or self._token)

    @property
    def takes_zooniverse(self) -> bool:
        """Whether people can sign in with Zooniverse."""
        return bool(self.config.zooniverse_client_id and secret(CLIENT_SECRET))

    def role_of(self, given: str) -> Role:
        """What a password or token is good for."""
        from argon2.exceptions import Argon2Error, InvalidHash

        if self._token and hmac.compare_digest(self._token.encode(), given.encode()):
            return Role.ADMINISTRATOR
        found = Role.NOBODY
        for role, hashed in self._hashes:
            try:
                self._hasher.verify(hashed, given)
                found = max(found, role)
            except (Argon2Error, InvalidHash):
                continue
        return found

    # who asks

    def person_of(self, request: Request) -> Person | None:
        """Who a request is from without a log-in: by token, by a trusted proxy, or by being here.

        Parameters
        ----------
        request : Request
            Whatever its headers say is believed only of those that are trusted.

        Returns
        -------
        Person or None
            Nobody, for whom there is nothing to read.
        """
        address = self.address_of(request)
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._token:
            if hmac.compare_digest(self._token.encode(), given.strip().encode()):
                return Person("token", address, "token", Role.ADMINISTRATOR)
            return None
        names = request.headers.getlist(self.config.proxy_user_header)
        # Two of them: one may be of whoever asks, and which one nobody knows.
        name = names[0].strip() if len(names) == 1 else ""
        if name and self._is_trusted(_peer(request)):
            chosen = name in self.config.administrators
            role = Role.ADMINISTRATOR if chosen else Role.READER
            return Person(name, address, "proxy", role)
        if self.is_here(request):
            return Person("somebody", address, "this machine", Role.READER)
        return None

    def address_of(self, request: Request) -> str:
        """Where a request comes from: behind trusted proxies, as the first of them saw it."""
        peer = _peer(request)
        if not self._is_trusted(peer):
            return peer
        chain = ",".join(request.headers.getlist("x-forwarded-for")).split(",")
        for hop in reversed([part.strip() for part in chain if part.strip()]):
            if not self._is_trusted(hop):
                return hop
        return peer

    def _is_trusted(self, address: str) -> bool:
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self._networks)

    def is_here(self, request: Request) -> bool:
        """Whether a request is from this machine, and a person's: not a proxy's, not a page's.

        A page of somebody else's may have a name that leads to this machine: the browser says in
        ``Host`` which name it was. Where there is a public address, whatever brings it here may say
        nothing of itself: then nobody is from this machine.
        """
        if self.config.public_url and urlsplit(self.config.public_url).hostname not in LOCAL_NAMES:
            return False
        try:
            local = ipaddress.ip_address(_peer(request)).is_loopback
        except ValueError:
            return False
        headers = request.headers
        if not local or self._networks or any(name in headers for name in FORWARDED):
            return False
        # A picture on somebody's page, say: what it asks for would be done, though not be seen.
        site, dest = headers.get("sec-fetch-site"), headers.get("sec-fetch-dest")
        if site in ("cross-site", "same-site") and dest != "document":
            return False
        return (request.url.hostname or "") in LOCAL_NAMES

    # guessing

    def wait_for(self, address: str) -> float:
        """Seconds for which an address must not try to log in."""
        address = _network(address)
        with self._guard:
            now = time.monotonic()
            for tries in self._failures.values():
                while tries and now - tries[0] > WINDOW:
                    tries.popleft()
            self._failures = {key: tries for key, tries in self._failures.items() if tries}
            own = self._failures.get(address, deque())
            every: Sequence[float] = sorted(at for tries in self._failures.values() for at in tries)
            waits = [0.0]
            if len(own) >= MOST_OF_ONE:
                waits.append(WINDOW - (now - own[-MOST_OF_ONE]))
            if len(every) >= MOST_OF_ALL:
                waits.append(WINDOW - (now - every[-MOST_OF_ALL]))
            return max(waits)

    def failed(self, address: str) -> None:
        """Remember that somebody there knew no password."""
        with self._guard:
            self._failures.setdefault(_network(address), deque()).append(time.monotonic())


def _network(address: str) -> str:
    """What one person has to guess from: an address, or of IPv6 the network that they are given."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((found, 64), False)) if found.version == 6 else address


def _peer(request: Request) -> str:
    return request.client.host if request.client else ""
