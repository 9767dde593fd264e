"""Counts that must add up: what went in is what came out plus what was set aside."""

from __future__ import annotations

from dataclasses import dataclass

from zoo_bridge.errors import CountsError


@dataclass(frozen=True)
class Balance:
    """What went in and what became of it: ``total`` must be the sum of ``parts``."""

    what: str
    total: int
    parts: dict[str, int]

    def check(self) -> None:
        """Raise `CountsError` unless it adds up."""
        if self.total != sum(self.parts.values()):
            parts = ", ".join(f"{name} {count}" for name, count in self.parts.items())
            raise CountsError(
                f"{self.total} {self.what} are not the sum of {parts}.",
                "This is a fault of zoo_bridge; please report it with the run's log.",
            )
