"""One run, as a person wants to see it: how it ended, what it counted, what it said last."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zoo_bridge.config import Settings
from zoo_bridge.errors import SettingsError
from zoo_bridge.ledger import Ledger, RunRecord
from zoo_bridge.redact import redact
from zoo_bridge.service.show import cell, print_json, took
from zoo_bridge.steps.shelf import here

# Lines of its log that are shown.
TAIL = 12


def show_run(settings: Settings, ledger: Ledger, run_id: str, as_json: bool) -> None:
    """Print everything of a run.

    Parameters
    ----------
    settings : Settings
        Of the project.
    ledger : Ledger
        What has run.
    run_id : str
        The run, or the beginning of its name.
    as_json : bool
        JSON in place of text.

    Raises
    ------
    SettingsError
        If there is no such run, or several begin so.
    """
    run = ledger.find_run(run_id)
    if run is None:
        raise SettingsError(
            f"There is no run {run_id}, or several begin so.", "See: zoo-bridge runs."
        )
    folder = here(settings, f"runs/{run.run_id}")
    parts = ledger.list_parts(run.run_id)
    log, report = folder / "log.jsonl", folder / "report.html"
    tail = tail_of(log)
    if as_json:
        more = {
            "parts": [part.run_id for part in parts],
            "report": str(report) if report.exists() else None,
            "log": str(log) if log.exists() else None,
            "log_tail": tail,
        }
        print_json({**asdict(run), **more})
        return
    print(f"{run.run_id}: {run.outcome}")
    for line in _lines(run, parts):
        print(redact(line))
    if run.counts:
        print("\nCounts")
        for name, value in _flat(run.counts):
            print(redact(f"  {name}: {value}"))
    if tail:
        print(f"\nThe end of its log ({log})")
        for entry in tail:
            print(redact(f"  {_told(entry)}"))
    else:
        print(f"\nIts log is not here: {log}")
    if report.exists():
        print(f"\nReport: {report}")


def _lines(run: RunRecord, parts: list[RunRecord]) -> list[str]:
    lines = [f"  {run.message}"] if run.message else []
    lines += [f"  warning: {text}" for text in run.warnings]
    ended = f", {took(run)}" if took(run) else ""
    lines.append(f"  began {cell(run.started_at)} UTC{ended}; {run.owner or 'process not known'}")
    if run.who:
        lines.append(f"  started by {run.who}, through the {run.through}")
    if run.parent:
        lines.append(f"  part of {run.parent}")
    lines += [f"  {part.job}: {part.outcome}  {part.run_id}" for part in parts]
    if run.artifact:
        lines.append(f"  made {run.artifact}")
    lines += [f"  {name}: {value:.6g}" for name, value in run.measures.items()]
    return lines


def _flat(counts: dict[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """Counts with their reasons, a line each; what is empty is left out."""
    found: list[tuple[str, Any]] = []
    for name, value in counts.items():
        if isinstance(value, dict):
            found += _flat(value, f"{before}{name}, ")
        elif value or value == 0:
            found.append((f"{before}{name}", value))
    return found


def tail_of(path: Path, most: int = TAIL) -> list[dict[str, Any]]:
    """The last entries of a log, without tracebacks: those stay in the file."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-most:]
    except OSError:
        return []
    entries = []
    for line in lines:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            # Its process was killed while it wrote.
            continue
        if entry.pop("traceback", None):
            entry["message"] += " (traceback in the file)"
        entries.append(entry)
    return entries


def _told(entry: dict[str, Any]) -> str:
    return f"{entry['time'][11:19]} {entry['level']:<7} {entry['message']}"
