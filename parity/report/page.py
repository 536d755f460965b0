"""The page of a comparison: the verdict, how errors grow with depth, what failed and why."""

from __future__ import annotations

import collections
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup

from parity.report import html
from parity.report.graph import graph
from parity.report.plot import Line, legend, plot
from parity.report.quantity import Kind, Mode
from parity.report.source import SourceLine

if TYPE_CHECKING:
    from parity.report.findings import Check, Findings

MOST = 100  # failures of a rung, checks and others on the page; the JSON report has all

COLOURS = {
    ("structure", Mode.EVAL): "#2f9e6e",
    ("structure", Mode.TRAIN): "#4c7fd0",
    ("numerics", Mode.EVAL): "#d9822b",
    ("numerics", Mode.TRAIN): "#b3568f",
}


def page(report: Findings) -> str:
    """The whole page."""
    lines, failures = depth_lines(report), report.failures()
    listed = listed_failures(failures)
    labels = ("layer, in the order of the forward pass", "relative error of the output")
    return html.render(
        "report.html",
        title=f"{report.name}: port against reference",
        report=report,
        most=MOST,
        tiles=_tiles(report),
        depth=Markup(plot(lines, *labels)) if lines else "",
        legend=Markup(legend(lines)),
        failures=failures,
        listed=listed,
        rungs=list(_rungs(report)),
        sources=list(_sources(report)),
        modules=graph(report, {c.layer for c in listed}),
        failed_rungs=sorted({c.rung for c in failures}),
        left_out=sorted(report.left_out, key=lambda o: (not o.counts, o.rung)),
        notes=[f"not seen: {line}" for line in report.unseen] + report.notes + report.drowned(),
        closest=_closest(report),
    )


def listed_failures(failures: Sequence[Check], most: int = MOST) -> list[Check]:
    """Return the first failures of each rung, and the first one of each layer."""
    rungs: collections.Counter[str] = collections.Counter()
    layers: set[str] = set()
    found = []
    for check in failures:
        rungs[check.rung] += 1
        if rungs[check.rung] <= most or check.layer not in layers:
            found.append(check)
        layers.add(check.layer)
    return found


def _tiles(report: Findings) -> list[tuple[str, str]]:
    """Figures and their captions."""
    tiles = [
        (f"{report.compared:,}", "comparisons"),
        (f"{len(report.failures()):,}", "failed"),
        (f"{sum(report.seconds.values()):.0f} s", "on all rungs"),
    ]
    margins = [c.margin for c in report.checks if c.can_fail and math.isfinite(c.margin)]
    if margins:
        tiles.append((f"{min(margins):.2g}x", "smallest margin to a limit"))
    return tiles


def depth_lines(report: Findings) -> list[Line]:
    """L2's errors of the layers' first outputs, per precision and mode."""
    lines = []
    for (kind, mode), colour in COLOURS.items():
        checks = [
            c
            for c in report.checks
            if (c.rung, c.kind) == ("L2", kind)
            and (c.quantity.kind, c.quantity.index, c.quantity.mode) == (Kind.OUTPUT, 0, mode)
        ]
        precision = "float64" if kind == "structure" else report.precision
        points = [(i, c.error, f"{c.layer}: {c.error:.2g}") for i, c in enumerate(checks)]
        if points:
            name = f"{precision}, {mode} mode"
            lines.append(Line(name, colour, points, dashed=mode is Mode.EVAL))
    return lines


class RungRow(NamedTuple):
    """A row of the table of rungs; see `Report.rows`.

    Attributes:
        left_out: Number of quantities not compared.
        mark: The colour of that number: `bad` where a required quantity is among them, `part` where
            an option left some out, else `good`.
    """

    name: str
    kind: str
    compared: int
    failed: int
    margin: str
    worst: str
    left_out: int
    mark: str


def _rungs(report: Findings) -> Iterator[RungRow]:
    for name, kind, compared, failed, margin, worst in report.rows():
        here = [o for o in report.left_out if o.rung == name[:2] and kind == "structure"]
        part = "part" if any(o.option for o in here) else "good"
        mark = "bad" if any(o.counts for o in here) else part
        yield RungRow(name, kind, compared, failed, margin, worst, len(here), mark)


class Excerpt(NamedTuple):
    """Lines of a source file around the one to look at.

    Attributes:
        side: `reference` or `port`.
        line: The line to look at.
        lines: Numbers and texts.
    """

    side: str
    line: SourceLine
    lines: list[tuple[int, str]]


def _sources(report: Findings) -> Iterator[Excerpt]:
    """Both sides' sources at the first failure, as far as they can be read."""
    parting = report.parting
    places = [("reference", parting.reference_line)] if parting is not None else []
    for side, line in (*places, ("port", report.port_line)):
        if lines := line.excerpt():
            yield Excerpt(side, line, lines)


def _closest(report: Findings) -> dict[str, list[Check]]:
    """Per rung, the comparisons that came closest to their limits."""
    finite = [c for c in report.checks if math.isfinite(c.margin)]
    found = {
        rung: sorted((c for c in finite if c.rung == rung), key=lambda c: c.margin)[:MOST]
        for rung in report.seconds
    }
    return {rung: checks for rung, checks in found.items() if checks}
