"""The audit: every act with who, when, from where, through what, and why."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.responses import Response

from zoo_bridge.console.site import Visit
from zoo_bridge.ledger.actors import SCHEDULE
from zoo_bridge.ledger.watching import NOT_TOLD, SCHEDULED, TOLD

PAGE, MOST = 100, 5000
# What the service notes for itself is no act of anybody.
ITS_OWN = (SCHEDULED, TOLD, NOT_TOLD)


@dataclass(frozen=True)
class Entry:
    """Something that somebody did."""

    at: str
    who: str
    through: str
    what: str
    of: str
    why: str
    path: tuple[str, ...] = ()


def entries(visit: Visit, most: int) -> list[Entry]:
    """So many, newest first: of batches, models, runs, the schedule, and log-ins."""
    ledger = visit.ledger
    found = [
        Entry(
            event.at,
            event.who,
            event.through or "",
            event.what,
            f"{event.batch}: {event.facts['object']}" if "object" in event.facts else event.batch,
            str(event.facts.get("why", "")),
            ("batches", event.batch),
        )
        for event in ledger.all_events(most)
    ]
    found += [
        Entry(
            row.at,
            row.who or "",
            row.through or "",
            "put in use" if row.action == "promote" else "rolled back to",
            f"model {row.version}",
            "; ".join(text for text in (row.why, row.reason) if text),
            ("models", row.version),
        )
        for row in ledger.list_promotions()
    ]
    found += [
        Entry(act.at, act.who, act.through, act.what, act.subject, act.text or "")
        for act in ledger.list_acts(limit=most)
        if act.what not in ITS_OWN
    ]
    found += [
        Entry(
            run.started_at,
            run.who or "",
            run.through or "",
            "ran",
            run.run_id,
            run.outcome,
            ("runs", run.run_id),
        )
        for run in ledger.list_runs(limit=most)
        if run.parent is None and run.through != SCHEDULE
    ]
    return sorted(found, key=lambda each: each.at, reverse=True)[:most]


def audit(visit: Visit) -> Response:
    """The page."""
    offset = visit.number("offset", 0, MOST)
    found = entries(visit, min(offset + PAGE + 1, MOST))[offset:]
    return visit.show(
        "audit.html",
        entries=found[:PAGE],
        more=offset + PAGE if len(found) > PAGE else None,
        offset=offset,
        page=PAGE,
    )
