"""The networks: a trunk, dropout, and one linear layer for all questions.

The default is that of Walmsley et al. 2020. Dropout stands only between the last dense layer and
the head. So the trunk runs once an image, and everything about the posterior follows from its
features and the head's weights. Names carry shapes: N galaxies, D features, L logits, T networks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo_bridge.errors import InputError
from zoo_bridge.model.backend import keras
from zoo_bridge.model.heads import Head, logit_slices

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Shape:
    """A network's layers: filters of the convolutions (a pool after each group), dense units."""

    groups: tuple[tuple[int, ...], ...]
    dense: int


SHAPES = {
    "walmsley2020": Shape(((32, 32), (64, 64), (128,), (128,)), 128),
    "small": Shape(((16,), (32,), (48,), (64,)), 96),
    "large": Shape(((32, 32), (64, 64), (128, 128), (256, 256), (256,)), 256),
}
# Trunks of keras.applications: what builds one, and the range of pixel values that it wants.
PRETRAINED = {
    "efficientnetv2-b0": ("EfficientNetV2B0", 255.0),
    "convnext-tiny": ("ConvNeXtTiny", 255.0),
}
PRETRAINED_DENSE = 128


@dataclass(frozen=True)
class Design:
    """All that it takes to build a network, its weights aside.

    Parameters
    ----------
    name : str
        One of `SHAPES` or `PRETRAINED`.
    size, channels : int
        Side of the image in pixels, and its planes.
    heads : tuple of Head
        The questions that it answers, in the order of the settings.
    dropout : float
        The share of features that is dropped before the head.
    likelihood : str
        binomial or beta-binomial: see `likelihood.votes_loss`.
    pixel_mean, pixel_spread : float
        Of the training images: the network sees pixels with this mean and spread taken out.
        Survey images are dark, and a network learns slowly from numbers that hardly vary.
    """

    name: str
    size: int
    channels: int
    heads: tuple[Head, ...]
    dropout: float = 0.5
    likelihood: str = "binomial"
    pixel_mean: float = 0.0
    pixel_spread: float = 1.0

    def as_dict(self) -> dict[str, Any]:
        """For a model's record."""
        return {**asdict(self), "heads": [head.as_dict() for head in self.heads]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Design:
        """From a model's record."""
        return cls(**{**values, "heads": tuple(Head.from_dict(head) for head in values["heads"])})


def build_trunk(design: Design) -> keras.Model:
    """Image to features.

    Parameters
    ----------
    design : Design
        What to build.

    Returns
    -------
    keras.Model
        From (batch, size, size, channels), 0 to 1, to (batch, D).
    """
    name = design.name
    image = keras.Input((design.size, design.size, design.channels), name="image")
    if name in PRETRAINED:
        x = _pretrained(name, image)
        dense = PRETRAINED_DENSE
    else:
        scale = 1 / design.pixel_spread
        x = keras.layers.Rescaling(scale, -design.pixel_mean * scale)(image)
        dense = SHAPES[name].dense
        for group in SHAPES[name].groups:
            for filters in group:
                x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
            x = keras.layers.MaxPooling2D()(x)
        x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(dense, activation="relu", name="features")(x)
    return keras.Model(image, x, name=f"{name}_trunk")


def _pretrained(name: str, image: Any) -> Any:
    builder, top = PRETRAINED[name]
    size = image.shape[1]
    inner = getattr(keras.applications, builder)(
        include_top=False, weights=None, input_shape=(size, size, 3), pooling="avg", name=name
    )
    x = keras.layers.Rescaling(top)(image)
    if image.shape[-1] == 1:
        x = keras.layers.Concatenate()([x, x, x])
    return inner(x)


@keras.saving.register_keras_serializable(package="zoo_bridge")
class Overdispersion(keras.layers.Layer):
    """Adds the logarithm of each question's overdispersion, a weight, to the end of the logits."""

    # Adam moves every weight by about its learning rate, too slowly for this one.
    HASTE = 20.0
    START = 0.05

    def __init__(self, questions: int, **options: Any) -> None:
        super().__init__(**options)
        self.questions = questions

    def build(self, shape: Any) -> None:
        """Make the weight."""
        first = keras.initializers.Constant(float(np.log(self.START)) / self.HASTE)
        self.log_e = self.add_weight(shape=(self.questions,), initializer=first, name="log_e")

    def call(self, logits: Any) -> Any:
        """(batch, L) to (batch, L + Q)."""
        ones = keras.ops.ones_like(logits[:, :1])
        return keras.ops.concatenate([logits, ones * (self.HASTE * self.log_e)], axis=-1)

    @property
    def value(self) -> Array:
        """Overdispersion of each question: shape (Q,)."""
        return np.exp(self.HASTE * keras.ops.convert_to_numpy(self.log_e).astype(np.float64))


class Network:
    """A trunk and its head.

    Parameters
    ----------
    design : Design
        What to build.
    seed : int
        For the first weights and training's dropout.
    """

    def __init__(self, design: Design, seed: int) -> None:
        keras.utils.set_random_seed(seed)
        self.design = design
        self.seed = seed
        self.trunk = build_trunk(design)
        logits = sum(head.logits for head in design.heads)
        self.head = keras.layers.Dense(logits, name="logits")
        x = self.head(keras.layers.Dropout(design.dropout, seed=seed)(self.trunk.output))
        self._scatter: Overdispersion | None = None
        if design.likelihood == "beta-binomial":
            self._scatter = Overdispersion(len(design.heads), name="overdispersion")
            x = self._scatter(x)
        self.model = keras.Model(self.trunk.input, x, name=design.name)

    def load_pretrained(self, path: Path) -> None:
        """Give a trunk of keras.applications its weights.

        Parameters
        ----------
        path : Path
            A ``…_notop.h5`` or ``.weights.h5`` file.

        Raises
        ------
        InputError
            If the file is not one of this network's.
        """
        try:
            self.trunk.get_layer(self.design.name).load_weights(path)
        except (OSError, ValueError, KeyError, AttributeError) as error:
            first = str(error).strip().splitlines()[0]
            raise InputError(
                f"The weights {path} do not fit {self.design.name}: {first}",
                "model.pretrained_weights must name the file of this network without its top, "
                "such as keras.applications keeps it.",
            ) from None

    @property
    def width(self) -> int:
        """D, the number of features."""
        return int(self.trunk.output.shape[-1])

    def features(self, images: Array, batch_size: int = 64) -> Array:
        """Features of images: shape (N, D), before dropout."""
        out = np.empty((len(images), self.width), np.float32)
        for start in range(0, len(images), batch_size):
            some = images[start : start + batch_size]
            # One size, the last batch filled up: to compile another takes longer than to go through
            # some blank images.
            filled = np.zeros((batch_size, *images.shape[1:]), np.float32)
            filled[: len(some)] = some
            told = keras.ops.convert_to_numpy(self.trunk.predict_on_batch(filled))
            out[start : start + len(some)] = told[: len(some)]
        return out

    @property
    def overdispersion(self) -> Array:
        """What training learned of each question's overdispersion: shape (Q,), 0 if binomial."""
        if self._scatter is None:
            return np.zeros(len(self.design.heads))
        return self._scatter.value

    def linear(self, features_ND: Array, question: int, answer: int) -> tuple[Array, Array]:
        """One answer's logit, and what each feature adds to it; not of a softmax.

        Parameters
        ----------
        features_ND : ndarray, shape (N, D)
            What `features` gave, before dropout.
        question, answer : int
            Places of the question among the heads, and of the answer in it.

        Returns
        -------
        mean_N : ndarray, shape (N,)
            The logit's mean over dropout masks.
        term_ND : ndarray, shape (N, D)
            w_i h_i; the logit varies by p / (1 - p) times the sum of their squares.

        Raises
        ------
        ValueError
            Of a softmax: its logit of one answer against all others is not linear in the features.
        """
        head = self.design.heads[question]
        if head.kind == "softmax":
            raise ValueError("the logit of a softmax is not linear in the features")
        weight_DL, bias_L = self.weights(question)
        sign, column = _signed(head, answer)
        term_ND = features_ND.astype(np.float64) * (sign * weight_DL[:, column])
        return term_ND.sum(axis=1) + sign * bias_L[column], term_ND

    def sample(self, features_ND: Array, question: int, answer: int, mask_TD: Array) -> Array:
        """One answer's logit under masks; sample t is the same network for every galaxy.

        Parameters
        ----------
        features_ND : ndarray, shape (N, D)
            What `features` gave, before dropout.
        question, answer : int
            Places of the question among the heads, and of the answer in it.
        mask_TD : ndarray, shape (T, D)
            Masks of `acquisition.masks`, a row for each of T networks.

        Returns
        -------
        ndarray, shape (N, T)
        """
        head = self.design.heads[question]
        weight_DL, bias_L = self.weights(question)
        h_ND = features_ND.astype(np.float64)
        if head.kind != "softmax":
            sign, column = _signed(head, answer)
            logit_NT: Array = (h_ND * sign * weight_DL[:, column]) @ mask_TD.T + sign * bias_L[
                column
            ]
            return logit_NT
        z_NTL = np.stack([(h_ND * weight_D) @ mask_TD.T for weight_D in weight_DL.T], axis=-1)
        return _against_others(z_NTL + bias_L, answer)

    def plain(self, features_ND: Array, question: int, answer: int) -> Array:
        """One answer's logit without dropout: shape (N,)."""
        head = self.design.heads[question]
        weight_DL, bias_L = self.weights(question)
        z_NL = features_ND.astype(np.float64) @ weight_DL + bias_L
        if head.kind == "softmax":
            return _against_others(z_NL, answer)
        sign, column = _signed(head, answer)
        return sign * z_NL[:, column]

    def weights(self, question: int) -> tuple[Array, Array]:
        """The last layer's of one question: shapes (D, L) and (L,)."""
        at = logit_slices(self.design.heads)[question]
        weight, bias = (keras.ops.convert_to_numpy(value) for value in self.head.weights)
        return weight.astype(np.float64)[:, at], bias.astype(np.float64)[at]


def _signed(head: Head, answer: int) -> tuple[int, int]:
    """Which column of a question's logits is an answer's, and with which sign."""
    if head.kind == "independent":
        return 1, answer
    return (1 if answer == head.target_place else -1), 0


def _against_others(z: Array, answer: int) -> Array:
    """The logit of one answer of a softmax: shape (...) from (..., L)."""
    others = np.delete(z, answer, axis=-1)
    top = others.max(axis=-1, keepdims=True)
    rest: Array = top[..., 0] + np.log(np.exp(others - top).sum(axis=-1))
    return np.asarray(z[..., answer] - rest)
