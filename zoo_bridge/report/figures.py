"""Figures: posteriors of galaxies, calibration, the picks of each round, error by round.

Each function draws one figure and gives it back; nothing is shown or saved here. Colours keep
their order in grey.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Array = NDArray[np.floating[Any]]

MEAN_COLOUR = "#1b7f4d"
VOTES_COLOUR = "#c8102e"
GREY = "#9aa0a6"


@dataclass(frozen=True)
class Galaxy:
    """A galaxy and what networks say of it, for one question.

    ``image`` has shape (size, size) or (size, size, 3), 0 to 1; ``p_TK``, shape (T, n + 1), is
    each sampled network's probability of every count; ``votes`` is k as volunteers gave it, of n.
    """

    name: str
    image: Array
    p_TK: Array
    votes: int | None
    bald: float


def draw_posteriors(galaxies: Sequence[Galaxy], answer: str) -> Figure:
    """Image, one network's posterior, and many networks with their mean, a row a galaxy.

    Parameters
    ----------
    galaxies : sequence of Galaxy
        From top to bottom.
    answer : str
        What k counts.

    Returns
    -------
    matplotlib.figure.Figure
    """
    rows = len(galaxies)
    height = 1.75 * rows + 0.7
    # Laid out by hand: to measure the texts of 18 axes takes longer than to draw them.
    figure = Figure(figsize=(9.6, height))
    place = {"left": 0.01, "right": 0.99, "bottom": 0.5 / height, "top": 1 - 0.3 / height}
    axes = figure.subplots(
        *(rows, 3), squeeze=False, width_ratios=[1, 2.1, 2.1],
        gridspec_kw={**place, "hspace": 0.24, "wspace": 0.2},
    )  # fmt: skip
    for row, galaxy in zip(axes, galaxies, strict=True):
        _draw_image(row[0], galaxy)
        one = [(galaxy.p_TK[0], "black", 1.6)]
        many = [(p_K, GREY, 0.6) for p_K in galaxy.p_TK]
        mean = [(galaxy.p_TK.mean(axis=0), MEAN_COLOUR, 2.2)]
        top = 1.08 * galaxy.p_TK.max()
        _draw_curves(row[1], one, galaxy.votes, top)
        _draw_curves(row[2], many + mean, galaxy.votes, top)
    axes[0, 1].set_title("one network", fontsize=10)
    axes[0, 2].set_title(f"{len(galaxies[0].p_TK)} networks and their mean", fontsize=10)
    for axis in axes[-1, 1:]:
        axis.set_xlabel(f'volunteers of {galaxies[-1].p_TK.shape[1] - 1} who say "{answer}"')
    for axis in axes[:, 1]:
        axis.set_ylabel("probability", fontsize=7)
    return figure


def draw_prediction(
    galaxy: Galaxy, p_K: Array, answer: str, interval: tuple[int, int] | None = None
) -> Figure:
    """One galaxy: its image, and the posterior over its votes with that of single networks.

    Parameters
    ----------
    galaxy : Galaxy
        Its networks are drawn in grey, the votes that came as a dashed line.
    p_K : ndarray, shape (n + 1,)
        The calibrated posterior.
    answer : str
        What k counts.
    interval : (int, int), optional
        Ends of a credible interval of k, which is shaded.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = Figure(figsize=(7.2, 2.4), layout="constrained")
    image, curves = figure.subplots(1, 2, width_ratios=[1, 2.2])
    _draw_image(image, galaxy)
    _draw_said(curves, p_K, galaxy.p_TK, answer, galaxy.votes, interval)
    return figure


