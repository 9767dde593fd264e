"""Stopping a run that is under way: asked politely, it leaves what was done and goes on later."""

from __future__ import annotations

import os
import signal
import socket
from datetime import datetime
from pathlib import Path

from zoo_bridge.config import JOBS
from zoo_bridge.errors import RefusedError, SettingsError
from zoo_bridge.ledger import Ledger, RunRecord
from zoo_bridge.ledger.owners import named
from zoo_bridge.service.watching.findings import LOOKED_AT, under_way

STOPPED = "stopped"
# Of a clock that was set while the machine ran.
APART_SECONDS = 60.0


def stop_run(ledger: Ledger, what: str, why: str | None = None) -> str:
    """Send SIGTERM to the process of a run.

    Parameters
    ----------
    ledger : Ledger
        What runs, on whatever host.
    what : str
        A run, or a job of which one is under way.
    why : str, optional
        A person's reason, which is kept.

    Returns
    -------
    str
        What was done.

    Raises
    ------
    SettingsError
        If nothing of that name is under way.
    RefusedError
        If its process is another host's, or another account's.
    """
    run = _under_way(ledger, what)
    host, process, _ = (run.owner or "::").split(":")
    if host != socket.gethostname():
        raise RefusedError(
            f"{run.run_id} is {named(run.owner or '::')}, and this is {socket.gethostname()}.",
            "Stop it there with the same command.",
        )
    if run.parent is not None:
        # They are one process; it is the cycle that says how it ended.
        run = ledger.find_run(run.parent) or run
    if _is_another(int(process), run):
        raise SettingsError(f"{run.run_id} has ended.", "See: zoo-bridge runs.")
    ledger.note_act(STOPPED, run.run_id, why)
    try:
        os.kill(int(process), signal.SIGTERM)
    except ProcessLookupError:
        raise SettingsError(f"{run.run_id} has ended.", "See: zoo-bridge runs.") from None
    except PermissionError:
        raise RefusedError(
            f"{named(run.owner or '::')} belongs to another account.", "Stop it as that one."
        ) from None
    return f"{run.run_id} is told to stop; what was done is kept, and its next run goes on"


def _is_another(process: int, run: RunRecord) -> bool:
    """Whether a process began after a run: its number was another's before."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        boot = Path("/proc/stat").read_text(encoding="utf-8").partition("btime ")[2].split()[0]
    except OSError:
        # No Linux, or gone by now.
        return False
    ticks = int(stat.rpartition(")")[2].split()[19])
    began = int(boot) + ticks / os.sysconf("SC_CLK_TCK")
    return began > datetime.fromisoformat(run.started_at).timestamp() + APART_SECONDS


def _under_way(ledger: Ledger, what: str) -> RunRecord:
    """A run that is going on, by its name or its job's."""
    recent = ledger.list_runs(what, LOOKED_AT) if what in JOBS else []
    found = under_way(recent) or next(iter(recent), None) or ledger.find_run(what)
    if found is None or found.outcome != "running":
        raise SettingsError(
            f"No run {what} is under way." if found is None else f"{found.run_id} has ended.",
            "See what is: zoo-bridge runs.",
        )
    return found
