"""What kept features save: a catalogue of a million galaxies, and a weekly cycle.

rescored
    ``zoo-bridge run score`` of a million galaxies whose features are kept, as a person runs it: two
    answers, the full posterior for N = 40, calibrated, with intervals and BALD. Beside it the same
    posteriors by the grid, as training computes them.
cycle
    ``run retrain`` and ``run score`` of a survey of 20,000 cutouts on this disk: a whole training,
    and a reading of everything; and with ``model.trunk = "keep"``, after a week's new votes.
spearman
    The ranking of kept features against that of the whole network with the same last layer.

Run by hand, on a machine that does nothing else; half an hour at the paper's size::

    python tests/benchmarks/bench_embed.py --json bench_embed.json
    python tests/benchmarks/bench_embed.py --size 64 --network small      # a quarter of an hour
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import spearmanr

QUESTION, ANSWERS = "smooth-or-featured", ("smooth", "featured")
UNIQUE, VOTES, PART = 600, 40, 50_000

SETTINGS = """
[project]
slug = "bench/embed"
workflow = 1
[[question]]
name = "smooth-or-featured"
task = "T0"
answers = {{ smooth = ["Smooth"], featured = ["Features or Disk"] }}
target = "featured"
[survey]
catalogue = "{catalogue}"
[cutouts]
size = {size}
[model]
network = "{network}"
trunk = "{trunk}"
trunk_check = 0
first_model = "any"
gate_confidence = 0.999
[score]
expected_votes = 40
"""


def settings_of(folder: Path, catalogue: Path, given: Any, trunk: str) -> Path:
    """The settings file of a project."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "zoo_bridge.toml"
    facts = {"size": given.size, "network": given.network, "trunk": trunk}
    path.write_text(SETTINGS.format(catalogue=catalogue, **facts))
    return path


def run(config: Path, *words: str) -> tuple[float, dict[str, Any]]:
    """A command as a person runs it: seconds, and what it says."""
    command = [sys.executable, "-m", "zoo_bridge", "run", *words, "--json", "--config", str(config)]
    began = time.perf_counter()
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if ended.returncode:
        raise SystemExit(f"{words} ended with {ended.returncode}:\n{ended.stderr[-2000:]}")
    return seconds, json.loads(ended.stdout)


# A million kept features.


def a_million(folder: Path, count: int, given: Any) -> dict[str, float]:
    """Seconds to a catalogue of so many galaxies, from features alone; and by the grid."""
    from zoo_bridge.config import load
    from zoo_bridge.ledger import Ledger
    from zoo_bridge.model import registry
    from zoo_bridge.model.heads import Head
    from zoo_bridge.model.network import Design, Network
    from zoo_bridge.steps.inputs import preprocessing_of
    from zoo_bridge.steps.scoring.features import HOME, WHOSE, Kept, folder_name

    folder.mkdir(parents=True)
    names = [f"G{number:08d}" for number in range(count)]
    # A web server is not asked for the version of each: this is about features.
    uris = [f"https://cutouts.example.org/{name}.fits" for name in names]
    catalogue = folder / "catalogue.parquet"
    pq.write_table(pa.table({"object_id": names, "uri": uris}), catalogue)
    config = settings_of(folder, catalogue, given, "train")
    settings = load(config)
    head = Head(QUESTION, ANSWERS, "featured")
    network = Network(Design(given.network, given.size, 1, (head,)), 0)
    rng = np.random.default_rng(0)
    network.head.set_weights(
        [rng.normal(0, 0.16, (network.width, 1)).astype("float32"), np.array([-0.3], "float32")]
    )
    numbers = {"sure": 0.01, "unsure": 0.06, "surprise": 0.02}
    record = registry.Record(
        *("bench", network.design.as_dict(), [0], preprocessing_of(settings).as_dict()),
        *("none", {"galaxies": 0, "start": "nothing", "members": []}, {"kind": "analytic"}, {}),
        *({QUESTION: dict.fromkeys(ANSWERS, numbers)}, {}, {}, "never trained"),
    )
    home = settings.work / "models" / "bench"
    saved = registry.save(home, [network], record)
    kept = Kept(settings.work / HOME / folder_name(saved.trunk, None))
    middle = rng.normal(0.0, 0.6, network.width)
    known = np.empty((0, network.width), np.float16)
    for start in range(0, count, PART):
        some = slice(start, min(start + PART, count))
        size = some.stop - some.start
        # As a trained trunk has them: rectified, half of them 0, of some things in common.
        common = rng.normal(size=(size, 8)) @ rng.normal(0, 0.3, (8, network.width))
        seen = np.maximum(common + rng.normal(0, 0.6, common.shape) + middle, 0)
        whose = {"object_id": names[some], "uri": uris[some], "stamp": [None] * size}
        known = seen.astype(np.float16)
        kept.write(f"part-bench-{start:09d}", pa.table(whose).cast(WHOSE), [known])
    ledger = Ledger.of(settings)
    facts = {"metrics": {}, "training": {"galaxies": 0}, "verdict": "", "trunk": saved.trunk}
    ledger.add_artifact("model", "bench", home, "none", "none", facts)
    ledger.promote("bench", "promote", "for the benchmark")
    ledger.close()
    seconds, told = run(config, "score")
    scored = told["counts"]["from_features"]
    if scored != count:
        raise SystemExit(f"{scored} of {count} galaxies were scored from kept features")
    return {
        "seconds": seconds,
        "rescored_per_second": count / seconds,
        "posterior_by_waves": posterior_rate(home, settings, known, many=True),
        "posterior_by_grid": posterior_rate(home, settings, known, many=False),
    }