def draw_posterior(
    p_K: Array,
    p_TK: Array,
    answer: str,
    votes: int | None = None,
    interval: tuple[int, int] | None = None,
) -> Figure:
    """What networks say of one galaxy's votes, without its picture.

    Parameters
    ----------
    p_K : ndarray, shape (n + 1,)
        The calibrated posterior, in colour.
    p_TK : ndarray, shape (T, n + 1)
        Single networks', in grey.
    answer : str
        What k counts.
    votes : int, optional
        Votes that came, scaled to n: a dashed line.
    interval : (int, int), optional
        Ends of a credible interval of k, which is shaded.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = Figure(figsize=(7.2, 2.6), layout="constrained")
    _draw_said(figure.subplots(), p_K, p_TK, answer, votes, interval)
    return figure


def _draw_said(
    axis: Axes,
    p_K: Array,
    p_TK: Array,
    answer: str,
    votes: int | None,
    interval: tuple[int, int] | None,
) -> None:
    """Single networks in grey, what they mean together in colour."""
    grey = [(each_K, GREY, 0.6) for each_K in p_TK]
    top = 1.08 * max(float(p_TK.max()), float(p_K.max()))
    _draw_curves(axis, [*grey, (p_K, MEAN_COLOUR, 2.2)], votes, top)
    if interval is not None:
        axis.axvspan(*interval, color=MEAN_COLOUR, alpha=0.12, linewidth=0)
    axis.set_xlabel(f'volunteers of {len(p_K) - 1} who say "{answer}"')
    axis.set_ylabel("probability", fontsize=7)


def _draw_image(axis: Axes, galaxy: Galaxy) -> None:
    axis.imshow(np.clip(galaxy.image, 0, 1), cmap="gray", vmin=0, vmax=1)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_xlabel(f"{galaxy.name}   BALD {galaxy.bald:.2f}", fontsize=7)


def _draw_curves(
    axis: Axes, curves: list[tuple[Array, str, float]], votes: int | None, top: float
) -> None:
    lines = [np.column_stack([np.arange(len(p_K)), p_K]) for p_K, _, _ in curves]
    colours, widths = ([curve[at] for curve in curves] for at in (1, 2))
    # As one: a line of its own for each network takes five times as long.
    axis.add_collection(LineCollection(lines, colors=colours, linewidths=widths), autolim=False)
    if votes is not None:
        axis.axvline(votes, color=VOTES_COLOUR, linewidth=1.2, linestyle=(0, (4, 2)))
    n = len(curves[0][0]) - 1
    axis.set_xlim(-0.02 * n, 1.02 * n)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.yaxis.set_major_locator(MaxNLocator(3))
    axis.set_ylim(0, top)
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)


@dataclass(frozen=True)
class Curve:
    """How much each credible interval of a model held: a name and a share for each level."""

    name: str
    inside: Sequence[float]


def draw_calibration(
    levels: Sequence[int], curves: Sequence[Curve], within: Mapping[str, float]
) -> Figure:
    """Coverage of credible intervals, and of "within d votes", against what they promise.

    Parameters
    ----------
    levels : sequence of int
        Sizes of the intervals, per cent.
    curves : sequence of Curve
        The model's own first.
    within : mapping
        ``within_<d>`` and ``within_<d>_expected`` for some d, shares.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=(0, (4, 2)))
    x = np.array(levels) / 100
    styles = [(MEAN_COLOUR, "o", 2.0), ("#3465a4", "s", 1.2), (VOTES_COLOUR, "^", 1.2)]
    styles += [(GREY, "v", 1.2)] * len(curves)
    for curve, (colour, marker, width) in zip(curves, styles, strict=False):
        left.plot(
            x, curve.inside, color=colour, marker=marker, markersize=3, linewidth=width,
            label=curve.name,
        )  # fmt: skip
    left.set_xlabel("size of the credible interval")
    left.set_ylabel("share of held-out votes inside")
    left.legend(frameon=False, fontsize=8)
    distances = sorted(int(name.split("_")[1]) for name in within if name.endswith("_expected"))
    expected = [within[f"within_{d}_expected"] for d in distances]
    observed = [within[f"within_{d}"] for d in distances]
    right.plot(distances, expected, color=GREY, marker="s", label="expected by the model")
    right.plot(distances, observed, color=MEAN_COLOUR, marker="o", label="observed")
    right.set_xlabel("within so many votes of the most likely count")
    right.set_ylabel("share of galaxies")
    right.set_ylim(0, 1.02)
    right.legend(frameon=False, fontsize=8)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    return figure


