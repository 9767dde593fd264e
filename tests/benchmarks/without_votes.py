"""Does a trunk that learns from cutouts without votes help? On real galaxies.

SimCLR: two views of each of many galaxies, turned, zoomed, brighter or darker, with noise; the
trunk learns to tell which two belong together. No vote is used. Then, for some numbers of labels:

frozen
    the last layer alone is learned, on the trunk as SimCLR left it;
tuned
    the whole network is trained from there;
scratch
    the whole network is trained from nothing.

    python tests/benchmarks/without_votes.py --weights unvoted.npz --json without_votes.json

The weights can be given to ``active_learning.py --unvoted``. The data are those of that benchmark.

References
----------
Chen et al. 2020, arXiv:2002.05709 (SimCLR). Hayat et al. 2021, ApJL 911, L33 (the same for SDSS
galaxies, a hundred times as many).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))

from active_learning import DATA, Conditions, design_of, draw_votes, fit, judge, load, posterior

from zoo_bridge.model.backend import keras, ops
from zoo_bridge.model.network import Network
from zoo_bridge.model.tail import learn_tail

Array = NDArray[Any]
BATCH, TEMPERATURE, WIDTH = 256, 0.2, 64
ZOOM, CONTRAST, LIGHT, NOISE, SHIFT = (0.75, 1.5), (0.7, 1.4), 0.1, 0.05, 0.08


def view(images: Array, rng: np.random.Generator) -> Array:
    """Another view of each galaxy, of which volunteers would say the same."""
    count, side = len(images), images.shape[1]
    angle, flip = rng.uniform(0, 2 * np.pi, count), rng.choice([-1.0, 1.0], count)
    zoom = np.exp(rng.uniform(*np.log(ZOOM), count))
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    middle = (side - 1) / 2
    x, y = rng.uniform(-SHIFT, SHIFT, (2, count)) * side + middle
    a, b, c, d = cos * flip, -sin, sin * flip, cos
    none = np.zeros(count)
    transform = np.stack(
        [a, b, x - (a + b) * middle, c, d, y - (c + d) * middle, none, none], axis=1
    ).astype(np.float32)
    seen = ops.convert_to_numpy(
        ops.image.affine_transform(images, transform, interpolation="bilinear", fill_mode="reflect")
    )
    mean = seen.mean(axis=(1, 2, 3), keepdims=True)
    each = (count, 1, 1, 1)
    seen = (seen - mean) * rng.uniform(*CONTRAST, each) + mean + rng.uniform(-LIGHT, LIGHT, each)
    seen = seen + rng.normal(size=seen.shape) * rng.uniform(0, NOISE, each)
    return np.asarray(seen, np.float32)


def learn(network: Network, images: Array, epochs: int, seed: int) -> None:
    """SimCLR, in place."""
    import tensorflow

    trunk = network.trunk
    project = keras.Sequential(
        [
            keras.Input((network.width,)),
            keras.layers.Dense(2 * WIDTH, activation="relu"),
            keras.layers.Dense(WIDTH),
        ]
    )
    steps = len(images) // BATCH
    rate = keras.optimizers.schedules.CosineDecay(1e-3, epochs * steps)
    optimizer = keras.optimizers.Adam(rate)
    variables = [*trunk.trainable_variables, *project.trainable_variables]
    optimizer.build(variables)
    partner = np.concatenate([np.arange(BATCH) + BATCH, np.arange(BATCH)])

    @tensorflow.function
    def step(views: Any) -> Any:
        with tensorflow.GradientTape() as tape:
            z = project(trunk(views, training=True), training=True)
            z = z / ops.norm(z, axis=1, keepdims=True)
            alike = z @ ops.transpose(z) / TEMPERATURE - 1e9 * ops.eye(2 * BATCH)
            loss = ops.mean(ops.sparse_categorical_crossentropy(partner, alike, from_logits=True))
        gradients = tape.gradient(loss, variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return loss

    rng, began = np.random.default_rng(seed), time.perf_counter()
    for epoch in range(epochs):
        order = rng.permutation(len(images))[: steps * BATCH].reshape(steps, BATCH)
        both = (np.concatenate([view(images[at], rng), view(images[at], rng)]) for at in order)
        losses = [float(step(ops.convert_to_tensor(views))) for views in both]
        if (epoch + 1) % 20 == 0:
            seconds = time.perf_counter() - began
            print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}, {seconds:.0f} s", flush=True)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--work", type=Path, default=Path("active_learning"))
    parser.add_argument("--weights", type=Path, default=Path("unvoted.npz"))
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--network", default="small")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--labels", type=int, nargs="+", default=[96, 256, 736])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ways", nargs="+", default=["frozen", "tuned", "scratch"])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    how = Conditions(
        *("featured", given.network, given.size, 0.5, 40, 0.0, 96, 0, 0, given.steps, 0, 1, 800)
    )
    given.work.mkdir(parents=True, exist_ok=True)
    images, rho = load(given.data, how, given.work)
    if not given.weights.exists():
        network = Network(design_of(images, how), 0)
        learn(network, images, given.epochs, 0)
        with given.weights.open("wb") as file:
            arrays = {f"{n:03d}": w for n, w in enumerate(network.model.get_weights())}
            np.savez(file, allow_pickle=False, **arrays)
    with np.load(given.weights) as kept:
        unvoted = [kept[name] for name in sorted(kept)]
    rows = []
    print(f"{'labels':>8}{'way':>10}{'RMSE':>9}{'log-likelihood':>16}")
    for labels in given.labels:
        for way in given.ways:
            found = []
            for number in range(given.repeats):
                order = np.random.default_rng([number, 1]).permutation(len(images))
                test, chosen = order[: how.test], order[how.test : how.test + labels]
                k = draw_votes(rho, how.votes, how.scatter, number)
                n = np.full(len(k), how.votes)
                votes = np.stack([k, n - k, n], axis=1).astype(float)
                if way == "frozen":
                    network = Network(design_of(images[order[how.test :]], how), number)
                    fresh = network.head.get_weights()
                    network.model.set_weights(unvoted)
                    network.head.set_weights(fresh)
                    network.standardise(network.features(images))
                    learn_tail(network, network.features(images[chosen]), votes[chosen], number)
                    networks = [network]
                else:
                    begun = [unvoted] if way == "tuned" else None
                    networks = fit(images[chosen], votes[chosen], how, number, begun, False)
                seen = [each.features(images[test]) for each in networks]
                found.append(judge(posterior(networks, seen, how.votes), k[test], n[test]))
            row = {key: float(np.mean([each[key] for each in found])) for key in found[0]}
            rows.append({"labels": labels, "way": way, "repeats": given.repeats, **row})
            print(
                f"{labels:8d}{way:>10}{row['rmse']:9.4f}{row['log_likelihood']:16.2f}", flush=True
            )
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
