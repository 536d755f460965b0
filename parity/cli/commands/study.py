"""Train both sides from the same seeds, and say whether their accuracies differ.

Each run is a folder in OUT, as `parity train --out` leaves it: OUT/torch/seed-3. What is not
finished is trained, one run after the other; the same command goes on after any end, kill -9
included, and may run several times at once, on several machines, in one OUT. Runs of one seed have
the same initial weights, batches and masks on both sides. study.md, study.html and
study.json in OUT are made anew after each run. Exit status 1: a run failed (its numbers were
not finite), 130: interrupted.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from parity.cli.arguments import FRAMEWORKS, check_data
from parity.spec.errors import InputError
from parity.spec.training.recipe import HALF, PRECISIONS, Recipe
from parity.training.dist_env import asked

if TYPE_CHECKING:
    from collections.abc import Callable

    from parity.study.plan import Plan, StudyRun

ANSWER = "parity study: ending the run that is being trained; Ctrl-C again stops at once"
GOES_ON = "parity study: stopped; the same command goes on"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("recipe", metavar="RECIPE", help="its name, or a TOML file")
    add("--data", required=True, metavar="DIR", help="the data set's folder, or its TOML file")
    add("--out", required=True, metavar="DIR", help="the study's folder")
    add(
        "--frameworks",
        default=",".join(FRAMEWORKS),
        metavar="NAMES",
        help="the sides (default: %(default)s)",
    )
    add(
        "--seeds",
        default="5",
        metavar="N|A-B",
        help="5 is seeds 1 to 5; or 3-7; or 1,4,9-11 (default: %(default)s)",
    )
    add("--repeat", type=int, default=1, metavar="N", help="train each seed so often")
    add(
        "--only",
        action="append",
        default=[],
        metavar="SIDE:SEEDS",
        help="train only these, such as torch:3 or jax:3-7; may be given several times",
    )
    add(
        "--grid",
        action="append",
        default=[],
        metavar="KEY=V,V",
        help="a sweep: every combination of the values, such as optimizer.lr=0.06,0.08",
    )
    add(
        "--margin",
        type=float,
        metavar="POINTS",
        help="of equivalence (default: 0.5, or that of OUT)",
    )
    add("--report", action="store_true", help="train nothing, only report what is there")
    add("--retry-failed", action="store_true", help="train runs again that have failed")
    of = parser.add_argument_group("the recipe, changed")
    add = of.add_argument
    add("--recipe-file", metavar="FILE.toml", help="what is different in it")
    add("--set", action="append", default=[], metavar="K=V", dest="settings")
    add("--batch-size", type=int, metavar="N", help="samples of a step, over all devices")
    add("--size", metavar="HxW", help="of validation images, and of every resize")
    add("--precision", choices=PRECISIONS)
    add("--loss-scale", metavar="N|dynamic|none")
    add("--epochs", type=int, metavar="N", help="stop each run after so many epochs")
    add = parser.add_argument_group("how each run is trained").add_argument
    add("--devices", type=int, default=1, metavar="N", help="(default: %(default)s)")
    add(
        "--deterministic",
        action="store_true",
        help="deterministic algorithms; such runs are sides of their own, such as"
        " torch-deterministic",
    )
    add("--start", metavar="CHECKPOINT", help="weights that every run begins with")
    add("--workers", type=int, metavar="N", help="processes that load data")
    add("--quiet", action="store_true", help="show no line of each run's own output")


def run(args: argparse.Namespace) -> int:
    from parity.report.console import standard_output
    from parity.study.analysis import study
    from parity.study.plan import MARGIN, STUDY, Plan, ask
    from parity.study.running import Interrupted
    from parity.study.writing import print_study, write_study

    check_data(args.data)
    margin = check_margin(args.margin)
    if args.workers is not None and args.workers < 0:  # which each run would say, once OUT is there
        raise InputError(f"--workers {args.workers}, expected 0 or more")
    plan = Plan.of(recipe_of(args), args.epochs, args.devices, args.data)
    out = Path(args.out)
    if args.report and not (out / STUDY).exists():
        raise InputError(f"{out} holds no {STUDY}, expected the folder of a study")
    runs = runs_of(args, out)
    rows = list({run.row: run for run in runs}.values())
    for one in rows:  # before anything is written
        check_row(plan, one, args.devices)
    check_levels(plan, rows)
    plan = dataclasses.replace(
        plan,
        margin=MARGIN if margin is None else margin,
        images=images_of(plan.recipe, args.data),
        start=hash_of(args.start),
    )
    plan.write(out)
    plan = dataclasses.replace(plan, margin=Plan.read(out).margin)
    if not args.report:
        ask(out, runs)

    def report() -> None:
        write_study(study(plan, out, runs, margin), out)

    try:
        held = [] if args.report else trained(args, plan, runs, out, report)
    except Interrupted as interrupted:
        report()
        print(GOES_ON, file=sys.stderr)
        return interrupted.status
    except KeyboardInterrupt:  # between two runs
        print(GOES_ON, file=sys.stderr)
        raise
    found = study(plan, out, runs, margin)
    paths = write_study(found, out)
    print_study(found, standard_output())
    print(f"wrote {', '.join(map(str, paths))}")
    for line in held:
        print(f"parity study: {line.words} is trained by another process", file=sys.stderr)
    failed = [r for row in found.rows for r in row.runs if r.status == "failed"]
    return 1 if failed else 0


def trained(
    args: argparse.Namespace,
    plan: Plan,
    runs: list[StudyRun],
    out: Path,
    report: Callable[[], None],
) -> list[StudyRun]:
    """Train what is left; return the runs that other processes hold.

    Raises:
        Interrupted: A signal was obeyed.
    """
    from parity.study.running import Child, train_all

    options = ["--pictures", "0", "--keep-every", "0"]
    for name in ("workers", "start"):
        if (value := getattr(args, name)) is not None:
            options += [f"--{name}", str(value)]
    show = _nothing if args.quiet else _say
    child = Child(tuple(options), show)
    return train_all(plan, runs, out, child, _say, report, args.retry_failed)


def _say(line: str) -> None:
    print(line, flush=True)


def _nothing(line: str) -> None:
    del line


def recipe_of(args: argparse.Namespace) -> Recipe:
    """Return the recipe with all changes but the seed, which is each run's."""
    from parity.cli.commands.train import changed
    from parity.data.sources import for_data
    from parity.training.overrides import find

    named = argparse.Namespace(**vars(args), labels=None, seed=None)
    return changed(for_data(find(args.recipe, args.recipe_file), args.data), named)


