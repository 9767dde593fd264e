"""Uploading 500 subjects: ours, and the straightforward way with panoptes-client.

A sandbox on loopback answers every call, of the API and of the blob store, late: by 50 ms, then by
300 ms. One subject is created by a call, as the real server wants it. In turn, each in a process of
its own, of pictures that are drawn beforehand:

ours
    `zoo_bridge.steps.batches.stage.stage`, from an empty account to a staged batch of which every
    picture was fetched back and compared.
panoptes-client
    ``Subject.save`` of each inside ``Subject.async_saves``, then ``SubjectSet.add``. No picture is
    looked at.

Then both again, with fewer subjects, while 5 % of the creates are answered with 502, half of which
were carried out. Settings are the defaults, the waits among them. Ours is run again if it does not
end well, as the schedule does; whoever uses the client goes on to the next subject when one fails.
What is left behind is counted: in the set, subjects that are there twice or without their picture,
and objects that are missing; beside it, subjects made in vain.

Run by hand, about ten minutes::

    python tests/benchmarks/bench_upload.py --json bench_upload.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LATENCIES = (0.05, 0.3)
PUT_CALLS = ("api GET", "api POST", "api PUT", "media PUT")


def faults(share: float) -> list[dict[str, Any]]:
    """Half of the share before the deed, half after it."""
    create = {"method": "POST", "path": "/api/subjects[?]", "times": None, "share": share / 2}
    return [
        {**create, "what": "status", "status": 502},
        {**create, "what": "committed", "status": 502},
    ]


def draw(folder: Path) -> tuple[Any, Any, list[Any]]:
    """Plan a batch and draw its pictures: a context, the batch's folder and the plan."""
    from zoo_bridge.config import load
    from zoo_bridge.ledger import Ledger
    from zoo_bridge.progress import Progress
    from zoo_bridge.steps.batches import choose, pictures
    from zoo_bridge.steps.context import Context
    from zoo_bridge.steps.inputs import open_store, read_survey

    settings = load(folder / "zoo_bridge.toml")
    ledger = Ledger.of(settings)
    ctx = Context(settings, ledger, "20260101T000000-upload-b", Progress(), logging.getLogger())
    store = open_store(settings)
    sources = choose.Sources(read_survey(ctx, store), store, None, None)
    batch_folder = ctx.work / "batches" / "bench"
    chosen = choose.choose(ctx, sources, settings.upload.per_run)
    return ctx, batch_folder, pictures.draw(ctx, chosen, store, batch_folder)


def ours(folder: Path, out: Path) -> None:
    """In a process of its own: plan a batch, then stage it against the clock."""
    from zoo_bridge.errors import ZooniverseError
    from zoo_bridge.steps.batches import plan
    from zoo_bridge.steps.batches.publish import find_batch
    from zoo_bridge.steps.batches.stage import stage
    from zoo_bridge.zooniverse.project import find_access
    from zoo_bridge.zooniverse.session import Session

    ctx, batch_folder, drawn = draw(folder)
    plan.write_plan(ctx, batch_folder, drawn, [], None, None)
    began = time.perf_counter()
    session, asked = Session.of(ctx.settings), ctx.settings.project
    access = find_access(session, asked.slug, asked.workflow)
    for runs in range(1, 21):
        try:
            stage(ctx, session, access.project, find_batch(ctx, "bench"), access.account)
            break
        except ZooniverseError as error:
            # A run that ends incomplete is run again, by hand or by the schedule.
            print(f"run {runs}: {error}", file=sys.stderr)
    out.write_text(json.dumps({"seconds": time.perf_counter() - began, "runs": runs}))


