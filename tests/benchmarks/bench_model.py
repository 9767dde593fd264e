"""How fast the paper's network trains and scores, and how well the cheap posterior ranks.

All on the network of Walmsley et al. 2020 at 128 pixels, in turn in one run, medians:

deterministic
    One pass of the whole network through Keras, without dropout.
posterior
    The trunk once, then the full posterior of k of 40 and BALD: analytic over dropout masks, and
    for questions of 3, 5 and 8 answers by balanced masks, every answer's.
naive
    The usual way: T = 20 passes of the whole network with dropout on, in Keras, and the mutual
    information of the 20 samples, vectorised.
runtimes
    The same posterior on a trunk run by OpenVINO or ONNX Runtime, where installed.
training
    Our training loop, augmentation and all, against a plain PyTorch loop with the same network, the
    same loss and no augmentation, where PyTorch is installed.
memory
    The same in processes of their own: as Keras and PyTorch come, with glibc's thresholds raised
    (which the model room does by itself), and with huge pages as well (which ``run retrain``,
    ``run score`` and children of ``serve`` have). The goals are held against Keras and PyTorch as
    they come. "kept" is what a process took of memory at most.
top 5 %
    Overlap of the ranking of 1,000 galaxies with 20,000 networks of drawn masks, for a network
    trained for a moment on invented galaxies, and for heads with heavy-tailed weights.

Run by hand, on a machine that does nothing else; six minutes on a slow one. More galaxies and
rounds (``--images 384 --rounds 5``) say it more surely::

    python tests/benchmarks/bench_model.py --json bench_model.json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo_bridge import memory

if "as it comes" in sys.argv:
    # Before the model room's door, where this is done.
    memory.keep_freed = lambda: False

from zoo_bridge.acquisition import masks
from zoo_bridge.acquisition.grid import Grid, lay_samples
from zoo_bridge.acquisition.information import log_votes
from zoo_bridge.acquisition.posterior import Part, Posterior
from zoo_bridge.model import design, runtime
from zoo_bridge.model.agreement import overlap
from zoo_bridge.model.heads import Head
from zoo_bridge.model.network import Design, Network
from zoo_bridge.model.predict import ANALYTIC, posteriors_of
from zoo_bridge.model.train import STOPPING_SHARE, Schedule, train

Array = NDArray[Any]
VOTES, PASSES, TRUTH = 40, 20, 20_000
RANKED = 1000
# Epochs of the network whose ranking is judged.
LEARNED = 6
# Galaxies in a step of training, and of the naive way.
TRAINED = 32
# Steps in an epoch, at least: the product has more, which takes longer and is as fast.
design.LEAST_BATCHES = 4
WORKS = ("deterministic pass", "posterior and BALD", "training")
MODES = ("as it comes", "kept", "kept, huge pages")
NAIVE = f"naive, {PASSES} passes"
ANSWERS = (3, 5, 8)


def galaxies(count: int, size: int) -> tuple[Array, Array]:
    """Invented discs: how elongated they are decides how volunteers vote."""
    rng = np.random.default_rng(0)
    y, x = (np.mgrid[:size, :size] - (size - 1) / 2) / size
    images = np.empty((count, size, size, 1), np.float32)
    shape = rng.uniform(0, 1, count)
    for place, long in enumerate(shape):
        angle, scale = rng.uniform(0, np.pi), rng.uniform(0.06, 0.15)
        u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        radius = np.hypot(u, v / (1 - 0.75 * long)) / scale
        images[place, ..., 0] = np.exp(-radius) + rng.normal(0, 0.05, (size, size))
    k = rng.binomial(VOTES, 0.05 + 0.9 * shape)
    return images, np.stack([k, VOTES - k, np.full(count, VOTES)], axis=1)


def make(size: int, images: Array, answers: int = 2) -> Network:
    """The paper's network."""
    names = ("yes", "no") if answers == 2 else tuple(f"answer {each}" for each in range(answers))
    head = Head("long", names, names[0])
    mean, spread = float(images.mean()), float(images.std())
    drawn = Design("walmsley2020", size, 1, (head,), pixel_mean=mean, pixel_spread=spread)
    return Network(drawn, 0)


def said(network: Network, features: Array) -> Array:
    """The posterior of k, its mean and BALD of every answer; the BALD of the first."""
    told = posteriors_of([network], [features], 0, ANALYTIC, VOTES)
    every = [(posterior.both(VOTES), posterior.mean) for posterior in told.values()]
    information: Array = every[0][0][1]
    return information


def naive(dropping: Callable[[Array], Any], images: Array, batch: int) -> Array:
    """T passes of the whole network with dropout on, then the information of the samples."""
    logits = np.empty((len(images), PASSES))
    for start in range(0, len(images), batch):
        for turn in range(PASSES):
            part = slice(start, start + batch)
            logits[part, turn] = np.asarray(dropping(images[part]))[:, 0]
    log_p = log_votes(logits, VOTES)
    p = np.exp(log_p)
    whole = p.mean(axis=1)
    information: Array = (p * log_p).sum(axis=2).mean(axis=1) - (whole * np.log(whole)).sum(axis=1)
    return information


