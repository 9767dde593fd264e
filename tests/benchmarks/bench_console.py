"""How fast pages of the console answer, alone and with fifty readers at once.

A project of a thousand runs, fifty batches (the newest of 5,000 galaxies), twenty models without
weights and a million scores, behind ``zoo-bridge serve`` as a process of its own. Each page is
asked one after the other, and then by fifty readers at once, who look at a page for some seconds
before they go to the next, in an order of their own. The alternative is the least that the same
server can do: to say that there is nothing.

What is asked of the catalogue differs from reader to reader, so that answers that are kept do not
help. Thumbnails are of the first galaxies of the newest batch. By hand, two minutes::

    python tests/benchmarks/bench_console.py --json console.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import requests

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

OBJECTS, RUNS, BATCHES, LARGE, MODELS = 1_000_000, 1000, 50, 5000, 20
READERS, THINK_SECONDS, CROWD_SECONDS = 50, (3.0, 9.0), 60.0
PART = 50_000
SETTINGS = """
[project]
slug = "bench/galaxies"
workflow = 1
endpoint = "http://127.0.0.1:9"

[[question]]
name = "smooth-or-featured"
task = "T0"
answers = { smooth = ["Smooth"], featured = ["Featured"], artifact = ["Artifact"] }
target = "featured"

