"""Running a job: a lock, a ledger row, a log, counts that add up, and an exit code.

Whatever happens in a step, its run ends here: with a row that says how, and nothing half-written
that a later run would take for whole.
"""

from __future__ import annotations

import logging
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from zoo_bridge.config import Settings
from zoo_bridge.errors import Stopped, ZooBridgeError
from zoo_bridge.files import write_json
from zoo_bridge.ledger import Ledger
from zoo_bridge.progress import LineProgress, Progress
from zoo_bridge.service.logs import close_log, open_log
from zoo_bridge.steps.context import Context, Options, Result

Step = Callable[[Context], Result]
EXIT_OF = {"done": 0, "unchanged": 0, "planned": 0, "refused": 3}
_OUTCOMES = {3: "refused", 75: "busy", 143: "stopped"}
ORDER = ("pull", "aggregate", "retrain", "score", "upload")


@dataclass
class Run:
    """How a run ended."""

    run_id: str
    job: str
    outcome: str
    message: str
    hint: str = ""
    exit_code: int = 0
    counts: dict[str, Any] = field(default_factory=dict)
    artifact: str | None = None
    seconds: float = 0.0

    @property
    def kept_out(self) -> bool:
        """Whether a model was trained and the gate kept it out of use: no failure of the loop."""
        return self.job == "retrain" and self.outcome == "refused" and self.artifact is not None


def find_step(job: str) -> Step:
    """The function of a job; only its own libraries are loaded."""
    import importlib

    step: Step = getattr(importlib.import_module(f"zoo_bridge.steps.{job}"), job)
    return step


def run_job(
    job: str,
    settings: Settings,
    ledger: Ledger,
    progress: Progress,
    options: Options | None = None,
) -> Run:
    """Run one job, from its lock to its exit code.

    Parameters
    ----------
    job : str
        pull, aggregate, retrain, score, upload or cycle.
    settings : Settings
        Of the project.
    ledger : Ledger
        Where it is noted.
    progress : Progress
        Where it is told.
    options : Options, optional
        dry run, force, files.

    Returns
    -------
    Run
        Also when it failed: errors made for people are in ``message`` and ``hint``.
    """
    options = options or Options()
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{job}-{secrets.token_hex(2)}"
    folder = settings.work / "runs" / run_id
    quiet = isinstance(progress, LineProgress)
    handlers = open_log(run_id, folder / "log.jsonl")
    log = logging.getLogger(f"zoo_bridge.{job}")
    ctx = Context(settings, ledger, run_id, progress, log, options)
    began = time.monotonic()
    ledger.start_run(run_id, job)
    progress.say(f"{job}: run {run_id}" if quiet else job)
    digests: dict[str, Any] = {}
    try:
        with ledger.lock(_lock_name(job, settings)), _stoppable():
            ledger.end_abandoned(job, run_id)
            if job == "cycle":
                run = _cycle(ctx)
            else:
                result = find_step(job)(ctx)
                for balance in result.balances:
                    balance.check()
                digests = {
                    "inputs_digest": result.inputs_digest,
                    "settings_digest": result.settings_digest,
                }
                run = _ended(ctx, job, result)
    except ZooBridgeError as error:
        outcome = _OUTCOMES.get(error.exit_code, "failed")
        log.error(error.message, exc_info=error)
        run = Run(run_id, job, outcome, error.message, error.hint, error.exit_code)
    except Stopped:
        why = "Stopped by SIGTERM; what was done is kept."
        hint = "Run the same command again to go on."
        run = Run(run_id, job, "stopped", why, hint, Stopped.exit_code)
    except KeyboardInterrupt:
        run = Run(run_id, job, "stopped", "Stopped by the keyboard.", "Run it again.", 130)
    except Exception as error:
        # The last line of defence: a person gets two lines, the log gets the traceback.
        log.exception("unexpected error")
        what = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        hint = f"This is a fault of zoo_bridge; please report it with {folder / 'log.jsonl'}."
        run = Run(run_id, job, "failed", f"{job} failed unexpectedly: {what}", hint, 1)
    run.seconds = round(time.monotonic() - began, 2)
    _finish(ctx, run, digests)
    close_log(handlers)
    return run


def _ended(ctx: Context, job: str, result: Result) -> Run:
    code = EXIT_OF[result.outcome]
    hint = "The model in use stays; see its card under models/." if code == 3 else ""
    return Run(
        ctx.run_id, job, result.outcome, result.message, hint, code, result.counts, result.artifact
    )


def _finish(ctx: Context, run: Run, digests: dict[str, Any]) -> None:
    """The run record, the ledger row and the last line."""
    facts = {"counts": run.counts, "artifact": run.artifact, "message": run.message, **digests}
    ctx.ledger.end_run(run.run_id, run.outcome, **facts)
    settings = ctx.settings.model_dump(mode="json")
    record = {**vars(run), **digests, "dry_run": ctx.options.dry_run, "settings": settings}
    write_json(ctx.work / "runs" / run.run_id / "run.json", record)
    ctx.log.info("%s: %s", run.outcome, run.message, extra={"facts": {"counts": run.counts}})
    if run.exit_code == 0:
        ctx.progress.say(f"{run.job}: {run.outcome} in {run.seconds:.1f} s: {run.message}")


def _cycle(ctx: Context) -> Run:
    """Every step in order. A model that was kept out does not end it: the one in use goes on."""
    lines, worst, counts = [], 0, {}
    for job in ORDER:
        run = run_job(job, ctx.settings, ctx.ledger, ctx.progress, ctx.options)
        counts[job] = run.counts
        lines.append(f"{job} {run.outcome}")
        worst = worst or run.exit_code
        if run.exit_code and not run.kept_out:
            outcome = _OUTCOMES.get(run.exit_code, "failed")
            message = f"{', '.join(lines)}: {run.message}"
            return Run(ctx.run_id, "cycle", outcome, message, run.hint, run.exit_code, counts)
    outcome = "refused" if worst else "done"
    hint = "A new model was kept out; see: zoo-bridge models." if worst else ""
    return Run(ctx.run_id, "cycle", outcome, ", ".join(lines), hint, worst, counts)


def _lock_name(job: str, settings: Settings) -> str:
    if job == "upload":
        return upload_lock(settings)
    return f"{job}:{settings.project.slug}:{settings.project.workflow}"


def upload_lock(settings: Settings) -> str:
    """Of all that puts something before volunteers: one project, one hand at a time."""
    return f"upload:{settings.project.slug}"


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM becomes `Stopped` in the main thread, so that every ``finally`` is run."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: Any) -> None:
        # The first one is enough: another must not cut off what there is to put in order and tell.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is stop:
            signal.signal(signal.SIGTERM, before)
