"""The Dockerfile without Docker: its steps in a root that debootstrap makes, and the image's start.

The root is Debian's, of the same release and Python as ``python:3.11-slim``; each instruction is
carried out in it by chroot, in the Dockerfile's order. Then a sandbox is started beside it, and in
the root, as the image's user: ``zoo-bridge --version``, ``check``, a run, the image's own command
(``serve``), its health check, and SIGTERM.

What this does not show: the base image itself, layers, what ``docker build`` leaves out of its
context, the network of containers, and limits of a runtime.

Needs root, debootstrap and a network. By hand, five to ten minutes::

    python tests/benchmarks/image_in_a_root.py /tmp/image-root
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SUITE = "bookworm"
PACKAGES = "python3,python3-pip,python3-venv,ca-certificates"


def instructions(path: Path) -> list[tuple[str, str]]:
    """A Dockerfile's instructions, with what belongs to each in one line."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    text = re.sub(r"\\\n\s*", " ", text)
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]  # type: ignore[misc]


class Root:
    """A root under construction: its folder, environment and user."""

    def __init__(self, folder: Path, binds: list[Path]) -> None:
        self.folder = folder
        self.place = "/"
        self.user = "0"
        self.environment = {
            "PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            **{
                name: value
                for name, value in os.environ.items()
                if name.startswith(("PIP_", "UV_", "SSL_"))
            },
        }
        trusted = Path("/etc/ssl/certs/ca-certificates.crt")
        for path in [Path("/etc/resolv.conf"), trusted, *binds]:
            target = folder / path.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if path.is_dir() else shutil.copyfile
            if not target.is_dir():
                copy(path, target)

    def run(self, command: str, **options: object) -> subprocess.Popen[str]:
        """A shell's command in the root, as its user, in its folder."""
        inside = f"cd {self.place} && {command}"
        words = ["/usr/sbin/chroot", "--userspec", f"{self.user}:{self.user}", str(self.folder)]
        return subprocess.Popen(
            [*words, "/bin/sh", "-c", inside],
            env=self.environment,
            text=True,
            **options,  # type: ignore[call-overload]
        )

    def must(self, command: str) -> None:
        if self.run(command).wait():
            sys.exit(f"failed in the root: {command}")


def build(root: Root) -> tuple[list[str], list[str], list[str]]:
    """Carry out the Dockerfile; its entry point, command and health check."""
    entry: list[str] = []
    command: list[str] = []
    health: list[str] = []
    for what, rest in instructions(ROOT / "deploy" / "Dockerfile"):
        began = time.monotonic()
        if what == "COPY":
            *sources, target = rest.split()
            for source in sources:
                there = root.folder / f"{root.place}/{target}".lstrip("/")
                whole = ROOT / source
                if whole.is_dir():
                    shutil.copytree(whole, there, dirs_exist_ok=True)
                else:
                    there.mkdir(parents=True, exist_ok=True)
                    shutil.copy(whole, there)
        elif what == "RUN":
            root.must(rest)
        elif what == "WORKDIR":
            root.place = rest
            (root.folder / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif what == "USER":
            root.user = rest
        elif what == "ENV":
            name, _, value = rest.partition("=")
            root.environment[name] = value
        elif what == "ENTRYPOINT":
            entry = json.loads(rest)
        elif what == "CMD":
            command = json.loads(rest)
        elif what == "HEALTHCHECK":
            health = json.loads(rest.partition("CMD ")[2])
        print(f"{what} {rest[:70]}: {time.monotonic() - began:.0f} s", flush=True)
    return entry, command, health


def try_out(root: Root, entry: list[str], command: list[str], health: list[str]) -> None:
    """Start what the image starts, against a sandbox, and look at it as Docker does."""
    sys.path.insert(0, str(ROOT))
    from zoo_bridge.sandbox.server import Sandbox
    from zoo_bridge.sandbox.world import Plan, enter

    project = root.folder / "project"
    with enter(), Sandbox(root.folder / "tmp" / "sandbox", Plan(galaxies=40, size=32)) as box:
        box.settings(project)
        subprocess.run(["chown", "-R", "1000:1000", str(project)], check=True)
        for name in ("PANOPTES_USERNAME", "PANOPTES_PASSWORD", "AWS_ACCESS_KEY_ID"):
            root.environment[name] = os.environ[name]
        root.environment["AWS_SECRET_ACCESS_KEY"] = os.environ["AWS_SECRET_ACCESS_KEY"]
        root.environment["HOME"] = "/home/zoo"
        start = " ".join(map(shlex.quote, entry))
        for words in ("--version", "check", "run upload"):
            root.must(f"{start} {words}")
        looked = " ".join(map(shlex.quote, health))
        if not root.run(looked, stderr=subprocess.DEVNULL).wait():
            sys.exit("the health check passes before anything was started: whose port is it?")
        serving = root.run(f"exec {start} {' '.join(map(shlex.quote, command))}")
        until = time.monotonic() + 60
        while root.run(looked, stderr=subprocess.DEVNULL).wait():
            if time.monotonic() > until or serving.poll() is not None:
                sys.exit("the health check fails")
            time.sleep(1)
        print("the health check passes", flush=True)
        serving.send_signal(signal.SIGTERM)
        print(f"stopped by SIGTERM with exit code {serving.wait(90)}")
        owners = {path.stat().st_uid for path in (project / "data").rglob("*")}
        print(f"what it wrote belongs to {owners}")


def main() -> None:
    """Make the root, build, try out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="Where the root is made, or is already.")
    parser.add_argument("--copy", type=Path, action="append", default=[], help="Into the root.")
    asked = parser.parse_args()
    if not (asked.folder / "bin").exists():
        make = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}"]
        subprocess.run([*make, SUITE, str(asked.folder)], check=True)
    # The base image's Python is its own; Debian's says that it is the system's.
    for mark in asked.folder.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        mark.unlink()
    python = asked.folder / "usr/bin/python"
    python.exists() or python.symlink_to("python3")
    root = Root(asked.folder, asked.copy)
    try_out(root, *build(root))


if __name__ == "__main__":
    main()
