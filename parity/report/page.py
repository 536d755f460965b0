"""The page of a comparison: the verdict, how errors grow with depth, what failed and why."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

from parity.report import html as pages
from parity.report.plot import Line, legend, plot
from parity.report.quantity import Kind, Mode

if TYPE_CHECKING:
    from parity.report.findings import Check, Findings

MOST = 100  # failures and checks of one rung on the page; the JSON report has all

COLOURS = {
    ("structure", Mode.EVAL): "#2f9e6e",
    ("structure", Mode.TRAIN): "#4c7fd0",
    ("numerics", Mode.EVAL): "#d9822b",
    ("numerics", Mode.TRAIN): "#b3568f",
}


def page(report: Findings) -> str:
    """The whole page."""
    verdict = (
        '<span class="pill good">faithful</span>'
        if report.ok
        else '<span class="pill bad">not faithful</span>'
    )
    body = [
        f"<h1>{escape(report.name)} {verdict}</h1>",
        f'<p class="soft">Port against reference: structure in float64, numerics in'
        f" {escape(report.precision)}.</p>",
        _tiles(report),
        _depth(report),
        _failures(report),
        _causes(report),
        _rungs(report),
        _left_out(report),
        _notes(report),
        _closest(report),
    ]
    return pages.document(f"{report.name}: port against reference", "\n".join(filter(None, body)))


def _tiles(report: Findings) -> str:
    failed = len(report.failures())
    tiles = [
        pages.tile(f"{len(report.checks):,}", "comparisons"),
        pages.tile(f"{failed:,}", "failed"),
        pages.tile(f"{sum(report.seconds.values()):.0f} s", "on all rungs"),
    ]
    margins = [c.margin for c in report.checks if math.isfinite(c.margin)]
    if margins:
        tiles.append(pages.tile(f"{min(margins):.2g}x", "smallest margin to a limit"))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _depth(report: Findings) -> str:
    lines = depth_lines(report)
    if not lines:
        return ""
    return (
        "<h2>How the error grows with depth</h2>"
        f'<div class="card"><div class="legend">{legend(lines)}</div>'
        f"{plot(lines, 'layer, in the order of the forward pass', 'relative error of the output')}"
        '<p class="soft">Each point is a layer\'s first output inside the whole network; hover for'
        " its name. A fault is a step up in float64; rounding alone stays low there.</p></div>"
    )


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


def _failures(report: Findings) -> str:
    failed = report.failures()
    if not failed:
        return ""
    rest = f'<p class="soft">and {len(failed) - MOST:,} more</p>' if len(failed) > MOST else ""
    return f"<h2>What failed</h2>{_table(failed[:MOST])}{rest}"


def _causes(report: Findings) -> str:
    fault = report.fault()
    if fault is None:
        return ""
    rows = "".join(f"<li>{escape(str(cause))}</li>" for cause in report.causes)
    causes = f"<p>Likely causes, likeliest first:</p><ol>{rows}</ol>" if rows else ""
    return (
        "<h2>Where to look first</h2>"
        f'<div class="card"><p><code>{escape(fault.sentence())}</code></p>{causes}</div>'
    )


def _rungs(report: Findings) -> str:
    rows = []
    for rung, kind, compared, failed, margin, worst in report.rows():
        mark = "bad" if failed else "good"
        omitted = [o for o in report.left_out if o.rung == rung[:2] and kind == "structure"]
        left = "bad" if any(o.counts for o in omitted) else "good"
        rows.append(
            f"<tr><td>{escape(rung)}</td><td>{kind}</td><td>{compared:,}</td>"
            f'<td><span class="pill {mark}">{failed:,}</span></td><td>{margin}</td>'
            f'<td><span class="pill {left}">{len(omitted):,}</span></td>'
            f"<td><code>{escape(worst)}</code></td></tr>"
        )
    columns = ("rung", "kind", "compared", "failed", "margin", "not compared", "of the worst")
    head = "".join(f"<th>{h}</th>" for h in columns)
    return (
        f'<h2>Rung by rung</h2><div class="card scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _left_out(report: Findings) -> str:
    """What was not compared, those first that the port cannot pass without."""
    if not report.left_out:
        return ""
    omitted = sorted(report.left_out, key=lambda o: (not o.counts, o.rung))
    items = "".join(f"<li>{escape(o.sentence())}</li>" for o in omitted[:MOST])
    rest = len(omitted) - MOST
    more = f'<p class="soft">and {rest:,} more</p>' if rest > 0 else ""
    return f"<h2>What was not compared</h2><ul>{items}</ul>{more}"


def _notes(report: Findings) -> str:
    unseen = [f"not seen: {line}" for line in report.unseen]
    if not (notes := unseen + report.notes):
        return ""
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<h2>Notes</h2><ul>{items}</ul>"


def _closest(report: Findings) -> str:
    """Per rung, the comparisons that came closest to their limits."""
    parts = []
    for rung in report.seconds:
        checks = [c for c in report.checks if c.rung == rung and math.isfinite(c.margin)]
        if checks:
            closest = sorted(checks, key=lambda c: c.margin)[:MOST]
            parts.append(f"<details><summary>{rung}</summary>{_table(closest)}</details>")
    return f"<h2>Closest to the limit</h2>{''.join(parts)}" if parts else ""


def _table(checks: Iterable[Check]) -> str:
    head = "".join(
        f"<th>{h}</th>"
        for h in ("layer", "reference", "quantity", "kind", "error", "limit", "isolated", "found")
    )
    rows = "".join(_row(c) for c in checks)
    return (
        f'<div class="card scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody>'
        "</table></div>"
    )


def _row(c: Check) -> str:
    isolated = "" if c.isolated is None else f"{c.isolated:.2g}"
    found = escape(c.note or c.place())
    return (
        f"<tr><td><code>{escape(c.layer)}</code></td><td><code>{escape(c.reference)}</code></td>"
        f"<td>{escape(str(c.quantity))}</td><td>{c.rung} {c.kind}</td><td>{c.error:.2g}</td>"
        f"<td>{c.limit:.2g}</td><td>{isolated}</td><td>{found}</td></tr>"
    )
