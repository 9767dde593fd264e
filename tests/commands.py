"""Commands of zoo-bridge that run in processes of their own, without loading everything anew.

A process that has everything loaded forks for each of them. Starting Python and TensorFlow would
take seconds each time. What is about starting, signals or a
terminal starts ``python -m zoo_bridge`` itself.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

FORKING = """
import atexit, gc, json, os, runpy, sys, threading, traceback
import astropy.io.fits, boto3, matplotlib.figure, obstore.store, polars, scipy.optimize, sqlalchemy
import zoo_bridge.service.cli, zoo_bridge.service.runner, zoo_bridge.zooniverse.subjects
import zoo_bridge.steps.upload, zoo_bridge.steps.score, zoo_bridge.steps.retrain
import zoo_bridge.model.agreement, zoo_bridge.model.train

gc.freeze()  # what is here stays, and need not be looked through in every process
for line in sys.stdin:
    asked = json.loads(line)
    pid = os.fork()
    if pid == 0:
        break
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
else:
    sys.exit()

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

    def run(self, asked: dict[str, object]) -> int:
        with self._lock:
            if self._child is None:
                command, pipe = [sys.executable, "-c", FORKING], subprocess.PIPE
                self._child = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
                atexit.register(self._child.kill)
            child = self._child
            assert child.stdin
            assert child.stdout
            child.stdin.write(json.dumps(asked) + "\n")
            child.stdin.flush()
            return int(child.stdout.readline())


_forking = _Forking()


def run_command(
    *words: str,
    config: Path | str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``zoo-bridge`` as a person does, to its end.

    Parameters
    ----------
    *words : str
        What is written after its name.
    config : path, optional
        The settings, which are named last.
    env : mapping, optional
        More variables of its environment than this process has.
    cwd : path, optional
        The folder in which it runs.
    """
    asked = [*words, *(["--config", str(config)] if config else [])]
    with tempfile.TemporaryDirectory() as name:
        out, err = Path(name) / "out", Path(name) / "err"
        for path in (out, err):
            path.touch()
        code = _forking.run(
            {
                "words": asked,
                "env": {**os.environ, **(env or {})},
                "folder": str(cwd or Path.cwd()),
                "out": str(out),
                "err": str(err),
            }
        )
        return subprocess.CompletedProcess(asked, code, out.read_text(), err.read_text())
