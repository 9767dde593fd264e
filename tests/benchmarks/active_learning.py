"""What saves labels: the choice of galaxies, or a trunk that stays? On real galaxies.

Repeats the experiment of Walmsley et al. 2020 (section 4): start with a few labelled galaxies,
train, let something or chance choose the next ones, and so on; the error is measured on galaxies
that are never learned from. Votes are drawn from the fractions of the Galaxy Zoo 2 (Kaggle)
release, once for each repeat, the same for all ways. All begin with the same galaxies.

A way is a trunk and a choice, such as ``warm-bald``. Trunks: ``warm`` goes on from the weights of
the round before, ``scratch`` learns everything anew each round, ``kept`` is that of the first round
for ever, and its last layer is learned; ``unvoted`` and ``tuned`` begin with weights that learned
without votes (``without_votes.py``), and stay so or are trained. An encoder that stays has the name
that ``--encoder NAME=FILE`` gives it: an ONNX file of images from 0 to 1, planes first. Choices:
``random``, ``bald``, ``power`` (PowerBALD), ``epig`` (information about the votes of other
galaxies, by masks that all share), ``diverse`` (BALD spread over features).

    python tests/benchmarks/active_learning.py --work /tmp/active --json active.json

It goes on where it stopped: every trained network's figures are a line of WORK/runs.jsonl, which
several processes may write (``--only 0``, ``--only 1``, …; then once without). The data are not
part of this repository: a folder with fractions.csv and images/<galaxy_id>.jpg.

References
----------
Bickford Smith et al. 2023, arXiv:2304.08151 (EPIG). Kirsch et al. 2021, arXiv:2106.12059.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from numpy.typing import NDArray

from zoo_bridge.acquisition import calibration
from zoo_bridge.acquisition.calibration import Evidence
from zoo_bridge.acquisition.diversity import power_keys, spread
from zoo_bridge.acquisition.information import log_votes
from zoo_bridge.acquisition.logits import Dropped
from zoo_bridge.acquisition.posterior import Posterior
from zoo_bridge.cutouts.preprocess import Preprocessing, preprocess
from zoo_bridge.files import digest_file, replacing
from zoo_bridge.model.design import LEAST_BATCHES
from zoo_bridge.model.encoder import Encoder
from zoo_bridge.model.heads import Head
from zoo_bridge.model.network import Design, Network
from zoo_bridge.model.predict import sampled_logits
from zoo_bridge.model.tail import learn_tail
from zoo_bridge.model.train import STOPPING_SHARE, Schedule, train
from zoo_bridge.model.views import seen

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
    unvoted: str = ""


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


def split(number: int, count: int, how: Conditions) -> tuple[Array, Array]:
    """Places of the galaxies that judge a repeat, and of its pool, in their order."""
    order = np.random.default_rng([number, 1]).permutation(count)
    return order[: how.test], order[how.test :]


def weights_of(work: Path, how: Conditions) -> Path:
    """The folder of the weights that networks had under these conditions."""
    return work / f"weights-{zlib.crc32(repr(how).encode()):08x}"


def design_of(images: Array, how: Conditions) -> Design:
    """The network, for the galaxies that all begin with."""
    heads = (Head(how.question, ("yes", "no"), "yes"),)
    begun = images[: how.start]
    spread = {"pixel_mean": float(begun.mean()), "pixel_spread": float(begun.std())}
    return Design(how.network, how.size, 1, heads, **spread)


def fit(
    images: Array,
    votes: Array,
    how: Conditions,
    seed: int,
    before: list[list[Array]] | None,
    short: bool,
) -> list[Network]:
    """An ensemble, trained for the same number of steps however many galaxies.

    From nothing, or from other weights. The weights are the last ones: the learning rate has fallen
    to zero by then, and to choose between epochs on a tenth of so few galaxies is a lottery.
    """
    design = design_of(images, how)
    networks = []
    for member in range(how.ensemble):
        network = Network(design, seed + 100 * member)
        if before:
            network.model.set_weights(before[member])
        batches = max(LEAST_BATCHES, math.ceil((1 - STOPPING_SHARE) * len(images) / BATCH))
        epochs = math.ceil((how.more_steps if short else how.steps) / batches)
        last: list[Array] = []

        def keep(_: int, network: Network = network, last: list[Array] = last) -> None:
            last[:] = network.model.get_weights()

        rate = RATE / 2 if short else RATE
        schedule = Schedule(epochs, epochs, BATCH, rate, seed + 100 * member)
        train(network, images, votes, schedule, keep)
        network.model.set_weights(last)
        networks.append(network)
    return networks


def learn_last(
    images: Array,
    votes: Array,
    how: Conditions,
    seed: int,
    before: list[list[Array]],
    unvoted: bool = False,
) -> list[Network]:
    """The last layers alone, on trunks that stay."""
    design = design_of(images, how)
    networks = []
    for member in range(how.ensemble):
        network = Network(design, seed + 100 * member)
        fresh = network.head.get_weights()
        network.model.set_weights(before[member])
        network.head.set_weights(fresh)
        found = network.features(images)
        if unvoted:
            # Nothing has brought these to a scale at which a last layer learns.
            network.standardise(found)
        learn_tail(network, found, votes, seed + 100 * member)
        networks.append(network)
    return networks


def learn_on(
    encoder: Encoder, features: Array, images: Array, votes: Array, how: Conditions, seed: int
) -> list[Network]:
    """A last layer on what an encoder sees."""
    design = replace(design_of(images, how), name="onnx", encoder=encoder.as_dict())
    network = Network(design, seed, encoder)
    network.standardise(features)
    learn_tail(network, features, votes, seed)
    return [network]


def encoded(encoder: Encoder, images: Array, views: int, work: Path) -> Array:
    """What an encoder sees in all images, which takes a minute or two the first time."""
    name = f"{digest_file(encoder.path)[:16]}-{images.shape[1]}-{views}"
    kept = work / f"features-{name}.npy"
    if not kept.exists():
        encoder.check(images.shape[1], images.shape[3])
        with replacing(kept) as scratch, scratch.open("wb") as file:
            np.save(file, seen(encoder.features, images, views))
    found: Array = np.load(kept)
    return found


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


def posterior(networks: Sequence[Network], features: Sequence[Array], n: int) -> Posterior:
    """What the networks say of galaxies that get n votes."""
    pairs = zip(networks, features, strict=True)
    return Posterior.of([Dropped(*network.linear(h, 0, 0), 0.5) for network, h in pairs], n)


def choose(
    choice: str, networks: Sequence[Network], features: Sequence[Array], how: Conditions, seed: int
) -> Array:
    """The best of the galaxies, as a choice has it; random ones are drawn elsewhere."""
    information = posterior(networks, features, how.votes).information(how.votes)
    if choice == "power":
        names = [str(place) for place in range(len(information))]
        return np.argsort(-power_keys(names, information.tolist(), 1.0, seed))[: how.step]
    if choice == "diverse":
        best = np.argsort(-information)[: 10 * how.step]
        side = np.concatenate([h[best] for h in features], axis=1)
        return best[spread(side, information[best], how.step)]
    if choice == "epig":
        return np.argsort(-epig(networks, features, how, seed))[: how.step]
    return np.argsort(-information)[: how.step]


def epig(
    networks: Sequence[Network], features: Sequence[Array], how: Conditions, seed: int
) -> Array:
    """Expected information about the votes of other galaxies: shape (N,), nats.

    Mutual information of a galaxy's votes and another one's, under the same masks, mean over a
    hundred others; votes in steps of four.
    """
    logit_NT = sampled_logits([each.last for each in networks], features, 0, 0, 96, seed)
    votes = np.arange(how.votes + 1)
    chance = np.exp(log_votes(logit_NT.ravel(), how.votes)).reshape(*logit_NT.shape, -1)
    coarse = np.stack(
        [chance[..., votes // 4 == step].sum(axis=-1) for step in range(how.votes // 4 + 1)],
        axis=-1,
    ).astype(np.float32)
    others = np.random.default_rng(seed).permutation(len(coarse))[:100]
    target = coarse[others].transpose(1, 0, 2)
    masks, count, steps = target.shape
    flat = target.reshape(masks, count * steps)
    alone = flat.mean(axis=0).reshape(count, steps)
    out = np.empty(len(coarse))
    for place, own_TS in enumerate(coarse):
        joint = (own_TS.T @ flat / masks).reshape(steps, count, steps)
        apart = own_TS.mean(axis=0)[:, None, None] * alone
        out[place] = np.sum(joint * np.log((joint + 1e-12) / (apart + 1e-12))) / count
    return out


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
    ways: Sequence[str],
    done: dict[Any, dict[str, Any]],
    weights: Path,
    encoders: dict[str, tuple[Encoder, Array]],
) -> Any:
    """All networks of one repeat; yields a line for each, those that were there already too."""
    test, pool = split(number, len(images), how)
    k = draw_votes(rho, how.votes, how.scatter, number)
    n = np.full(len(k), how.votes)
    votes = np.stack([k, n - k, n], axis=1).astype(float)
    for way in ways:
        trunk, _, choice = way.partition("-")
        chosen = pool[: how.start]
        for turn in range(how.rounds + 1):
            line = done.get((number, way, turn))
            if line is None:
                begun = time.perf_counter()
                seed = 1000 * number + turn
                if trunk in encoders:
                    encoder, features = encoders[trunk]
                    some = (features[chosen], images[chosen], votes[chosen])
                    networks, found = learn_on(encoder, *some, how, seed), [features]
                else:
                    place = (trunk, way, number, turn)
                    networks = _networks(*place, images, votes, chosen, how, weights)
                    if trunk in ("scratch", "warm", "tuned") or turn == 0:
                        save(networks, weights / weights_name(*place))
                    found = [network.features(images) for network in networks]
                rest = np.setdiff1d(pool, chosen)
                picked = choose(choice, networks, [h[rest] for h in found], how, seed)
                told = posterior(networks, [h[test] for h in found], how.votes)
                line = {
                    "repeat": number,
                    "way": way,
                    "round": turn,
                    "labels": len(chosen),
                    **judge(told, k[test], n[test]),
                    "best": [int(place) for place in rest[picked]],
                    "seconds": time.perf_counter() - begun,
                }
            picks = pool[len(chosen) : len(chosen) + how.step]
            if choice != "random":
                picks = np.array(line["best"])
            line["picked_featured"] = float(np.mean(rho[picks] > 0.5)) if len(picks) else None
            line["pool_featured"] = float(np.mean(rho[pool] > 0.5))
            done[number, way, turn] = line
            yield line
            chosen = np.concatenate([chosen, picks])


def weights_name(trunk: str, way: str, number: int, turn: int) -> str:
    """The file of weights: the first networks are the same for all that begin from nothing."""
    if turn == 0:
        return f"{number}-{trunk if trunk in ('unvoted', 'tuned') else 'first'}-0.npz"
    return f"{number}-{way}-{turn}.npz"


def _networks(
    trunk: str,
    way: str,
    number: int,
    turn: int,
    images: Array,
    votes: Array,
    chosen: Array,
    how: Conditions,
    weights: Path,
) -> list[Network]:
    """Of one round of a way."""
    seed, some = 1000 * number + turn, (images[chosen], votes[chosen])
    first = weights / weights_name(trunk, way, number, 0)
    if trunk in ("unvoted", "tuned"):
        assert how.unvoted, "--unvoted names the weights that without_votes.py made"
        with np.load(how.unvoted) as kept:
            begun = [[kept[name] for name in sorted(kept)]] * how.ensemble
        if trunk == "unvoted":
            return learn_last(*some, how, seed, begun, unvoted=True)
        return fit(*some, how, seed, begun, short=False)
    if turn == 0 and first.exists():
        networks = [Network(design_of(images[chosen], how), seed) for _ in range(how.ensemble)]
        for network, each in zip(networks, saved(first, how.ensemble), strict=True):
            network.model.set_weights(each)
        return networks
    if turn == 0 or trunk == "scratch":
        return fit(*some, how, seed, None, short=False)
    if trunk == "kept":
        return learn_last(*some, how, seed, saved(first, how.ensemble))
    before = saved(weights / weights_name(trunk, way, number, turn - 1), how.ensemble)
    return fit(*some, how, seed, before, short=True)


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


def saving(rival: Array, ours: Array, labels: Array) -> float:
    """Share of labels that a way saves to reach the error that a rival reaches with all of them.

    Both are means over repeats, made to fall: the best network so far is the one in use.
    """
    falling, own = (np.minimum.accumulate(each.mean(axis=0)) for each in (rival, ours))
    error = falling[-1]
    needed = labels_needed(own, labels, error)
    # Not reached within the budget: no saving shown, whatever more labels would have done.
    return 0.0 if np.isnan(needed) else 1 - needed / labels_needed(falling, labels, error)


def saved_labels(rival: Array, ours: Array, labels: Array, draws: Array) -> list[float]:
    """A saving, and its 90 % interval over draws of the repeats."""
    boot = [saving(rival[draw], ours[draw], labels) for draw in draws]
    return [saving(rival, ours, labels), *map(float, np.quantile(boot, [0.05, 0.95]))]


PAPER = "scratch-random"
METRICS = {
    "rmse": "RMSE",
    "log_likelihood": "likelihood",
    "calibrated_log_likelihood": "calibrated likelihood",
}


def summarise(lines: list[dict[str, Any]], how: Conditions, ways: Sequence[str]) -> dict[str, Any]:
    """Savings against two rivals with bootstrap intervals over repeats, coverage, and the picks."""
    labels = np.array([how.start + turn * how.step for turn in range(how.rounds + 1)])
    at = {(line["repeat"], line["way"], line["round"]): line for line in lines}
    last = how.rounds
    repeats = {way: sorted({r for r, w, t in at if w == way and t == last}) for way in ways}

    def curve(way: str, metric: str, of: Sequence[int]) -> Array:
        sign = 1.0 if metric == "rmse" else -1.0
        turns = range(how.rounds + 1)
        return sign * np.array([[at[each, way, turn][metric] for turn in turns] for each in of])

    rng = np.random.default_rng(0)
    out: dict[str, Any] = {"conditions": asdict(how), "labels": labels.tolist(), "ways": {}}
    for way in ways:
        if not (own := repeats[way]):
            continue
        row: dict[str, Any] = {"repeats": len(own)}
        for metric in METRICS:
            mean = curve(way, metric, own).mean(axis=0)
            row[metric] = (mean if metric == "rmse" else -mean).tolist()
        rivals = {"same": f"{way.partition('-')[0]}-random", "paper": PAPER}
        for name, rival in rivals.items():
            both = sorted(set(own) & set(repeats.get(rival, [])))
            if way == rival or len(both) < 2:
                continue
            for metric in METRICS:
                theirs, ours = curve(rival, metric, both), curve(way, metric, both)
                draws = rng.integers(0, len(both), (2000, len(both)))
                key = f"saving_{name}_{metric}"
                row[key], row[f"{key}_lo"], row[f"{key}_hi"] = saved_labels(
                    theirs, ours, labels, draws
                )
                row[f"{key}_repeats"] = len(both)
        ends = [at[each, way, last] for each in own]
        for level in LEVELS:
            row[f"coverage_{level}"] = float(np.mean([e[f"coverage_{level}"] for e in ends]))
        picks = [at[each, way, turn] for each in own for turn in range(how.rounds)]
        row["picked_featured"] = float(np.mean([line["picked_featured"] for line in picks]))
        row["pool_featured"] = float(np.mean([line["pool_featured"] for line in picks]))
        row["seconds"] = float(np.mean([at[e, way, t]["seconds"] for e in own for t in (1, last)]))
        out["ways"][way] = row
    return out


def show(result: dict[str, Any]) -> None:
    """The table."""
    labels = result["labels"]
    print("RMSE and log-likelihood by number of labels")
    print(f"{'way':>16}{'repeats':>9}" + "".join(f"{each:>15}" for each in labels) + "  s a round")
    for way, row in result["ways"].items():
        pairs = zip(row["rmse"], row["log_likelihood"], strict=True)
        numbers = "".join(f"{rmse:8.4f}{likely:7.2f}" for rmse, likely in pairs)
        print(f"{way:>16}{row['repeats']:>9}{numbers}{row['seconds']:11.1f}")
    print(f"labels saved against random choice: with the same trunk; by {PAPER}, as in the paper")
    for way, row in result["ways"].items():
        told = []
        for name in ("same", "paper"):
            for metric, short in METRICS.items():
                if (key := f"saving_{name}_{metric}") in row:
                    ends = f"{row[key + '_lo']:.0%} to {row[key + '_hi']:.0%}"
                    told.append(f"{name} {short} {row[key]:.0%} ({ends})")
        if told:
            print(f"{way:>16}  {'; '.join(told)}")
        covered = " / ".join(f"{row[f'coverage_{level}']:.2f}" for level in LEVELS)
        picked = f"{row['picked_featured']:.0%} of picks featured"
        print(f"{'':>16}  coverage {covered}; {picked}, of the pool {row['pool_featured']:.0%}")


def draw(result: dict[str, Any], path: Path) -> None:
    """The figure."""
    figure = Figure(figsize=(11.4, 3.8), layout="constrained")
    names = ("RMSE of the vote fraction", "log-likelihood, calibrated (nats a galaxy)")
    drawn = ("rmse", "calibrated_log_likelihood")
    for axis, metric, name in zip(figure.subplots(1, 2), drawn, names, strict=True):
        for way, row in result["ways"].items():
            style = "--" if way.endswith("random") else "-"
            axis.plot(result["labels"], row[metric], style, marker="o", markersize=3, label=way)
        axis.set_xlabel("labelled galaxies")
        axis.set_title(name, fontsize=10)
        axis.grid(alpha=0.25)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right upper", frameon=False)
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
    parser.add_argument("--unvoted", default="", help="weights that without_votes.py made")
    parser.add_argument("--encoder", nargs="*", default=[], metavar="NAME=FILE")
    parser.add_argument("--views", type=int, default=4, help="from how many sides encoders see")
    parser.add_argument("--ways", nargs="+", default=["warm-random", "warm-bald"])
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
    encoders = {}
    for name, _, path in (each.partition("=") for each in given.encoder):
        encoder = Encoder(Path(path), "nchw", (0.0,), (1.0,))
        encoders[name] = (encoder, encoded(encoder, images, given.views, given.work))
    kept = given.work / "runs.jsonl"
    weights = weights_of(given.work, how)
    lines = [json.loads(text) for text in kept.read_text().splitlines()] if kept.exists() else []
    mine = [line for line in lines if line["conditions"] == asdict(how)]
    done = {(line["repeat"], line["way"], line["round"]): line for line in mine}
    known = set(done)
    with kept.open("a") as file:
        for number in range(given.repeats) if given.only is None else [given.only]:
            for line in repeat(number, images, rho, how, given.ways, done, weights, encoders):
                if (line["repeat"], line["way"], line["round"]) not in known:
                    print(json.dumps({**line, "conditions": asdict(how)}), file=file, flush=True)
                    print(
                        f"repeat {number} {line['way']:14} {line['labels']:5d} labels: RMSE "
                        f"{line['rmse']:.4f}, log-likelihood {line['log_likelihood']:.3f}, "
                        f"{line['seconds']:.0f} s",
                        flush=True,
                    )
    if given.only is not None:
        return
    lines = [line for line in done.values() if line["repeat"] < given.repeats]
    result = summarise(lines, how, given.ways)
    show(result)
    draw(result, given.work / "active_learning.png")
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
