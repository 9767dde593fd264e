"""Uploading 500 subjects: ours, and the straightforward way with panoptes-client.

A sandbox on loopback answers every call, of the API and of the blob store, 50 ms late. In one run,
in turn, each in a process of its own, of pictures that are drawn beforehand:

ours
    `zoo_bridge.steps.stage.stage`, from an empty account to a staged batch of which every picture
    was fetched back and compared.
panoptes-client
    ``Subject.save`` of each inside ``Subject.async_saves``, then ``SubjectSet.add``. No picture is
    looked at.

Then both again, with fewer subjects, while 5 % of the calls go wrong: creates that answer 500
before or after they were carried out, PUTs that answer 500, or 201 with nothing stored. Both create
one subject a call then, so that as many calls can fail. Ours is run again until it is done, as the
schedule does; whoever uses the client goes on to the next subject when one fails. What is left
behind is counted: in the set, subjects that are there twice or without their picture, and objects
that are missing; beside it, subjects made in vain.

Run by hand, about five minutes::

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

LATENCY = 0.05
PUT_CALLS = ("api GET", "api POST", "api PUT", "media PUT")


def faults(share: float) -> list[dict[str, Any]]:
    """Half of the share before, half after the deed; of PUTs, half loudly, half in silence."""
    create = {"method": "POST", "path": "/api/subjects[?]", "times": None, "share": share / 2}
    put = {"server": "media", "method": "PUT", "times": None, "share": share / 2}
    return [
        {**create, "what": "status", "status": 500},
        {**create, "what": "committed", "status": 500},
        {**put, "what": "status", "status": 500},
        {**put, "what": "lose"},
    ]


def draw(folder: Path) -> tuple[Any, Any, list[Any]]:
    """Plan a batch and draw its pictures: a context, the batch's folder and the plan."""
    from zoo_bridge.config import load
    from zoo_bridge.ledger import Ledger
    from zoo_bridge.progress import Progress
    from zoo_bridge.steps import plan
    from zoo_bridge.steps.context import Context
    from zoo_bridge.steps.galaxies import open_store, read_survey

    settings = load(folder / "zoo_bridge.toml")
    ledger = Ledger(settings.ledger_url, settings.work)
    ctx = Context(settings, ledger, "20260101T000000-upload-b", Progress(), logging.getLogger())
    store = open_store(settings)
    sources = plan.Sources(read_survey(ctx, store), store, None, None)
    batch_folder = ctx.work / "batches" / "bench"
    chosen = plan.choose(ctx, sources, settings.upload.per_run)
    return ctx, batch_folder, plan.draw(ctx, chosen, store, batch_folder)


def ours(folder: Path, out: Path) -> None:
    """In a process of its own: plan a batch, then stage it against the clock."""
    from zoo_bridge.errors import ZooniverseError
    from zoo_bridge.steps import plan
    from zoo_bridge.steps.publish import find_batch
    from zoo_bridge.steps.stage import stage
    from zoo_bridge.zooniverse.project import find_project
    from zoo_bridge.zooniverse.session import Session

    ctx, batch_folder, drawn = draw(folder)
    made_from = {"kind": "start", "scores": None, "labels": None}
    plan.write(ctx, "bench", batch_folder, drawn, [], made_from)
    began = time.perf_counter()
    session, asked = Session.of(ctx.settings), ctx.settings.project
    project = find_project(session, asked.slug, asked.workflow)
    for runs in range(1, 21):
        try:
            stage(ctx, session, project, find_batch(ctx, "bench"))
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


def run(way: str, subjects: int, share: float, folder: Path) -> dict[str, Any]:
    """One way against a sandbox of its own: time, calls by kind, and what is left behind."""
    from zoo_bridge.sandbox.server import Sandbox
    from zoo_bridge.sandbox.world import Plan, environment

    box = Sandbox(folder / "sandbox", Plan(galaxies=subjects, bucket=f"b{os.urandom(6).hex()}"))
    box.start()
    try:
        upload = {"per_run": subjects, "preview_size": 424}
        if share:
            # As many creates as the client makes, so that as many can go wrong.
            upload["subjects_per_call"] = 1
        box.settings(folder / "project", upload=upload, cutouts={"size": 64})
        environ = {**os.environ, **environment()}
        command = [sys.executable, __file__, "--child", way, str(folder)]
        if way == "client":
            # The pictures are ours: drawn, and then not uploaded.
            subprocess.run([*command[:-2], "draw", str(folder)], env=environ, check=True)
        for server in ("api", "media"):
            for verb in ("GET", "POST", "PUT"):
                rule = {"server": server, "method": verb, "times": None}
                box.add_fault({**rule, "what": "latency", "seconds": LATENCY})
        for rule in faults(share) if share else []:
            box.add_fault(rule)
        began = time.perf_counter()
        ended = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - began
        told = folder / "told.json"
        if told.exists():
            seconds = json.loads(told.read_text())["seconds"]
        elif not share:
            raise SystemExit(f"{way} failed:\n{ended.stderr}")
        calls = {}
        for row in box.state.all("SELECT * FROM faults"):
            rule = json.loads(row["rule"])
            if rule["what"] == "latency":
                calls[f"{rule['server']} {rule['method']}"] = row["seen"]
        pictures = folder / "project" / "data" / "batches" / "bench" / "previews"
        drawn = {path.read_bytes() for path in pictures.glob("*.jpg")}
        return {"seconds": seconds, "calls": calls, **left_behind(box, subjects, drawn)}
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
    parser.add_argument("--share", type=float, default=0.05, help="of calls that go wrong")
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
    results: dict[tuple[str, float], dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for share, subjects in ((0.0, given.subjects), (given.share, given.faulty)):
            for way in ("ours", "client"):
                folder = Path(scratch) / f"{way}-{share}"
                folder.mkdir()
                results[way, share] = run(way, subjects, share, folder)
    fast, slow = results["ours", 0.0], results["client", 0.0]
    print(f"{given.subjects} subjects, {1000 * LATENCY:.0f} ms a call")
    print(f"{'':<18}{'seconds':>9}{'to ours':>9}{'calls a subject':>17}{'and checks':>12}")
    for name, found in (("ours", fast), ("panoptes-client", slow)):
        before = sum(found["calls"][kind] for kind in PUT_CALLS) / given.subjects
        checks = found["calls"]["media GET"] / given.subjects
        ratio = found["seconds"] / fast["seconds"]
        print(f"{name:<18}{found['seconds']:>9.1f}{ratio:>9.1f}{before:>17.2f}{checks:>12.2f}")
    print(f"\n{given.faulty} subjects, {given.share:.0%} of creates and PUTs go wrong")
    kinds = ("duplicates", "missing_pictures", "not_in_set", "orphans")
    print(f"{'':<18}{'seconds':>9}" + "".join(f"{kind:>18}" for kind in kinds))
    for name, way in (("ours", "ours"), ("panoptes-client", "client")):
        found = results[way, given.share]
        counts = "".join(f"{found[kind]:>18}" for kind in kinds)
        print(f"{name:<18}{found['seconds']:>9.1f}{counts}")
    if given.json:
        out = {
            "speedup_over_client": slow["seconds"] / fast["seconds"],
            "calls_per_subject": sum(fast["calls"][k] for k in PUT_CALLS) / given.subjects,
            "damage": damage(results["ours", given.share]),
            "client_damage": damage(results["client", given.share]),
            "runs": {f"{way}, {share:.0%} faults": each for (way, share), each in results.items()},
        }
        given.json.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
