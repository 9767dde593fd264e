"""Small drawings within pages, as SVG: a posterior strip for each galaxy, bars for a query."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

WIDTH, HEIGHT = 160, 36
BAR_WIDTH, BAR_HEIGHT = 640, 150


def strip(
    mean: float | None,
    low: float | None,
    high: float | None,
    curve: Sequence[float] | None = None,
    answer: str = "",
    place: str = "",
    swap: bool = False,
) -> Markup:
    """What is predicted of one galaxy's votes, from none to all of them.

    Parameters
    ----------
    mean, low, high : float or None
        The expected share of votes, and its 90 % credible interval; None before there are scores.
    curve : sequence of float, optional
        The posterior's probabilities of k = 0 … n; without it the interval alone is drawn.
    answer : str
        What k counts.
    place : str
        An id for the drawing, by which it is replaced when the curve is known.
    swap : bool
        It is such a replacement.

    Returns
    -------
    Markup
        An SVG element, with what it shows in words.
    """
    words = "nothing is predicted yet"
    if mean is not None and low is not None and high is not None:
        words = f"{mean:.0%} would say {answer}; 90 % interval {low:.0%} to {high:.0%}"
    ident = f' id="{escape(place)}"' if place else ""
    swapped = ' hx-swap-oob="true"' if swap else ""
    floor = HEIGHT - 6
    parts = [f'<path class="floor" d="M0 {floor}H{WIDTH}"/>']
    if mean is not None and low is not None and high is not None:
        left, right, middle = (WIDTH * value for value in (low, high, mean))
        width = max(right - left, 1.5)
        parts.append(
            f'<rect class="interval" x="{left:.1f}" y="{floor}" width="{width:.1f}" height="5"/>'
        )
        if curve:
            top = max(curve) or 1.0
            step = WIDTH / max(len(curve) - 1, 1)
            points = " ".join(
                f"{place_ * step:.1f},{floor - (floor - 2) * value / top:.1f}"
                for place_, value in enumerate(curve)
            )
            parts.append(f'<polygon class="curve" points="0,{floor} {points} {WIDTH},{floor}"/>')
        parts.append(f'<path class="mean" d="M{middle:.1f} {HEIGHT}V{2 if not curve else 8}"/>')
    inside = "".join(parts)
    return Markup(
        f'<svg{ident}{swapped} class="strip" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(words)}">{inside}</svg>'
    )


def bars(edges: Sequence[float], counts: Sequence[int], name: str) -> Markup:
    """How a column is spread.

    Parameters
    ----------
    edges : sequence of float
        One more than there are bars.
    counts : sequence of int
        Galaxies in each bar.
    name : str
        The column.

    Returns
    -------
    Markup
        An SVG element.
    """
    top = max(counts, default=0) or 1
    step = BAR_WIDTH / max(len(counts), 1)
    drawn = "".join(
        f'<rect x="{place * step + 0.5:.1f}" y="{BAR_HEIGHT - height:.1f}" '
        f'width="{step - 1:.1f}" height="{height:.1f}"><title>{low:.4g} to {high:.4g}: '
        f"{count:,}</title></rect>"
        for place, (count, low, high) in enumerate(zip(counts, edges, edges[1:], strict=False))
        for height in [BAR_HEIGHT * count / top]
    )
    words = f"Histogram of {name}, {sum(counts):,} galaxies from {edges[0]:.4g} to {edges[-1]:.4g}"
    return Markup(
        f'<svg class="bars" viewBox="0 0 {BAR_WIDTH} {BAR_HEIGHT + 1}" role="img" '
        f'preserveAspectRatio="none" aria-label="{escape(words)}">{drawn}'
        f'<path class="floor" d="M0 {BAR_HEIGHT + 0.5}H{BAR_WIDTH}"/></svg>'
    )