def client(folder: Path, out: Path) -> None:
    """In a process of its own: the same pictures by panoptes-client, as its documentation shows."""
    from panoptes_client import Panoptes, Project, Subject, SubjectSet

    from zoo_bridge.config import load

    settings = load(folder / "zoo_bridge.toml")
    pictures = sorted((settings.work / "batches" / "bench" / "previews").glob("*.jpg"))
    began = time.perf_counter()
    Panoptes.connect(
        username=os.environ["PANOPTES_USERNAME"],
        password=os.environ["PANOPTES_PASSWORD"],
        endpoint=settings.project.endpoint,
    )
    project = Project.find(slug=settings.project.slug)
    subject_set = SubjectSet()
    subject_set.links.project = project
    subject_set.display_name = "by panoptes-client"
    subject_set.save()
    made = []
    with contextlib.suppress(Exception), Subject.async_saves():
        for path in pictures:
            subject = Subject()
            subject.links.project = project
            subject.metadata["#zoo_bridge_id"] = path.stem
            with contextlib.suppress(Exception):
                subject.add_location(str(path))
                subject.save()
                made.append(subject)
    with contextlib.suppress(Exception):
        subject_set.add([subject for subject in made if getattr(subject, "id", None)])
    out.write_text(json.dumps({"seconds": time.perf_counter() - began}))


def run(way: str, subjects: int, latency: float, share: float, folder: Path) -> dict[str, Any]:
    """One way against a sandbox of its own: time, calls by kind, and what is left behind."""
    from zoo_bridge.sandbox.server import Sandbox
    from zoo_bridge.sandbox.world import Plan, environment

    box = Sandbox(folder / "sandbox", Plan(galaxies=subjects, bucket=f"b{os.urandom(6).hex()}"))
    box.start()
    try:
        upload = {"per_run": subjects, "preview_size": 424}
        box.settings(folder / "project", upload=upload, cutouts={"size": 64})
        environ = {**os.environ, **environment()}
        command = [sys.executable, __file__, "--child", way, str(folder)]
        if way == "client":
            # The pictures are ours: drawn, and then not uploaded.
            subprocess.run([*command[:-2], "draw", str(folder)], env=environ, check=True)
        for server in ("api", "media"):
            for verb in ("GET", "POST", "PUT"):
                rule = {"server": server, "method": verb, "times": None}
                box.add_fault({**rule, "what": "latency", "seconds": latency})
        creates = {"method": "POST", "path": "/api/subjects[?]", "times": None}
        box.add_fault({**creates, "what": "latency", "seconds": 0})
        for rule in faults(share) if share else []:
            box.add_fault(rule)
        began = time.perf_counter()
        ended = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        seconds, runs = time.perf_counter() - began, 1
        told = folder / "told.json"
        if told.exists():
            said = json.loads(told.read_text())
            seconds, runs = said["seconds"], said.get("runs", 1)
        elif not share:
            raise SystemExit(f"{way} failed:\n{ended.stderr}")
        calls = {}
        for row in box.state.all("SELECT * FROM faults"):
            rule = json.loads(row["rule"])
            if rule["what"] == "latency":
                name = f"{rule['server']} {rule['method']}" if "server" in rule else "creates"
                calls[name] = row["seen"]
        pictures = folder / "project" / "data" / "batches" / "bench" / "previews"
        drawn = {path.read_bytes() for path in pictures.glob("*.jpg")}
        left = left_behind(box, subjects, drawn)
        return {"seconds": seconds, "runs": runs, "calls": calls, **left}
    finally:
        box.stop()


def left_behind(box: Any, subjects: int, drawn: set[bytes]) -> dict[str, int]:
    """What is wrong in the set that volunteers would see, the newest; and what was made in vain."""
    rows = box.state.all("SELECT * FROM subjects")
    media = box.folder / "panoptes" / "media"
    names = [json.loads(row["metadata"])["#zoo_bridge_id"] for row in rows]
    members = {
        row["subject_id"]
        for row in box.state.all(
            "SELECT * FROM set_subjects WHERE subject_set_id = (SELECT max(id) FROM subject_sets)"
        )
    }
    seen = {name for row, name in zip(rows, names, strict=True) if row["id"] in members}
    shown = [row for row in rows if row["id"] in members]
    in_set = [name for row, name in zip(rows, names, strict=True) if row["id"] in members]

    def has_picture(row: Any) -> bool:
        place = json.loads(row["locations"])[0]["path"].rpartition("/")[2]
        return (media / place).is_file() and (media / place).read_bytes() in drawn

    return {
        "duplicates": len(in_set) - len(set(in_set)),
        "orphans": len(rows) - len(shown),
        "missing_pictures": sum(not has_picture(row) for row in shown),
        "not_in_set": subjects - len(seen),
    }