def scoring(network: Network, images: Array, rounds: int, batch: int) -> dict[str, float]:
    """Images a second of every way to score, medians over rounds in turn."""
    ways: dict[str, Callable[[], Any]] = {
        "deterministic": lambda: [
            network.model.predict_on_batch(images[at : at + batch])
            for at in range(0, len(images), batch)
        ],
        "posterior": lambda: said(network, network.features(images, batch)),
    }
    for answers in ANSWERS:
        more = make(images.shape[1], images, answers)
        ways[f"posterior, {answers} answers"] = lambda more=more: said(
            more, more.features(images, batch)
        )
    with tempfile.TemporaryDirectory() as name:
        for engine in ("openvino", "onnxruntime"):
            wanted = [engine, *(["tf2onnx"] if engine == "onnxruntime" else [])]
            if all(importlib.util.find_spec(module) for module in wanted):
                runtime.export(network, engine, Path(name), 0)
                trunk = runtime.open_trunk(network, engine, Path(name), 0)
                ways[engine] = lambda trunk=trunk: said(network, trunk(images))
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(rounds + 1):
            for way, work in ways.items():
                begun = time.perf_counter()
                work()
                if turn:  # the first time is for compiling
                    seconds[way].append(time.perf_counter() - begun)
    rates = {way: len(images) / statistics.median(times) for way, times in seconds.items()}
    rates[NAIVE] = naive_rate(network, images, TRAINED)
    for answers in (2, *ANSWERS):
        one = network if answers == 2 else make(images.shape[1], images, answers)
        features = one.features(images, batch)
        alone = []
        for _ in range(rounds):
            begun = time.perf_counter()
            said(one, features)
            alone.append(time.perf_counter() - begun)
        name = f"posterior alone, {answers} answers"
        rates[name] = len(images) / statistics.median(alone)
    return rates


def naive_rate(network: Network, images: Array, batch: int) -> float:
    """Images a second of the naive way."""
    import tensorflow

    # Compiled, as our own trunk is: the comparison is of the ways, not of eager execution.
    dropping = tensorflow.function(lambda x: network.model(x, training=True))
    naive(dropping, images[:batch], batch)
    begun = time.perf_counter()
    naive(dropping, images[:batch], batch)
    return batch / (time.perf_counter() - begun)


