"""The numbers among what a run counted, for those who compare them and those who plot them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# Texts of people stand under these, as many as they like: no names for a number.
WORDS = ("unmatched", "object_ids", "n_of_labels", "keys", "survey", "other_tasks", "present")


def numbers_of(
    counts: dict[str, Any], before: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], float]]:
    """Every number, however deep.

    Parameters
    ----------
    counts : dict
        As a run has them: numbers, and dictionaries of them by reason or by question.
    before : tuple of str
        Names of the dictionaries that this one stands in, the outermost first.

    Yields
    ------
    (tuple of str, float)
        The names that lead to it, such as ``("dropped", "gold standard")``, and the number.
    """
    for name, value in counts.items():
        if isinstance(value, bool) or name in WORDS:
            continue
        if isinstance(value, int | float):
            yield (*before, name), value
        elif isinstance(value, dict):
            yield from numbers_of(value, (*before, name))
