"""Every error that zoo_bridge raises on purpose.

::

    ZooBridgeError                 1   something failed
    ├── SettingsError              2   a setting, a name in it or a credential is wrong
    ├── RefusedError               3   a safety rule said no
    ├── BusyError                 75   another run holds the lock
    ├── InputError                 1   a file or a table is not what it should be
    │   └── EmptyError             1   it has a header and no row
    ├── NotReadyError              1   an earlier step has to come first
    │   └── StaleError             1   what there is to go on is too old
    ├── CountsError                1   counts do not reconcile
    ├── StorageError               1   S3 or the disk
    └── ZooniverseError            1   Panoptes said no, or nothing
        ├── SwitchedOffError       1   Panoptes has a feature switched off
        ├── NotSentError           1   there was no connection to send anything by
        └── OutcomeUnknownError    1   a write was sent and no usable answer came

    Stopped                      143   SIGTERM, after leaving a consistent state

The number is the exit code of a command that ends with the error.
"""

from __future__ import annotations


class ZooBridgeError(Exception):
    """What happened, to what and why, and in ``hint`` what to do.

    Parameters
    ----------
    message : str
        One line: what happened, to what, why.
    hint : str, optional
        One line: what to do about it.
    """

    exit_code = 1
    # How the ledger calls a run that ended with it.
    outcome = "failed"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class SettingsError(ZooBridgeError):
    """A setting, something it names, or a credential is wrong."""

    exit_code = 2


class RefusedError(ZooBridgeError):
    """A safety rule refused to go on."""

    exit_code = 3
    outcome = "refused"


class BusyError(ZooBridgeError):
    """Another run of the same job holds its lock."""

    exit_code = 75
    outcome = "busy"


class Stopped(BaseException):
    """The run was asked to stop (SIGTERM).

    Like KeyboardInterrupt it may come anywhere, and is no error that anything on the way, our own
    code or a library's, may take for one of its own.
    """

    exit_code = 143


class InputError(ZooBridgeError):
    """A file, an export or a table cannot be used as it is."""


class EmptyError(InputError):
    """A file that should have rows has none."""


class NotReadyError(ZooBridgeError):
    """An earlier step has to come first."""


class StaleError(NotReadyError):
    """What there is to go on is too old, and nothing newer came."""

    outcome = "stale"


class CountsError(ZooBridgeError):
    """What went in is not what came out plus what was set aside."""


class StorageError(ZooBridgeError):
    """S3 or the disk failed."""


class ZooniverseError(ZooBridgeError):
    """Panoptes answered with an error, or not at all.

    Parameters
    ----------
    message, hint : str
        As for `ZooBridgeError`.
    status : int, optional
        The HTTP status, 0 when there was no answer.
    reason : str, optional
        The server's own words.
    """

    def __init__(self, message: str, hint: str = "", status: int = 0, reason: str = "") -> None:
        super().__init__(message, hint)
        self.status = status
        self.reason = reason


class SwitchedOffError(ZooniverseError):
    """Panoptes says that uploads, or whatever was asked for, are switched off: nothing was done."""


class NotSentError(ZooniverseError):
    """There was no connection: nothing was sent, so that nothing can have been done."""


class OutcomeUnknownError(ZooniverseError):
    """A write was sent, and whether the server carried it out cannot be told from here."""
