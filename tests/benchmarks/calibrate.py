"""Measure, on clean ports, how close they come to the limits, and so what K must exceed.

    python -m tests.benchmarks.calibrate --models enet,erfnet --seeds 3

A port may be no less exact than its reference: error(port) <= K * (error(reference) + response) +
floor. K is one number for all networks; this prints what it is derived from.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from parity.diagnosis.check import check
from parity.ladder.tolerances import K, floor
from parity.model_checks.networks import port
from parity.report.console import standard_output, working
from parity.report.report import PRECISIONS, Check
from parity.spec.errors import InputError
from parity.spec.models import MODELS
from tests import program

MEASURED = ("L1", "L2", "L3")  # the rungs whose numerics are judged by K


@dataclasses.dataclass(frozen=True)
class Calibrated:
    """The worst of one model, precision and rung.

    Attributes:
        model: A key of `parity.spec.models.MODELS`.
        precision: The working precision.
        rung: Of the ladder.
        comparisons: How many there were, over all seeds.
        ratio: The largest (error(port) - floor) / (error(reference) + sensitivity): what K must
            exceed.
        worst: Of which layer and quantity, with which seed.
        structure: The largest error in float64 as a share of its limit.
        failed: How many comparisons failed; on a clean port each is a false alarm.
        left_out: How many could not be made: the reference itself is not finite in this precision.
    """

    model: str
    precision: str
    rung: str
    comparisons: int
    ratio: float
    worst: str
    structure: float
    failed: int
    left_out: int


def calibrate(
    models: Sequence[str],
    precisions: Sequence[str],
    seeds: Sequence[int],
    progress: Callable[[str], None] = lambda _: None,
) -> list[Calibrated]:
    """Check clean ports of our own networks, and keep how close to the limits they come.

    Args:
        models: Keys of `MODELS`, each at its `check_size`.
        precisions: Working precisions.
        seeds: Of weights, images, labels and masks.
        progress: Called with what is being run.
    """
    rows = []
    for model in models:
        config = MODELS[model]
        for precision in precisions:
            checks: list[tuple[int, Check]] = []
            left_out: list[str] = []
            for seed in seeds:
                progress(f"{model}, {precision}, seed {seed}")
                clean = port(model, config, config.check_size, seed=seed)
                report = check(clean, MEASURED, precision)
                checks += [(seed, c) for c in report.checks]
                left_out += [omission.rung for omission in report.missing()]
            rows += [
                _row(model, precision, rung, checks, left_out.count(rung)) for rung in MEASURED
            ]
    return rows


def table(rows: Sequence[Calibrated]) -> Table:
    """A row per model, precision and rung."""
    found = Table(title=f"Clean ports: what K must exceed (K is {K:g})", box=SIMPLE_HEAD)
    for name in ("model", "precision", "rung"):
        found.add_column(name, no_wrap=True)
    for name in ("comparisons", "ratio", "failed", "not finite"):
        found.add_column(name, justify="right", no_wrap=True)
    found.add_column("of the worst", overflow="fold")
    found.add_column("float64: share of the limit", justify="right")
    for r in rows:
        found.add_row(
            r.model,
            r.precision,
            r.rung,
            f"{r.comparisons:,}",
            f"{r.ratio:.2f}",
            f"{r.failed}",
            f"{r.left_out}",
            r.worst,
            f"{r.structure:.1e}",
        )
    return found


def ratio(check: Check, precision: str) -> float:
    """What K a comparison of numerics would need to pass; infinite where none would do.

    Where the reference made no error and nothing moved it, the floor alone is the limit.
    """
    return _share(check.error - floor(precision), (check.limit - floor(precision)) / K)


def _share(part: float, whole: float) -> float:
    """`part` of `whole`, which may be 0, as the limit of what must be equal is."""
    if part <= 0:
        return 0.0
    return part / whole if whole > 0 and not math.isnan(part) else math.inf


def _row(
    model: str, precision: str, rung: str, checks: Sequence[tuple[int, Check]], left_out: int
) -> Calibrated:
    here = [(seed, c) for seed, c in checks if c.rung == rung]
    numerics = [(ratio(c, precision), seed, c) for seed, c in here if c.kind == "numerics"]
    largest, seed, worst = max(numerics, key=lambda item: item[0], default=(0.0, 0, None))
    return Calibrated(
        model=model,
        precision=precision,
        rung=rung,
        comparisons=len(here),
        ratio=largest,
        worst=f"{worst.layer}: {worst.quantity} (seed {seed})" if worst else "",
        structure=max(_share(c.error, c.limit) for _, c in here if c.kind == "structure"),
        failed=sum(not c.ok for _, c in here),
        left_out=left_out,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--models", default="enet", help="with a comma between, or all (default: %(default)s)"
    )
    parser.add_argument(
        "--precisions",
        default=",".join(PRECISIONS),
        help="working precisions, with a comma between (default: %(default)s)",
    )
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the rows to this file")


def run(args: argparse.Namespace) -> int:
    models = list(MODELS) if args.models == "all" else args.models.split(",")
    precisions = args.precisions.split(",")
    for name, given, known in (("model", models, MODELS), ("precision", precisions, PRECISIONS)):
        if unknown := [value for value in given if value not in known]:
            raise InputError(f"{name} {unknown[0]!r}, expected some of {','.join(known)}")
    if args.seeds < 1:
        raise InputError(f"seeds {args.seeds}, expected 1 or more")

    with working() as progress:
        rows = calibrate(models, precisions, range(args.seeds), progress)
    standard_output().print(table(rows))
    entries = [dataclasses.asdict(row) for row in rows]
    program.save(args.json, entries)
    return 1 if any(row.failed for row in rows) else 0


def main(argv: Sequence[str] | None = None) -> int:
    return program.start("tests.benchmarks.calibrate", add_arguments, run, argv)


if __name__ == "__main__":
    sys.exit(main())
