"""Running a job: a lock, a ledger row, a log, counts that add up, and an exit code.

Whatever happens in a step, its run ends here: with a row that says how, and nothing half-written
that a later run would take for whole.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zoo_bridge.config import Settings
from zoo_bridge.errors import Stopped, StorageError, ZooBridgeError
from zoo_bridge.files import write_json
from zoo_bridge.ledger import Ledger, shown_url
from zoo_bridge.progress import LineProgress, NotedProgress, Progress
from zoo_bridge.redact import redact, redact_all
from zoo_bridge.service.logs import close_log, open_log
from zoo_bridge.service.watching import after_run
from zoo_bridge.steps.context import Context, Options, Result
from zoo_bridge.trouble import explain, explain_any

Step = Callable[[Context], Result]
EXIT_OF = {"done": 0, "unchanged": 0, "planned": 0, "refused": 3}
# Kept free for a run's last words, and given back before they are written.
SPARE, SPARE_BYTES = ".spare", 2**18
# Set when it was a run's own time limit that stopped it.
LIMIT_PASSED = threading.Event()
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
    warnings: list[str] = field(default_factory=list)
    parent: str | None = None
    measures: dict[str, float] = field(default_factory=dict)

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
    parent: str | None = None,
) -> Run:
    """Run one job, from its lock to its exit code.

    Somebody is told how it began and ended, where ``ZOO_BRIDGE_NOTIFY_URLS`` or
    ``ZOO_BRIDGE_PING_URL`` say whom; of the parts of a cycle, by the cycle.

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
    parent : str, optional
        The run of the cycle that this one is part of.

    Returns
    -------
    Run
        Also when it failed: errors made for people are in ``message`` and ``hint``.
    """
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{job}-{secrets.token_hex(3)}"
    log = logging.getLogger(f"zoo_bridge.{job}")
    noted = NotedProgress(progress, settings.work / "runs" / run_id / "progress.json")
    ctx = Context(settings, ledger, run_id, noted, log, options or Options())
    if parent is not None or ctx.options.dry_run:
        return _run(ctx, job, parent)
    with time_limit(settings.schedule.time_limit_hours):
        run = _run(ctx, job, None)
        after_run.tell(ctx, run)
    return run


def _run(ctx: Context, job: str, parent: str | None) -> Run:
    run_id, ledger, progress = ctx.run_id, ctx.ledger, ctx.progress
    began = time.monotonic()
    handlers: list[logging.Handler] = []
    started = False
    try:
        handlers = open_log(run_id, _folder(ctx) / "log.jsonl")
        # Space for its last words; not zeros, which a file system may keep in no space at all.
        (_folder(ctx) / SPARE).write_bytes(secrets.token_bytes(SPARE_BYTES))
        lines = isinstance(progress, NotedProgress) and isinstance(progress.inner, LineProgress)
        progress.say(f"{job}: run {run_id}" if lines else job)
        with lock_of(ledger, job):
            ledger.end_abandoned(job, run_id)
            ledger.start_run(run_id, job, parent)
            started = True
            if parent is None and not ctx.options.dry_run:
                after_run.begun(ctx, job)
            run, digests = _attempt(ctx, job)
            run.parent = parent
            # While the lock is held: whoever looks must not take it for one that was killed.
            _conclude(ctx, run, digests, started, began)
    except Exception as error:
        run = _failed(ctx, job, error)
        run.parent = parent
        _conclude(ctx, run, {}, started, began)
    _report(ctx, run)
    close_log(handlers)
    _shelve(ctx)
    return run


def _attempt(ctx: Context, job: str) -> tuple[Run, dict[str, Any]]:
    """Do a job, whatever comes of it."""
    try:
        with _stoppable():
            if job == "cycle":
                return _cycle(ctx), {}
            result = find_step(job)(ctx)
            for balance in result.balances:
                balance.check()
            digests = {
                "inputs_digest": result.inputs_digest,
                "settings_digest": result.settings_digest,
            }
            return _ended(ctx, job, result), digests
    except Stopped:
        if LIMIT_PASSED.is_set():
            return _past_limit(ctx, job), {}
        why = "Stopped by SIGTERM; what was done is kept."
        hint = "Run the same command again to go on."
        return Run(ctx.run_id, job, "stopped", why, hint, Stopped.exit_code), {}
    except KeyboardInterrupt:
        return Run(ctx.run_id, job, "stopped", "Stopped by the keyboard.", "Run it again.", 130), {}
    except Exception as error:
        return _failed(ctx, job, error), {}


def _conclude(ctx: Context, run: Run, digests: dict[str, Any], started: bool, began: float) -> None:
    """Note how a run ended, and tell."""
    run.warnings = list(ctx.warnings)
    run.measures = dict(ctx.measures)
    run.seconds = round(time.monotonic() - began, 2)
    try:
        _finish(ctx, run, digests, started)
    except Exception as error:
        _not_noted(ctx, run, error)


def _shelve(ctx: Context) -> None:
    """Keep the run's log and page where its artifacts are."""
    try:
        ctx.ledger.shelve(_folder(ctx), leave=(SPARE,))
    except Exception as error:
        # A full disk, say: what the run did stands.
        why = error.message if isinstance(error, ZooBridgeError) else f"{type(error).__name__}"
        ctx.progress.say(redact(f"  warning: its log stays here alone: {why}"))


def _report(ctx: Context, run: Run) -> None:
    """Write the run's page; a run does not fail for want of it."""
    if not ctx.settings.report.every_run:
        return
    try:
        # Figures' library takes its time to load, and a command that ends at once has none.
        from zoo_bridge.service.reporting.writing import write_run_report

        path = write_run_report(ctx, run.run_id)
    except Exception as error:
        ctx.log.error("its report could not be written", exc_info=error)
        ctx.progress.say("  warning: its report could not be written; see its log")
        return
    if path is not None and run.parent is None and run.outcome != "unchanged":
        ctx.progress.say(f"  report: {path}")


