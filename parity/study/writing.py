"""The report of a study: printed, and as JSON, Markdown and HTML."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.console import Console

from parity.io.files import write_atomically
from parity.report import html
from parity.report.numbers import in_points
from parity.report.plot import Line, legend, plot
from parity.spec.errors import InputError
from parity.spec.training.written import plain
from parity.study.analysis import Comparison, Study, SweepRow
from parity.study.results import RunResult
from parity.study.tables import tables, title

NAMES = ("study.json", "study.md", "study.html")
COLOURS = {
    "torch": "#d9480f",
    "jax": "#1971c2",
    "torch-deterministic": "#f08c00",
    "jax-deterministic": "#0c8599",
}


def print_study(study: Study, console: Console) -> None:
    """Print everything, verdicts last."""
    for table in tables(study):
        console.print(table.printed())
        for line in table.below:
            console.print(line, soft_wrap=True, markup=False, highlight=False)
    for line in [*study.notes, *verdicts(study)]:
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def verdicts(study: Study) -> list[str]:
    """Return one line for each comparison of two frameworks.

    While runs are still to be trained they say so: who stops when he likes a verdict is wrong more
    often than the tests are.
    """
    lines = []
    for row in study.rows:
        where = f"{row.name}: " if row.settings else ""
        for found in row.comparisons:
            low, high = found.kept.difference.interval90
            pairs = f"{len(found.seeds)} pair{'s' * (len(found.seeds) != 1)}"
            so_far = ", so far" if row.unfinished(found) else ""
            line = f"{where}{found.second} - {found.first}{so_far}: {found.kept.words} ({pairs}"
            ends = f"{in_points(low, signed=True)} to {in_points(high, signed=True)}"
            lines.append(line + (f"; 90 % interval {ends})" if math.isfinite(low) else ")"))
    return lines


def write_study(study: Study, out: Path) -> list[Path]:
    """Write the three files of `NAMES` into a study's folder; each is replaced as a whole.

    Raises:
        InputError: One cannot be written.
    """
    texts = (json.dumps(to_dict(study), indent=1), markdown(study), page(study))
    paths = [out / name for name in NAMES]
    for path, text in zip(paths, texts, strict=True):
        write_atomically(path, text.encode())
    return paths


def to_dict(study: Study) -> dict[str, Any]:
    """Return the study as JSON values; null stands for what is no number."""
    entries: dict[str, Any] = {"recipe": plain(study.plan.recipe), "epochs": study.plan.epochs}
    entries |= {"devices": study.plan.devices, "data": study.plan.data, "score": study.score}
    entries["images"] = study.plan.images
    entries |= {"margin": study.margin, "notes": list(study.notes), "verdicts": verdicts(study)}
    entries["rows"] = []
    for row in study.rows:
        made = values(row)
        for entry, found in zip(made["comparisons"], row.comparisons, strict=True):
            for name in ("kept", "other"):
                verdict = getattr(found, name)
                entry[name] |= {"equivalent": verdict.equivalent, "different": verdict.different}
                entry[name] |= {"more": verdict.more, "more_at_most": verdict.more_at_most}
                entry[name]["words"] = verdict.words
        entries["rows"].append(made)
    entries["row_differences"] = [
        values(d) | {"different": d.different} for d in study.row_differences
    ]
    return entries


def values(value: Any) -> Any:
    """Convert to JSON values; null for what is no number."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: values(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [values(item) for item in value]
    if isinstance(value, dict):
        return {key: values(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def markdown(study: Study, drawn: str | None = None) -> str:
    """The whole report as Markdown.

    Args:
        study: The study.
        drawn: Path of the file of `picture`, as seen from the page.
    """
    parts = [f"## {title(study)}", *(f"**{line}**" for line in verdicts(study))]
    if drawn is not None:
        parts.append(f"![{study.score} of every run, over the batches]({drawn})")
    parts += [table.markdown() for table in tables(study)]
    if study.notes:
        parts.append("\n".join(f"- {line}" for line in study.notes))
    return "\n\n".join(parts) + "\n"


def page(study: Study) -> str:
    """The whole report as a page that needs no other file."""
    pictures = []
    for row in study.rows:
        lines = curves(row)
        if lines:
            drawn = Markup(plot(lines, "batches", f"{study.score}, percent", linear=True))
            pictures.append((row.name, drawn, Markup(legend(_once(lines)))))
    bars = [
        (row.name, found, [_bars(found, i) for i in range(len(found.classes))])
        for row in study.rows
        for found in row.comparisons
    ]
    return html.render(
        "study.html",
        title=title(study),
        verdicts=verdicts(study),
        tables=tables(study),
        notes=study.notes,
        pictures=pictures,
        bars=bars,
        colours=COLOURS,
    )


def curves(row: SweepRow) -> list[Line]:
    """The validations of every run."""
    return [_line(result) for result in row.runs if result.curve]


def picture(study: Study) -> str:
    """The validations of every run as an SVG file.

    Raises:
        InputError: There is none yet.
    """
    lines = [line for row in study.rows for line in curves(row)]
    if not lines:
        raise InputError("no validation yet, so no curve to draw")
    # One name in the legend for all runs of a side; the plot has one line after the other.
    first = {line.name: line for line in lines}
    shown = [*first.values(), *(line for line in lines if line is not first[line.name])]
    named = [
        dataclasses.replace(line, name="") if i >= len(first) else line
        for i, line in enumerate(shown)
    ]
    return plot(named, "batches", f"{study.score}, percent", linear=True, alone=True)


def _line(result: RunResult) -> Line:
    run = result.run
    points = [
        (batches, score, f"{run.words}, {batches}: {score:.2f}")
        for batches, score in result.curve
        if not math.isnan(score)
    ]
    return Line(run.side, COLOURS[run.side], points, dashed=run.deterministic)


def _once(lines: list[Line]) -> list[Line]:
    return list({line.name: line for line in lines}.values())


def _bars(found: Comparison, index: int) -> tuple[str, list[tuple[str, float]], str]:
    """Name of a class, (side, mean score in percent) of both, and the difference."""
    one = found.classes[index]
    if one.difference is None:
        return one.name, [], "absent"
    sides = list(zip((found.first, found.second), one.means, strict=True))
    mark = ", different" if one.different else ""
    return one.name, sides, f"{in_points(one.difference.mean, signed=True)}{mark}"
