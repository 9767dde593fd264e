"""Logs: one JSON object a line, with the run's id; secrets never stand in them."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path

from zoo_bridge.config import secret

SECRETS = ("PANOPTES_PASSWORD", "PANOPTES_CLIENT_SECRET", "AWS_SECRET_ACCESS_KEY")


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
        self.hidden = [value for name in SECRETS if (value := secret(name)) and len(value) > 3]

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
        text = json.dumps(line, default=str)
        for value in self.hidden:
            text = text.replace(value, "***")
        return text


def open_log(run_id: str, path: Path) -> list[logging.Handler]:
    """Send the logs of a run to its file.

    Parameters
    ----------
    run_id : str
        The run.
    path : Path
        ``log.jsonl``.

    Returns
    -------
    list of logging.Handler
        To be handed to `close_log`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [logging.FileHandler(path, encoding="utf-8")]
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
