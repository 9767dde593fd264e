"""What people do at the console: the same commands that they would type, as processes.

A process of its own goes on, and ends, as the command would, whatever becomes of the console; and
each command checks all that it always does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from zoo_bridge.console.people import CLIENT_SECRET, PASSWORD, READER_PASSWORD, TOKEN, Person
from zoo_bridge.ledger.actors import CONSOLE, VARIABLE, WHO_VARIABLE
from zoo_bridge.redact import redact

KEPT = 200
# Of what a command says, the end is shown.
SHOWN_BYTES = 20_000
STOP_SECONDS = 30.0
# No command needs them.
OURS = (PASSWORD, READER_PASSWORD, TOKEN, CLIENT_SECRET)


@dataclass
class Act:
    """A command under way, or ended.

    Parameters
    ----------
    key : str
        In its address.
    workflow : str
        Key of the workflow that it is done to.
    words : sequence of str
        The command, without ``zoo-bridge`` and the settings.
    who : str
        Who asked for it.
    back : str
        The page to go back to.
    """

    key: str
    workflow: str
    words: Sequence[str]
    who: str
    back: str
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    began: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def code(self) -> int | None:
        """How it ended; None while it goes on."""
        return self.process.poll()

    @property
    def is_running(self) -> bool:
        """Whether it goes on."""
        return self.code is None

    @property
    def command(self) -> str:
        """As a person would type it."""
        import shlex

        return redact(shlex.join(["zoo-bridge", *self.words]))

    @property
    def verdict(self) -> str:
        """In a word."""
        if self.code is None:
            return "running"
        words = {0: "done", 2: "not possible", 3: "refused", 75: "busy", 143: "stopped"}
        return words.get(self.code, "failed")

    @property
    def text(self) -> str:
        """The end of what it said."""
        file = os.fstat(self.output.fileno())
        start = max(0, file.st_size - SHOWN_BYTES)
        data = os.pread(self.output.fileno(), SHOWN_BYTES, start)
        return redact(data.decode(errors="replace"))


class Acts:
    """The commands that the console started, newest first."""

    def __init__(self) -> None:
        self._acts: dict[str, Act] = {}
        self._guard = threading.Lock()
        self._count = 0

    def start(
        self, workflow: str, config: Path, words: Sequence[str], person: Person, back: str
    ) -> Act:
        """Start a command.

        Parameters
        ----------
        workflow : str
            Key of the workflow.
        config : Path
            Its settings file.
        words : sequence of str
            The command; what people typed stands in it as it is, and after ``--`` where it could
            be taken for an option.
        person : Person
            Who asks for it.
        back : str
            The page to go back to.

        Returns
        -------
        Act
            Under way.
        """
        command = command_of(words, config)
        env = environment() | {VARIABLE: CONSOLE, WHO_VARIABLE: person.signature}
        # It is read as long as the act is remembered.
        output = tempfile.TemporaryFile(prefix="zoo-bridge-act-")  # noqa: SIM115
        more: dict[str, Any] = {"stdout": output, "stderr": subprocess.STDOUT}
        # A group of its own: a Ctrl-C at the terminal is for the service alone.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, start_new_session=True, env=env, **more
        )
        with self._guard:
            self._count += 1
            key = f"{self._count}-{process.pid}"
            act = Act(key, workflow, words, person.signature, back, process, output)
            self._acts[key] = act
            old = [name for name, each in self._acts.items() if not each.is_running]
            for name in old[: max(0, len(self._acts) - KEPT)]:
                self._acts.pop(name).output.close()
        return act

    def find(self, workflow: str, key: str) -> Act | None:
        """One by its key."""
        found = self._acts.get(key)
        return found if found is not None and found.workflow == workflow else None

    def running(self, workflow: str) -> list[Act]:
        """Those of a workflow that go on."""
        with self._guard:
            return [
                act for act in self._acts.values() if act.workflow == workflow and act.is_running
            ]

    def close(self) -> None:
        """Ask those that go on to stop, and wait: they leave what was done."""
        with self._guard:
            going = [act for act in self._acts.values() if act.is_running]
        for act in going:
            act.process.terminate()
        for act in going:
            try:
                act.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                act.process.kill()


def environment() -> dict[str, str]:
    """That of this process, without what only the console needs."""
    ours = {each for name in OURS for each in (name, f"{name}_FILE")}
    return {name: value for name, value in os.environ.items() if name not in ours}


def command_of(words: Sequence[str], config: Path) -> list[str]:
    """How a command is started; the settings are named before anything that a person typed."""
    split = list(words).index("--") if "--" in words else len(words)
    named = [*words[:split], "--config", str(config), *words[split:]]
    return [sys.executable, "-m", "zoo_bridge", *named]
