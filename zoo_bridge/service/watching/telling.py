"""Telling: what is new, what lasts, what is over; each once, by one process.

What is found is held against the incidents of the ledger. New ones are told at once, those that
last again after ``notify.remind_hours``, those that are over as "recovered"; all of one moment in
one message. Whoever tells claims them first: `serve` on one host and a run of cron on another do
not both tell.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from zoo_bridge.config import Settings
from zoo_bridge.errors import ZooBridgeError
from zoo_bridge.ledger import Incident, Ledger
from zoo_bridge.ledger.watching import NOT_TOLD, TOLD
from zoo_bridge.redact import redact
from zoo_bridge.service.watching.channels import Channels, Message, NotTold
from zoo_bridge.service.watching.findings import (
    LOOKED_AT,
    PROBLEMS,
    Finding,
    ended_last,
    look,
    only_kept_out,
)

log = logging.getLogger("zoo_bridge.notify")

TEST = "If you read this, zoo_bridge can tell you when something goes wrong."
# What lasts and is told again, after so many times ``notify.remind_hours``.
REMINDED = {**dict.fromkeys(PROBLEMS, 1), "approval": 3, "quota": 7, "backlog": 7, "dry": 3}
# Pages of the console on which something is decided, by what is told.
PAGES = {"approval": "batches", "kept out": "models"}
# What is named in a message, at most; it must be readable on a phone.
MOST_TOLD = 8
MOST_LETTERS = 300


def tell_news(
    settings: Settings,
    ledger: Ledger,
    channels: Channels,
    notes: Mapping[str, str] | None = None,
    at: datetime | None = None,
) -> Message | None:
    """Look, and tell what is new, what lasts and what is over.

    Parameters
    ----------
    settings : Settings
        What is told, and how often again.
    ledger : Ledger
        What has run, and what was told already.
    channels : Channels
        Where to; without any, nothing is looked at.
    notes : mapping, optional
        See `findings.look`.
    at : datetime, optional
        See `findings.look`.

    Returns
    -------
    Message or None
        What was told; None if there was nothing, or nobody could be told, which is noted.
    """
    if not channels:
        return None
    at = at or datetime.now(UTC)
    kinds = settings.notify.kinds
    everything = look(settings, ledger, at, notes)
    found = {each.name: each for each in everything if each.kind in kinds}
    known = ledger.list_incidents()
    over = [incident for name, incident in known.items() if name not in found]
    better = [each for each in over if _recovers(ledger, each, everything)]
    waiting = [each for each in over if _waits(ledger, each, everything)]
    ledger.close_incidents([each.name for each in over if each not in (*better, *waiting)])
    due = [each for each in found.values() if _is_due(settings, each, known.get(each.name), at)]
    taken = [
        each for each in due if ledger.claim_incident(each.name, each.text, known.get(each.name))
    ]
    recovered = [each for each in better if ledger.claim_incident(each.name, each.text, each)]
    if not taken and not recovered:
        return None
    message = compose(settings, taken, recovered, known)
    if not send(ledger, channels, message):
        names = [finding.name for finding in taken]
        ledger.release_incidents([*names, *(incident.name for incident in recovered)])
        return None
    ledger.told_incidents([finding.name for finding in taken], at)
    ledger.close_incidents([incident.name for incident in recovered])
    return message


def send(ledger: Ledger, channels: Channels, message: Message) -> bool:
    """Send a message, and note in the ledger whether it arrived.

    Parameters
    ----------
    ledger : Ledger
        Where it is noted.
    channels : Channels
        Where to.
    message : Message
        What is sent.

    Returns
    -------
    bool
        Whether one address at least took it; where some did not, that is noted, and they are not
        tried again, since the others would be told twice.
    """
    try:
        channels.send(message)
    except ZooBridgeError as error:
        log.error("not told: %s", error.message)
        ledger.note_act(NOT_TOLD, "notify", redact(f"{message.title}: {error.message}"))
        if not (isinstance(error, NotTold) and error.took):
            return False
    ledger.note_act(TOLD, "notify", redact(message.title))
    return True


def _recovers(ledger: Ledger, incident: Incident, found: list[Finding]) -> bool:
    """Whether the end of an incident is news: a problem was told, and the job has run well since.

    That it is not found any more is not enough: it may be another one now, or paused, or stopped.
    """
    kind, _, of = incident.name.rpartition(" ")
    if kind not in PROBLEMS or incident.told_at is None:
        return False
    if any(each.of == of and each.is_problem for each in found):
        return False
    last = ended_last(ledger.list_runs(of, LOOKED_AT))
    well = last is not None and (
        last.outcome in ("done", "unchanged") or only_kept_out(ledger, last)
    )
    return well and last is not None and (last.ended_at or last.started_at) >= incident.opened_at


def _waits(ledger: Ledger, incident: Incident, found: list[Finding]) -> bool:
    """Whether nobody knows yet if an incident is over: the job was stopped, and goes on later."""
    kind, _, of = incident.name.rpartition(" ")
    if kind not in PROBLEMS or any(each.of == of and each.is_problem for each in found):
        return False
    last = ended_last(ledger.list_runs(of, LOOKED_AT))
    return last is not None and last.outcome == "stopped"


def _is_due(settings: Settings, found: Finding, known: Incident | None, at: datetime) -> bool:
    if known is None or known.told_at is None:
        return True
    times = REMINDED.get(found.kind)
    if times is None:
        return False
    since = at - datetime.fromisoformat(known.told_at)
    return since >= timedelta(hours=times * settings.notify.remind_hours)


def compose(
    settings: Settings,
    found: list[Finding],
    recovered: list[Incident],
    known: Mapping[str, Incident],
) -> Message:
    """One message of everything: short, with what to do, and without secrets.

    Parameters
    ----------
    settings : Settings
        The project's name, and where its reports can be read.
    found : list of Finding
        What is new, or lasts.
    recovered : list of Incident
        What is over.
    known : mapping
        Incidents that were open before, by name: of these it is said since when.

    Returns
    -------
    Message
    """
    slug = settings.project.slug
    heads = [f"{each.of}: {each.kind}" for each in found]
    heads += [f"{_of(each)}: recovered" for each in recovered]
    title = heads[0] if len(heads) == 1 else f"{len(heads)} things ({', '.join(heads[:3])})"
    lines = []
    for each in found[:MOST_TOLD]:
        lines.append(_short(each.text) + _since(known.get(each.name)))
        lines.append(f"  {_short(each.todo)}")
        if address := address_of(settings, each):
            lines.append(f"  {address}")
    lines += [
        f"{_of(each)} runs well again. It was: {_short(each.text)}"
        for each in recovered[:MOST_TOLD]
    ]
    if left := len(found[MOST_TOLD:]) + len(recovered[MOST_TOLD:]):
        lines.append(f"and {left} more: zoo-bridge status")
    return Message(redact(f"[{slug}] {title}"), redact("\n".join(lines)), good=not found)


def address_of(settings: Settings, found: Finding) -> str | None:
    """Where more is to be seen of it: a page of the console, or the report, as the settings say."""
    if settings.notify.report_url and found.run_id:
        return settings.notify.report_url.replace("{run}", found.run_id)
    if settings.console.public_url is None:
        return None
    page = ""
    if found.kind in PAGES and found.of:
        page = f"{PAGES[found.kind]}/{quote(found.of, safe='')}"
    elif found.run_id:
        page = f"runs/{found.run_id}"
    return f"{settings.console.public_url}/w/{settings.project.workflow}/{page}"


def _of(incident: Incident) -> str:
    return incident.name.rpartition(" ")[2]


def _since(incident: Incident | None) -> str:
    if incident is None or incident.told_at is None:
        return ""
    return f" (since {incident.opened_at[:16].replace('T', ' ')} UTC)"


def _short(text: str) -> str:
    return text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 2]} …"
