"""What a study says, from the results of its runs: of sides, of pairs of sides, of rows."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from parity.spec.errors import InputError
from parity.study import results
from parity.study.notes import notes_of
from parity.study.plan import DETERMINISTIC, Plan, StudyRun, in_order, sides, with_twins
from parity.study.results import BEGUN, MISSING, RunResult, Speed
from parity.study.statistics import (
    ALPHA,
    Difference,
    Interval,
    Summary,
    Verdict,
    difference,
    holm,
    pooled_deviation,
    prediction_interval,
    summary,
    verdict,
)
from parity.training.side import FRAMEWORKS


@dataclasses.dataclass(frozen=True)
class Noise:
    """How far runs of the same seed lie apart.

    Attributes:
        seeds: Number of seeds that were trained more than once.
        runs: Number of their runs.
        deviation: Standard deviation of the kept score within a seed.
        alike: Number of the seeds whose logs are equal to the last digit.
    """

    seeds: int
    runs: int
    deviation: float
    alike: int


@dataclasses.dataclass(frozen=True)
class Side:
    """What one side of one row reached.

    Attributes:
        name: A framework, perhaps with `-deterministic`.
        seeds: The finished ones.
        best: Of the best validations.
        last: Of the last ones.
        next_run: The 95 % prediction interval of one more run, of the score that the recipe keeps.
        speed: The medians of its runs; the hours are their mean.
        noise: Of repeated seeds; None where there are none.
        versions: Of the framework's packages, such as `torch 2.13.0`.
        machine: Those on which it was trained.
    """

    name: str
    seeds: tuple[int, ...]
    best: Summary
    last: Summary
    next_run: Interval
    speed: Speed
    noise: Noise | None
    versions: str
    machine: str


@dataclasses.dataclass(frozen=True)
class ClassRow:
    """One class in both sides of a comparison.

    Attributes:
        name: The class.
        means: Its mean score of either side, over the pairs in which it is present.
        difference: The paired difference; None where no pair has the class.
        adjusted: Its p value, adjusted for the number of classes by Holm's method.
        equivalence: The p value of the two one-sided tests, adjusted likewise.
    """

    name: str
    means: tuple[float, float]
    difference: Difference | None
    adjusted: float
    equivalence: float

    @property
    def different(self) -> bool:
        return self.adjusted < ALPHA

    @property
    def equivalent(self) -> bool:
        return self.equivalence < ALPHA


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two sides, paired by seed.

    Attributes:
        first: A side.
        second: Another one; differences are this one minus the first.
        seeds: Those that both have finished.
        kept: The verdict on the score that the recipe keeps.
        other: The verdict on the other one of best and last.
        classes: Per class, of the kept validation.
    """

    first: str
    second: str
    seeds: tuple[int, ...]
    kept: Verdict
    other: Verdict
    classes: tuple[ClassRow, ...]


@dataclasses.dataclass(frozen=True)
class SweepRow:
    """One row of a sweep, or the whole of a study without a sweep.

    Attributes:
        settings: `KEY=VALUE`, in order; empty without a sweep.
        sides: The sides with a finished run.
        comparisons: Of both frameworks, if both have a finished seed in common.
        runs: Every run's result.
    """

    settings: tuple[str, ...]
    sides: tuple[Side, ...]
    comparisons: tuple[Comparison, ...]
    runs: tuple[RunResult, ...]

    @property
    def name(self) -> str:
        return " ".join(self.settings)

    def unfinished(self, found: Comparison) -> bool:
        """Return whether runs of a comparison are still to be trained.

        They were asked for or begun, or are the other half of a pair. Repeats are in no comparison.
        """
        return any(
            result.status in (BEGUN, MISSING)
            and result.run.repeat == 1
            and result.run.side in (found.first, found.second)
            for result in self.runs
        )

    def side(self, name: str) -> Side | None:
        return next((side for side in self.sides if side.name == name), None)


@dataclasses.dataclass(frozen=True)
class RowDifference:
    """Two rows of a sweep, on one side, paired by seed.

    Attributes:
        side: The side.
        first: Index of a row.
        second: Index of another one.
        difference: Second minus first.
        adjusted: Its p value, adjusted for all pairs of rows of this side.
    """

    side: str
    first: int
    second: int
    difference: Difference
    adjusted: float

    @property
    def different(self) -> bool:
        return self.adjusted < ALPHA


