"""Training: Adam on the binomial likelihood, stopped early on galaxies kept aside for that.

The learning rate falls along a cosine to zero over the epochs, so that the weights settle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from zoo_bridge.model.augment import Augmented
from zoo_bridge.model.likelihood import binomial_loss
from zoo_bridge.model.network import Network

Array = NDArray[np.floating[Any]]
STOPPING_SHARE = 0.12


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train."""

    epochs: int
    patience: int
    batch_size: int
    learning_rate: float
    seed: int


def train(
    network: Network,
    images: Array,
    k_and_n: Array,
    schedule: Schedule,
    on_epoch: Callable[[int], None] = lambda steps: None,
) -> dict[str, Any]:
    """Train a network in place; its best weights are kept.

    Parameters
    ----------
    network : Network
        What is trained.
    images : ndarray, shape (N, size, size, channels)
        Training images, 0 to 1.
    k_and_n : ndarray, shape (N, 2 Q)
        Their votes.
    schedule : Schedule
        How.
    on_epoch : callable
        Called with 1 after each epoch.

    Returns
    -------
    dict
        epochs run, best epoch, and the losses (nats a galaxy) that training ended with.
    """
    rng = np.random.default_rng([schedule.seed, 1])
    order = rng.permutation(len(images))
    aside = max(1, round(STOPPING_SHARE * len(images)))
    stop, learn = order[:aside], order[aside:]
    data = Augmented(
        images[learn], k_and_n[learn].astype(np.float32), schedule.batch_size, schedule.seed
    )
    rate = keras.optimizers.schedules.CosineDecay(
        schedule.learning_rate, schedule.epochs * len(data)
    )
    optimizer = keras.optimizers.Adam(rate)
    network.model.compile(optimizer=optimizer, loss=binomial_loss, jit_compile=False)
    stopping = keras.callbacks.EarlyStopping(
        monitor="val_loss", patience=schedule.patience, restore_best_weights=True
    )
    ticking = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: on_epoch(1))
    history = network.model.fit(
        data,
        validation_data=(images[stop], k_and_n[stop].astype(np.float32)),
        epochs=schedule.epochs,
        callbacks=[stopping, ticking],
        verbose=0,
    ).history
    best = int(np.argmin(history["val_loss"]))
    return {
        "epochs": len(history["loss"]),
        "best_epoch": best + 1,
        "loss": float(history["loss"][best]),
        "stopping_loss": float(history["val_loss"][best]),
    }
