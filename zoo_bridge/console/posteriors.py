"""Posteriors of galaxies that somebody looks at, by a process that is started when one is asked."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from zoo_bridge.config import Settings
from zoo_bridge.console.acts import environment

# Galaxies that are remembered.
MOST = 4000
# A model is loaded in some ten seconds, and an answer takes less.
ANSWER_SECONDS = 120.0
# A worker that could not start is not started again for so long.
REST_SECONDS = 30.0
MOST_WAITING = 6


class Posteriors:
    """What the model in use says of galaxies' votes.

    Parameters
    ----------
    settings : callable
        Gives the settings as they are by now.
    """

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings = settings
        self._known: OrderedDict[tuple[Any, ...], dict[str, Any]] = OrderedDict()
        self._worker: subprocess.Popen[bytes] | None = None
        self._guard = threading.Lock()
        self._asking = threading.Lock()
        # Pages that wait hold a thread each; other pages need some, too.
        self._waiting = threading.BoundedSemaphore(MOST_WAITING)
        self._rests_until = 0.0
        self._of = settings()

    def known(self, version: str, n: int, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Those that were asked for before; nothing is started.

        Parameters
        ----------
        version : str
            The model.
        n : int
            Volunteers.
        names : sequence of str
            Objects.

        Returns
        -------
        dict
            By object: ``p``, shape (n + 1,), and ``networks``, or ``fault``.
        """
        with self._guard:
            keys = {name: (version, n, name) for name in names}
            return {name: self._known[key] for name, key in keys.items() if key in self._known}

    def ask(
        self, version: str, n: int, objects: Sequence[tuple[str, str]], networks: int = 0
    ) -> dict[str, dict[str, Any]]:
        """The same, of pairs of object and URI; what is not known is found out.

        Raises
        ------
        RuntimeError
            If the model cannot be asked; it says why.
        """
        found = self.known(version, n, [name for name, _ in objects])
        lacks = _lacking(found, objects, networks)
        if not lacks:
            return found
        if not self._waiting.acquire(blocking=False):
            raise RuntimeError("Others ask the model now. Load the page again in a moment.")
        try:
            return found | self._found_out(version, n, lacks, networks)
        finally:
            self._waiting.release()

    def _found_out(
        self, version: str, n: int, lacks: list[tuple[str, str]], networks: int
    ) -> dict[str, dict[str, Any]]:
        with self._asking:
            # Somebody else may have asked the same meanwhile.
            there = self.known(version, n, [name for name, _ in lacks])
            lacks = _lacking(there, lacks, networks)
            if not lacks:
                return there
            asked = {
                "version": version, "question": 0, "n": n, "objects": lacks, "networks": networks,
            }  # fmt: skip
            more = self._put(asked)
            with self._guard:
                self._known |= {(version, n, name): each for name, each in more.items()}
                while len(self._known) > MOST:
                    self._known.popitem(last=False)
            return there | more

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.kill()
            self._worker.wait()

    def _put(self, asked: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """A question to the worker; one that ended by itself is started again."""
        if time.monotonic() < self._rests_until:
            raise RuntimeError("The model could not be loaded a moment ago.")
        for last in (False, True):
            worker = self._started()
            assert worker.stdin is not None
            try:
                worker.stdin.write(json.dumps(asked).encode() + b"\n")
                worker.stdin.flush()
                answer = self._hear(worker)
                break
            except (OSError, ValueError) as error:
                worker.kill()
                worker.wait()
                self._worker = None
                if last or isinstance(error, TimeoutError):
                    self._rests_until = time.monotonic() + REST_SECONDS
                    raise RuntimeError(f"The model could not be asked: {error}.") from None
        if "error" in answer:
            raise RuntimeError(str(answer["error"]))
        return dict(answer["said"])

    def _started(self) -> subprocess.Popen[bytes]:
        settings = self._settings()
        if self._worker is not None and settings is not self._of:
            # They were read again: what it says may be of other questions.
            self.close()
            with self._guard:
                self._known.clear()
        self._of = settings
        if self._worker is None or self._worker.poll() is not None:
            self._worker = subprocess.Popen(
                [sys.executable, "-m", "zoo_bridge.console.worker", str(settings.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env={**environment(), "TF_CPP_MIN_LOG_LEVEL": "3"},
            )
        return self._worker

    def _hear(self, worker: subprocess.Popen[bytes]) -> dict[str, Any]:
        assert worker.stdout is not None
        if not select.select([worker.stdout], [], [], ANSWER_SECONDS)[0]:
            raise TimeoutError(f"it did not answer within {ANSWER_SECONDS:.0f} s")
        line = worker.stdout.readline()
        if not line:
            raise OSError("its process ended")
        return dict(json.loads(line))


def _lacking(
    found: dict[str, dict[str, Any]], objects: Sequence[tuple[str, str]], networks: int
) -> list[tuple[str, str]]:
    """Pairs of object and URI of which not all that is wanted is known."""
    return [
        (name, uri)
        for name, uri in objects
        if name not in found or (networks and "networks" not in found[name])
    ]
