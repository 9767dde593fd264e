"""The last layer of a network: from features to logits, in NumPy, without Keras.

Dropout stands before it alone, so everything about the posterior follows from it and the features.
Names carry shapes: N galaxies, D features, L logits of all questions, T networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo_bridge.model.design import Design
from zoo_bridge.model.heads import Head, logit_slices

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class LastLayer:
    """What becomes of a network's features.

    Parameters
    ----------
    design : Design
        Of the whole network: its questions and its dropout.
    weight_DL : ndarray, shape (D, L)
        Of the layer.
    bias_L : ndarray, shape (L,)
        Of the layer.
    overdispersion : ndarray, shape (Q,)
        What training learned of each question's, 0 if its likelihood is binomial.
    shift_D, scale_D : ndarray, shape (D,), optional
        Of features of an encoder that learned elsewhere: taken out before dropout, so that a
        feature that is dropped is as good as its mean.
    """

    design: Design
    weight_DL: Array
    bias_L: Array
    overdispersion: Array
    shift_D: Array | None = None
    scale_D: Array | None = None

    @property
    def last(self) -> LastLayer:
        """This, as a whole network has it."""
        return self

    @property
    def width(self) -> int:
        """D, the number of features."""
        return len(self.weight_DL)

    def seen(self, features_ND: Array) -> NDArray[np.float64]:
        """Features as the layer takes them: shape (N, D)."""
        h_ND = features_ND.astype(np.float64)
        if self.shift_D is not None and self.scale_D is not None:
            h_ND -= self.shift_D
            h_ND /= self.scale_D
        return h_ND

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
        term_ND = self.seen(features_ND) * (sign * weight_DL[:, column])
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
        h_ND = self.seen(features_ND)
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
        z_NL = self.seen(features_ND) @ weight_DL + bias_L
        if head.kind == "softmax":
            return _against_others(z_NL, answer)
        sign, column = _signed(head, answer)
        return sign * z_NL[:, column]

    def weights(self, question: int) -> tuple[Array, Array]:
        """The layer's of one question: shapes (D, L) and (L,)."""
        at = logit_slices(self.design.heads)[question]
        return self.weight_DL.astype(np.float64)[:, at], self.bias_L.astype(np.float64)[at]

    def save(self, path: Path) -> None:
        """Write the numbers, without the design."""
        arrays = {
            "weight": self.weight_DL,
            "bias": self.bias_L,
            "overdispersion": self.overdispersion,
        }
        if self.shift_D is not None and self.scale_D is not None:
            arrays |= {"shift": self.shift_D, "scale": self.scale_D}
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path, design: Design) -> LastLayer:
        """As `save` wrote it."""
        with np.load(path, allow_pickle=False) as kept:
            numbers = [kept[name] for name in ("weight", "bias", "overdispersion")]
            more = [kept.get(name, None) for name in ("shift", "scale")]
        return cls(design, *numbers, *more)


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
