"""Training: Adam on the votes' likelihood, stopped early on galaxies kept aside for that.

The learning rate falls along a cosine to zero over the epochs, so that the weights settle. After
each epoch all that goes on from there is written to one file, so that a training that is killed
goes on at the next epoch and ends as it would have ended.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo_bridge.acquisition.diversity import uniform_of
from zoo_bridge.errors import InputError
from zoo_bridge.files import replacing
from zoo_bridge.model.augment import Augmented
from zoo_bridge.model.backend import keras
from zoo_bridge.model.likelihood import votes_loss
from zoo_bridge.model.network import Network

Array = NDArray[np.floating[Any]]
STOPPING_SHARE = 0.12


def set_aside(count: int, seed: int, names: Sequence[str] | None = None) -> NDArray[np.bool_]:
    """Which galaxies say when to stop, and are not learned from.

    Parameters
    ----------
    count : int
        How many galaxies there are.
    seed : int
        Of the choice.
    names : sequence of str, optional
        Their object ids: each galaxy's place is its own then, whichever others there are. A
        training that goes on from another one's weights, or on its trunk, is not stopped by
        galaxies that those have learned. Without names they are drawn.

    Returns
    -------
    ndarray of bool, shape (count,)
        About `STOPPING_SHARE` of them, and one at least.
    """
    if names is None:
        place = np.random.default_rng([seed, 1]).permutation(count).argsort()
        return place < max(1, round(STOPPING_SHARE * count))
    uniform_N = np.array([uniform_of(name, seed, "stopping") for name in names])
    return uniform_N <= max(STOPPING_SHARE, uniform_N.min())


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train."""

    epochs: int
    patience: int
    batch_size: int
    learning_rate: float
    seed: int


@dataclass(frozen=True)
class Checkpoint:
    """Where a training's state is kept, and what makes it that training: data and settings."""

    path: Path
    identity: str


@dataclass
class State:
    """What goes on from epoch to epoch, beside the weights."""

    epoch: int = 0
    best: float = np.inf
    best_epoch: int = 0
    loss: list[float] = field(default_factory=list)
    stopping_loss: list[float] = field(default_factory=list)

    def told(self, resumed: int = 0) -> dict[str, Any]:
        """What is known of the training when it has ended; see `train`."""
        best = max(self.best_epoch, 1) - 1
        return {
            "epochs": self.epoch,
            "best_epoch": self.best_epoch,
            "loss": self.loss[best],
            "stopping_loss": self.stopping_loss[best] if self.stopping_loss else None,
            "resumed_from": resumed,
            "history": {"loss": self.loss, "stopping_loss": self.stopping_loss},
        }