def draw_predicted(mean: Array, observed: Array, answer: str) -> Figure:
    """Predicted against observed vote fractions of held-out galaxies."""
    figure = Figure(figsize=(4.8, 4.4), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=(0, (4, 2)))
    axis.plot(mean, observed, "o", color=MEAN_COLOUR, markersize=3, alpha=0.4, markeredgewidth=0)
    axis.set_xlabel(f'predicted share who say "{answer}"')
    axis.set_ylabel("share of the volunteers who did")
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylim(-0.02, 1.02)
    axis.set_aspect("equal")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)
    return figure


@dataclass(frozen=True)
class Picks:
    """What a round chose: a title, pictures (JPEG) and a caption for each."""

    title: str
    pictures: Sequence[bytes]
    captions: Sequence[str]


def draw_picks(rounds: Sequence[Picks]) -> Figure:
    """The first pictures of each round's batch, a row a round."""
    columns = max(len(picks.pictures) for picks in rounds)
    figure = Figure(figsize=(9.6, 1.45 * len(rounds) + 0.1), layout="constrained")
    axes = figure.subplots(len(rounds), columns, squeeze=False)
    for row, picks in zip(axes, rounds, strict=True):
        for axis in row:
            axis.axis("off")
        for axis, picture, caption in zip(row, picks.pictures, picks.captions, strict=False):
            axis.axis("on")
            axis.set_xticks([])
            axis.set_yticks([])
            image = Image.open(io.BytesIO(picture)).convert("RGB").resize((160, 160))
            axis.imshow(np.asarray(image))
            axis.set_xlabel(caption, fontsize=7)
        row[0].axis("on")
        row[0].set_ylabel(picks.title, fontsize=8)
    return figure


@dataclass(frozen=True)
class Point:
    """A held-out metric after a round: value, and the ends of its 90 % bootstrap interval."""

    labelled: int
    value: float
    low: float
    high: float


def draw_learning(rmse: Sequence[Point], log_likelihood: Sequence[Point], held: int) -> Figure:
    """Held-out error and log-likelihood by round, all models on the same galaxies."""
    figure = Figure(figsize=(9.6, 3.2), layout="constrained")
    panels = [
        (rmse, "RMSE of the vote fraction"),
        (log_likelihood, "log-likelihood (nats a galaxy)"),
    ]
    for axis, (points, title) in zip(figure.subplots(1, 2), panels, strict=True):
        x = [point.labelled for point in points]
        y = np.array([point.value for point in points])
        spread = np.abs([[p.value - p.low for p in points], [p.high - p.value for p in points]])
        axis.errorbar(x, y, yerr=spread, color=MEAN_COLOUR, marker="o", capsize=3, linewidth=1.6)
        for number, (at, value) in enumerate(zip(x, y, strict=True), 1):
            axis.annotate(
                f" {number}", (at, value), xytext=(3, 5), textcoords="offset points", fontsize=8
            )
        axis.set_title(f"{title}, {held} held-out galaxies", fontsize=10)
        axis.set_xlabel("labelled galaxies when the model was trained")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    return figure


@dataclass(frozen=True)
class Thumb:
    """A picture of a contact sheet: its file, two lines below it, and whether it is framed."""

    path: Path
    title: str
    note: str
    framed: bool


SHEET_COLUMNS, SHEET_SIDE, SHEET_GAP, SHEET_TEXT = 10, 128, 8, 30


