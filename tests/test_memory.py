"""Memory that is kept: where it is asked for, and that it does nothing elsewhere."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from zoo_bridge import memory

GLIBC = memory._glibc() is not None
# As a step of a training does it: blocks that come and go.
STEPS = """
import json, resource, sys
from zoo_bridge import memory
if sys.argv[1] == "keep":
    assert memory.keep_freed()
import numpy as np
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    blocks = [np.ones(2**19) for _ in range(8)]
    del blocks
step()
before = faults()
for _ in range(30):
    step()
print(json.dumps(faults() - before))
"""


def faults(how: str) -> int:
    """Page faults of thirty steps, with pages of the usual size: huge ones are a fault a 2 MiB."""
    environ = {k: v for k, v in os.environ.items() if k != memory.VARIABLE}
    command = [sys.executable, "-c", STEPS, how]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, env=environ)
    return int(json.loads(ended.stdout))


@pytest.mark.skipif(not GLIBC, reason="this is about glibc's malloc")
def test_what_is_freed_is_not_given_back() -> None:
    # What is given back is 30 times 32 MiB.
    assert faults("leave") > 10 * 2**25 / resource.getpagesize()
    assert faults("keep") < faults("leave") / 10


def test_the_tunable_joins_what_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    switch = tmp_path / "enabled"
    switch.write_text("always [madvise] never\n")
    monkeypatch.setattr(memory, "KERNEL_SWITCH", switch)
    monkeypatch.setattr(memory, "_glibc", lambda: (2, 36))
    told = f"{memory.HUGE_PAGES}=1"
    assert memory.with_huge_pages({"A": "b"}) == {"A": "b", memory.VARIABLE: told}
    own = {memory.VARIABLE: "glibc.malloc.check=1"}
    assert memory.with_huge_pages(own)[memory.VARIABLE] == f"glibc.malloc.check=1:{told}"
    # Whoever said something of huge pages meant it.
    off = {memory.VARIABLE: f"{memory.HUGE_PAGES}=0"}
    assert memory.with_huge_pages(off) == off
    switch.write_text("always madvise [never]\n")
    assert memory.with_huge_pages({}) == {}
    switch.write_text("always [madvise] never\n")
    for version in (None, (2, 31)):
        monkeypatch.setattr(memory, "_glibc", lambda version=version: version)
        assert memory.with_huge_pages({}) == {}


@pytest.mark.parametrize(
    ("words", "again"),
    [
        (["run", "retrain"], True),
        (["run", "score", "--force"], True),
        (["run", "cycle"], True),
        (["run", "pull"], False),
        (["status"], False),
        ([], False),
    ],
)
def test_a_heavy_run_begins_again_once(
    monkeypatch: pytest.MonkeyPatch, words: list[str], again: bool
) -> None:
    begun: list[dict[str, str]] = []
    monkeypatch.setattr(memory, "with_huge_pages", lambda given: {**given, "NEW": "1"})
    monkeypatch.setattr(os, "execve", lambda path, argv, environ: begun.append(environ))
    memory.begin_again(words)
    assert [each["NEW"] for each in begun] == ["1"] * again
    # In the environment that it made it does not begin anew.
    monkeypatch.setenv("NEW", "1")
    memory.begin_again(words)
    assert len(begun) == again


@pytest.mark.skipif(not GLIBC or not memory._offered(), reason="no huge pages to be had here")
def test_the_command_is_the_same_process_with_huge_pages(tmp_path: Path) -> None:
    """``zoo-bridge run score`` fails for want of settings, after it has begun again."""
    environ = {k: v for k, v in os.environ.items() if k != memory.VARIABLE}
    command = [sys.executable, "-X", "importtime", "-m", "zoo_bridge", "run", "score"]
    ended = subprocess.run(
        [*command, "--config", str(tmp_path / "none.toml")],
        capture_output=True,
        text=True,
        env=environ,
        check=False,
    )
    assert ended.returncode == 2
    # It was loaded twice: the options of Python itself went along.
    assert ended.stderr.count("zoo_bridge.memory") == 2
