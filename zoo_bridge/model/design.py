"""What a network is, its weights aside: read and compared without Keras."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from zoo_bridge.model.heads import Head


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
# An epoch has at least so many batches: few galaxies are seen several times in one, each time anew.
LEAST_BATCHES = 24


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
    encoder : dict, optional
        Of a trunk that learned elsewhere, an ONNX file: see `encoder.Encoder`.
    views : int
        From how many sides it sees each galaxy that it is asked about: see `views.sides`.
    """

    name: str
    size: int
    channels: int
    heads: tuple[Head, ...]
    dropout: float = 0.5
    likelihood: str = "binomial"
    pixel_mean: float = 0.0
    pixel_spread: float = 1.0
    encoder: dict[str, Any] | None = None
    views: int = 1

    def as_dict(self) -> dict[str, Any]:
        """For a model's record."""
        return {**asdict(self), "heads": [head.as_dict() for head in self.heads]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Design:
        """From a model's record."""
        return cls(**{**values, "heads": tuple(Head.from_dict(head) for head in values["heads"])})