def damage(found: dict[str, Any]) -> int:
    """All that volunteers or an administrator would suffer from."""
    return int(found["duplicates"] + found["missing_pictures"] + found["not_in_set"])


def main() -> None:
    """Run all and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--subjects", type=int, default=500)
    parser.add_argument("--faulty", type=int, default=200, help="subjects of the run with faults")
    parser.add_argument("--share", type=float, default=0.05, help="of creates that go wrong")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        way, folder = given.child[0], Path(given.child[1])
        if way == "draw":
            draw(folder / "project")
        else:
            {"ours": ours, "client": client}[way](folder / "project", folder / "told.json")
        return
    results: dict[tuple[str, str], dict[str, Any]] = {}
    faulty = "faulty"
    tries = [(f"{1000 * late:.0f} ms", given.subjects, late, 0.0) for late in LATENCIES]
    tries.append((faulty, given.faulty, LATENCIES[0], given.share))
    with tempfile.TemporaryDirectory() as scratch:
        for name, subjects, latency, share in tries:
            for way in ("ours", "client"):
                folder = Path(scratch) / f"{way}-{name.partition(' ')[0]}"
                folder.mkdir()
                results[way, name] = run(way, subjects, latency, share, folder)
    print_table(given, results, [name for name, *_ in tries[:-1]])
    if given.json:
        speedups = {
            name: results["client", name]["seconds"] / results["ours", name]["seconds"]
            for name, *_ in tries[:-1]
        }
        first = results["ours", tries[0][0]]
        wrong = results["ours", faulty]
        out = {
            "speedup_over_client": min(speedups.values()),
            "speedups": speedups,
            "creates_per_subject": first["calls"]["creates"] / given.subjects,
            "calls_per_subject": calls_before(first) / given.subjects,
            "creates_per_subject_faulty": wrong["calls"]["creates"] / given.faulty,
            "calls_per_subject_faulty": calls_before(wrong) / given.faulty,
            "runs_faulty": wrong["runs"],
            "damage_faulty": damage(wrong),
            "client_damage_faulty": damage(results["client", faulty]),
            "runs": {f"{way}, {name}": each for (way, name), each in results.items()},
        }
        given.json.write_text(json.dumps(out, indent=1) + "\n")


def calls_before(found: dict[str, Any]) -> int:
    """Calls before pictures are fetched back to be looked at."""
    return sum(found["calls"][kind] for kind in PUT_CALLS)


def print_table(
    given: Any, results: dict[tuple[str, str], dict[str, Any]], names: list[str]
) -> None:
    """Show what came out."""
    labels = (("ours", "ours"), ("panoptes-client", "client"))
    for name in names:
        print(f"{given.subjects} subjects, {name} a call")
        print(
            f"{'':<18}{'seconds':>9}{'to ours':>9}{'creates':>9}{'calls a subject':>17}"
            f"{'checks':>9}"
        )
        for label, way in labels:
            found = results[way, name]
            ratio = found["seconds"] / results["ours", name]["seconds"]
            creates = found["calls"]["creates"] / given.subjects
            checks = found["calls"]["media GET"] / given.subjects
            before = calls_before(found) / given.subjects
            print(
                f"{label:<18}{found['seconds']:>9.1f}{ratio:>9.1f}{creates:>9.2f}{before:>17.2f}"
                f"{checks:>9.2f}"
            )
        print()
    print(f"{given.faulty} subjects, {given.share:.0%} of creates answer 502, half of them done")
    kinds = ("duplicates", "missing_pictures", "not_in_set", "orphans")
    print(
        f"{'':<18}{'seconds':>9}{'runs':>6}{'creates':>9}{'calls a subject':>17}"
        + "".join(f"{kind:>18}" for kind in kinds)
    )
    for label, way in labels:
        found = results[way, "faulty"]
        creates = found["calls"]["creates"] / given.faulty
        before = calls_before(found) / given.faulty
        counts = "".join(f"{found[kind]:>18}" for kind in kinds)
        print(
            f"{label:<18}{found['seconds']:>9.1f}{found['runs']:>6}{creates:>9.2f}{before:>17.2f}"
            + counts
        )


if __name__ == "__main__":
    main()
