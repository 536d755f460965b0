"""Evaluate one checkpoint, or every one in a folder, on a data set's validation images.

PATH is a checkpoint, a folder of checkpoints, or the OUT of a training run. Next to each checkpoint
it writes NAME.metrics.txt (mean_iou, mean_loss, iou_class; for whole images accuracy and
mean_loss), and for a folder metrics.json with all results.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import math
import sys
from typing import TYPE_CHECKING, Any

from parity.cli.arguments import (
    FRAMEWORKS,
    add_choice,
    add_compile,
    add_count_size,
    check_compile,
    check_data,
    choice_of,
    no_folder,
    optional_size,
    reporter,
)
from parity.io.files import check_writable, write_atomically
from parity.spec.errors import InputError
from parity.spec.labels import ORDERS
from parity.training.dist_env import ALONE, DistEnv, asked, by_torchrun, started

if TYPE_CHECKING:
    from rich.table import Table

    from parity.evaluation.checkpoints import Measured


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="PATH", help="a checkpoint, or a folder of them")
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="the data set's folder, or its TOML file"
    )
    parser.add_argument(
        "--framework",
        choices=FRAMEWORKS,
        help="which side evaluates (default: the one that wrote the checkpoint)",
    )
    parser.add_argument(
        "--recipe", metavar="RECIPE", help="of checkpoints that do not say it: a name, or a file"
    )
    add_choice(parser)
    parser.add_argument("--split", help="of the data set (default: the recipe's)")
    parser.add_argument(
        "--labels",
        type=no_folder,
        choices=ORDERS,
        help="which output is void (default: what the checkpoint says of itself, else the recipe)",
    )
    parser.add_argument("--size", metavar="HxW", help="of the images (default: likewise)")
    add_count_size(parser)
    parser.add_argument(
        "--devices",
        type=int,
        metavar="N",
        help="divide the images among so many; every one is counted once (default: 1)",
    )
    add_compile(parser)
    parser.add_argument("--workers", type=int, metavar="N", help="processes that load data")
    parser.add_argument("--json", metavar="FILE", help="write all numbers to this file, too")


def run(args: argparse.Namespace) -> int:
    check_data(args.data)
    if args.json is not None:
        check_writable(args.json)
    if args.framework is None:
        if args.devices not in (None, 1):
            raise InputError(f"--devices {args.devices} needs --framework")
        return measured(args, ALONE)

    from parity.training import launch

    env = asked(args.framework, args.devices)
    if started() and args.framework == "torch":
        env = by_torchrun(env)
    check_compile(args, env.parts)
    if launch.needed(args.framework, env):
        words = launch.Words("eval", answer="parity eval: interrupted")
        return launch.run(args.invocation, args.framework, env, words)
    if not started():
        return measured(args, env)
    parallel: Any = importlib.import_module(f"{args.framework}_impl.parallel")
    return launch.work(lambda: measured(args, env), parallel.lost)


def measured(args: argparse.Namespace, env: DistEnv) -> int:
    """Evaluate in this process, which may be one of several."""
    from parity.training.overrides import find

    recipe = None if args.recipe is None else find(args.recipe)
    return evaluated(
        args.folder,
        args.data,
        args.command,
        env,
        args.json,
        framework=args.framework,
        recipe=recipe,
        split=args.split,
        workers=args.workers,
        choice=choice_of(args),
        labels=args.labels,
        size=optional_size(args.size),
        count_size=optional_size(args.count_size),
        compiled=args.compile,
    )


def evaluated(
    folder: str, data: str, command: str, env: DistEnv, file: str | None = None, **how: Any
) -> int:
    """Evaluate, print and write the results; return the exit status.

    Args:
        folder: As in `parity.evaluation.checkpoints.evaluate`.
        data: The data set's folder.
        command: Name of the command, for messages.
        env: Where this process and its devices are.
        file: A JSON file to write all numbers to.
        **how: Other arguments of `evaluate`.
    """
    import json

    from parity.evaluation.checkpoints import evaluate, metrics_of
    from parity.report.console import counting, standard_output
    from parity.report.lines import say

    try:
        with counting("reading the data set") as progress:
            found = evaluate(
                folder,
                data,
                progress=progress,
                env=env,
                say=reporter(command),
                report=functools.partial(print, flush=True),
                **how,
            )
    except FloatingPointError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    if not env.leads:
        return 0
    for one in found:
        if one.notes:
            say("\n".join([f"{one.path.name}:", *one.notes]))
    standard_output().print(table(found))
    print(f"wrote {metrics_of(found[0].path)}" + (" and so on" if len(found) > 1 else ""))
    if file is not None:
        text = json.dumps([measured.to_dict() for measured in found], indent=1)
        write_atomically(file, text.encode())
    return 0


def table(found: list[Measured]) -> Table:
    """A line for each checkpoint."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD)
    made.add_column("checkpoint", no_wrap=True)
    for name in ("side", "stage"):
        made.add_column(name)
    # Of whole images the score is the accuracy itself.
    both = found[0].score.name != "accuracy"
    scores = [f"{found[0].score.name}, %", *(["accuracy, %"] if both else [])]
    for name in ("epoch", *scores, "mean loss", "images"):
        made.add_column(name, justify="right")
    for one in found:
        shares = (one.score.value, one.score.accuracy)[: len(scores)]
        numbers = [f"{100 * share:.2f}" for share in shares]
        epoch = "-" if one.epoch is None else str(one.epoch)
        mean_loss = one.score.mean_loss
        loss = "-" if math.isnan(mean_loss) else f"{mean_loss:.4f}"
        images = f"{one.score.images:,}"
        name, stage = escape(one.path.name), escape(one.stage)
        made.add_row(name, one.framework, stage, epoch, *numbers, loss, images)
    return made
