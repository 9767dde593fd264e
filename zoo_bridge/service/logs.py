"""Logs: one JSON object a line, with the run's id; secrets never stand in them."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path

from zoo_bridge.redact import redact_all

# Before a log is open, and where none can be, Python would print errors with their tracebacks.
logging.getLogger("zoo_bridge").addHandler(logging.NullHandler())


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON.

    Parameters
    ----------
    run_id : str
        Stands in every line.
    """

    def __init__(self, run_id: str) -> None:
        super().__init__()
        self.run_id = run_id

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "run": self.run_id,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(redact_all(line))


class _LogFile(logging.FileHandler):
    """A log's file; what cannot be written to it is no reason for a traceback on the screen."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Let a full disk pass, which the run tells of; nothing else."""
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


def open_log(run_id: str, path: Path) -> list[logging.Handler]:
    """Send the logs of a run to its file.

    Parameters
    ----------
    run_id : str
        The run, whose id stands in every line.
    path : Path
        The log's file, ``log.jsonl`` in the run's folder.

    Returns
    -------
    list of logging.Handler
        To be handed to `close_log`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [_LogFile(path, encoding="utf-8")]
    root = logging.getLogger()
    for handler in handlers:
        handler.setFormatter(JsonLines(run_id))
        root.addHandler(handler)
    logging.getLogger("zoo_bridge").setLevel(logging.INFO)
    root.setLevel(logging.WARNING)
    return handlers


def close_log(handlers: list[logging.Handler]) -> None:
    """End what `open_log` began."""
    for handler in handlers:
        logging.getLogger().removeHandler(handler)
        handler.close()
