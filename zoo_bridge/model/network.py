"""The network of Walmsley et al. 2020, and a small one: a trunk, dropout, and one linear layer.

Dropout stands only between the last dense layer and the head. So the trunk runs once an image, and
everything about the posterior follows from its features and the head's weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Shape:
    """A network's layers: filters of the convolutions (a pool after each group), dense units."""

    groups: tuple[tuple[int, ...], ...]
    dense: int


SHAPES = {
    "walmsley2020": Shape(((32, 32), (64, 64), (128,), (128,)), 128),
    "small": Shape(((16,), (32,), (48,), (64,)), 96),
}


def build_trunk(name: str, size: int, channels: int) -> keras.Model:
    """Image to features.

    Parameters
    ----------
    name : str
        One of `SHAPES`.
    size, channels : int
        The image.

    Returns
    -------
    keras.Model
        From (batch, size, size, channels) to (batch, dense).
    """
    shape = SHAPES[name]
    image = keras.Input((size, size, channels), name="image")
    x = image
    for group in shape.groups:
        for filters in group:
            x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(shape.dense, activation="relu", name="features")(x)
    return keras.Model(image, x, name=f"{name}_trunk")


class Network:
    """A trunk and its head: one logit a question.

    Parameters
    ----------
    name : str
        One of `SHAPES`.
    size, channels : int
        The image.
    questions : int
        Q, the number of logits.
    dropout : float
        The share of features that is dropped before the head.
    seed : int
        For the first weights and training's dropout.
    """

    def __init__(
        self, name: str, size: int, channels: int, questions: int, dropout: float, seed: int
    ) -> None:
        keras.utils.set_random_seed(seed)
        self.dropout = dropout
        self.trunk = build_trunk(name, size, channels)
        self.head = keras.layers.Dense(questions, name="logits")
        dropped = keras.layers.Dropout(dropout, seed=seed)(self.trunk.output)
        self.model = keras.Model(self.trunk.input, self.head(dropped), name=name)

    def features(self, images: Array, batch_size: int = 256) -> Array:
        """Features of images: shape (N, D), before dropout."""
        batches = [
            keras.ops.convert_to_numpy(self.trunk(images[start : start + batch_size]))
            for start in range(0, len(images), batch_size)
        ]
        width = self.trunk.output.shape[-1]
        return np.concatenate(batches) if batches else np.empty((0, width), np.float32)

    def logit_moments(self, features_ND: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of each logit over dropout masks.

        With z = b + sum_i w_i h_i m_i / (1 - p): mean b + sum w_i h_i, variance
        p / (1 - p) sum (w_i h_i)^2.

        Parameters
        ----------
        features_ND : ndarray, shape (N, D)
            See `features`.

        Returns
        -------
        mean_NQ, spread_NQ : ndarray, shape (N, Q)
        """
        weight_DQ, bias_Q = self._head_weights()
        h = features_ND.astype(np.float64)
        variance_NQ = self.dropout / (1 - self.dropout) * (h**2 @ weight_DQ**2)
        return h @ weight_DQ + bias_Q, np.sqrt(variance_NQ)

    def logit_samples(self, features_ND: Array, networks: int, seed: int) -> Array:
        """Logits under sampled masks; sample t is the same network for every galaxy.

        Parameters
        ----------
        features_ND : ndarray, shape (N, D)
            See `features`.
        networks : int
            T, the number of masks.
        seed : int
            Of the masks.

        Returns
        -------
        ndarray, shape (N, T, Q)
        """
        weight_DQ, bias_Q = self._head_weights()
        keep = 1 - self.dropout
        rng = np.random.default_rng(seed)
        mask_TD = (rng.uniform(size=(networks, len(weight_DQ))) < keep) / keep
        logits = np.einsum("nd,td,dq->ntq", features_ND, mask_TD, weight_DQ, optimize=True)
        return logits + bias_Q

    def _head_weights(self) -> tuple[Array, Array]:
        weight, bias = (keras.ops.convert_to_numpy(value) for value in self.head.weights)
        return weight.astype(np.float64), bias.astype(np.float64)