[survey]
catalogue = "s3://nowhere/catalogue.parquet"
"""


def fill(folder: Path) -> Path:
    """A project with all that, and its settings file."""
    from tests.console.conftest import put_batch
    from zoo_bridge.config import load
    from zoo_bridge.files import write_json
    from zoo_bridge.ledger import BatchState, Ledger
    from zoo_bridge.tables import REJECTS, SCORES, write_table

    path = folder / "zoo_bridge.toml"
    path.write_text(SETTINGS)
    settings = load(path)
    settings.work.mkdir()
    ledger = Ledger.of(settings)
    draw = np.random.default_rng(0)
    names = np.array([f"J{number:09d}" for number in range(OBJECTS)])
    survey = settings.work / "survey" / "bench"
    survey.mkdir(parents=True)
    looks = pl.DataFrame(
        {
            "object_id": names,
            "uri": [f"s3://nowhere/{name}.fits" for name in names],
            "ra": draw.uniform(0, 360, OBJECTS),
            "dec": draw.uniform(-60, 60, OBJECTS),
            "redshift": draw.gamma(2, 0.05, OBJECTS),
            "magnitude": draw.normal(18, 1.5, OBJECTS),
        }
    )
    looks.write_parquet(survey / "objects.parquet", row_group_size=10_000)
    write_table(survey / "rejects.parquet", REJECTS.empty_table(), REJECTS)
    facts = {"objects": OBJECTS, "columns": looks.columns, "meanings": {}, "left_out": {}}
    write_json(survey / "survey.json", {**facts, "ignored": 0, "content": "bench"})
    scores = settings.work / "scores" / "bench"
    scores.mkdir(parents=True)
    mean = draw.beta(0.7, 1.2, OBJECTS).astype(np.float32)
    half = draw.uniform(0.02, 0.25, OBJECTS).astype(np.float32)
    bald = draw.gamma(1.5, 0.08, OBJECTS).astype(np.float32)
    for number, start in enumerate(range(0, OBJECTS, PART)):
        at = slice(start, start + PART)
        columns: dict[str, Any] = {
            "object_id": names[at],
            "uri": looks["uri"][at].to_arrow(),
            "model_version": ["model-19"] * PART,
            "question": ["smooth-or-featured"] * PART,
            "answer": ["featured"] * PART,
            "n_expected": np.full(PART, 40, np.int32),
            "mean": mean[at],
            "lo": np.clip(mean[at] - half[at], 0, 1),
            "hi": np.clip(mean[at] + half[at], 0, 1),
            "bald": bald[at],
            "target": np.ones(PART, bool),
        }
        table = pa.table({name: columns[name] for name in SCORES.names})
        write_table(scores / f"part-{number:05d}.parquet", table.cast(SCORES), SCORES)
    told = {
        "model": "model-19", "scored": OBJECTS, "rejected": 0, "survey": "bench",
        "survey_content": "bench", "n_expected": {"smooth-or-featured": 40},
    }  # fmt: skip
    ledger.add_artifact("scores", "bench", scores, "d", "r", told)
    metrics = {"rmse": 0.1, "rmse_lo": 0.09, "rmse_hi": 0.11, "galaxies": 500}
    for number in range(MODELS):
        model = settings.work / "models" / f"model-{number}"
        model.mkdir(parents=True)
        write_json(model / "model.json", {})
        known = {
            "metrics": {"smooth-or-featured": metrics},
            "training": {"galaxies": 500 + 100 * number},
            "verdict": "better than the model in use",
        }
        ledger.add_artifact("model", model.name, model, "d", "r", known)
        ledger.promote(model.name, "promote", "better")
    began = datetime.now(UTC) - timedelta(days=RUNS)
    for number in range(RUNS):
        job = ("pull", "aggregate", "retrain", "score", "upload")[number % 5]
        run = f"{began + timedelta(days=number):%Y%m%dT%H%M%S}-{job}-{number:06d}"
        ledger.start_run(run, job)
        counts = {"rows": number, "dropped": {"gold standard": number % 7}}
        ledger.end_run(run, "done", message=f"did {number} things", counts=counts)
    each = draw.permutation(names)
    for number in range(BATCHES):
        size = LARGE if number == BATCHES - 1 else 60
        chosen, each = each[:size], each[size:]
        put_batch(
            _Named(settings, ledger), [str(name) for name in chosen],
            state=BatchState.STAGED if size == LARGE else BatchState.PUBLISHED,
            name=f"batch-{number:03d}", scores="bench",
        )  # fmt: skip
    ledger.close()
    return path


class _Named:
    """What `put_batch` takes for a project."""

    def __init__(self, settings: Any, ledger: Any) -> None:
        self.settings, self.ledger = settings, ledger


def pages(at: random.Random) -> dict[str, str]:
    """Addresses of all kinds of pages, some of them different each time."""
    name = f"J{at.randrange(OBJECTS):09d}"
    low = at.random()
    where = f"where=bald>{at.random() * 0.3:.4f}"
    batch = f"/w/1/batches/batch-{BATCHES - 1:03d}"
    return {
        "overview": "/w/1/",
        "batches": "/w/1/batches",
        "a batch of 5,000": f"{batch}?sort=informative",
        "its next galaxies": f"{batch}/galaxies?offset={60 * at.randrange(80)}",
        "its galaxies, by SQL": f"{batch}?where=mean>{low:.4f}",
        "a thumbnail": f"{batch}/picture?rank={at.randrange(1, 200)}&size=small",
        "a galaxy": f"/w/1/galaxy?id={name}",
        "models": "/w/1/models",
        "a model": f"/w/1/models/model-{at.randrange(MODELS)}",
        "what it asks for": "/w/1/asks",
        "catalogue": "/w/1/catalogue",
        "catalogue, by SQL": f"/w/1/catalogue?{where}&sort=uncertain",
        "runs": "/w/1/runs",
        "runs, older": "/w/1/runs?offset=900",
        "audit": "/w/1/audit",
        "nothing (alternative)": "/static/nothing",
    }


def ask(session: requests.Session, url: str) -> float:
    """Seconds until a page is there."""
    began = time.perf_counter()
    answer = session.get(url, timeout=120)
    took = time.perf_counter() - began
    if answer.status_code not in (200, 404):
        raise RuntimeError(f"{url}: {answer.status_code}: {answer.text[-400:]}")
    return took


def alone(url: str, times: int) -> dict[str, list[float]]:
    """One reader, one page after the other."""
    found: dict[str, list[float]] = defaultdict(list)
    at = random.Random(0)
    with requests.Session() as session:
        for number in range(times + 1):
            for name, path in pages(at).items():
                took = ask(session, url + path)
                # The first time fills what is kept; it is told apart.
                found[f"first {name}" if not number else name].append(took)
    return found


def crowd(url: str, seconds: float) -> dict[str, list[float]]:
    """Fifty readers at once."""
    found: dict[str, list[float]] = defaultdict(list)
    until = time.monotonic() + seconds
    guard = threading.Lock()

    def read(number: int) -> None:
        at = random.Random(number)
        with requests.Session() as session:
            time.sleep(at.uniform(0, THINK_SECONDS[1]))
            while time.monotonic() < until:
                name, path = at.choice(list(pages(at).items()))
                took = ask(session, url + path)
                with guard:
                    found[name].append(took)
                time.sleep(at.uniform(*THINK_SECONDS))

    threads = [threading.Thread(target=read, args=(number,)) for number in range(READERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def p95(values: list[float]) -> float:
    """The 95th percentile, in milliseconds."""
    return 1000 * float(np.percentile(values, 95))


def main() -> None:
    """Fill, serve, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--times", type=int, default=20)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-console-") as home:
        path = fill(Path(home))
        command = [sys.executable, "-m", "zoo_bridge", "serve", "--config", str(path)]
        serving = subprocess.Popen(
            [*command, "--port", "0"], stderr=subprocess.PIPE, text=True, env={**os.environ}
        )
        assert serving.stderr is not None
        url = ""
        for line in serving.stderr:
            if said := re.search(r"console at (http://\S+?)/?$", line.strip()):
                url = said[1]
                break
        threading.Thread(target=serving.stderr.read, daemon=True).start()
        try:
            one = alone(url, asked.times)
            many = crowd(url, CROWD_SECONDS)
        finally:
            serving.send_signal(signal.SIGTERM)
            serving.wait()
    nothing = statistics.median(one["nothing (alternative)"])
    print(
        f"{'page':<24}{'first':>9}{'median':>9}{'p95':>9}{'ratio':>8}{'p95, 50 readers':>18}   ms"
    )
    rows: dict[str, Any] = {}
    for name in pages(random.Random(0)):
        first, each = 1000 * one[f"first {name}"][0], one[name]
        row = {
            "first_ms": first,
            "median_ms": 1000 * statistics.median(each),
            "p95_ms": p95(each),
            "ratio": statistics.median(each) / nothing,
            "p95_ms_of_50": p95(many[name]) if many[name] else None,
            "asked_by_50": len(many[name]),
        }
        rows[name] = row
        crowded = "" if row["p95_ms_of_50"] is None else f"{row['p95_ms_of_50']:.0f}"
        print(
            f"{name:<24}{first:>9.0f}{row['median_ms']:>9.1f}{row['p95_ms']:>9.1f}"
            f"{row['ratio']:>8.1f}{crowded:>18}"
        )
    every = [value for name, each in one.items() if not name.startswith("first ") for value in each]
    of_all = [value for each in many.values() for value in each]
    print(
        f"\nall pages: p95 {p95(every):.0f} ms alone, {p95(of_all):.0f} ms with {READERS} readers"
    )
    print(f"({len(of_all)} pages in {CROWD_SECONDS:.0f} s)")
    if asked.json:
        facts = {
            "pages": rows, "p95_ms": p95(every), "p95_ms_of_50": p95(of_all), "asked": len(of_all),
        }  # fmt: skip
        asked.json.write_text(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
