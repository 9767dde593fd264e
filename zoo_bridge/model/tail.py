"""Learning a last layer alone, on features that are there: in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo_bridge.model.backend import keras
from zoo_bridge.model.likelihood import votes_loss
from zoo_bridge.model.network import Network
from zoo_bridge.model.train import State, Watch, set_aside

Array = NDArray[np.floating[Any]]
BATCH, RATE = 128, 1e-2
# With more features than these each weight moves less: a step moves a logit by the sum over all.
WIDTH = 128
# An epoch has at least so many steps of Adam, in which few galaxies are seen several times.
LEAST_STEPS = 40
EPOCHS, PATIENCE = 50, 12
# On an encoder, to the end.
TO_THE_END = 20


def learn_tail(
    network: Network,
    features_ND: Array,
    votes_NV: Array,
    seed: int,
    names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Learn what comes after a network's features, from nothing; the trunk stays.

    By the likelihood of the votes under dropout, as a whole training does; the loss has one minimum
    but for its noise, so neither the start nor the order of the rounds matters. An encoder has seen
    no votes, so dropout is enough against overfitting: all galaxies are learned from, to the end.
    With galaxies that say when to stop it was stopped too early, as chance had it. A trunk that
    stays knows the galaxies that it learned; there they say it, as they did in its own training.

    Parameters
    ----------
    network : Network
        Its last layer is overwritten.
    features_ND : ndarray, shape (N, D)
        What its trunk sees in the galaxies that are learned from.
    votes_NV : ndarray, shape (N, V)
        Their votes; see `model.heads`.
    seed : int
        Of dropout, of the order, and of the galaxies that say when to stop.
    names : sequence of str, optional
        Object ids: see `train.set_aside`.

    Returns
    -------
    dict
        As `train` tells it: epochs, best epoch, losses in nats a galaxy.
    """
    keras.utils.set_random_seed(seed)
    seen_ND = network.last.seen(features_ND).astype(np.float32)
    stop = np.zeros(len(seen_ND), bool)
    epochs, patience, judged = TO_THE_END, None, None
    votes = votes_NV.astype(np.float32)
    if network.encoder is None:
        stop = set_aside(len(seen_ND), seed, names)
        epochs, patience, judged = EPOCHS, PATIENCE, (seen_ND[stop], votes[stop])
    learn = np.random.default_rng([seed, 1]).permutation(np.flatnonzero(~stop))
    steps = max(LEAST_STEPS, -(-len(learn) // BATCH))
    # Batches are all full: a small one would weigh its few galaxies more than the others.
    learn = np.resize(learn, steps * BATCH)
    design, model = network.design, network.tail
    loss = votes_loss(design.heads, design.likelihood, max(2, int(votes.max(initial=0))))
    first = RATE * min(1.0, WIDTH / seen_ND.shape[1])
    rate = keras.optimizers.schedules.CosineDecay(first, epochs * steps)
    # Several steps a call: each is so small that calls would be most of the time.
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=loss,
        jit_compile=False,
        steps_per_execution=LEAST_STEPS,
    )
    state, best_weights = State(), model.get_weights()
    hint = 'Check [cutouts], or train a whole network: model.trunk = "train".'
    watch = Watch(state, best_weights, patience, None, lambda steps: None, hint)
    model.fit(
        seen_ND[learn],
        votes[learn],
        batch_size=BATCH,
        validation_data=judged,
        epochs=epochs,
        callbacks=[watch],
        verbose=0,
    )
    model.set_weights(best_weights)
    return state.told()
