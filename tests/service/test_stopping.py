"""SIGTERM: a run puts in order what it has to, and says that it was stopped, wherever it was."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

# A step that takes every error for one of its own, as a library may.
CHILD = """
import sys, time
from zoo_bridge.service import cli, runner

def step(ctx):
    try:
        print("ready", flush=True)
        while True:
            try:
                time.sleep(0.001)
            except Exception:
                pass
    finally:
        print("putting in order", flush=True)
        time.sleep(0.3)
        print("in order", flush=True)

runner.find_step = lambda job: step
sys.argv = ["zoo-bridge", "run", "pull", "--config", sys.argv[1]]
cli.main()
"""


def test_one_is_heard_anywhere_and_a_second_does_not_cut_it_off(project: Any) -> None:
    command = [sys.executable, "-c", CHILD, str(project.settings.path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
        child.terminate()
        assert child.stdout.readline() == "putting in order\n"
        child.terminate()
        assert child.stdout.readline() == "in order\n"
        _, told = child.communicate(timeout=60)
    assert child.returncode == 143, told
    assert "Stopped by SIGTERM" in told
    (run,) = project.ledger.list_runs("pull")
    assert run.outcome == "stopped"
