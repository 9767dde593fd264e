"""From how many sides to look at a galaxy: what ``active_learning.py`` trained, judged anew.

Its folder has the weights of each round's network. Each is asked about the galaxies that it was
judged on, as they are, turned by quarters, and mirrored as well (``model.views``). Nothing is
trained; it takes a minute or two.

    python tests/benchmarks/sides.py --work /tmp/active --way scratch-random --json sides.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import zlib
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
    saving,
)

from zoo_bridge.model.network import Network

VIEWS = (1, 4, 8)
SHOWN = {"rmse": "RMSE", "calibrated_log_likelihood": "log-likelihood, calibrated"}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--work", type=Path, default=Path("active_learning"))
    parser.add_argument("--way", default="scratch-random")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    lines = [json.loads(text) for text in (given.work / "runs.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["way"] == given.way]
    if not lines or not given.way.endswith("-random"):
        sys.exit(f"{given.work} has no way {given.way} that chose at random.")
    how = Conditions(**lines[-1]["conditions"])
    weights = given.work / f"weights-{zlib.crc32(repr(how).encode()):08x}"
    images, rho = load(given.data, how, given.work)
    whole = {line["repeat"] for line in lines if line["round"] == how.rounds}
    told: dict[tuple[int, int, int], dict[str, float]] = {}
    seconds = dict.fromkeys(VIEWS, 0.0)
    for number in sorted(whole):
        order = np.random.default_rng([number, 1]).permutation(len(images))
        test, pool = order[: how.test], order[how.test :]
        k = draw_votes(rho, how.votes, how.scatter, number)[test]
        n = np.full(len(k), how.votes)
        for turn in range(how.rounds + 1):
            name = f"{number}-first-0" if turn == 0 else f"{number}-{given.way}-{turn}"
            # As it was built, pixels' mean and spread among them.
            known = images[pool[: how.start + turn * how.step]]
            for views in VIEWS:
                networks = []
                for each in saved(weights / f"{name}.npz", how.ensemble):
                    networks.append(Network(replace(design_of(known, how), views=views), 0))
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
        for views, curve in curves.items():
            row: dict[str, Any] = {"metric": metric, "views": views, "repeats": len(repeats)}
            row["values"] = (sign * curve.mean(axis=0)).tolist()
            row["time_to_one_view"] = seconds[views] / seconds[1]
            draws = rng.integers(0, len(repeats), (2000, len(repeats)))
            boot = [saving(curves[1][draw], curve[draw], labels) for draw in draws]
            row["saving"] = saving(curves[1], curve, labels)
            row["saving_lo"], row["saving_hi"] = map(float, np.quantile(boot, [0.05, 0.95]))
            rows.append(row)
            numbers = "".join(f"{value:9.4f}" for value in row["values"])
            print(
                f"{title:>27}, {views} view(s):{numbers}; labels saved to one view "
                f"{row['saving']:.0%} ({row['saving_lo']:.0%} to {row['saving_hi']:.0%}); "
                f"time {row['time_to_one_view']:.1f}"
            )
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
