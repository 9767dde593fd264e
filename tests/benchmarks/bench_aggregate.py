"""How fast classifications become labels, and in how much memory.

Compares, on the same invented export (see `make_export`; gzipped, 1.9 kB a row), counting all
eleven questions of its tree:

ours
    `zoo_bridge.votes.labels.aggregate`, as the job ``aggregate`` calls it, votes and labels written
    to disk.
pandas
    The usual tutorial: ``read_csv`` of the needed columns, ``json.loads`` a row, ``explode``,
    ``groupby``.
panoptes_aggregation
    The field's own tool (PyPI), its ``extract`` and ``reduce``, on fewer rows and on a file that is
    unpacked already. It wants older libraries than ours, so it is installed in an
    environment of its own: this needs the package index.

Each runs in a process of its own, in turn, several times; the time is from the file to the counts,
without the start of Python and its imports, and the median is shown. Ours and pandas must give the
same counts. Run by hand::

    python tests/benchmarks/bench_aggregate.py             # about ten minutes and 3 GB of disk
    python tests/benchmarks/bench_aggregate.py --rows 100000 --large 0 --runs 1
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
make_export = importlib.import_module("make_export")

PANOPTES_AGGREGATION = "panoptes_aggregation==5.3.1"
EXTRACT = """
from panoptes_aggregation.scripts import extract_csv, reduce_csv
import json, sys, time
folder, export = sys.argv[1:]
began = time.perf_counter()
(path,) = extract_csv(export, f"{folder}/extract.yaml", output_dir=folder, hide_progressbar=True)
reduce_csv(path, f"{folder}/reduce.yaml", output_dir=folder)
print(json.dumps({"seconds": time.perf_counter() - began}))
"""


def ours(path: Path) -> dict[str, Any]:
    """Our way."""
    import polars as pl

    from zoo_bridge.tables import LABELS, VOTES, TableWriter
    from zoo_bridge.votes.labels import aggregate
    from zoo_bridge.votes.read import Source
    from zoo_bridge.votes.rules import Question, Rules

    questions = [
        Question.declare(task, task, {label: [label] for label, _ in answers}, task == "T10")
        for task, (_, answers) in make_export.TREE.items()
    ]
    rules = Rules(workflow=make_export.WORKFLOW, object_id_keys=("!objid",))
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        with (
            TableWriter(Path(name) / "votes.parquet", VOTES) as votes,
            TableWriter(Path(name) / "labels.parquet", LABELS) as labels,
        ):
            scratch = Path(name) / "rows"
            _, tally = aggregate(
                [Source(path)], questions, rules, scratch, labels.write, votes.write
            )
        seconds = time.perf_counter() - began
        table = pl.scan_parquet(Path(name) / "labels.parquet")
        summed = table.group_by("question", "answer").agg(pl.col("k").cast(pl.Int64).sum())
        k = {f"{task} {answer}": number for task, answer, number in summed.collect().iter_rows()}
    return {"seconds": seconds, "rows": tally.rows, "k": k}


def pandas(path: Path) -> dict[str, Any]:
    """The usual tutorial's way."""
    import pandas as pd

    columns = [
        "user_id",
        "workflow_id",
        "workflow_version",
        "created_at",
        "metadata",
        "annotations",
        "subject_data",
        "subject_ids",
    ]
    began = time.perf_counter()
    frame = pd.read_csv(path, usecols=columns, dtype=str)
    rows = len(frame)
    frame = frame[frame["workflow_id"] == str(make_export.WORKFLOW)]
    live = [json.loads(text).get("live_project") is not False for text in frame["metadata"]]
    frame = frame[live]
    objects = [
        next(iter(json.loads(text).values())).get("!objid") for text in frame["subject_data"]
    ]
    answers = [
        [(item["task"], item["value"]) for item in json.loads(text)]
        for text in frame["annotations"]
    ]
    frame = frame.assign(object_id=objects, answer=answers)
    frame = frame[["user_id", "subject_ids", "object_id", "answer"]].explode("answer")
    frame["task"] = [task for task, _ in frame["answer"]]
    frame["answer"] = [value for _, value in frame["answer"]]
    again = frame["user_id"].notna() & frame.duplicated(["user_id", "subject_ids", "task"])
    frame = frame[~again].explode("answer").dropna(subset="answer")
    frame["answer"] = frame["answer"].str.rpartition(")")[2].str.strip()
    table = frame.groupby(["subject_ids", "object_id", "task", "answer"]).size()
    seconds = time.perf_counter() - began
    k = table.groupby(["task", "answer"]).sum()
    found = {f"{task} {answer}": int(number) for (task, answer), number in k.items()}
    return {"seconds": seconds, "rows": rows, "k": found}


