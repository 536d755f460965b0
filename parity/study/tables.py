"""The tables of a study, as text in rows and columns: printed, as Markdown and on the page."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table as Printed

from parity.report.numbers import in_points
from parity.spec.training.recipe import HALF
from parity.spec.training.written import differences, plain
from parity.study.analysis import ClassRow, Comparison, RowDifference, Side, Study, SweepRow
from parity.study.grid import short_setting
from parity.study.plan import DETERMINISTIC, Plan
from parity.study.results import FINISHED
from parity.study.statistics import Interval, Summary, Verdict


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        title: Its title.
        head: The columns' names.
        rows: The cells.
        below: Lines below it.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    below: tuple[str, ...] = ()

    def markdown(self) -> str:
        cells = [self.head, ("---",) * len(self.head), *self.rows]
        lines = ["| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in cells]
        after = [f"\n{line}" for line in self.below]
        return "\n".join([f"### {self.title}", "", *lines, *after])

    def printed(self) -> Printed:
        made = Printed(title=escape(self.title), title_justify="left")
        for i, name in enumerate(self.head):
            made.add_column(escape(name), justify="right" if i else "left")
        for row in self.rows:
            made.add_row(*map(escape, row))
        return made


def tables(study: Study) -> list[Table]:
    """All tables, in order."""
    made = [sweep(study)] if len(study.rows) > 1 else []
    for row in study.rows:
        if not row.sides:
            continue
        made += [accuracy(study, row), speed(study, row)]
        if row.comparisons:
            made += [comparison(study, row), *(classes(study, row, c) for c in row.comparisons)]
        made.append(runs(study, row))
    return [table for table in made if table.rows]


def title(study: Study) -> str:
    plan = study.plan
    size = "x".join(map(str, plan.recipe.size))
    epochs = f"{plan.epochs} epoch{'s' * (plan.epochs != 1)}"
    return f"{plan.recipe.name}: {epochs} at {size}, {plan.recipe.precision}"


def _plan(study: Study, row: SweepRow) -> Plan:
    """The plan with what the row of a sweep changes in its recipe."""
    return dataclasses.replace(study.plan, recipe=study.plan.recipe_for(row.runs[0].run))


def accuracy(study: Study, row: SweepRow) -> Table:
    plan = _plan(study, row)
    keep, published = plan.recipe.keep, plan.recipe.published
    head = ["side", "seeds", "best", "deviation", "last", "deviation", "lowest to highest"]
    head.append("one more run, 95 %")
    below = [
        f"{study.score} in percent; the recipe reports the {keep} validation, to which the last two"
        " columns belong"
    ]
    if published is not None:
        head += ["published", "inside"]
        deviations = _unlike_published(plan)
        if deviations:
            below.append(f"the published run is another one: {'; '.join(deviations)}")
    rows = []
    for side in row.sides:
        kept = side.best if keep == "best" else side.last
        cells = [side.name, str(len(side.seeds)), *_summary(side.best), *_summary(side.last)]
        cells += [interval((kept.low, kept.high)), _next(side.next_run)]
        if published is not None:
            low, high = side.next_run
            known = math.isfinite(low)
            inside = ("yes" if low <= published <= high else "no") if known else "unknown"
            cells += [f"{published:g}", inside]
        rows.append(tuple(cells))
    return Table(_named(row, study.score), tuple(head), tuple(rows), tuple(below))


def _unlike_published(plan: Plan) -> list[str]:
    """What of a study is not as in the published run: `key here, not there`; empty if nothing."""
    if plan.published is None:
        return ["the recipe is not a published one"]
    pairs = differences(plain(plan.recipe), plain(plan.published))
    lines = [f"{key} {a}, not {b}" for key, (a, b) in pairs.items() if key != "seed"]
    if plan.epochs != plan.published.epochs:
        s = "s" * (plan.epochs != 1)
        lines.append(f"{plan.epochs} epoch{s}, not {plan.published.epochs}")
    if plan.devices != plan.published.devices:
        s = "s" * (plan.devices != 1)
        lines.append(f"{plan.devices} device{s}, not {plan.published.devices}")
    return lines


def speed(study: Study, row: SweepRow) -> Table:
    plan = _plan(study, row)
    head: tuple[str, ...] = (
        "side",
        "Acc@1" if study.score == "accuracy" else "mIoU",
        "FPS, training",
    )
    head += ("FPS, validation", "ms a step", "hours a run", "epochs", "AMP", "devices", "versions")
    recipe, rows = plan.recipe, []
    amp = recipe.level if recipe.precision in HALF else "-"
    for side in row.sides:
        kept = side.best if recipe.keep == "best" else side.last
        cells = [side.name, f"{kept.mean:.2f}", number(side.speed.images_per_second)]
        cells += [number(side.speed.validation), number(1000 * side.speed.step)]
        cells += [f"{side.speed.hours:.3f}", str(plan.epochs), f"{recipe.precision} {amp}".strip()]
        rows.append((*cells, str(plan.devices), side.versions))
    below = ["FPS: images per second; of a validation with reading and counting"]
    below += [line for side in row.sides for line in (*noise(side), *_cost(row, side))]
    below += [f"{side.name}: {side.machine}" for side in row.sides if side.machine]
    return Table(_named(row, "speed"), head, tuple(rows), tuple(below))


def noise(side: Side) -> list[str]:
    """Say how far repeats of one seed lie apart."""
    found = side.noise
    if found is None:
        return []
    line = (
        f"{side.name}: {found.runs} runs of {found.seeds} seed{'s' * (found.seeds > 1)}, repeated: "
    )
    if found.alike == found.seeds:
        return [line + "equal to the last digit of the log"]
    return [
        line + f"deviation {found.deviation:.3f} points within a seed"
        f" ({found.alike} of {found.seeds} seeds equal to the last digit)"
    ]


def _cost(row: SweepRow, side: Side) -> list[str]:
    """Say what deterministic algorithms cost."""
    plain = row.side(side.name.removesuffix(DETERMINISTIC))
    if plain is None or plain is side:
        return []
    return [
        f"{side.name}: a step takes {side.speed.step / plain.speed.step:.2f} times as long as"
        f" {plain.name}'s"
    ]


def comparison(study: Study, row: SweepRow) -> Table:
    keep = study.plan.recipe.keep
    head: tuple[str, ...] = (
        "second - first",
        "score",
        "pairs",
        "difference",
        "deviation",
        "90 % interval",
    )
    head += ("95 % interval", "p, equivalence", "p, difference", "verdict")
    rows = []
    for found in row.comparisons:
        other = "last" if keep == "best" else "best"
        for name, verdict in ((keep, found.kept), (other, found.other)):
            d = verdict.difference
            cells: tuple[str, ...] = (
                f"{found.second} - {found.first}",
                name,
                str(d.n),
                in_points(d.mean, signed=True),
            )
            cells += (number(d.deviation, 2), interval(d.interval90), interval(d.interval95))
            rows.append((*cells, p_value(verdict.p_equivalence), p_value(d.p), verdict.words))
    below = [
        f"margin of equivalence: {study.margin:g} points; equivalent: the 90 % interval lies inside"
        " of it; different: the 95 % interval excludes 0",
        *(_longer(found.first, found.second, found.kept) for found in row.comparisons),
    ]
    if any(v.more for found in row.comparisons for v in (found.kept, found.other)):
        below.append(
            "the number of seeds is that of a new study, which is judged alone (parity table"
            " --seeds) and then decides in 80 % of all cases; judged together with these, equal"
            " sides are called different too often: in 7 to 11 % of simulated studies that began"
            " with 5 pairs, not 5 %"
        )
    return Table(
        _named(row, "paired difference"), head, tuple(rows), tuple(line for line in below if line)
    )


def _longer(first: str, second: str, verdict: Verdict) -> str:
    most = verdict.more_at_most
    if most is None:
        return ""
    return (
        f"{second} - {first}: the number of seeds takes difference and deviation for the true"
        f" ones; if the true deviation is at the upper end of its 95 % interval, {most} new seeds"
    )


def classes(study: Study, row: SweepRow, found: Comparison) -> Table:
    """Each class of one comparison."""
    head: tuple[str, ...] = ("class", found.first, found.second, "pairs", "difference")
    head += ("90 % interval", "95 % interval", "p, equivalence", "p, difference", "verdict")
    rows: list[tuple[str, ...]] = []
    for one in found.classes:
        d = one.difference
        if d is None:
            rows.append((one.name, "absent", "absent", "0", *[""] * 6))
            continue
        cells = (one.name, *(f"{mean:.2f}" for mean in one.means), str(d.n))
        cells += (in_points(d.mean, signed=True), interval(d.interval90), interval(d.interval95))
        rows.append((*cells, p_value(one.equivalence), p_value(one.adjusted), _judged(one)))
    what = "IoU" if study.score == "mean IoU" else "accuracy"
    tested = sum(one.difference is not None and one.difference.n > 1 for one in found.classes)
    several = f", {found.second} - {found.first}" * (len(row.comparisons) > 1)
    below = f"at the {study.plan.recipe.keep} validation"
    if tested:
        below += (
            f"; p adjusted for {tested} classes by Holm's method, each of the two columns by"
            " itself; verdicts use the adjusted p values at 5 %; intervals are not adjusted, and"
            " may disagree"
        )
    below += "; alike: all pairs are equal; one pair alone is not tested"
    return Table(_named(row, f"{what} of each class{several}"), head, tuple(rows), (below,))


def _judged(one: ClassRow) -> str:
    if one.difference is not None and one.difference.alike:
        return "alike"  # which is seen; a test of so few pairs may not say it after adjustment
    words = [("equivalent", one.equivalent), ("different", one.different)]
    return " and ".join(word for word, is_so in words if is_so) or "not decided"


def runs(study: Study, row: SweepRow) -> Table:
    """Every run, so that nothing is hidden behind a mean."""
    head = ("run", "status", "best", "last", "validations", "hours")
    rows = []
    for result in row.runs:
        where = f"{result.run.side} seed {result.run.seed}"
        where += f", repeat {result.run.repeat}" if result.run.repeat > 1 else ""
        status = result.status if result.status == FINISHED else result.status.upper()
        scores = (number(result.best, 2), number(result.last, 2))
        hours = f"{result.speed.hours:.3f}"
        rows.append((where, status, *scores, str(len(result.curve)), hours))
    return Table(_named(row, "runs"), head, tuple(rows))


def sweep(study: Study) -> Table:
    """Return a table that shows the rows of a sweep beside each other."""
    rows_of = [[short_setting(s).partition("=") for s in row.settings] for row in study.rows]
    keys = list(dict.fromkeys(key for row in rows_of for key, _, _ in row))
    names = list(dict.fromkeys(side.name for row in study.rows for side in row.sides))
    own = [key for key in keys if key != "batch"]
    head = ["row", "batch", *own]
    for name in names:
        head += [f"{name}: final", "best", "seeds", "unlike rows"]
    head.append("both sides")
    rows = []
    for i, row in enumerate(study.rows):
        values = {key: value for key, _, value in rows_of[i]}
        cells = [str(i + 1), values.get("batch") or _batch(study)]
        cells += [values.get(key, "") for key in own]
        for name in names:
            side = row.side(name)
            if side is None:
                cells += ["none", "none", "0", ""]
                continue
            cells += [_mean(side.last), _mean(side.best), str(len(side.seeds))]
            cells.append(_unlike(study.row_differences, name, i))
        verdicts = [found.kept.words for found in row.comparisons]
        rows.append((*cells, "; ".join(verdicts) or "nothing to compare"))
    below = (
        f"mean ± deviation over seeds, {study.score} in percent. unlike rows: those that differ in"
        f" the {study.plan.recipe.keep} score by more than seeds do (paired t tests, Holm's"
        " adjustment over all pairs of rows, 5 %)",
        "both sides: each row is judged at 5 % by itself, so that of 20 rows of equal sides one is"
        " called different",
    )
    return Table("sweep", tuple(head), tuple(rows), below)


def _batch(study: Study) -> str:
    return "/".join(dict.fromkeys(str(s.batch) for s in study.plan.recipe.stages))


def _unlike(found: Sequence[RowDifference], side: str, row: int) -> str:
    mine = [d for d in found if d.side == side and row in (d.first, d.second)]
    if not any(d.difference.n > 1 for d in mine):
        return "unknown: one seed"
    unlike = sorted(d.first + d.second - row + 1 for d in mine if d.different)
    return ", ".join(map(str, unlike)) or "none"


def _named(row: SweepRow, what: str) -> str:
    return f"{row.name}: {what}" if row.settings else what


def _summary(found: Summary) -> tuple[str, str]:
    return f"{found.mean:.2f}", number(found.deviation, 2)


def _next(found: Interval) -> str:
    """A share is between 0 and 100 %, whatever a normal distribution says."""
    low, high = found
    return interval((max(low, 0.0), min(high, 100.0)) if math.isfinite(low) else found)


def _mean(found: Summary) -> str:
    end = "" if math.isnan(found.deviation) else f" ± {found.deviation:.2f}"
    return f"{found.mean:.2f}{end}"


def number(value: float, digits: int = 1) -> str:
    return f"{value:,.{digits}f}" if math.isfinite(value) else "-"


def interval(found: Interval) -> str:
    low, high = found
    return f"{in_points(low)} to {in_points(high)}" if math.isfinite(low) else "unknown"


def p_value(p: float) -> str:
    if math.isnan(p):
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
