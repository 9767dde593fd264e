"""Commands of zoo-bridge that run in processes of their own, without loading everything anew.

A process that has everything loaded forks for each of them. Starting Python and TensorFlow would
take seconds each time. What is about starting or a terminal starts ``python -m zoo_bridge`` itself.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

FORKING = """
import atexit, gc, json, os, runpy, signal, sys, threading, time, traceback
import astropy.io.fits, boto3, matplotlib.figure, obstore.store, polars, scipy.optimize, sqlalchemy
import zoo_bridge.service.cli, zoo_bridge.service.runner, zoo_bridge.zooniverse.subjects
import zoo_bridge.steps.upload, zoo_bridge.steps.score, zoo_bridge.steps.retrain
import zoo_bridge.model.agreement, zoo_bridge.model.train

gc.freeze()  # what is here stays, and need not be looked through in every process
forking, waiting = os.getpid(), []
for line in sys.stdin:
    asked = json.loads(line)
    waiting = [each for each in waiting if not os.waitpid(each, os.WNOHANG)[0]]
    if (pid := os.fork()) == 0:
        break
    waiting.append(pid)
else:
    for each in waiting:
        os.waitpid(each, 0)
    sys.exit()

# One process waits for the command, and writes down how it ended; and the command.
wait, go = os.pipe()
pid = os.fork()
if pid:
    print(pid, flush=True)
    os.close(wait)
    while asked["hold"] and not os.path.exists(asked["hold"]):
        if os.getppid() != forking:  # nobody is left who could let it go
            os.kill(pid, signal.SIGKILL)
            os._exit(1)
        time.sleep(0.001)
    os.close(go)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with open(asked["ended"] + ".new", "w") as file:
        file.write(str(code))
    os.rename(asked["ended"] + ".new", asked["ended"])
    os._exit(0)
os.close(go)
os.read(wait, 1)

# From here on this is the command, and ends as one does, but for taking all modules down.
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
for number, path in ((1, asked["out"]), (2, asked["err"])):
    os.dup2(os.open(path, os.O_WRONLY), number)
os.chdir(asked["folder"])
os.environ.clear()
os.environ.update(asked["env"])
sys.argv = ["zoo-bridge", *asked["words"]]
# By this it starts itself again, if it wants huge pages.
sys.orig_argv[1:] = ["-m", "zoo_bridge", *asked["words"]]
code = 0
try:
    runpy.run_module("zoo_bridge", run_name="__main__", alter_sys=True)
except SystemExit as end:
    code = end.code if isinstance(end.code, int) else int(end.code is not None)
except BaseException:
    traceback.print_exc()
    code = 1
for last in (threading._shutdown, atexit._run_exitfuncs, sys.stdout.flush, sys.stderr.flush):
    try:
        last()
    except Exception:
        traceback.print_exc()  # which does not change how it ended
os._exit(code)
"""


class _Forking:
    """The process that forks, of this process of pytest; it starts when it is first needed."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def start(self, asked: dict[str, object]) -> int:
        """Begin a command: its process id."""
        with self._lock:
            if self._child is None:
                command, pipe = [sys.executable, "-c", FORKING], subprocess.PIPE
                self._child = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
                atexit.register(self._end, self._child)
            child = self._child
            assert child.stdin
            assert child.stdout
            child.stdin.write(json.dumps(asked) + "\n")
            child.stdin.flush()
            return int(child.stdout.readline())

    @staticmethod
    def _end(child: subprocess.Popen[str]) -> None:
        """End it, whatever its commands do; so that what they took is counted, it may wait."""
        assert child.stdin
        child.stdin.close()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


_forking = _Forking()


class Command:
    """A command that runs, much as ``subprocess.Popen`` has it.

    Parameters
    ----------
    *words : str
        What is written after ``zoo-bridge``.
    config : path, optional
        The settings, which are named last.
    env : mapping, optional
        More variables of its environment than this process has.
    cwd : path, optional
        The folder in which it runs.
    hold : bool
        Whether it waits for ``go`` before it begins.
    """

    def __init__(
        self,
        *words: str,
        config: Path | str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | str | None = None,
        hold: bool = False,
    ) -> None:
        self.words = [*words, *(["--config", str(config)] if config else [])]
        self._home = Path(tempfile.mkdtemp(prefix="zoo-bridge-command-"))
        for name in ("out", "err"):
            (self._home / name).touch()
        self._hold = self._home / "hold"
        self.pid = _forking.start(
            {
                "words": self.words,
                "env": {**os.environ, **(env or {})},
                "folder": str(cwd or Path.cwd()),
                "hold": str(self._hold) if hold else "",
                **{name: str(self._home / name) for name in ("out", "err", "ended")},
            }
        )

    def go(self) -> None:
        """Let it begin."""
        self._hold.touch()

    def poll(self) -> int | None:
        """How it ended: its exit code, minus a signal's number; None while it runs."""
        ended = self._home / "ended"
        return int(ended.read_text()) if ended.exists() else None

    def wait(self, timeout: float = 600) -> int:
        """Wait for its end."""
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(self.words, timeout)
            time.sleep(0.002)
        return code

    def completed(self, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Wait for its end: with all that it wrote."""
        code = self.wait(timeout)
        out, err = ((self._home / name).read_text() for name in ("out", "err"))
        shutil.rmtree(self._home)
        return subprocess.CompletedProcess(self.words, code, out, err)


def run_command(
    *words: str,
    config: Path | str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``zoo-bridge`` as a person does, to its end; see `Command`."""
    return Command(*words, config=config, env=env, cwd=cwd).completed()
