"""Does asking about the galaxies of highest mutual information save labels? On real galaxies.

Repeats the experiment of Walmsley et al. 2020 (section 4): start with a few labelled galaxies,
train, let BALD or chance choose the next ones, and so on; the error is measured on galaxies that
are never learned from. Votes are drawn from the fractions of the Galaxy Zoo 2 (Kaggle) release,
once for each repeat, the same for both ways. Both begin with the same galaxies and first network.

    python tests/benchmarks/active_learning.py --work /tmp/active --json active.json

It goes on where it stopped: every trained network's figures are a line of WORK/runs.jsonl, which
several processes may write (``--only 0``, ``--only 1``, …; then once without). The data are not
part of this repository: a folder with fractions.csv and images/<galaxy_id>.jpg.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from numpy.typing import NDArray

from zoo_bridge.acquisition import calibration
from zoo_bridge.acquisition.calibration import Evidence
from zoo_bridge.acquisition.logits import Dropped
from zoo_bridge.acquisition.posterior import Posterior
from zoo_bridge.cutouts.preprocess import Preprocessing, preprocess
from zoo_bridge.files import replacing
from zoo_bridge.model.augment import LEAST_BATCHES
from zoo_bridge.model.heads import Head
from zoo_bridge.model.network import Design, Network
from zoo_bridge.model.train import STOPPING_SHARE, Schedule, train

Array = NDArray[Any]
DATA = Path(__file__).parents[3] / "shared" / "data" / "galaxies"
# Answer, and the answers whose sum is the share of volunteers who reached the question.
QUESTIONS = {
    "featured": ("Class1.2", ("Class1.1", "Class1.2", "Class1.3"), 40),
    "bar": ("Class3.1", ("Class3.1", "Class3.2"), 10),
}
FEWEST_REACHED = 0.25
BATCH = 32
RATE = 2e-3
LEVELS = (50, 80, 90)


@dataclass(frozen=True)
class Conditions:
    """What the outcome depends on."""

    question: str
    network: str
    size: int
    crop: float
    votes: int
    scatter: float
    start: int
    step: int
    rounds: int
    steps: int
    more_steps: int
    ensemble: int
    test: int


def load(data: Path, how: Conditions, work: Path) -> tuple[Array, Array]:
    """Images and vote fractions of galaxies whose volunteers reached the question."""
    answer, answers, _ = QUESTIONS[how.question]
    frame = pl.read_csv(data / "fractions.csv").sort("galaxy_id")
    reached = frame.select(pl.sum_horizontal(*answers)).to_series().to_numpy()
    frame = frame.filter(reached >= FEWEST_REACHED)
    rho = (frame[answer] / frame.select(pl.sum_horizontal(*answers)).to_series()).to_numpy()
    kept = work / f"images-{how.question}-{how.size}-{how.crop}.npz"
    if not kept.exists():
        settings = Preprocessing(size=how.size, crop=how.crop)
        paths = [data / "images" / f"{name}.jpg" for name in frame["galaxy_id"]]
        np.savez(kept, images=np.stack([preprocess(p.read_bytes(), settings) for p in paths]))
    return np.load(kept)["images"], np.clip(rho, 0, 1)


def draw_votes(rho: Array, n: int, scatter: float, seed: int) -> Array:
    """k of n volunteers, with an intra-class correlation `scatter` between them."""
    rng = np.random.default_rng([seed, 7])
    if scatter > 0:
        total = (1 - scatter) / scatter
        rho = rng.beta(np.maximum(rho * total, 1e-6), np.maximum((1 - rho) * total, 1e-6))
    return rng.binomial(n, rho)


def fit(
    images: Array, votes: Array, how: Conditions, seed: int, before: list[list[Array]] | None
) -> list[Network]:
    """An ensemble, trained for the same number of steps however many galaxies.

    It goes on from the weights of the round before, as a project does that retrains each week;
    only the first learns from nothing. The weights are the last ones: the learning rate has fallen
    to zero by then, and to choose between epochs on a tenth of so few galaxies is a lottery.
    """
    heads = (Head(how.question, ("yes", "no"), "yes"),)
    begun = images[: how.start]
    spread = {"pixel_mean": float(begun.mean()), "pixel_spread": float(begun.std())}
    design = Design(how.network, how.size, 1, heads, **spread)
    networks = []
    for member in range(how.ensemble):
        network = Network(design, seed + 100 * member)
        if before:
            network.model.set_weights(before[member])
        batches = max(LEAST_BATCHES, math.ceil((1 - STOPPING_SHARE) * len(images) / BATCH))
        epochs = math.ceil((how.more_steps if before else how.steps) / batches)
        last: list[Array] = []

        def keep(_: int, network: Network = network, last: list[Array] = last) -> None:
            last[:] = network.model.get_weights()

        rate = RATE / 2 if before else RATE
        schedule = Schedule(epochs, epochs, BATCH, rate, seed + 100 * member)
        train(network, images, votes, schedule, keep)
        network.model.set_weights(last)
        networks.append(network)
    return networks


def save(networks: Sequence[Network], path: Path) -> None:
    """Weights for the next round."""
    arrays = {
        f"{member}-{place:03d}": weight
        for member, network in enumerate(networks)
        for place, weight in enumerate(network.model.get_weights())
    }
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as scratch, scratch.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def saved(path: Path, ensemble: int) -> list[list[Array]]:
    """Weights of an ensemble."""
    with np.load(path) as kept:
        return [
            [kept[name] for name in sorted(kept) if name.startswith(f"{member}-")]
            for member in range(ensemble)
        ]


def posterior(networks: Sequence[Network], images: Array, n: int) -> Posterior:
    """What the networks say of images that get n votes."""
    linear = [network.linear(network.features(images), 0, 0) for network in networks]
    return Posterior.of([Dropped(*each, 0.5) for each in linear], n)


def judge(said: Posterior, k: Array, n: Array) -> dict[str, float]:
    """Error, likelihood and coverage on the test galaxies; calibrated on one half for the other."""
    raw = said.forecast(k, n, LEVELS)
    values = {
        "rmse": float(np.sqrt(np.mean((raw.mean - k / n) ** 2))),
        "log_likelihood": float(raw.log_p.mean()),
    }
    values |= {f"raw_coverage_{level}": float(raw.inside[level].mean()) for level in LEVELS}
    halves = np.arange(len(k)) % 2 == 0
    inside: dict[int, list[Array]] = {level: [] for level in LEVELS}
    log_p = []
    for learn in (halves, ~halves):
        (known,) = calibration.fit([Evidence.of(said.at(learn), k[learn], n[learn])])
        other = said.at(~learn).calibrated(known).forecast(k[~learn], n[~learn], LEVELS)
        log_p.append(other.log_p)
        for level in LEVELS:
            inside[level].append(other.inside[level])
    values["calibrated_log_likelihood"] = float(np.concatenate(log_p).mean())
    for level in LEVELS:
        values[f"coverage_{level}"] = float(np.concatenate(inside[level]).mean())
    return values


def repeat(
    number: int,
    images: Array,
    rho: Array,
    how: Conditions,
    done: dict[Any, dict[str, Any]],
    weights: Path,
) -> Any:
    """All networks of one repeat; yields a line for each that was not trained already."""
    rng = np.random.default_rng([number, 1])
    order = rng.permutation(len(images))
    test, pool = order[: how.test], order[how.test :]
    k = draw_votes(rho, how.votes, how.scatter, number)
    n = np.full(len(k), how.votes)
    votes = np.stack([k, n - k, n], axis=1).astype(float)
    for way in ("random", "bald"):
        chosen = pool[: how.start]
        for turn in range(how.rounds + 1):
            if turn == 0 and way == "bald":
                line = {**done[number, "random", 0], "way": way}
            elif (number, way, turn) in done:
                line = done[number, way, turn]
            else:
                begun = time.perf_counter()
                seed = 1000 * number + turn
                # The same first networks for both.
                came = f"{number}-{way if turn > 1 else 'random'}-{turn - 1}.npz"
                before = saved(weights / came, how.ensemble) if turn else None
                networks = fit(images[chosen], votes[chosen], how, seed, before)
                save(networks, weights / f"{number}-{way}-{turn}.npz")
                rest = np.setdiff1d(pool, chosen)
                information = posterior(networks, images[rest], how.votes).information(how.votes)
                line = {
                    "repeat": number,
                    "way": way,
                    "round": turn,
                    "labels": len(chosen),
                    **judge(posterior(networks, images[test], how.votes), k[test], n[test]),
                    "best": [int(place) for place in rest[np.argsort(-information)[: how.step]]],
                    "seconds": time.perf_counter() - begun,
                }
            picks = pool[len(chosen) : len(chosen) + how.step]
            if way == "bald":
                picks = np.array(line["best"])
            line["picked_featured"] = float(np.mean(rho[picks] > 0.5)) if len(picks) else None
            line["pool_featured"] = float(np.mean(rho[pool] > 0.5))
            done[number, way, turn] = line
            yield line
            chosen = np.concatenate([chosen, picks])


def labels_needed(curve: Array, labels: Array, error: float) -> float:
    """Labels at which a falling curve first reaches an error, on straight lines between points."""
    below = np.flatnonzero(curve <= error)
    if not len(below):
        return float(np.nan)
    first = below[0]
    if first == 0:
        return float(labels[0])
    share = (curve[first - 1] - error) / (curve[first - 1] - curve[first])
    return float(labels[first - 1] + share * (labels[first] - labels[first - 1]))


def saving(curves: dict[str, Array], labels: Array) -> float:
    """Share of labels that BALD saves to reach the error that chance reaches with all of them.

    Curves are means over repeats, made to fall: the best network so far is the one in use.
    """
    falling = {way: np.minimum.accumulate(values.mean(axis=0)) for way, values in curves.items()}
    error = falling["random"][-1]
    by_chance = labels_needed(falling["random"], labels, error)
    by_bald = labels_needed(falling["bald"], labels, error)
    # Not reached within the budget: no saving shown, whatever more labels would have done.
    return 0.0 if np.isnan(by_bald) else 1 - by_bald / by_chance


def summarise(lines: list[dict[str, Any]], how: Conditions) -> dict[str, Any]:
    """The saving with a bootstrap interval over repeats, coverage, and what was picked."""
    repeats = sorted({line["repeat"] for line in lines})
    labels = np.array([how.start + turn * how.step for turn in range(how.rounds + 1)])
    at = {(line["repeat"], line["way"], line["round"]): line for line in lines}

    def curves(metric: str) -> dict[str, Array]:
        turns = range(how.rounds + 1)
        return {
            way: np.array([[at[each, way, turn][metric] for turn in turns] for each in repeats])
            for way in ("random", "bald")
        }

    rmse, likely = curves("rmse"), curves("log_likelihood")
    likely = {way: -values for way, values in likely.items()}
    rng = np.random.default_rng(0)
    spread = {"": rmse, "_by_likelihood": likely}
    out: dict[str, Any] = {"repeats": len(repeats), "conditions": asdict(how)}
    for suffix, both in spread.items():
        draws = rng.integers(0, len(repeats), (2000, len(repeats)))
        boot = [saving({way: v[draw] for way, v in both.items()}, labels) for draw in draws]
        out[f"label_saving{suffix}"] = saving(both, labels)
        low, high = np.quantile(boot, [0.05, 0.95])
        out[f"label_saving_lo{suffix}"], out[f"label_saving_hi{suffix}"] = float(low), float(high)
    last = [at[each, way, how.rounds] for each in repeats for way in ("random", "bald")]
    for level in LEVELS:
        out[f"coverage_{level}"] = float(np.mean([line[f"coverage_{level}"] for line in last]))
        raw = [line[f"raw_coverage_{level}"] for line in last]
        out[f"raw_coverage_{level}"] = float(np.mean(raw))
    picks = [at[each, "bald", turn] for each in repeats for turn in range(how.rounds)]
    out["picked_featured"] = float(np.mean([line["picked_featured"] for line in picks]))
    out["pool_featured"] = float(np.mean([line["pool_featured"] for line in picks]))
    out["curves"] = {
        "labels": labels.tolist(),
        **{f"rmse_{way}": values.mean(axis=0).tolist() for way, values in rmse.items()},
        **{f"log_likelihood_{w}": (-v.mean(axis=0)).tolist() for w, v in likely.items()},
    }
    return out


def show(result: dict[str, Any]) -> None:
    """The table."""
    curves = result["curves"]
    print(f"{'labels':>8} {'RMSE':>17} {'log-likelihood':>21}")
    print(f"{'':>8} {'random':>8} {'BALD':>8} {'random':>10} {'BALD':>10}")
    for row in zip(
        curves["labels"],
        *(curves[f"{m}_{w}"] for m in ("rmse", "log_likelihood") for w in ("random", "bald")),
        strict=True,
    ):
        print("{:8d} {:8.4f} {:8.4f} {:10.3f} {:10.3f}".format(*row))
    for suffix, name in (("", "RMSE"), ("_by_likelihood", "log-likelihood")):
        print(
            f"labels saved for the {name} that chance reaches in the end: "
            f"{result['label_saving' + suffix]:.0%} "
            f"(90 % interval over {result['repeats']} repeats "
            f"{result['label_saving_lo' + suffix]:.0%} to {result['label_saving_hi' + suffix]:.0%})"
        )
    covered = " / ".join(f"{result[f'coverage_{level}']:.3f}" for level in LEVELS)
    raw = " / ".join(f"{result[f'raw_coverage_{level}']:.3f}" for level in LEVELS)
    print(f"coverage at 50 / 80 / 90 %: {covered} calibrated, {raw} before")
    print(
        f"featured among what BALD picked: {result['picked_featured']:.0%}, "
        f"in the pool: {result['pool_featured']:.0%}"
    )


def draw(result: dict[str, Any], path: Path) -> None:
    """The figure."""
    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    curves = result["curves"]
    for axis, metric, name in zip(
        figure.subplots(1, 2),
        ("rmse", "log_likelihood"),
        ("RMSE of the vote fraction", "log-likelihood (nats a galaxy)"),
        strict=True,
    ):
        for way, colour in (("random", "#9aa0a6"), ("bald", "#1b7f4d")):
            values = curves[f"{metric}_{way}"]
            axis.plot(curves["labels"], values, marker="o", color=colour, label=way)
        axis.set_xlabel("labelled galaxies")
        axis.set_title(name, fontsize=10)
        axis.grid(alpha=0.25)
        axis.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--work", type=Path, default=Path("active_learning"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--question", choices=sorted(QUESTIONS), default="featured")
    parser.add_argument("--network", default="small")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--crop", type=float, default=0.5)
    parser.add_argument("--scatter", type=float, default=0.0, help="0 (binomial) to 0.05")
    parser.add_argument("--start", type=int, default=96)
    parser.add_argument("--step", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument(
        "--only", type=int, help="train this repeat alone, to share the work between processes"
    )
    parser.add_argument("--steps", type=int, default=4800, help="of Adam, for each first network")
    parser.add_argument("--more-steps", type=int, default=1200, help="in each later round")
    parser.add_argument("--ensemble", type=int, default=3)
    parser.add_argument("--test", type=int, default=800)
    given = parser.parse_args()
    if not (given.data / "fractions.csv").exists():
        sys.exit(f"There are no galaxies in {given.data}; name their folder with --data.")
    how = Conditions(
        votes=QUESTIONS[given.question][2],
        **{name: getattr(given, name) for name in Conditions.__annotations__ if name != "votes"},
    )
    given.work.mkdir(parents=True, exist_ok=True)
    images, rho = load(given.data, how, given.work)
    if len(images) < how.test + how.start + how.rounds * how.step:
        sys.exit(f"There are only {len(images)} galaxies: fewer rounds, or smaller ones.")
    kept = given.work / "runs.jsonl"
    weights = given.work / f"weights-{zlib.crc32(repr(how).encode()):08x}"
    lines = [json.loads(text) for text in kept.read_text().splitlines()] if kept.exists() else []
    mine = [line for line in lines if line["conditions"] == asdict(how)]
    done = {(line["repeat"], line["way"], line["round"]): line for line in mine}
    known = set(done)
    with kept.open("a") as file:
        for number in range(given.repeats) if given.only is None else [given.only]:
            for line in repeat(number, images, rho, how, done, weights):
                if (line["repeat"], line["way"], line["round"]) not in known:
                    print(json.dumps({**line, "conditions": asdict(how)}), file=file, flush=True)
                    print(
                        f"repeat {number} {line['way']:6} {line['labels']:5d} labels: RMSE "
                        f"{line['rmse']:.4f}, log-likelihood {line['log_likelihood']:.3f}, "
                        f"{line['seconds']:.0f} s",
                        flush=True,
                    )
    if given.only is not None:
        return
    result = summarise([line for line in done.values() if line["repeat"] < given.repeats], how)
    show(result)
    draw(result, given.work / "active_learning.png")
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