@dataclasses.dataclass(frozen=True)
class Study:
    """Everything that a study says.

    Attributes:
        plan: What its runs have in common.
        margin: Of equivalence, in points.
        rows: One, or one per row of a sweep.
        row_differences: Between rows of a sweep.
        notes: Lines on what is missing or failed, and what else the reader must know.
    """

    plan: Plan
    margin: float
    rows: tuple[SweepRow, ...]
    row_differences: tuple[RowDifference, ...]
    notes: tuple[str, ...]

    @property
    def score(self) -> str:
        return "mean IoU" if self.plan.recipe.dataset.pixels else "accuracy"


def study(
    plan: Plan,
    out: Path,
    asked: Sequence[StudyRun] = (),
    margin: float | None = None,
    seeds: Sequence[int] | None = None,
) -> Study:
    """Read and judge what lies in a study's folder.

    Args:
        plan: The study.
        out: Its folder.
        asked: Runs that are named where they are not there, beside those that OUT knows of.
        margin: The margin of equivalence, in points; the plan's if not given.
        seeds: Those that are judged, and named where they are not there; all if not given.

    Raises:
        InputError: A file is damaged, or of another recipe or other data.
    """
    runs = with_twins({*plan.found(out), *asked})
    if seeds is not None:
        runs = _of_seeds(runs, seeds, out)
    margin = plan.margin if margin is None else margin
    found = [results.read(plan, run, out) for run in runs]
    _check_images(found, out)
    rows = [_row(plan, row, margin, found) for row in dict.fromkeys(run.row for run in runs)]
    notes = notes_of(rows, found)
    if margin != plan.margin:
        notes.append(f"margin {margin:g}, where the study began with {plan.margin:g}")
    between = _row_differences(rows, plan.recipe.keep) if len(rows) > 1 else []
    return Study(plan, margin, tuple(rows), tuple(between), tuple(notes))


def _of_seeds(runs: Sequence[StudyRun], seeds: Sequence[int], out: Path) -> list[StudyRun]:
    """The runs of these seeds, and those that are missing among them, on sides that have any."""
    there = [run for run in runs if run.seed in seeds]
    if not there:
        raise InputError(f"{out} holds no run of seeds {', '.join(map(str, seeds))}")
    sides_there = {(run.row, run.side) for run in there}
    firsts = {StudyRun(row, seed, 1, side) for row, side in sides_there for seed in seeds}
    return in_order({*there, *firsts})


def _check_images(found: Sequence[RunResult], out: Path) -> None:
    """Refuse runs whose validations count other numbers of images."""
    known = [result for result in found if result.images]
    for result in known:
        if result.images != known[0].images:
            raise InputError(
                f"{out / result.run.name}: validated {result.images} images,"
                f" {known[0].run.name} {known[0].images}: other data"
            )


def _row(
    plan: Plan, settings: tuple[str, ...], margin: float, found: Sequence[RunResult]
) -> SweepRow:
    here = [result for result in found if result.run.row == settings]
    there = {result.run.side for result in here}
    names = [side for side in sides() if side in there]
    finished = {name: _finished(here, name) for name in names}
    made = tuple(_side(plan, name, here) for name, scores in finished.items() if scores)
    pairs = []
    for end in ("", DETERMINISTIC):
        for one, other in itertools.combinations(FRAMEWORKS, 2):
            both = finished.get(one + end, {}), finished.get(other + end, {})
            if both[0].keys() & both[1].keys():
                pairs.append(_comparison(plan.recipe.keep, one + end, other + end, both, margin))
    return SweepRow(settings, made, tuple(pairs), tuple(here))


def _finished(found: Sequence[RunResult], side: str) -> dict[int, RunResult]:
    """Seed -> its first run, if that is finished and its score is a number.

    A repeat never stands in for a first run that failed: of a side that is not deterministic that
    would be another draw, taken because the first was bad.
    """
    return {
        r.run.seed: r
        for r in sorted(found, key=lambda r: r.run.seed)
        if r.run.side == side and r.run.repeat == 1 and r.finished and r.scored
    }


