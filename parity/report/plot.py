"""Plots as SVG that follows a page's colours: errors over depth, accuracies over time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from html import escape

WIDTH, HEIGHT = 1000, 340  # of the picture; it scales to its place
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 14, 34
SMALLEST = 1e-18  # what is drawn of an error of 0


@dataclasses.dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        name: Its name in the legend; it is not there if empty.
        colour: A CSS colour.
        points: (Depth, error, label) of each point. Errors that are not finite are marked at the
            top.
        dashed: Whether the line is dashed.
    """

    name: str
    colour: str
    points: Sequence[tuple[int, float, str]]
    dashed: bool = False


def plot(
    lines: Sequence[Line],
    horizontal: str,
    vertical: str,
    linear: bool = False,
    alone: bool = False,
) -> str:
    """Plot errors on a logarithmic scale, or numbers from 0 on a linear one.

    Args:
        lines: At least one with a point.
        horizontal: What the horizontal axis shows.
        vertical: What the vertical axis shows.
        linear: Whether the scale is linear.
        alone: Whether to make a separate file, with a legend, in grey on any background.

    Returns:
        An `<svg>` element with a title for each point.
    """
    errors = [e for line in lines for _, e, _ in line.points if math.isfinite(e)]
    exponents = [math.log10(max(e, SMALLEST)) for e in errors] or [0.0]
    low, high = math.floor(min(exponents)), math.ceil(max(exponents))
    high = max(high, low + 1)
    if linear:
        low, high = 0, max(10, math.ceil(max(errors, default=0.0) / 10) * 10)  # all may be 0
    deepest = max((d for line in lines for d, _, _ in line.points), default=1) or 1

    def x(depth: int) -> float:
        return LEFT + depth / deepest * (WIDTH - LEFT - RIGHT)

    def y(error: float) -> float:
        if not math.isfinite(error):
            return TOP
        value = error if linear else math.log10(max(error, SMALLEST))
        share = (value - low) / (high - low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    body = [*_grid(low, high, y, linear), *_words(horizontal, vertical)]
    if linear:
        body += [
            f'<text x="{x(depth):.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="{anchor}">'
            f"{depth:,}</text>"
            for depth, anchor in ((0, "middle"), (deepest, "end"))
        ]
    for line in lines:
        path = " ".join(f"{x(d):.1f},{y(e):.1f}" for d, e, _ in line.points)
        dashes = ' stroke-dasharray="5 4"' if line.dashed else ""
        body.append(
            f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="1.6"'
            f' stroke-linejoin="round"{dashes}/>'
        )
        body += [
            f'<circle cx="{x(d):.1f}" cy="{y(e):.1f}" r="2.6" fill="{line.colour}">'
            f"<title>{escape(text)}</title></circle>"
            for d, e, text in line.points
        ]
    space = ' xmlns="http://www.w3.org/2000/svg" color="#868e96" font-family="sans-serif"'
    if alone:
        body += [
            f'<text x="{LEFT + 12}" y="{TOP + 14 + 16 * i}" fill="{line.colour}">'
            f"{escape(line.name)}</text>"
            for i, line in enumerate(line for line in lines if line.name)
        ]
    return (
        f'<svg{space if alone else ""} viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-size="11"'
        ' fill="currentColor">'
        f"<title>{escape(vertical)} against {escape(horizontal)}</title>{''.join(body)}</svg>"
    )


def legend(lines: Sequence[Line]) -> str:
    """The names of the lines, in their colours."""
    return "".join(
        f'<span><span class="swatch" style="background:{line.colour}"></span>'
        f"{escape(line.name)}</span> "
        for line in lines
    )


def _grid(low: int, high: int, y: Callable[[float], float], linear: bool) -> Iterator[str]:
    step = 10 if linear else max(1, (high - low) // 8)
    for mark in range(low, high + 1, step):
        place, words = y(float(mark) if linear else 10.0**mark), f"{'' if linear else '1e'}{mark}"
        yield (
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place:.1f}" y2="{place:.1f}"'
            ' stroke="currentColor" stroke-opacity=".15"/>'
            f'<text x="{LEFT - 8}" y="{place + 4:.1f}" text-anchor="end">{words}</text>'
        )


def _words(horizontal: str, vertical: str) -> Iterator[str]:
    middle = (HEIGHT - BOTTOM + TOP) / 2
    yield (
        f'<text x="{(WIDTH + LEFT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">'
        f"{escape(horizontal)}</text>"
        f'<text x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">'
        f"{escape(vertical)}</text>"
    )
