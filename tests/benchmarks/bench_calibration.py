"""Which remedy makes error bars mean what they say? An ablation on real galaxies.

Networks are trained on most galaxies and judged on the others: coverage of 50, 80 and 90 % credible
intervals, log-likelihood and error, for one network without dropout, its dropout posterior, an
ensemble's, each with a binomial and a learned beta-binomial likelihood, and each before and after
calibration (fitted on one half of the test galaxies to judge the other, as `retrain` does).

Run by hand; the galaxies are those of `active_learning`::

    python tests/benchmarks/bench_calibration.py --json calibration.json
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo_bridge.acquisition import calibration
from zoo_bridge.acquisition.calibration import Evidence
from zoo_bridge.acquisition.logits import Dropped, normal
from zoo_bridge.acquisition.posterior import Posterior
from zoo_bridge.model.heads import Head
from zoo_bridge.model.network import Design, Network
from zoo_bridge.model.train import Schedule, train

sys.path.insert(0, str(Path(__file__).parent))
active_learning = importlib.import_module("active_learning")

Array = NDArray[Any]
LEVELS = active_learning.LEVELS


def networks(images: Array, votes: Array, likelihood: str, given: Any) -> list[Network]:
    """An ensemble."""
    design = Design(
        given.network,
        given.size,
        1,
        (Head("featured", ("yes", "no"), "yes"),),
        likelihood=likelihood,
        pixel_mean=float(images.mean()),
        pixel_spread=float(images.std()),
    )
    made = []
    for seed in range(given.ensemble):
        made.append(Network(design, seed))
        facts = train(made[-1], images, votes, Schedule(given.epochs, given.epochs, 32, 2e-3, seed))
        print(
            f"{likelihood} {seed}: best epoch {facts['best_epoch']} of {facts['epochs']}",
            flush=True,
        )
    return made


def row(said: Posterior, k: Array, n: Array, calibrated: bool) -> dict[str, float]:
    """Metrics of one way."""
    halves = np.arange(len(k)) % 2 == 0
    told = []
    for learn in (halves, ~halves):
        known = None
        if calibrated:
            (known,) = calibration.fit([Evidence.of(said.at(learn), k[learn], n[learn])])
        other = said.at(~learn)
        told.append((other.calibrated(known).forecast(k[~learn], n[~learn], LEVELS), ~learn))
    error = np.concatenate([each.mean - (k / n)[at] for each, at in told])
    return {
        "log_likelihood": float(np.concatenate([each.log_p for each, _ in told]).mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        **{
            f"coverage_{level}": float(np.concatenate([e.inside[level] for e, _ in told]).mean())
            for level in LEVELS
        },
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=active_learning.DATA)
    parser.add_argument("--network", default="small")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--crop", type=float, default=0.6)
    parser.add_argument("--scatter", type=float, default=0.0, help="0 (binomial) to 0.05")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--ensemble", type=int, default=3)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if not (given.data / "fractions.csv").exists():
        sys.exit(f"There are no galaxies in {given.data}; name their folder with --data.")
    votes_each = 40
    how = active_learning.Conditions(
        *("featured", given.network, given.size, given.crop, votes_each, given.scatter),
        *(0, 0, 0, 0, 0, given.ensemble, given.test),
    )
    with tempfile.TemporaryDirectory() as folder:
        images, rho = active_learning.load(given.data, how, Path(folder))
    k = active_learning.draw_votes(rho, votes_each, given.scatter, 0)
    n = np.full(len(k), votes_each)
    votes = np.stack([k, n - k, n], axis=1).astype(float)
    order = np.random.default_rng(0).permutation(len(images))
    test, learn = order[: given.test], order[given.test :]
    rows: dict[str, dict[str, float]] = {}
    for likelihood in ("binomial", "beta-binomial"):
        made = networks(images[learn], votes[learn], likelihood, given)
        features = [network.features(images[test]) for network in made]
        linear = [network.linear(f, 0, 0) for network, f in zip(made, features, strict=True)]
        scatter = float(np.mean([network.overdispersion[0] for network in made]))
        ways = {
            "one network": Posterior.of([normal(linear[0][0], 0.0)], votes_each, scatter),
            "dropout": Posterior.of([Dropped(*linear[0], 0.5)], votes_each, scatter),
            f"dropout, {len(made)} networks": Posterior.of(
                [Dropped(*each, 0.5) for each in linear], votes_each, scatter
            ),
        }
        for way, said in ways.items():
            for calibrated in (False, True):
                name = f"{likelihood}, {way}{', calibrated' if calibrated else ''}"
                rows[name] = row(said, k[test], n[test], calibrated)
    print(f"{'way':<46}{'log-lik.':>9}{'RMSE':>8}{'50 %':>8}{'80 %':>8}{'90 %':>8}")
    for name, values in rows.items():
        inside = "".join(f"{values[f'coverage_{level}']:8.3f}" for level in LEVELS)
        print(f"{name:<46}{values['log_likelihood']:9.3f}{values['rmse']:8.3f}{inside}")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
