"""An encoder that learned elsewhere, as an ONNX file: images to features, and no more.

What it wants its images to be like is declared, since the file does not say it: the order of the
axes, and the mean and spread of each plane that are taken out. It is run by onnxruntime, and stays
as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo_bridge.errors import InputError, RefusedError, SettingsError
from zoo_bridge.files import digest_file

Array = NDArray[np.floating[Any]]
FILE = "encoder.onnx"
CHECKED, BATCH = 5, 8


@dataclass(frozen=True)
class Encoder:
    """An ONNX file and how its images are made.

    Parameters
    ----------
    path : Path
        The file.
    order : str
        ``nchw``: planes first, as PyTorch has them; or ``nhwc``.
    mean, spread : tuple of float
        Of each plane, or one for all, on a scale from 0 to 1: they are taken out.
    """

    path: Path
    order: str
    mean: tuple[float, ...]
    spread: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """For a model's record."""
        told = {"order": self.order, "mean": list(self.mean), "spread": list(self.spread)}
        return {**told, "file": digest_file(self.path)}

    @classmethod
    def from_dict(cls, path: Path, values: dict[str, Any]) -> Encoder:
        """From a model's record, and the file beside it."""
        return cls(path, values["order"], tuple(values["mean"]), tuple(values["spread"]))

    @cached_property
    def _session(self) -> Any:
        try:
            import onnxruntime
        except ImportError:
            raise SettingsError(
                "An ONNX encoder (model.trunk) needs onnxruntime, which this installation lacks.",
                "Install it with: pip install 'zoo-bridge[onnx]'.",
            ) from None
        try:
            providers = ["CPUExecutionProvider"]
            return onnxruntime.InferenceSession(str(self.path), providers=providers)
        except Exception as error:
            first = str(error).strip().splitlines()[0]
            raise InputError(
                f"The encoder {self.path} cannot be opened: {first}",
                "model.trunk must name an ONNX file with one input, its images.",
            ) from None

    @cached_property
    def width(self) -> int:
        """D, the number of its features; 0 if it does not say."""
        shape = self._session.get_outputs()[0].shape
        return int(shape[-1]) if len(shape) == 2 and isinstance(shape[-1], int) else 0

    def features(self, images: Array) -> Array:
        """Features of images: shape (N, D) from (N, size, size, channels), 0 to 1."""
        some = [self._some(images[at : at + BATCH]) for at in range(0, len(images), BATCH)]
        return np.concatenate(some) if some else np.empty((0, self.width), np.float32)

    def _some(self, images: Array) -> Array:
        x = (images - np.array(self.mean, np.float32)) / np.array(self.spread, np.float32)
        if self.order == "nchw":
            x = x.transpose(0, 3, 1, 2)
        (entry,) = self._session.get_inputs()
        told = self._session.run(None, {entry.name: np.ascontiguousarray(x, dtype=np.float32)})[0]
        return np.asarray(told, dtype=np.float32)

    def check(self, size: int, channels: int) -> None:
        """See that it can be used for images of this size.

        Raises
        ------
        RefusedError
            If its features are no numbers, not of one length, or not the same twice.
        InputError
            If it cannot be opened, or takes other images.
        """
        hint = "Declare how its images are made ([cutouts], model.trunk_*), or use another file."
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            names = ", ".join(each.name for each in inputs)
            raise RefusedError(
                f"The encoder {self.path.name} takes {len(inputs)} inputs ({names}): it is to take "
                "images alone.",
                hint,
            )
        planes = {1, channels}
        if len(self.mean) not in planes or len(self.spread) not in planes:
            raise RefusedError(
                f"The encoder gets images of {channels} plane(s): model.trunk_mean and "
                f"model.trunk_spread have {len(self.mean)} and {len(self.spread)} numbers.",
                hint,
            )
        images = np.random.default_rng(0).random((CHECKED, size, size, channels), np.float32)
        try:
            told, again = self._some(images), self._some(images)
            alone = self._some(images[:1])
        except Exception as error:
            first = str(error).strip().splitlines()[0]
            raise InputError(
                f"The encoder {self.path.name} does not take images of {size} x {size} pixels and "
                f"{channels} plane(s) in the order {self.order}: {first}",
                hint,
            ) from None
        wrong = ""
        if told.ndim != 2 or len(told) != CHECKED or len(alone) != 1:
            wrong = f"gives numbers of shape {told.shape} for {CHECKED} images, not one row each"
        elif told.shape[1] != self.width or alone.shape[1] != self.width:
            wrong = "does not say how many features it gives, or gives another number"
        elif not np.isfinite(told).all() or np.abs(told).max() > np.finfo(np.float16).max:
            wrong = "gives features that are no numbers, or too large to be kept"
        elif not np.array_equal(told, again) or not np.allclose(told[:1], alone, 1e-4, 1e-4):
            wrong = "gives other features the second time: export it for inference"
        if wrong:
            raise RefusedError(f"The encoder {self.path.name} {wrong}.", hint)