def _folder(ctx: Context) -> Path:
    return ctx.work / "runs" / ctx.run_id


def _failed(ctx: Context, job: str, error: Exception) -> Run:
    """How a run ends with an error: in two lines, and in the log with all there is to know."""
    known = explain_any(error, str(ctx.work), ctx.work)
    if known is not None:
        ctx.log.error(known.message, exc_info=error)
        return Run(
            ctx.run_id,
            job,
            known.outcome,
            redact(known.message),
            redact(known.hint),
            known.exit_code,
        )
    # The last line of defence: a person gets two lines, the log gets the traceback.
    ctx.log.exception("unexpected error", exc_info=error)
    what = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    hint = f"This is a fault of zoo_bridge; please report it with {_folder(ctx) / 'log.jsonl'}."
    return Run(ctx.run_id, job, "failed", redact(f"{job} failed unexpectedly: {what}"), hint, 1)


def _ended(ctx: Context, job: str, result: Result) -> Run:
    code = EXIT_OF[result.outcome]
    hint = "The model in use stays; see its card under models/." if code == 3 else result.hint
    return Run(
        ctx.run_id, job, result.outcome, result.message, hint, code, result.counts, result.artifact
    )


def _finish(ctx: Context, run: Run, digests: dict[str, Any], started: bool) -> None:
    """The ledger row, the run record and the last line."""
    (_folder(ctx) / SPARE).unlink(missing_ok=True)
    if not started:
        ctx.ledger.start_run(run.run_id, run.job, run.parent)
    names = ("counts", "artifact", "message", "warnings", "measures")
    facts = {name: getattr(run, name) for name in names}
    ctx.ledger.end_run(run.run_id, run.outcome, **redact_all(facts), **digests)
    settings = ctx.settings.model_dump(mode="json") | {"ledger": shown_url(ctx.settings.ledger)}
    record = {**vars(run), **digests, "dry_run": ctx.options.dry_run, "settings": settings}
    write_json(_folder(ctx) / "run.json", redact_all(record))
    ctx.log.info("%s: %s", run.outcome, run.message, extra={"facts": {"counts": run.counts}})
    if run.exit_code == 0:
        told = f"{run.job}: {run.outcome} in {run.seconds:.1f} s: {run.message}"
        ctx.progress.say(redact(told))
        if run.hint:
            ctx.progress.say(redact(f"  {run.hint}"))


def _not_noted(ctx: Context, run: Run, error: Exception) -> None:
    """What a run did stands, but that it did stands nowhere: that is a failure, too."""
    known = explain(error, str(ctx.work), ctx.work) or StorageError(
        f"The run could not be noted: {type(error).__name__}: {str(error).splitlines()[0]}.",
        "Is the ledger's database there? Run the same command again.",
    )
    ctx.log.error("the run could not be noted", exc_info=error)
    if run.exit_code:
        ctx.progress.say(redact(f"  and the run could not be noted in the ledger: {known.message}"))
        return
    run.outcome, run.exit_code = "failed", known.exit_code
    run.message = redact(f"{run.job} was done and could not be noted: {known.message}")
    run.hint = redact(known.hint)


def _cycle(ctx: Context) -> Run:
    """Every step in order. A model that was kept out does not end it: the one in use goes on."""
    lines, worst, counts = [], 0, {}
    told = ctx.progress.inner if isinstance(ctx.progress, NotedProgress) else ctx.progress
    for job in ORDER:
        if job == "score" and worst and ctx.ledger.model_in_use() is None:
            # The first model was kept out: volunteers go on with galaxies drawn at random.
            lines.append("score left out")
            continue
        run = run_job(job, ctx.settings, ctx.ledger, told, ctx.options, ctx.run_id)
        counts[job] = run.counts
        lines.append(f"{job} {run.outcome}")
        ctx.warnings.extend(f"{job}: {text}" for text in run.warnings)
        worst = worst or run.exit_code
        if run.exit_code and not run.kept_out:
            message = f"{', '.join(lines)}: {run.message}"
            return Run(ctx.run_id, "cycle", run.outcome, message, run.hint, run.exit_code, counts)
    outcome = "refused" if worst else "done"
    hint = "A new model was kept out; see: zoo-bridge models." if worst else ""
    return Run(ctx.run_id, "cycle", outcome, ", ".join(lines), hint, worst, counts)


def _past_limit(ctx: Context, job: str) -> Run:
    hours = ctx.settings.schedule.time_limit_hours
    return Run(
        ctx.run_id,
        job,
        "failed",
        f"It ran longer than schedule.time_limit_hours ({hours:g} h) and was stopped; what was "
        "done is kept.",
        f"Run it again to go on, or raise the limit. What it waited for: {_folder(ctx)}/log.jsonl",
        1,
    )


@contextmanager
def time_limit(hours: float) -> Iterator[None]:
    """End the block after so long, as SIGTERM does: cron has nobody else who would."""
    LIMIT_PASSED.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end() -> None:
        LIMIT_PASSED.set()
        os.kill(os.getpid(), signal.SIGTERM)

    # Not longer than a timer can be set for.
    timer = threading.Timer(min(3600 * hours, threading.TIMEOUT_MAX), end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def lock_of(ledger: Ledger, job: str) -> AbstractContextManager[None]:
    """The lock under which a job is run.

    Of all that puts something before volunteers, ``upload``: one project, one hand at a time.
    """
    return ledger.lock(job, whole_project=job == "upload")


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
