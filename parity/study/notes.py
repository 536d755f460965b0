"""Lines below the tables of a study: what is missing or failed, and what else must be known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from parity.spec.errors import listed
from parity.study.plan import DETERMINISTIC
from parity.study.results import FINISHED, THEN, RunResult
from parity.training.side import FRAMEWORKS

if TYPE_CHECKING:
    from parity.study.analysis import SweepRow


def notes_of(rows: Sequence[SweepRow], found: Sequence[RunResult]) -> list[str]:
    """All of them, in order.

    Args:
        rows: The rows of the report.
        found: The result of every run.
    """
    return [*_missing_sides(rows), *_of_runs(found), *_mixed(found)]


def _missing_sides(rows: Sequence[SweepRow]) -> list[str]:
    """Say where there is nothing to compare, or one seed alone."""
    lines = []
    for row in rows:
        where = f"{row.name}: " if row.settings else ""
        names = {side.name.removesuffix(DETERMINISTIC) for side in row.sides}
        missing = [name for name in FRAMEWORKS if name not in names]
        # Repeats do not stand in for a first run that failed, nor runs without a score for any.
        ended = {r.run.framework for r in row.runs if r.status == FINISHED}
        first = "first run with a score" if ended & {*missing} else "run"
        if row.sides and missing:
            of = " or ".join(missing)
            lines.append(f"{where}no finished {first} of {of}: nothing to compare")
        elif not row.sides:
            lines.append(f"{where}no finished {first} yet")
        elif not row.comparisons:
            lines.append(f"{where}both frameworks have finished runs, but of no seed in common")
    single = [(row, side.name) for row in rows for side in row.sides if len(side.seeds) == 1]
    for name in dict.fromkeys(name for _, name in single):
        count = sum(name == other for _, other in single)
        where = f" (in {count} of {len(rows)} rows)" if len(rows) > 1 else ""
        lines.append(
            f"{name}: one seed alone has no deviation; nothing can be said of its noise{where}"
        )
    return lines


def _of_runs(found: Sequence[RunResult]) -> list[str]:
    """Say of each run what is wrong with it."""
    return [result.note for result in found if result.note] + [
        f"{result.run.words}: its score is not a number, and is in no number below"
        for result in found
        if result.status == FINISHED and not result.scored
    ]


def _mixed(found: Sequence[RunResult]) -> list[str]:
    """Say where runs were trained under conditions that may matter and that are not the same."""
    lines = []
    for side in dict.fromkeys(result.run.side for result in found):
        machines = {r.machine for r in found if r.run.side == side and r.machine}
        versions = {r.software for r in found if r.run.side == side and r.versions}
        settings = {one for machine in machines for one in machine.split(THEN)}
        if len(settings) > 1:
            lines.append(
                f"{side}: trained under {len(settings)} settings of machine and threads; times are"
                " mixed"
            )
        if len(versions) > 1 or any(THEN in version for version in versions):
            lines.append(f"{side}: trained by several versions: {'; '.join(sorted(versions))}")
    if len(places := sorted({place for result in found for place in result.data})) > 1:
        lines.append(
            f"runs were trained on data in {len(places)} places, of which only the numbers of"
            f" images were compared: {listed(places)}"
        )
    return lines