def posterior_rate(home: Path, settings: Any, seen: Any, many: bool) -> float:
    """Galaxies a second of the posterior alone, calibrated, by waves or by the grid."""
    from zoo_bridge.acquisition.information import interval
    from zoo_bridge.model.predict import calibrations_of, posteriors_of
    from zoo_bridge.model.record import open_reader
    from zoo_bridge.steps.inputs import preprocessing_of

    reader = open_reader(home, preprocessing_of(settings).as_dict())
    assert reader is not None
    rates = []
    for _ in range(4):
        some = seen[: 8192 if many else 2048].astype(np.float32)
        began = time.perf_counter()
        known = calibrations_of(reader, 0)
        said = posteriors_of(reader.networks, [some], 0, reader.record.estimator, VOTES, many)
        for answer, posterior in said.items():
            p_NK, _ = posterior.calibrated(known.get(answer)).both(VOTES)
            interval(p_NK, 0.9)
        rates.append(len(some) / (time.perf_counter() - began))
    return max(rates)


# A week's cycle.


def draw_survey(folder: Path, objects: int) -> tuple[Path, dict[str, float]]:
    """Cutouts on disk, most of them links to few files; and how featured each galaxy is."""
    from zoo_bridge.sandbox.survey import write

    drawn = folder / "drawn"
    write(drawn, UNIQUE, 0, lambda steps: None)
    truth = json.loads((drawn / "truth.json").read_text())
    files = sorted((drawn / "cutouts").glob("*.fits"))
    rows, featured = ["object_id,uri"], {}
    (folder / "cutouts").mkdir()
    for number in range(objects):
        name, file = f"G{number:07d}", files[number % len(files)]
        path = folder / "cutouts" / f"{name}.fits"
        os.link(file, path)
        rows.append(f"{name},{path}")
        smooth, other, _ = truth[file.stem]["T0"]
        featured[name] = other / (smooth + other)
    catalogue = folder / "catalogue.csv"
    catalogue.write_text("\n".join(rows) + "\n")
    return catalogue, featured


def add_labels(config: Path, featured: dict[str, float], count: int) -> None:
    """Votes on so many galaxies, as `aggregate` leaves them."""
    from zoo_bridge.config import load
    from zoo_bridge.ledger import Ledger
    from zoo_bridge.tables import LABELS, write_table

    settings = load(config)
    rng = np.random.default_rng(1)
    rows = []
    for number, name in enumerate(rng.permutation(sorted(featured))[:count]):
        k = int(rng.binomial(VOTES, featured[name]))
        for answer, votes in zip(ANSWERS, (VOTES - k, k), strict=True):
            columns = (number + 1, str(name), QUESTION, answer, votes, VOTES)
            rows.append(dict(zip(LABELS.names, columns, strict=True)))
    folder = settings.work / "labels" / f"labels-{count}"
    write_table(folder / "labels.parquet", pa.Table.from_pylist(rows, schema=LABELS), LABELS)
    ledger = Ledger.of(settings)
    ledger.add_artifact("labels", folder.name, folder, f"labels-{count}", "none", {})
    ledger.close()


