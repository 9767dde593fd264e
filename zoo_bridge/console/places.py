"""The workflows of one ``zoo-bridge serve``, as the console has them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from zoo_bridge.config import Settings
from zoo_bridge.console.posteriors import Posteriors
from zoo_bridge.errors import BusyError
from zoo_bridge.ledger import Ledger
from zoo_bridge.service.watching.findings import Finding, look

# What is not as it should be is looked for so often, however many look.
LOOK_SECONDS = 5.0
# So is Zooniverse asked.
ASK_SECONDS = 20.0


class Served(Protocol):
    """A workflow of ``zoo-bridge serve``."""

    settings: Settings
    ledger: Ledger
    state: str


class Place:
    """A workflow as the console has it, under a key that stands in its addresses."""

    def __init__(self, key: str, served: Served) -> None:
        self.key = key
        self.served = served
        self.posteriors = Posteriors(lambda: self.settings)
        self._asking = threading.Lock()
        self._said: tuple[float, Any] = (float("-inf"), None)
        self._looked: tuple[float, list[Finding]] = (float("-inf"), [])

    @property
    def settings(self) -> Settings:
        """As they are by now: they may have been read again."""
        return self.served.settings

    @property
    def ledger(self) -> Ledger:
        """Its ledger."""
        return self.served.ledger

    @property
    def title(self) -> str:
        """The project, and the workflow."""
        project = self.settings.project
        return f"{project.slug}, workflow {project.workflow}"

    def asked_lately(self, ask: Callable[[], Any]) -> Any:
        """What Zooniverse said a moment ago; one at a time asks it.

        Raises
        ------
        BusyError
            If somebody else is asking.
        """
        if not self._asking.acquire(blocking=False):
            raise BusyError("Somebody else is asking Zooniverse now.", "Try again in a moment.")
        try:
            at, said = self._said
            if time.monotonic() - at > ASK_SECONDS:
                said = ask()
                self._said = time.monotonic(), said
            return said
        finally:
            self._asking.release()

    def findings(self) -> list[Finding]:
        """What is not as it should be, or waits for somebody."""
        at, found = self._looked
        if time.monotonic() - at > LOOK_SECONDS:
            found = look(self.settings, self.ledger)
            self._looked = time.monotonic(), found
        return found


def keys_of(served: Sequence[Served]) -> list[tuple[str, Served]]:
    """A key for each workflow: its number, and one more where two servers have the same."""
    numbers = [each.settings.project.workflow for each in served]
    return [
        (str(number) if numbers.count(number) == 1 else f"{number}-{place}", each)
        for place, (number, each) in enumerate(zip(numbers, served, strict=True), 1)
    ]
