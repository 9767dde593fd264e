"""Tidying: what is old goes, what anything may still need stays; first it is only said.

Never taken: what the model in use, an open batch or the newest of a kind needs; the ledger; plans
and contact sheets of batches, which say what was ever uploaded. A folder goes whole: it is first
put aside under a name that nobody looks for.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from zoo_bridge.config import JOBS, Settings
from zoo_bridge.ledger import Artifact, Batch, BatchState, Ledger
from zoo_bridge.service.runner import lock_of
from zoo_bridge.steps.scoring.features import HOME, folder_name, trunk_of

OPEN = (BatchState.STAGING, BatchState.STAGED)
ACT = "tidied"
GONE = ".gone-"
# Of these, what is on the shelf goes, too.
SHELVED = ("exports", "labels", "models", "scores", "runs", "features")
# What a run that was stopped left to go on from, and nobody went on with.
UNFINISHED_DAYS = 30


@dataclass(frozen=True)
class Removal:
    """A file or folder that may go.

    Parameters
    ----------
    path : Path
        What goes, all of it.
    kind : str
        What it is: exports, labels, models, scores, pictures, runs, unfinished, features or cache.
    bytes : int
        Space that it takes on this disk.
    """

    path: Path
    kind: str
    bytes: int


def plan_tidy(settings: Settings, ledger: Ledger, at: datetime | None = None) -> list[Removal]:
    """What may go by the settings' ``[keep]``.

    Parameters
    ----------
    settings : Settings
        What is to stay.
    ledger : Ledger
        What is in use.
    at : datetime, optional
        By which age is told, with a time zone; now by default.

    Returns
    -------
    list of Removal
    """
    at = at or datetime.now(UTC)
    needed = _needed(ledger)
    found = [
        *_exports(settings, ledger),
        *_artifacts(ledger, "labels", settings.keep.labels, needed),
        *_artifacts(ledger, "model", settings.keep.models, needed),
        *_artifacts(ledger, "scores", settings.keep.scores, needed),
        *_pictures(settings, ledger, at),
        *_runs(settings, ledger, needed, at),
        *_unfinished(settings, at),
        *_features(settings, ledger),
    ]
    if settings.keep.cache and (settings.work / "cache").is_dir():
        found.append(_removal(settings.work / "cache", "cache"))
    return found


def tidy(settings: Settings, ledger: Ledger) -> list[Removal]:
    """Take away what may go, while no job runs.

    Parameters
    ----------
    settings, ledger : Settings, Ledger
        As for `plan_tidy`.

    Returns
    -------
    list of Removal
        What went.

    Raises
    ------
    BusyError
        If a job is at work, which may be reading what is old.
    """
    with ExitStack() as stack:
        for job in JOBS:
            stack.enter_context(lock_of(ledger, job))
        for pattern in (f"{GONE}*", f"*/{GONE}*", f"*/*/{GONE}*"):
            for left in settings.work.glob(pattern):
                _take_away(left)
        found = plan_tidy(settings, ledger)
        for each in found:
            if ledger.shelf is not None and each.kind in SHELVED:
                for path in (each.path, *ledger.shelf.names_below(each.path)):
                    ledger.shelf.remove(path)
            if each.path.exists():
                gone = each.path.with_name(f"{GONE}{each.path.name}")
                each.path.rename(gone)
                _take_away(gone)
        if found:
            freed = sum(each.bytes for each in found)
            ledger.note_act(ACT, "work_dir", f"{len(found)} files and folders, {freed} bytes")
    return found


@dataclass(frozen=True)
class _Needed:
    """Names of artifacts, and runs, that something open or in use stands on."""

    names: set[str]
    runs: set[str]


def _needed(ledger: Ledger) -> _Needed:
    in_use = ledger.model_in_use()
    # Those that a rollback may go back to, the last first.
    before = list(dict.fromkeys(row.version for row in ledger.list_promotions()))[:2]
    names = {in_use, *before}
    model = ledger.find_artifact("model", in_use) if in_use else None
    for batch in ledger.list_batches():
        if batch.state in OPEN:
            names |= {batch.scores, batch.labels}
    runs = {model.run_id} if model else set()
    if model is not None:
        trained = ledger.find_run(model.run_id)
        digest = trained.inputs_digest if trained else None
        names |= {row.name for row in ledger.list_artifacts("labels") if row.digest == digest}
    for kind in ("exports", "labels", "model", "scores"):
        newest = ledger.newest(kind)
        if newest is not None:
            names.add(newest.name)
            runs.add(newest.run_id)
    return _Needed({name for name in names if name}, runs)


def _artifacts(ledger: Ledger, kind: str, keep: int, needed: _Needed) -> Iterator[Removal]:
    """Those of a kind that are older than the newest few, and that nothing needs."""
    for artifact in ledger.list_artifacts(kind)[keep:]:
        if artifact.name not in needed.names:
            yield _removal(artifact.home, "models" if kind == "model" else kind)


def _exports(settings: Settings, ledger: Ledger) -> Iterator[Removal]:
    """Manifests beyond the newest few, and the files that these alone name.

    Files that no manifest names stay: a new export that was refused may be right all the same.
    """
    manifests = ledger.list_artifacts("exports")
    kept, old = manifests[: settings.keep.exports], manifests[settings.keep.exports :]
    still = {name for artifact in kept for name in _files_of(artifact)}
    once = {name for artifact in old for name in _files_of(artifact)} - still
    # The manifest first: while it is there, the ledger takes its files to be there.
    for artifact in old:
        yield _removal(artifact.home, "exports")
    for name in sorted(once):
        path = settings.work / name
        if path.is_file() or (ledger.shelf is not None and ledger.shelf.has(path)):
            yield _removal(settings.work / name, "exports")


def _files_of(artifact: Artifact) -> set[str]:
    """The files that a manifest names, wherever in it."""

    def walk(value: object) -> Iterator[str]:
        if isinstance(value, dict):
            for each in value.values():
                yield from walk(each)
        elif isinstance(value, list):
            for each in value:
                yield from walk(each)
        elif isinstance(value, str) and value.startswith("exports/"):
            yield value

    return set(walk(json.loads(artifact.path.read_text(encoding="utf-8"))))


def _pictures(settings: Settings, ledger: Ledger, at: datetime) -> Iterator[Removal]:
    """Pictures of batches that volunteers have, or that were given up; plans stay."""
    for batch in ledger.list_batches():
        folder = settings.work / batch.path / "previews"
        old = _age(batch, at) > settings.keep.batches_days
        if batch.state not in OPEN and old and folder.is_dir():
            yield _removal(folder, "pictures")


def _age(batch: Batch, at: datetime) -> float:
    since = datetime.fromisoformat(batch.published_at or batch.created_at)
    return (at - since).total_seconds() / 86_400


def _runs(settings: Settings, ledger: Ledger, needed: _Needed, at: datetime) -> Iterator[Removal]:
    """Logs and reports of old runs, but of those that made what is in use."""
    home = settings.work / "runs"
    oldest = at - timedelta(days=settings.keep.runs_days)
    for folder in sorted(home.iterdir()) if home.is_dir() else ():
        if folder.name.startswith(".") or folder.name in needed.runs or not folder.is_dir():
            continue
        run = ledger.find_run(folder.name)
        # Of another workflow that shares this folder, or of another ledger: not ours to judge.
        if run is None or run.run_id != folder.name or not run.ended_at:
            continue
        if datetime.fromisoformat(run.ended_at) < oldest:
            yield _removal(folder, "runs")


def _unfinished(settings: Settings, at: datetime) -> Iterator[Removal]:
    """What scoring runs began, and nobody has gone on with for long."""
    oldest = (at - timedelta(days=UNFINISHED_DAYS)).timestamp()
    for folder in (settings.work / "scores").glob(".work-*"):
        newest = max((path.stat().st_mtime for path in folder.rglob("*")), default=0.0)
        if max(newest, folder.stat().st_mtime) < oldest:
            yield _removal(folder, "unfinished")


def _features(settings: Settings, ledger: Ledger) -> Iterator[Removal]:
    """Features of trunks that no model has any more that is kept."""
    server = settings.survey.endpoint_url
    kept = {folder_name(trunk_of(model), server) for model in ledger.list_artifacts("model")}
    # Another workflow may share this folder: what ours never scored with is not ours.
    gone = {
        folder_name(str(name), server)
        for scores in ledger.list_artifacts("scores", gone=True)
        if (name := scores.facts.get("trunk"))
    }
    for name in sorted(gone - kept):
        folder = settings.work / HOME / name
        if folder.is_dir() or (ledger.shelf is not None and ledger.shelf.names_below(folder)):
            yield _removal(folder, "features")


def _removal(path: Path, kind: str) -> Removal:
    # What is on the shelf alone takes no space here.
    files = path.rglob("*") if path.is_dir() else [path] if path.exists() else []
    return Removal(path, kind, sum(each.stat().st_size for each in files if each.is_file()))


def _take_away(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