def a_cycle(folder: Path, given: Any) -> dict[str, float]:
    """Seconds of training and scoring: the whole, and with a trunk that stays."""
    folder.mkdir(parents=True)
    catalogue, featured = draw_survey(folder, given.cutouts)
    config = settings_of(folder / "project", catalogue, given, "train")
    add_labels(config, featured, given.labels)
    whole = {job: run(config, job)[0] for job in ("retrain", "score")}
    # The week's new votes.
    settings_of(folder / "project", catalogue, given, "keep")
    add_labels(config, featured, given.labels + 500)
    kept = {"retrain": run(config, "retrain")[0]}
    kept["score"], told = run(config, "score")
    if told["counts"].get("from_features") != given.cutouts:
        raise SystemExit(f"not all was scored from kept features: {told}")
    out = {f"whole_{job}": seconds for job, seconds in whole.items()}
    out |= {f"keep_{job}": seconds for job, seconds in kept.items()}
    out["cycle_speedup"] = sum(whole.values()) / sum(kept.values())
    out["spearman"] = agreement(config, given.checked)
    return out


def agreement(config: Path, count: int) -> float:
    """Ranks of the catalogue against those of the whole network, pixels to BALD."""
    import polars as pl

    from zoo_bridge.config import load
    from zoo_bridge.ledger import Ledger
    from zoo_bridge.model.predict import features_of, predict
    from zoo_bridge.progress import Progress
    from zoo_bridge.steps.context import Context
    from zoo_bridge.steps.inputs import open_loader, open_model, open_store
    from zoo_bridge.tables import SCORES, read_table

    settings = load(config)
    ledger = Ledger.of(settings)
    version, scores = ledger.model_in_use(), ledger.newest("scores")
    assert version is not None
    assert scores is not None
    rows = pl.DataFrame(read_table(scores.path, SCORES)).filter("target").sort("object_id")
    rows = rows.sample(count, seed=0)
    import logging

    ctx = Context(settings, ledger, "bench", Progress(), logging.getLogger("bench"))
    batch = open_loader(ctx, open_store(settings)).load(
        list(zip(rows["object_id"], rows["uri"], strict=True))
    )
    model = open_model(settings, version)
    told = predict(model, features_of(model, batch.images), 0, VOTES)["featured"]
    ledger.close()
    return float(spearmanr(told.bald_N, rows["bald"]).statistic)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--galaxies", type=int, default=1_000_000)
    parser.add_argument("--cutouts", type=int, default=20_000)
    parser.add_argument("--labels", type=int, default=1500)
    parser.add_argument("--checked", type=int, default=2000)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--network", default="walmsley2020")
    parser.add_argument("--only", choices=("rescored", "cycle"))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    result: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="bench-embed-") as name:
        if given.only != "cycle":
            found = a_million(Path(name) / "million", given.galaxies, given)
            result |= found
            print(f"{given.galaxies:,} galaxies from kept features to a catalogue")
            print(f"  the whole command       {found['seconds']:8.1f} s")
            print(f"  galaxies a second       {found['rescored_per_second']:8.0f}")
            waves, grid = found["posterior_by_waves"], found["posterior_by_grid"]
            print(f"  posterior alone, waves  {waves:8.0f} a second")
            print(f"  posterior alone, grid   {grid:8.0f} a second ({waves / grid:.1f} times)")
        if given.only != "rescored":
            found = a_cycle(Path(name) / "cycle", given)
            result |= found
            print(
                f"a cycle of {given.cutouts:,} cutouts, {given.size} px, {given.network}: seconds"
            )
            print(f"{'':24}{'retrain':>10}{'score':>10}{'both':>10}")
            for way in ("whole", "keep"):
                seconds = [found[f"{way}_{job}"] for job in ("retrain", "score")]
                numbers = "".join(f"{each:10.1f}" for each in (*seconds, sum(seconds)))
                print(f"{way:24}{numbers}")
            print(f"times cheaper: {found['cycle_speedup']:.1f}; Spearman {found['spearman']:.6f}")
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