class Watch(keras.callbacks.Callback):
    """Keeps the best weights, stops early, and writes the state after each epoch.

    With a patience of None there are no galaxies that say when to stop: the last weights are kept.
    """

    def __init__(
        self,
        state: State,
        best_weights: list[Array],
        patience: int | None,
        checkpoint: Checkpoint | None,
        on_epoch: Callable[[int], None],
        hint: str = "Lower model.learning_rate; 0.001 suits most. The model in use stays.",
    ) -> None:
        super().__init__()
        self.hint = hint
        self.state = state
        self.best_weights = best_weights
        self.patience = patience
        self.checkpoint = checkpoint
        self.on_epoch = on_epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Stop where the loss is no number: no step after it leads anywhere."""
        self._require_number((logs or {}).get("loss", 0.0), f"batch {batch + 1} of ")

    def _require_number(self, loss: float, where: str = "") -> None:
        if not np.isfinite(loss):
            rate = float(self.model.optimizer.learning_rate)
            raise InputError(
                f"The training's loss is no number at {where}epoch {self.state.epoch + 1}: the "
                f"network learns nothing from there on (learning rate {rate:.3g}).",
                self.hint,
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """See the class."""
        state, logs = self.state, logs or {}
        for name in ("loss",) if self.patience is None else ("loss", "val_loss"):
            self._require_number(float(logs[name]))
        state.epoch = epoch + 1
        state.loss.append(float(logs["loss"]))
        newest = -float(state.epoch)  # the last one is the best, if nothing says when to stop
        if self.patience is not None:
            newest = float(logs["val_loss"])
            state.stopping_loss.append(newest)
        if newest < state.best:
            state.best, state.best_epoch = newest, state.epoch
            self.best_weights[:] = self.model.get_weights()
        if self.checkpoint:
            _write(self.checkpoint, self.model, state, self.best_weights)
        self.on_epoch(1)
        if self.patience is not None and _is_over(state, self.patience):
            self.model.stop_training = True


def train(
    network: Network,
    images: Array,
    votes: Array,
    schedule: Schedule,
    on_epoch: Callable[[int], None] = lambda steps: None,
    checkpoint: Checkpoint | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Train a network in place; its best weights are kept.

    Parameters
    ----------
    network : Network
        What is trained.
    images : ndarray, shape (N, size, size, channels)
        Training images, 0 to 1.
    votes : ndarray, shape (N, V)
        Their votes; see `model.heads`.
    schedule : Schedule
        Epochs, patience, batch size, learning rate and seed.
    on_epoch : callable
        Called with the number of epochs just done: 1, or those done before a resumed training.
    checkpoint : Checkpoint, optional
        Where to keep the state after each epoch, and to go on from if it is of this training.
    names : sequence of str, optional
        Object ids: see `set_aside`.

    Returns
    -------
    dict
        epochs run, best epoch, the losses (nats a galaxy) of the best epoch, the history of both,
        and the epoch that it was resumed from (0: from the start).

    Raises
    ------
    InputError
        At the first loss that is no number, or if images hold pixels that are none.
    """
    if not np.isfinite(images).all():
        raise InputError(
            "Some of the training images hold pixels that are no numbers.",
            "Check [cutouts] and the files: zoo-bridge check --pictures FOLDER.",
        )
    stop = set_aside(len(images), schedule.seed, names)
    learn = ~stop
    data = Augmented(
        images[learn], votes[learn].astype(np.float32), schedule.batch_size, schedule.seed
    )
    rate = keras.optimizers.schedules.CosineDecay(
        schedule.learning_rate, schedule.epochs * len(data)
    )
    model, design = network.model, network.design
    loss = votes_loss(design.heads, design.likelihood, max(2, int(votes.max(initial=0))))
    model.compile(optimizer=keras.optimizers.Adam(rate), loss=loss, jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    state, best_weights = State(), model.get_weights()
    if checkpoint:
        state, best_weights = _read(checkpoint, model) or (state, best_weights)
    resumed = state.epoch
    if resumed:
        on_epoch(resumed)
        data = Augmented(data.images, data.votes, schedule.batch_size, schedule.seed, resumed)
    if resumed < schedule.epochs and not _is_over(state, schedule.patience):
        model.fit(
            data,
            validation_data=(images[stop], votes[stop].astype(np.float32)),
            epochs=schedule.epochs,
            initial_epoch=resumed,
            callbacks=[Watch(state, best_weights, schedule.patience, checkpoint, on_epoch)],
            shuffle=False,  # done already, in an order that does not depend on where it began
            verbose=0,
        )
    model.set_weights(best_weights)
    return state.told(resumed)


def _is_over(state: State, patience: int) -> bool:
    return state.epoch - state.best_epoch >= patience


def _write(
    checkpoint: Checkpoint, model: keras.Model, state: State, best_weights: list[Array]
) -> None:
    variables = [*model.variables, *model.optimizer.variables]
    arrays = {f"now_{i}": keras.ops.convert_to_numpy(v) for i, v in enumerate(variables)}
    arrays |= {f"best_{place}": value for place, value in enumerate(best_weights)}
    facts = json.dumps({"identity": checkpoint.identity, **vars(state)})
    checkpoint.path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(checkpoint.path) as scratch, scratch.open("wb") as file:
        np.savez(file, allow_pickle=False, facts=np.array(facts), **arrays)


def _read(checkpoint: Checkpoint, model: keras.Model) -> tuple[State, list[Array]] | None:
    """The state of this training, if there is one that fits; the model's variables are set."""
    variables = [*model.variables, *model.optimizer.variables]
    try:
        with np.load(checkpoint.path, allow_pickle=False) as kept:
            facts = json.loads(str(kept["facts"]))
            if facts.pop("identity") != checkpoint.identity:
                return None
            now = [kept[f"now_{place}"] for place in range(len(variables))]
            best = [kept[f"best_{place}"] for place in range(len(model.weights))]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        # None yet, or not whole: training begins anew, which costs time and nothing else.
        return None
    if any(tuple(v.shape) != a.shape for v, a in zip(variables, now, strict=True)):
        return None
    for variable, value in zip(variables, now, strict=True):
        variable.assign(value)
    return State(**facts), best