def check_row(plan: Plan, run: StudyRun, devices: int) -> None:
    """Refuse a row of a sweep that cannot be trained, or not as long as the others.

    Raises:
        InputError: It says why.
    """
    recipe = plan.recipe_for(run)
    asked(run.framework, devices).check(recipe)
    if recipe.epochs != plan.recipe.epochs:
        s = "s" * (recipe.epochs != 1)
        raise InputError(
            f"--grid: {' '.join(run.row)} has {recipe.epochs} epoch{s}, the recipe"
            f" {plan.recipe.epochs}: each length is a study of its own"
        )


def check_levels(plan: Plan, rows: list[StudyRun]) -> None:
    """Refuse a sweep of levels of mixed precision where no row has any: all would be alike.

    Raises:
        InputError: It says so.
    """
    swept = any(setting.startswith("level=") for run in rows for setting in run.row)
    precisions = {plan.recipe_for(run).precision for run in rows}
    if swept and not precisions & {*HALF}:
        raise InputError(
            f"--grid level=...: {', '.join(sorted(precisions))} has no levels, expected"
            f" --precision {' or '.join(HALF)}"
        )


def check_margin(margin: float | None) -> float | None:
    """Return a margin of equivalence.

    Raises:
        InputError: It is none.
    """
    if margin is not None and not 0 < margin < 100:
        raise InputError(f"--margin {margin:g}, expected points above 0 and below 100")
    return margin


def images_of(recipe: Recipe, data: str) -> tuple[int, int]:
    """Return the numbers of images to train on and to validate.

    Raises:
        InputError: The data set cannot be used.
    """
    from parity.data.sources import open_source

    train, val = (
        len(open_source(recipe, data, split)) for split in (recipe.train_split, recipe.val_split)
    )
    return train, val


def hash_of(start: str | None) -> str | None:
    """Return the hash of a file, or folder, of weights.

    Raises:
        InputError: It cannot be read.
    """
    if start is None:
        return None
    path, found = Path(start), hashlib.sha256()
    try:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            found.update(file.read_bytes())
        return found.hexdigest()
    except OSError as error:
        raise InputError(f"--start {start}: {error.strerror}") from error


def runs_of(args: argparse.Namespace, out: Path) -> list[StudyRun]:
    """Return the runs that the command line asks for, in order; rows as OUT has them.

    Raises:
        InputError: A malformed option.
    """
    from parity.study import grid, plan

    names = args.frameworks.split(",")
    if unknown := [name for name in names if name not in FRAMEWORKS]:
        raise InputError(f"--frameworks {unknown[0]!r}, expected some of {', '.join(FRAMEWORKS)}")
    if len(names) != len(set(names)):
        raise InputError(f"--frameworks {args.frameworks}: a framework is named twice")
    if args.repeat < 1:
        raise InputError(f"--repeat {args.repeat}, expected 1 or more")
    rows = (row for _, row in plan.rows(out))
    swept = grid.as_there(grid.parse_grid(args.grid), rows) if args.grid else [()]
    if seeded := [key for key in args.grid if key.startswith("seed=")]:
        raise InputError(f"--grid {seeded[0]}: seeds are given by --seeds")
    seeds = plan.parse_seeds(args.seeds)
    if not args.only:
        return plan.runs_of(names, seeds, args.repeat, args.deterministic, swept)
    made = []
    for text in args.only:
        name, own = plan.parse_only(text)
        made += plan.runs_of([name], own, args.repeat, args.deterministic, swept)
    return list(dict.fromkeys(made))
