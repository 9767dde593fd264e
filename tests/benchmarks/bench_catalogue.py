"""Selecting from a score catalogue of 20 million rows, and how much memory that takes.

Synthetic scores in parts, as ``zoo-bridge run score`` writes them, and the survey beside them. In
one run, each in a process of its own:

zoo_bridge
    `steps.contenders.contenders`, which ``upload`` selects from: the highest BALD of what is
    neither uploaded nor labelled, and a random share.
pandas
    The usual way: read all columns that are needed, drop the excluded, ``nlargest``.
a filter
    ``zoo-bridge scores --where "mean > 0.5 AND magnitude < 16"``: a query over scores and survey.

Run by hand::

    python tests/benchmarks/bench_catalogue.py --rows 20000000 --json bench_catalogue.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

PART = 500_000
BATCH = 500


def make(folder: Path, rows: int) -> None:
    """Scores in parts, and a survey."""
    from zoo_bridge.files import write_json
    from zoo_bridge.tables import SCORES

    if (folder / "survey" / "survey.json").exists():
        return
    scores, survey = folder / "scores", folder / "survey"
    for each in (scores, survey):
        each.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    fields = [*SCORES.names[:2], "magnitude"]
    kinds = [pa.string(), pa.string(), pa.float64()]
    with pq.ParquetWriter(
        survey / "objects.parquet", pa.schema(list(zip(fields, kinds, strict=True)))
    ) as writer:
        for number, start in enumerate(range(0, rows, PART)):
            count = min(PART, rows - start)
            ids = [f"J{place:09d}" for place in range(start, start + count)]
            uris = [f"s3://survey/cutouts/{ident}.fits" for ident in ids]
            mean = draw.random(count)
            columns = {
                "object_id": ids,
                "uri": uris,
                "model_version": ["m"] * count,
                "question": ["smooth-or-featured"] * count,
                "answer": ["featured"] * count,
                "n_expected": [40] * count,
                "mean": mean,
                "lo": 0.8 * mean,
                "hi": 0.8 * mean + 0.2,
                "bald": draw.gamma(2, 0.05, count),
                "target": [True] * count,
            }
            table = pa.table(columns).cast(SCORES)
            pq.write_table(table, scores / f"part-{number:05d}.parquet", compression="zstd")
            faint = 14 + 8 * draw.random(count)
            writer.write_table(pa.table([ids, uris, faint], names=fields), 10_000)
    facts = {"objects": rows, "columns": fields, "meanings": {}, "ignored": 0}
    write_json(survey / "survey.json", facts)


def excluded(rows: int) -> set[str]:
    """A hundred thousand objects that were uploaded before."""
    return {f"J{place:09d}" for place in range(0, rows, max(1, rows // 100_000))}


def ours(folder: Path, rows: int) -> list[str]:
    """The best, by the code that `upload` calls."""
    from zoo_bridge.cutouts.survey import Survey
    from zoo_bridge.steps.batches.contenders import Ranking, Term, contenders

    out = excluded(rows)
    ranking = Ranking([Term("smooth-or-featured")])
    survey = Survey(folder / "survey")
    found = contenders(survey, folder / "scores", out, 2 * BATCH, BATCH, ranking)
    best = sorted(found, key=lambda each: (-(each.bald or 0), each.object_id))[:BATCH]
    return [each.object_id for each in best]


def pandas_way(folder: Path, rows: int) -> list[str]:
    """The best, with everything in memory."""
    import pandas as pd

    frame = pd.read_parquet(folder / "scores", columns=["object_id", "uri", "bald"])
    frame = frame[~frame["object_id"].isin(list(excluded(rows)))]
    ranked = frame.nlargest(2 * BATCH, "bald")
    return list(ranked.sort_values(["bald", "object_id"], ascending=[False, True])["object_id"])[
        :BATCH
    ]


def a_filter(folder: Path, rows: int) -> list[str]:
    """Rows by a condition on scores and survey."""
    from zoo_bridge.cutouts.survey import Survey
    from zoo_bridge.steps.scoring.catalogue import query

    where, order = "mean > 0.5 AND magnitude < 16", "bald DESC, object_id"
    with query(folder / "scores", Survey(folder / "survey"), where, order, BATCH) as reader:
        return list(reader.read_all()["object_id"].to_pylist())


def measured(work: Callable[[Path, int], list[str]], folder: Path, rows: int, line: Any) -> None:
    """In a process of its own: seconds, peak MiB, and what came out."""
    began = time.perf_counter()
    found = work(folder, rows)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line.send((seconds, peak, found))


def main() -> None:
    """Run all and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    folder = Path(tempfile.gettempdir()) / "bench_catalogue"
    parser.add_argument("--folder", type=Path, default=folder)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    folder = given.folder / str(given.rows)
    make(folder, given.rows)
    processes = multiprocessing.get_context("spawn")
    results: dict[str, tuple[float, float, list[str]]] = {}
    for work in (ours, pandas_way, a_filter):
        receive, send = processes.Pipe(duplex=False)
        child = processes.Process(target=measured, args=(work, folder, given.rows, send))
        child.start()
        send.close()
        results[work.__name__] = receive.recv()
        child.join()
    if results["ours"][2] != results["pandas_way"][2]:
        raise SystemExit("the two ways select other objects")
    base = results["ours"]
    print(f"{given.rows:,} rows\n{'':<14}{'seconds':>9}{'peak MiB':>10}{'to ours':>9}{'memory':>9}")
    for name, (seconds, peak, _) in results.items():
        print(
            f"{name:<14}{seconds:>9.1f}{peak:>10.0f}{seconds / base[0]:>9.1f}{peak / base[1]:>9.1f}"
        )
    if given.json:
        out = {name: {"seconds": each[0], "peak_mib": each[1]} for name, each in results.items()}
        given.json.write_text(json.dumps({"rows": given.rows, **out}, indent=1) + "\n")


if __name__ == "__main__":
    main()
