"""What a run of its own does for those who do not look: pings, news, and a file of metrics."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from zoo_bridge.errors import ZooBridgeError
from zoo_bridge.ledger.watching import NOT_TOLD
from zoo_bridge.redact import redact
from zoo_bridge.service.logs import close_log, open_log
from zoo_bridge.service.watching.channels import Channels, ping
from zoo_bridge.service.watching.findings import only_kept_out
from zoo_bridge.service.watching.telling import tell_news
from zoo_bridge.steps.context import Context

if TYPE_CHECKING:
    from zoo_bridge.service.runner import Run


def tell(ctx: Context, run: Run) -> None:
    """Tell how a run ended.

    Nothing in here fails a run: what cannot be told is noted in its log and in the ledger.
    """
    handlers = _log_again(ctx)
    try:
        # One that found another at work is none that anybody waits for.
        if run.outcome != "busy":
            state = "success" if _is_good(ctx, run) else "fail"
            _ping(ctx, run.job, state, f"{run.run_id}: {run.message}")
        _guarded(ctx, lambda: _tell_news(ctx))
        if ctx.settings.serve.textfile:
            _guarded(ctx, lambda: _write_metrics(ctx))
    finally:
        close_log(handlers)


def begun(ctx: Context, job: str) -> None:
    """Ping that a run has begun; called when it has its lock."""
    _ping(ctx, job, "start", ctx.run_id)


def _is_good(ctx: Context, run: Run) -> bool:
    """Whether a run is none to worry about: a model that was kept out ends no loop."""
    if run.exit_code == 0 or run.kept_out:
        return True
    noted = ctx.ledger.find_run(run.run_id) if run.outcome == "refused" else None
    return noted is not None and only_kept_out(ctx.ledger, noted)


def _log_again(ctx: Context) -> list[logging.Handler]:
    """The run's log, to which what comes after its end belongs, too."""
    try:
        return open_log(ctx.run_id, ctx.work / "runs" / ctx.run_id / "log.jsonl")
    except OSError:
        # A full disk is what is to be told.
        return []


def _ping(ctx: Context, job: str, state: str, text: str) -> None:
    def send() -> None:
        if why := ping(job, state, text):
            ctx.log.error(why)
            ctx.progress.say(f"  warning: {redact(why)}")
            ctx.ledger.note_act(NOT_TOLD, "ping", redact(why))

    _guarded(ctx, send)


def _tell_news(ctx: Context) -> None:
    tell_news(ctx.settings, ctx.ledger, Channels.of_environment())


def _write_metrics(ctx: Context) -> None:
    from zoo_bridge.service.watching.metrics import write_textfile

    write_textfile(ctx.settings, ctx.ledger)


def _guarded(ctx: Context, work: Callable[[], None]) -> None:
    try:
        work()
    except Exception as error:
        text = error.message if isinstance(error, ZooBridgeError) else repr(error)
        ctx.log.error("after the run: %s", redact(text))
        ctx.progress.say(f"  warning: nobody could be told: {redact(text)}")
