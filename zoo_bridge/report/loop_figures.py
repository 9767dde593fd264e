"""Figures of the loop over weeks: votes, models, what is asked for, what was predicted.

As in `zoo_bridge.report.figures`: each function draws one figure; colours keep their order in grey,
and what is told by colour is told by a shape or a hatch, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from zoo_bridge.report.figures import GREY, MEAN_COLOUR, VOTES_COLOUR

Array = NDArray[np.floating[Any]]
BINS = 30


def draw_weeks(weeks: Sequence[date], counts: Sequence[int], unfinished: bool) -> Figure:
    """Classifications by week.

    Parameters
    ----------
    weeks : sequence of date
        The Monday of each, in order.
    counts : sequence of int
        Classifications of each.
    unfinished : bool
        The last week is not over: it is hatched.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axis = _one(9.6, 2.4)
    bars = axis.bar(range(len(weeks)), counts, color=MEAN_COLOUR, width=0.8)
    if unfinished and len(bars):
        bars[-1].set(facecolor="white", edgecolor=MEAN_COLOUR, hatch="///")
    step = max(1, len(weeks) // 12)
    places = list(range(0, len(weeks), step))
    axis.set_xticks(places, [f"{weeks[place]:%d %b %y}" for place in places], fontsize=8)
    axis.set_ylabel("classifications")
    axis.set_xlabel("week that begins on")
    return figure


@dataclass(frozen=True)
class ModelPoint:
    """A model: labels it learned from, its held-out error with the ends of its interval."""

    name: str
    galaxies: int
    value: float
    low: float
    high: float
    in_use: bool


def draw_models(points: Sequence[ModelPoint], what: str) -> Figure:
    """Held-out error of each model by the number of labels that it learned from.

    Parameters
    ----------
    points : sequence of ModelPoint
        In the order in which they were trained. Those that were kept out are hollow.
    what : str
        Of the vertical axis.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axis = _one(9.6, 3.0)
    x = [point.galaxies for point in points]
    y = [point.value for point in points]
    spread = np.abs([[p.value - p.low for p in points], [p.high - p.value for p in points]])
    axis.errorbar(x, y, yerr=spread, color=GREY, linestyle="none", capsize=3, zorder=1)
    axis.plot(x, y, color=MEAN_COLOUR, linewidth=1.2, zorder=2)
    for point in points:
        face = MEAN_COLOUR if point.in_use else "white"
        axis.plot(
            point.galaxies, point.value, "o", color=MEAN_COLOUR, markerfacecolor=face, zorder=3
        )
    axis.set_xlabel("labelled galaxies that the model learned from")
    axis.set_ylabel(what)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.25)
    return figure


@dataclass(frozen=True)
class Compared:
    """A quantity of the picks and of the survey: its name, and values of each."""

    name: str
    picks: Array
    survey: Array


def draw_compared(quantities: Sequence[Compared]) -> Figure:
    """What the picks are like, against the survey: a panel for each quantity.

    Parameters
    ----------
    quantities : sequence of Compared
        Each drawn as the share of picks, and of the survey, in bins of equal width.

    Returns
    -------
    matplotlib.figure.Figure
    """
    columns = min(2, len(quantities))
    rows = -(-len(quantities) // columns)
    figure = Figure(figsize=(9.6, 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, each in zip(axes, quantities, strict=False):
        low, high = np.percentile(each.survey, [0.5, 99.5])
        edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
        # What lies beyond the edges is drawn in the last bin on that side, not left out.
        for values, colour, style, name in (
            (each.survey, GREY, "filled", "survey"),
            (each.picks, MEAN_COLOUR, "line", "picks"),
        ):
            inside = np.clip(values, edges[0], edges[-1])
            share = np.histogram(inside, edges)[0] / max(len(values), 1)
            if style == "filled":
                axis.stairs(share, edges, fill=True, color=colour, alpha=0.45, label=name)
            else:
                axis.stairs(share, edges, color=colour, linewidth=1.8, label=name)
        axis.set_xlabel(each.name)
        axis.set_ylabel("share")
        _bare(axis)
    for axis in axes[len(quantities) :]:
        axis.axis("off")
    axes[0].legend(frameon=False, fontsize=8)
    return figure


@dataclass(frozen=True)
class ByRound:
    """A quantity of each round's picks and of the survey; nan where it is not known."""

    name: str
    picks: Sequence[float]
    survey: Sequence[float]


def draw_by_round(quantities: Sequence[ByRound]) -> Figure:
    """What is asked for, round by round, beside the survey: a panel for each quantity.

    Parameters
    ----------
    quantities : sequence of ByRound
        Rounds in order.

    Returns
    -------
    matplotlib.figure.Figure
    """
    columns = min(2, len(quantities))
    rows = -(-len(quantities) // columns)
    figure = Figure(figsize=(9.6, 2.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, each in zip(axes, quantities, strict=False):
        rounds = range(1, len(each.picks) + 1)
        axis.plot(rounds, each.picks, "o-", color=MEAN_COLOUR, label="picks")
        axis.plot(rounds, each.survey, "s--", color=GREY, markersize=4, label="survey")
        axis.set_title(each.name, fontsize=9)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.25)
        _bare(axis)
    for axis in axes[len(quantities) :]:
        axis.axis("off")
    axes[0].legend(frameon=False, fontsize=8)
    figure.supxlabel("round", fontsize=9)
    return figure


def draw_spread(values: Array, name: str, low: float | None = None) -> Figure:
    """How a quantity is spread over the survey.

    Parameters
    ----------
    values : ndarray, shape (N,)
        One for each galaxy.
    name : str
        What it is, with its unit.
    low : float, optional
        A value from which on galaxies were chosen: a dashed line.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axis = _one(9.6, 2.2)
    axis.hist(values, bins=60, color=MEAN_COLOUR, alpha=0.8)
    if low is not None:
        axis.axvline(low, color=VOTES_COLOUR, linestyle=(0, (4, 2)), linewidth=1.2)
    axis.set_xlabel(name)
    axis.set_ylabel("galaxies")
    return figure


def draw_counts(names: Sequence[str], counts: Sequence[int], what: str) -> Figure:
    """Counts as bars with their names: how many labels have how many votes, say."""
    figure, axis = _one(9.6, 2.2)
    axis.bar(range(len(names)), counts, color=MEAN_COLOUR, width=0.85)
    step = max(1, len(names) // 20)
    places = list(range(0, len(names), step))
    axis.set_xticks(places, [names[place] for place in places], fontsize=8)
    axis.set_xlabel(what)
    axis.set_ylabel("labels")
    return figure


def _one(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axis = figure.subplots()
    _bare(axis)
    return figure, axis


def _bare(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
