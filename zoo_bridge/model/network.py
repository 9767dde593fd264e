"""The networks: a trunk, dropout, and one linear layer for all questions.

The default is that of Walmsley et al. 2020. Dropout stands only between the last dense layer and
the head. So the trunk runs once an image, and everything about the posterior follows from its
features and the head's weights. Names carry shapes: N galaxies, D features, L logits, T networks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo_bridge.errors import InputError
from zoo_bridge.model.backend import keras
from zoo_bridge.model.design import PRETRAINED, PRETRAINED_DENSE, SHAPES, Design
from zoo_bridge.model.encoder import Encoder
from zoo_bridge.model.last_layer import LastLayer
from zoo_bridge.model.views import seen

Array = NDArray[np.floating[Any]]


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
    encoder : Encoder, optional
        In place of a trunk that learns.

    Attributes
    ----------
    tail : keras.Model
        From features, as the last layer takes them, to logits.
    model : keras.Model
        The whole; with an encoder the same as ``tail``.
    """

    def __init__(self, design: Design, seed: int, encoder: Encoder | None = None) -> None:
        keras.utils.set_random_seed(seed)
        self.design = design
        self.seed = seed
        self.encoder = encoder
        self.shift_D: Array | None = None
        self.scale_D: Array | None = None
        trunk = None if encoder else build_trunk(design)
        logits = sum(head.logits for head in design.heads)
        self.head = keras.layers.Dense(logits, name="logits")
        dropout = keras.layers.Dropout(design.dropout, seed=seed)
        self._scatter: Overdispersion | None = None
        if design.likelihood == "beta-binomial":
            self._scatter = Overdispersion(len(design.heads), name="overdispersion")

        def answers(features: Any) -> Any:
            x = self.head(dropout(features))
            return x if self._scatter is None else self._scatter(x)

        if encoder:
            entry = keras.Input((encoder.width,), name="seen")
            self.model = self.tail = keras.Model(entry, answers(entry), name=design.name)
            return
        assert trunk is not None
        self.trunk = trunk
        self.model = keras.Model(trunk.input, answers(trunk.output), name=design.name)
        entry = keras.Input((int(trunk.output.shape[-1]),), name="seen")
        self.tail = keras.Model(entry, answers(entry), name=f"{design.name}_tail")

    def standardise(self, features_ND: Array) -> None:
        """Bring an encoder's features to one scale, from now on.

        Their mean is taken out. Each is divided by the root of the sum of two squares: its own
        spread, and that of all features together. By their own spread alone, features that hardly
        vary among a few hundred galaxies would be enlarged until they decide.
        """
        self.shift_D = features_ND.mean(axis=0, dtype=np.float64)
        square_D = features_ND.var(axis=0, dtype=np.float64)
        # Where nothing varies at all, nothing is told, whatever it is divided by.
        self.scale_D = np.sqrt(square_D + (square_D.mean() or 1.0))

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
        return self.encoder.width if self.encoder else int(self.trunk.output.shape[-1])

    def features(self, images: Array, batch_size: int = 64) -> Array:
        """Features of images: shape (N, D), before dropout; mean of what it sees from each side."""
        if self.encoder:
            return seen(self.encoder.features, images, self.design.views)
        return seen(lambda some: self._seen(some, batch_size), images, self.design.views)

    def _seen(self, images: Array, batch_size: int) -> Array:
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
    def last(self) -> LastLayer:
        """What becomes of features, in NumPy, as the weights are now."""
        weight, bias = (keras.ops.convert_to_numpy(value) for value in self.head.weights)
        scatter = np.zeros(len(self.design.heads)) if self._scatter is None else self._scatter.value
        return LastLayer(self.design, weight, bias, scatter, self.shift_D, self.scale_D)

    @property
    def overdispersion(self) -> Array:
        """See `LastLayer`."""
        return self.last.overdispersion

    def linear(self, features_ND: Array, question: int, answer: int) -> tuple[Array, Array]:
        """See `LastLayer.linear`."""
        return self.last.linear(features_ND, question, answer)

    def sample(self, features_ND: Array, question: int, answer: int, mask_TD: Array) -> Array:
        """See `LastLayer.sample`."""
        return self.last.sample(features_ND, question, answer, mask_TD)

    def plain(self, features_ND: Array, question: int, answer: int) -> Array:
        """See `LastLayer.plain`."""
        return self.last.plain(features_ND, question, answer)

    def weights(self, question: int) -> tuple[Array, Array]:
        """See `LastLayer.weights`."""
        return self.last.weights(question)
