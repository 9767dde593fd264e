"""``zoo-bridge sandbox``: serve until told to stop, with volunteers who work through the weeks."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Any

from zoo_bridge.progress import for_stream
from zoo_bridge.sandbox import contract
from zoo_bridge.sandbox.server import Sandbox
from zoo_bridge.sandbox.world import Plan, environment


def serve_sandbox(folder: Path, plan: Plan, week: float) -> int:
    """Make or take up a sandbox and serve it until SIGTERM or Ctrl-C.

    Parameters
    ----------
    folder : Path
        Where it lives.
    plan : Plan
        What a new one is filled with.
    week : float
        Seconds between two weeks of the volunteers' work; 0 for none.

    Returns
    -------
    int
        The exit code.
    """
    with Sandbox(folder, plan, for_stream()) as box:
        if plan.contract:
            path = contract.write_description(box.folder, box.urls["panoptes"])
            lines = [
                f"Panoptes {box.urls['panoptes']}   media {box.urls['media']}",
                f"The world in which the real server was recorded; how to speak to it: {path}.",
                f"Ctrl-C stops it; its state stays in {box.folder}",
            ]
            return _serve(box, lines, 0.0)
        return serve_until_stopped(box, box.settings(), week)


def serve_until_stopped(box: Sandbox, settings: Path, week: float) -> int:
    """Say how to use a running sandbox, and let weeks pass until SIGTERM or Ctrl-C.

    Parameters
    ----------
    box : Sandbox
        A sandbox that is serving already.
    settings : Path
        The settings file to speak to it with.
    week : float
        Seconds between two weeks of the volunteers' work; 0 for none.

    Returns
    -------
    int
        The exit code: 128 and the signal's number.
    """
    script = settings.parent / "env.sh"
    lines = [f"export {name}={value}" for name, value in environment().items()]
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return _serve(box, introduction(box, settings, script), week)


def _serve(box: Sandbox, lines: list[str], week: float) -> int:
    """Say something, and let weeks pass until told to stop."""
    stopping = threading.Event()
    code = 0

    def stop(signum: int, frame: Any) -> None:
        nonlocal code
        code = 128 + signum
        stopping.set()

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, stop)
    for line in lines:
        print(line, flush=True)
    while not stopping.wait(week or None):
        made = box.volunteers.classify(1)
        if made["subjects"]:
            print(
                f"a week has passed: {made['subjects']} subjects retired, "
                f"{made['classifications']} classifications",
                file=sys.stderr,
                flush=True,
            )
    return code


def introduction(box: Sandbox, settings: Path, script: Path) -> list[str]:
    """What a person needs to know to use a sandbox."""
    return [
        f"Panoptes {box.urls['panoptes']}   media {box.urls['media']}   S3 {box.urls['s3']}",
        "In another terminal:",
        f"  . {script}",
        f"  export ZOO_BRIDGE_CONFIG={settings}",
        "  zoo-bridge check",
        "  zoo-bridge run upload     # a first, random batch; then: zoo-bridge publish BATCH",
        "  zoo-bridge run cycle      # once volunteers have voted",
        "Ctrl-C stops it; its state stays in " + str(box.folder),
    ]