def measure(command: list[str]) -> dict[str, Any]:
    """What a way prints, and the most memory that its process had, in MiB."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    out = process.stdout.read()
    trouble = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} failed:\n{trouble[-2000:]}")
    return {**json.loads(out.strip().splitlines()[-1]), "mib": usage.ru_maxrss / 1024}


def in_turn(ways: list[str], path: Path, runs: int) -> dict[str, dict[str, Any]]:
    """The median time and greatest memory of each way, taken in turn."""
    results: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for _ in range(runs):
        for way in ways:
            command = [sys.executable, __file__, "--way", way, "--file", str(path)]
            results[way].append(measure(command))
    return {
        way: {
            **found[0],
            "seconds": statistics.median(one["seconds"] for one in found),
            "mib": max(one["mib"] for one in found),
        }
        for way, found in results.items()
    }


def field_tool(folder: Path, rows: int) -> dict[str, Any] | None:
    """panoptes_aggregation on a smaller file; None where it cannot be installed."""
    home = folder / "panoptes_aggregation"
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    try:
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(home)], check=True)
        python = str(home / "bin" / "python")
        install = [uv, "pip", "install", "--quiet", "--python", python, PANOPTES_AGGREGATION]
        subprocess.run(install, check=True, env={**os.environ, "UV_SYSTEM_CERTS": "1"})
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"panoptes_aggregation cannot be installed here: {error}", file=sys.stderr)
        return None
    packed = make_export.make(folder / "small.csv.gz", rows)
    plain = folder / "small.csv"
    with gzip.open(packed) as source, plain.open("wb") as target:
        shutil.copyfileobj(source, target)
    tasks = ", ".join(f"{{task: {task}}}" for task in make_export.TREE)
    (folder / "extract.yaml").write_text(
        f"workflow_id: {make_export.WORKFLOW}\n"
        "workflow_version: {min: '1.0', max: '99.99'}\n"
        f"extractor_config: {{question_extractor: [{tasks}]}}\n"
    )
    (folder / "reduce.yaml").write_text("reducer_config: {question_reducer: {}}\n")
    found = measure([python, "-c", EXTRACT, str(folder), str(plain)])
    return {**found, "rows": rows}


def report(name: str, found: dict[str, Any], against: float) -> str:
    rate = found["rows"] / found["seconds"]
    return (
        f"{name:<22}{found['rows']:>12,}{found['seconds']:>10.2f}{rate:>12,.0f}"
        f"{found['mib']:>10,.0f}{against / rate:>10.1f}"
    )


def main() -> None:
    """Run everything and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="for ours and pandas")
    parser.add_argument(
        "--large", type=int, default=10_000_000, help="for our memory; 0: leave out"
    )
    parser.add_argument(
        "--small", type=int, default=20_000, help="for panoptes_aggregation; 0: leave out"
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where files go (default: a temporary folder)")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--way", choices=["ours", "pandas"], help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(globals()[options.way](options.file)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        path = make_export.make(folder / "export.csv.gz", options.rows)
        found = in_turn(["ours", "pandas"], path, options.runs)
        if found["ours"]["k"] != found["pandas"]["k"]:
            raise SystemExit(f"The two do not agree: {found}")
        tool = field_tool(folder, options.small) if options.small else None
        large = None
        if options.large:
            path = make_export.make(folder / "large.csv.gz", options.large)
            large = in_turn(["ours"], path, 1)["ours"]
    rate = found["ours"]["rows"] / found["ours"]["seconds"]
    results = {
        "rows_per_s": round(rate),
        "ratio_pandas": round(found["pandas"]["seconds"] / found["ours"]["seconds"], 2),
        "ratio_panoptes_aggregation": round(rate / (tool["rows"] / tool["seconds"]), 1)
        if tool
        else None,
        "peak_mib_1m": round(found["ours"]["mib"]),
        "peak_mib_10m": round(large["mib"]) if large else None,
        "rows": options.rows,
        "rows_large": options.large,
    }
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    print(f"{'way':<22}{'rows':>12}{'seconds':>10}{'rows/s':>12}{'peak MiB':>10}{'ours is':>10}")
    print(report("ours", found["ours"], rate))
    if large:
        print(report("ours", large, rate))
    print(report("pandas", found["pandas"], rate))
    if tool:
        print(report("panoptes_aggregation", tool, rate))


if __name__ == "__main__":
    main()