def training(size: int, images: Array, votes: Array, batch: int, epochs: int) -> float:
    """Images a second of our training, the first epoch (compiling) left out."""
    network = make(size, images)
    ends: list[float] = []
    schedule = Schedule(epochs + 1, epochs + 1, batch, 1e-3, 0)
    train(network, images, votes, schedule, lambda steps: ends.append(time.perf_counter()))
    learned = len(images) - round(STOPPING_SHARE * len(images))
    batches = max(design.LEAST_BATCHES, -(-learned // batch))
    return batches * batch * epochs / (ends[-1] - ends[0])


def torch_training(size: int, images: Array, votes: Array, batch: int, epochs: int) -> float | None:
    """Images a second of a plain PyTorch loop: same layers, loss and optimiser."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch
    from torch import nn

    layers: list[Any] = []
    channels = 1
    for group in ((32, 32), (64, 64), (128,), (128,)):
        for filters in group:
            layers += [nn.Conv2d(channels, filters, 3, padding=1), nn.ReLU()]
            channels = filters
        layers.append(nn.MaxPool2d(2))
    width = 128 * (size // 16) ** 2
    layers += [nn.Flatten(), nn.Linear(width, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 1)]
    network = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    x = x.to(memory_format=torch.channels_last)
    k, n = (torch.from_numpy(votes[:, place].astype("float32")) for place in (0, 2))
    rates = []
    for epoch in range(epochs + 1):
        order = torch.randperm(len(images))
        begun = time.perf_counter()
        for start in range(0, len(images), batch):
            at = order[start : start + batch]
            optimizer.zero_grad()
            z = network(x[at])[:, 0]
            (n[at] * nn.functional.softplus(z) - k[at] * z).mean().backward()
            optimizer.step()
        if epoch:
            rates.append(len(images) / (time.perf_counter() - begun))
    return statistics.median(rates)


def agreement(network: Network, images: Array) -> dict[str, float]:
    """Overlap of the top 5 % with 20,000 drawn networks: as trained, and heavy-tailed."""
    features = network.features(images)
    found = {"trained": _agreement(network, features)}
    rng = np.random.default_rng(4)
    scale = np.abs(network.head.get_weights()[0]).mean()
    for answers in (2, *ANSWERS):
        one = make(images.shape[1], images, answers)
        weight, bias = one.head.get_weights()
        heavy = rng.standard_t(1.1, weight.shape).astype("float32") * scale
        one.head.set_weights([heavy, bias])
        found[f"heavy-tailed, {answers} answers"] = _agreement(one, features)
    return found


def _agreement(network: Network, features: Array) -> float:
    ours = said(network, features)
    mask_TD = masks.drawn(TRUTH, network.width, network.design.dropout, 9)
    grid, parts = Grid(VOTES), []
    for start in range(0, len(features), 50):
        some = features[start : start + 50]
        mass = lay_samples(grid, network.sample(some, 0, 0, mask_TD).T)
        one = [Part(np.arange(len(some)), grid, mass)]
        parts.append(Posterior(one, np.zeros(len(some))).information(VOTES))
    return overlap(ours, np.concatenate(parts))


def child(what: str, given: argparse.Namespace) -> dict[str, float]:
    """One measurement, in this process: images a second, and what memory cost."""
    images, votes = galaxies(given.images, given.size)
    if what == "PyTorch training":
        rate = torch_training(given.size, images, votes, TRAINED, given.epochs) or 0.0
    elif what == "training":
        rate = training(given.size, images, votes, TRAINED, given.epochs)
    else:
        network = make(given.size, images)
        ways: dict[str, Callable[[], Any]] = {
            "deterministic pass": lambda: [
                network.model.predict_on_batch(images[at : at + given.batch])
                for at in range(0, len(images), given.batch)
            ],
            "posterior and BALD": lambda: said(network, network.features(images, given.batch)),
        }
        seconds = []
        for _ in range(given.rounds + 1):
            begun = time.perf_counter()
            ways[what]()
            seconds.append(time.perf_counter() - begun)
        rate = len(images) / statistics.median(seconds[1:])
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "rate": rate,
        "mib": used.ru_maxrss / 1024,
        "system_seconds": used.ru_stime,
        "million_faults": used.ru_minflt / 1e6,
    }


def in_a_child(what: str, mode: str, given: argparse.Namespace) -> dict[str, float]:
    """The same in a process of its own, that has its memory in some way."""
    environ = {name: value for name, value in os.environ.items() if name != memory.VARIABLE}
    if mode == MODES[2]:
        environ = memory.with_huge_pages(environ)
    words = [sys.executable, __file__, "--child", what, "--mode", mode]
    for name in ("size", "images", "batch", "rounds", "epochs"):
        words += [f"--{name}", str(getattr(given, name))]
    ended = subprocess.run(words, env=environ, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return found


def memory_rows(given: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Every measurement in every way to have memory, shown as it comes; PyTorch as it comes."""
    works = [(what, mode) for what in WORKS for mode in MODES]
    if importlib.util.find_spec("torch"):
        works.append(("PyTorch training", MODES[0]))
    print(
        f"{'way, memory':<42}{'images/s':>9}{'ratio':>7}{'MiB':>7}{'system s':>10}{'M faults':>10}"
    )
    rows = {}
    for what, mode in works:
        row = rows[f"{what}, {mode}"] = in_a_child(what, mode, given)
        plain = rows[f"{what}, {MODES[0]}"]["rate"]
        print(
            f"{f'{what}, {mode}':<42}{row['rate']:9.1f}{row['rate'] / plain:7.2f}"
            f"{row['mib']:7.0f}{row['system_seconds']:10.1f}{row['million_faults']:10.2f}",
            flush=True,
        )
    return rows


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--mode", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(child(given.child, given)))
        return
    rows = memory_rows(given)
    images, votes = galaxies(given.images, given.size)
    network = make(given.size, images)
    train(network, images, votes, Schedule(LEARNED, LEARNED, TRAINED, 1e-3, 0))
    rates = scoring(network, images, given.rounds, given.batch)
    top = agreement(network, galaxies(RANKED, given.size)[0])
    base, own = rates["deterministic"], rates["posterior"]
    print(f"{'way':<24}{'images/s':>10}{'to deterministic':>18}")
    for way, rate in rates.items():
        print(f"{way:<24}{rate:10.1f}{rate / base:18.2f}")
    engines = [rates[engine] / base for engine in ("openvino", "onnxruntime") if engine in rates]
    best, plain = MODES[2], MODES[0]
    torch = rows.get(f"PyTorch training, {plain}")
    ours = rows[f"training, {best}"]["rate"]
    keras = rows[f"deterministic pass, {plain}"]["rate"]
    result = {
        "posterior_over_deterministic": rows[f"posterior and BALD, {best}"]["rate"] / keras,
        "posterior_over_naive_t20": own / rates[NAIVE],
        "runtime_over_deterministic": max(engines, default=None),
        "training_over_torch": ours / torch["rate"] if torch else None,
        "training_over_training_as_it_comes": ours / rows[f"training, {plain}"]["rate"],
        "top5_overlap": min(top.values()),
    }
    for name, value in {**result, **{f"top 5 %, {kind}": v for kind, v in top.items()}}.items():
        print(f"{name:<36}{'not installed' if value is None else format(value, '.3f')}")
    if given.json:
        given.json.write_text(
            json.dumps({**result, "rates": rates, "memory": rows, "top": top}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
