"""From how many sides to look at a galaxy: what ``active_learning.py`` trained, judged anew.

Its folder has the weights of each round's network. Each is asked about the galaxies that it was
judged on, as they are, turned by quarters, and mirrored as well (``model.views``). Nothing is
trained; it takes a minute or two. Another way of that folder (``--other``) is held against them.

    python tests/benchmarks/sides.py --work /tmp/active --way scratch-random --other everyday-bald
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from active_learning import (
    DATA,
    Conditions,
    design_of,
    draw_votes,
    judge,
    load,
    posterior,
    saved,
    saved_labels,
    split,
    weights_name,
    weights_of,
)

from zoo_bridge.model.network import Network

VIEWS = (1, 4, 8)
SHOWN = {"rmse": "RMSE", "calibrated_log_likelihood": "log-likelihood, calibrated"}


def spoken(saving: list[float]) -> str:
    """A saving and its interval."""
    best, low, high = saving
    return f"{best:.0%} ({low:.0%} to {high:.0%})"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--work", type=Path, default=Path("active_learning"))
    parser.add_argument("--way", default="scratch-random")
    parser.add_argument("--other")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    lines = [json.loads(text) for text in (given.work / "runs.jsonl").read_text().splitlines()]
    rivals = [line for line in lines if line["way"] == given.other]
    lines = [line for line in lines if line["way"] == given.way]
    if not lines or not given.way.endswith("-random"):
        sys.exit(f"{given.work} has no way {given.way} that chose at random.")
    how = Conditions(**lines[-1]["conditions"])
    weights = weights_of(given.work, how)
    trunk = given.way.partition("-")[0]
    images, rho = load(given.data, how, given.work)
    whole = {line["repeat"] for line in lines if line["round"] == how.rounds}
    if given.other:
        whole &= {line["repeat"] for line in rivals if line["round"] == how.rounds}
    theirs = {(line["repeat"], line["round"]): line for line in rivals}
    told: dict[tuple[int, int, int], dict[str, float]] = {}
    seconds = dict.fromkeys(VIEWS, 0.0)
    for number in sorted(whole):
        test, pool = split(number, len(images), how)
        design = design_of(images[pool[: how.start]], how)
        k = draw_votes(rho, how.votes, how.scatter, number)[test]
        n = np.full(len(k), how.votes)
        for turn in range(how.rounds + 1):
            kept = saved(weights / weights_name(trunk, given.way, number, turn), how.ensemble)
            for views in VIEWS:
                networks = []
                for each in kept:
                    networks.append(Network(replace(design, views=views), 0))
                    networks[-1].model.set_weights(each)
                begun = time.perf_counter()
                features = [network.features(images[test]) for network in networks]
                seconds[views] += time.perf_counter() - begun
                told[number, turn, views] = judge(posterior(networks, features, how.votes), k, n)
    labels = np.array([how.start + turn * how.step for turn in range(how.rounds + 1)])
    repeats, rng = sorted(whole), np.random.default_rng(0)
    rows = []
    print(f"{given.way}, {len(repeats)} repeats, by number of labels: {labels.tolist()}")
    for metric, title in SHOWN.items():
        sign = 1 if metric == "rmse" else -1
        curves = {
            views: sign
            * np.array(
                [[told[r, t, views][metric] for t in range(how.rounds + 1)] for r in repeats]
            )
            for views in VIEWS
        }
        draws = rng.integers(0, len(repeats), (2000, len(repeats)))
        for views, curve in curves.items():
            row: dict[str, Any] = {"metric": metric, "views": views, "repeats": len(repeats)}
            row["values"] = (sign * curve.mean(axis=0)).tolist()
            row["time_to_one_view"] = seconds[views] / seconds[1]
            row["saving"] = saved_labels(curves[1], curve, labels, draws)
            told_row = f"labels saved to one view {spoken(row['saving'])}"
            if given.other:
                turns = range(how.rounds + 1)
                own = sign * np.array([[theirs[r, t][metric] for t in turns] for r in repeats])
                row["other"] = saved_labels(curve, own, labels, draws)
                told_row += f", by {given.other} to this {spoken(row['other'])}"
            rows.append(row)
            numbers = "".join(f"{value:9.4f}" for value in row["values"])
            print(
                f"{title:>27}, {views} view(s):{numbers}; {told_row}; "
                f"time {row['time_to_one_view']:.1f}"
            )
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