def contact_sheet(thumbs: Sequence[Thumb], title: str) -> bytes:
    """Many pictures on one page, ten in a row, as a JPEG.

    Parameters
    ----------
    thumbs : sequence of Thumb
        From left to right and top to bottom.
    title : str
        For the top.

    Returns
    -------
    bytes
    """
    step, row = SHEET_SIDE + SHEET_GAP, SHEET_SIDE + SHEET_GAP + SHEET_TEXT
    sheet, pen, small, places = _begin_sheet(len(thumbs), SHEET_COLUMNS, step, row, title)
    for thumb, (x, y) in zip(thumbs, places, strict=True):
        with Image.open(thumb.path) as picture:
            small_one = picture.convert("RGB").resize((SHEET_SIDE, SHEET_SIDE))
        sheet.paste(small_one, (x, y))
        if thumb.framed:
            pen.rectangle((x, y, x + SHEET_SIDE - 1, y + SHEET_SIDE - 1), outline="white", width=2)
        for line, text in enumerate((thumb.title, thumb.note)):
            shown = _fitting(pen, text, small, SHEET_SIDE)
            pen.text((x, y + SHEET_SIDE + 1 + 13 * line), shown, "#dadce0", small)
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _begin_sheet(
    count: int, columns: int, step: int, row: int, title: str
) -> tuple[Image.Image, ImageDraw.ImageDraw, Any, list[tuple[int, int]]]:
    """A page with a title, a pen and a small font for it, and where each picture's corner goes."""
    lines = -(-count // columns)
    size = (columns * step + SHEET_GAP, lines * row + SHEET_TEXT + SHEET_GAP)
    sheet = Image.new("RGB", size, "#202124")
    pen = ImageDraw.Draw(sheet)
    large, small = (ImageFont.load_default(points) for points in (14, 10.5))
    pen.text((SHEET_GAP, SHEET_GAP), title, "white", large)
    places = [
        (SHEET_GAP + step * (n % columns), SHEET_TEXT + SHEET_GAP + row * (n // columns))
        for n in range(count)
    ]
    return sheet, pen, small, places


def _fitting(pen: ImageDraw.ImageDraw, text: str, font: Any, width: int) -> str:
    """A text, cut off where it is too wide."""
    while pen.textlength(text, font) > width:
        text = text[:-2] + "…"
    return text


@dataclass(frozen=True)
class Pair:
    """A galaxy twice: an array of shape (size, size, channels), 0 to 1, and a picture's file.

    Either may be None; ``fault`` says why.
    """

    title: str
    fault: str
    array: Array | None
    picture: bytes | None


PAIR_COLUMNS, PAIR_SIDE = 4, 160


def pair_sheet(pairs: Sequence[Pair], title: str) -> bytes:
    """Galaxies on one page, each as the network and as volunteers see it, as a JPEG.

    Parameters
    ----------
    pairs : sequence of Pair
        From left to right and top to bottom.
    title : str
        For the top.

    Returns
    -------
    bytes
    """
    step = 2 * PAIR_SIDE + 3 * SHEET_GAP
    row = PAIR_SIDE + SHEET_GAP + SHEET_TEXT
    sheet, pen, small, places = _begin_sheet(len(pairs), PAIR_COLUMNS, step, row, title)
    for pair, (x, y) in zip(pairs, places, strict=True):
        for number, view in enumerate((_drawn(pair.array), _opened(pair.picture))):
            left = x + number * (PAIR_SIDE + 2)
            if view is None:
                box = (left, y, left + PAIR_SIDE - 1, y + PAIR_SIDE - 1)
                pen.rectangle(box, outline="#9aa0a6")
                pen.text((left + 8, y + PAIR_SIDE // 2), "nothing", "#9aa0a6", small)
            else:
                sheet.paste(view.resize((PAIR_SIDE, PAIR_SIDE)), (left, y))
        for line, text in enumerate((pair.title, pair.fault)):
            shown = _fitting(pen, text, small, 2 * PAIR_SIDE)
            colour = "#f28b82" if line else "#dadce0"
            pen.text((x, y + PAIR_SIDE + 1 + 13 * line), shown, colour, small)
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _drawn(array: Array | None) -> Image.Image | None:
    if array is None:
        return None
    pixels = np.rint(255 * np.clip(array, 0, 1)).astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")


def _opened(picture: bytes | None) -> Image.Image | None:
    return None if picture is None else Image.open(io.BytesIO(picture)).convert("RGB")


def to_png(figure: Figure, dpi: int = 110) -> bytes:
    """A figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
