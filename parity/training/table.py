"""A table of the scores of several runs, read from their logs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from parity.report.numbers import in_points
from parity.report.plot import Line, plot
from parity.spec.errors import InputError
from parity.training import logger

COLOURS = ("#d9480f", "#1971c2", "#2f9e44", "#9c36b5", "#868e96")


@dataclasses.dataclass(frozen=True)
class Curve:
    """The validations of one run.

    Attributes:
        name: Name of the run's folder.
        scores: Batches trained on -> mean IoU, or accuracy of classes, in [0, 1]; NaN where it is
            no number; empty where nothing was validated yet.
        losses: Batches trained on -> mean loss.
    """

    name: str
    scores: dict[int, float]
    losses: dict[int, float]


def curves(folders: Sequence[str | Path]) -> list[Curve]:
    """Read the validations of runs from their logs.

    Args:
        folders: Folders written by `parity train --out`.

    Raises:
        InputError: A folder has no log, or one that is damaged.
    """
    found = []
    for folder in map(Path, folders):
        path = folder / "log.jsonl"
        try:
            lines = [line for line in logger.read(path) if line["kind"] == "validation"]
            scores = {_count(line["batches"]): _number(line["score"]) for line in lines}
            losses = {line["batches"]: _number(line["mean_loss"]) for line in lines}
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}, expected the log of a run") from error
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise InputError(f"{path}: not the log of a run") from error
        found.append(Curve(str(folder), scores, losses))
    return found


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(value)
    return value


def _number(value: object) -> float:
    """JSON has no NaN; a log has null in its place."""
    if value is not None and (not isinstance(value, int | float) or isinstance(value, bool)):
        raise TypeError(value)
    return math.nan if value is None else float(value)


def table(found: Sequence[Curve]) -> Table:
    """Return a row for every validation, a column for every run; of two, their difference."""
    made = Table(title="validation: mean IoU (of images: accuracy) in percent, and mean loss")
    made.add_column("batches", justify="right")
    for curve in found:
        made.add_column(escape(curve.name), justify="right")
        made.add_column("loss", justify="right")
    two = len(found) == 2
    if two:
        made.add_column("difference", justify="right")
    for batches in sorted({b for curve in found for b in curve.scores}):
        cells = []
        for curve in found:
            there = batches in curve.scores
            cells.append(f"{100 * curve.scores[batches]:.2f}" if there else "")
            cells.append(f"{curve.losses[batches]:.4f}" if there else "")
        if two:
            both = [curve.scores[batches] for curve in found if batches in curve.scores]
            difference = 100 * (both[-1] - both[0]) if both else 0.0
            cells.append(in_points(difference, signed=True) if len(both) == 2 else "")
        made.add_row(f"{batches:,}", *cells)
    if not all(curve.scores for curve in found):
        none = [cell for c in found for cell in ("" if c.scores else "none yet", "")]
        made.add_row("", *none, *[""] * two)
    return made


def picture(found: Sequence[Curve]) -> str:
    """Return the curves as an SVG file.

    Raises:
        InputError: There is none yet.
    """
    if not any(curve.scores for curve in found):
        names = ", ".join(curve.name for curve in found)
        raise InputError(f"{names}: no validation yet, so no curve to draw")
    lines = [
        Line(
            curve.name,
            COLOURS[i % len(COLOURS)],
            [
                (b, 100 * score, f"{curve.name}, {b}: {100 * score:.2f}")
                for b, score in curve.scores.items()
                if not math.isnan(score)
            ],
        )
        for i, curve in enumerate(found)
        if curve.scores
    ]
    return plot(lines, "batches", "percent", linear=True, alone=True)
