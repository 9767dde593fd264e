"""What a network answers: one head a question, and how votes and logits are laid out.

A question with two answers has one logit, its target's; one with more has a logit each and a
softmax; one where several answers may be ticked has a sigmoid for each. Votes stand side by side:
for every question the k of each answer, then n.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Head:
    """One question.

    Parameters
    ----------
    name : str
        The question's name in the settings.
    answers : tuple of str
        In the order of the votes.
    target : str
        The answer that is ranked; with two answers, the one whose logit is learned.
    multiple : bool
        Whether volunteers may give several answers.
    """

    name: str
    answers: tuple[str, ...]
    target: str
    multiple: bool = False

    @property
    def kind(self) -> str:
        """``sigmoid``, ``softmax`` or ``independent``."""
        if self.multiple:
            return "independent"
        return "sigmoid" if len(self.answers) == 2 else "softmax"

    @property
    def logits(self) -> int:
        """How many logits the question takes."""
        return 1 if self.kind == "sigmoid" else len(self.answers)

    @property
    def votes(self) -> int:
        """How many columns its votes take."""
        return len(self.answers) + 1

    @property
    def target_place(self) -> int:
        """The target's place among the answers."""
        return self.answers.index(self.target)

    def as_dict(self) -> dict[str, Any]:
        """For a model's record."""
        return {**asdict(self), "answers": list(self.answers)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Head:
        """From a model's record."""
        return cls(**{**values, "answers": tuple(values["answers"])})


def logit_slices(heads: Sequence[Head]) -> list[slice]:
    """Where each question's logits stand."""
    return _slices([head.logits for head in heads])


def vote_slices(heads: Sequence[Head]) -> list[slice]:
    """Where each question's votes stand."""
    return _slices([head.votes for head in heads])


def _slices(widths: Sequence[int]) -> list[slice]:
    ends = [sum(widths[: place + 1]) for place in range(len(widths))]
    return [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]