def _side(plan: Plan, name: str, here: Sequence[RunResult]) -> Side:
    by_seed = _finished(here, name)
    seeds, runs = tuple(by_seed), list(by_seed.values())
    several = [r for r in here if r.run.side == name and r.finished and r.scored]
    speeds = [r.speed for r in several]
    return Side(
        name,
        seeds,
        summary([r.best for r in runs]),
        summary([r.last for r in runs]),
        prediction_interval([r.score(plan.recipe.keep) for r in runs]),
        Speed(
            statistics.median(s.images_per_second for s in speeds),
            statistics.median(s.step for s in speeds),
            statistics.median(s.validation for s in speeds),
            statistics.fmean(s.hours for s in speeds),
        ),
        _noise(several, plan.recipe.keep),
        ", ".join(sorted({r.software for r in several})),
        " / ".join(sorted({r.machine for r in several})),
    )


def _noise(several: Sequence[RunResult], keep: str) -> Noise | None:
    groups = [
        [r for r in several if r.run.seed == seed]
        for seed in dict.fromkeys(r.run.seed for r in several)
    ]
    groups = [group for group in groups if len(group) > 1]
    if not groups:
        return None
    deviation = pooled_deviation([[r.score(keep) for r in group] for group in groups])
    alike = sum(len({r.content for r in group}) == 1 for group in groups)
    return Noise(len(groups), sum(map(len, groups)), deviation, alike)


def _comparison(
    keep: str,
    one: str,
    other: str,
    both: tuple[dict[int, RunResult], dict[int, RunResult]],
    margin: float,
) -> Comparison:
    seeds = tuple(seed for seed in both[0] if seed in both[1])
    first, second = ([part[seed] for seed in seeds] for part in both)
    second_score = "last" if keep == "best" else "best"
    verdicts = [
        verdict([r.score(k) for r in first], [r.score(k) for r in second], margin)
        for k in (keep, second_score)
    ]
    classes = _classes(first, second, margin)
    return Comparison(one, other, seeds, verdicts[0], verdicts[1], classes)


def _classes(
    first: Sequence[RunResult], second: Sequence[RunResult], margin: float
) -> tuple[ClassRow, ...]:
    rows = []
    for name in dict.fromkeys(name for result in (*first, *second) for name in result.classes):
        pairs = [
            (a.classes.get(name), b.classes.get(name)) for a, b in zip(first, second, strict=True)
        ]
        known = [(a, b) for a, b in pairs if a is not None and b is not None]
        if not known:
            rows.append(ClassRow(name, (math.nan, math.nan), None, math.nan, math.nan))
            continue
        ones, others = [a for a, _ in known], [b for _, b in known]
        means = statistics.fmean(ones), statistics.fmean(others)
        judged = verdict(ones, others, margin)
        p = judged.difference.p, judged.p_equivalence
        rows.append(ClassRow(name, means, judged.difference, *p))
    adjusted = holm([row.adjusted for row in rows]), holm([row.equivalence for row in rows])
    return tuple(
        dataclasses.replace(row, adjusted=different, equivalence=equivalent)
        for row, different, equivalent in zip(rows, *adjusted, strict=True)
    )


def _row_differences(rows: Sequence[SweepRow], keep: str) -> list[RowDifference]:
    """Compare every two rows of a sweep, on each side."""
    made: list[RowDifference] = []
    for side in dict.fromkeys(side.name for row in rows for side in row.sides):
        scores = [_finished(row.runs, side) for row in rows]
        here = []
        for i, j in itertools.combinations(range(len(rows)), 2):
            seeds = [seed for seed in scores[i] if seed in scores[j]]
            if seeds:
                one, other = ([scores[k][s].score(keep) for s in seeds] for k in (i, j))
                here.append(RowDifference(side, i, j, difference(one, other), math.nan))
        adjusted = holm([d.difference.p for d in here])
        made += [dataclasses.replace(d, adjusted=a) for d, a in zip(here, adjusted, strict=True)]
    return made
