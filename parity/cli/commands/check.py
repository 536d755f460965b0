"""Compare a network with its port, rung by rung: weights, layers, outputs, gradients, training.

It compares structure in float64 and numerics in the working precision. If a comparison fails, the
exit status is 1 and the first layer at fault is named. For our own networks, L4 uses the optimizer
of the recipe that trains them, and L5, if asked for, trains both sides with a scaled-down recipe;
--devices does so on several devices. For your own pair of networks, give FILE.py:FUNCTION or
PACKAGE.MODULE:FUNCTION; the function takes no arguments and returns a parity.Port.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

from parity.cli.arguments import add_choice, choice_of, parse_devices, parse_input_size
from parity.io.files import check_writable
from parity.ladder.bounds import Bounds, parse_sample
from parity.ladder.factory import is_factory, line_of_factory, make_port
from parity.report import formats
from parity.report.console import working
from parity.report.formats import FORMATS
from parity.report.report import PRECISIONS, RUNGS
from parity.report.source import NO_LINE, SourceLine, raised_at
from parity.spec.errors import InputError
from parity.spec.models import MODELS

if TYPE_CHECKING:
    from parity.report.report import Report
    from weights_convert import Checkpoint

MACHINES = ("json", "junit")  # formats beside which nothing else is printed
MADE = ""  # of --onnx: no file is given
DEFAULT = ("L0", "L1", "L2", "L3", "L4")  # of our own networks
OURS = (
    "weights",
    "key",
    "prefix",
    "size",
    "batch",
    "seed",
    "onnx",
)  # options that only our own networks have


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", help=f"the network: {', '.join(MODELS)}; or a function that makes a Port"
    )
    parser.add_argument(
        "--weights", metavar="FILE", help="a checkpoint to check with (default: drawn weights)"
    )
    add_choice(parser)
    parser.add_argument(
        "--onnx",
        action="append",
        nargs="?",
        const=MADE,
        metavar="FILE",
        help="compare what ONNX Runtime computes of this file with the network, at the file's size;"
        " without FILE: of what both sides export (may be given several times)",
    )
    parser.add_argument(
        "--levels",
        metavar="LIST",
        help=f"which rungs, with a comma between (default: {','.join(RUNGS)}; of our own networks"
        f" {','.join(DEFAULT)})",
    )
    parser.add_argument(
        "--precision",
        default=PRECISIONS[0],
        help=f"the working precision: {', '.join(PRECISIONS)} (default: %(default)s)",
    )
    parser.add_argument(
        "--size",
        metavar="HxW",
        help="of the images, or the number of tokens (default: one that meets everything quickly)",
    )
    parser.add_argument("--batch", type=int, help="images or sequences (default: 2)")
    parser.add_argument(
        "--layers",
        action="append",
        metavar="PATTERN",
        help="compare only layers of these names, of either side, and all inside them, such as"
        " 'encoder.*'; several with a comma between, or given several times. Weights, outputs and"
        " losses are compared whole",
    )
    parser.add_argument(
        "--sample",
        metavar="N|SHARE",
        help="of the layers that are alike but for their values, compare so many, such as 1, or"
        " such a share, such as 0.25; at least one of each kind",
    )
    parser.add_argument(
        "--sample-seed", type=int, metavar="SEED", help="of the sample (default: 0)"
    )
    parser.add_argument(
        "--devices",
        metavar="LIST",
        help="instead: DDP, pmap and shard_map on so many virtual devices each (such as 1,2,4,8)"
        " against one device, and against what is predicted where they differ; L3 to L5",
    )
    parser.add_argument(
        "--eval",
        action="store_true",
        help="an inference check of your own pair: is it the same function in eval mode? Nothing"
        " is run in train mode",
    )
    parser.add_argument("--seed", type=int, help="of weights, images, labels, masks (default: 0)")
    parser.add_argument(
        "--format",
        default=FORMATS[0],
        choices=FORMATS,
        help="what is printed: text, the report as JSON or as JUnit's XML, or text and an"
        " annotation of GitHub Actions (default: %(default)s)",
    )
    parser.add_argument("--json", metavar="FILE", help="write every comparison to this file")
    parser.add_argument("--html", metavar="FILE", help="write a page with error against depth")
    parser.add_argument(
        "--verbose", action="store_true", help="print every failure, not the first of each layer"
    )
    parser.add_argument(
        "--debug", action="store_true", help="show the traceback of what a network raised"
    )


def run(args: argparse.Namespace) -> int:
    try:
        return checked(args)
    except InputError as error:
        if args.format == "github":
            title = f"{args.model}: not checked"
            print(formats.github_error(title, str(error), line_of(error, args.model)))
        if args.debug and error.__cause__ is not None:
            raise error.__cause__ from None
        raise


def line_of(error: InputError, model: str) -> SourceLine:
    """Return the line of the user's that an error is shown at: where it was raised, or the factory.

    A false one where neither is known.
    """
    if (line := raised_at(error.__cause__)) or not is_factory(model):
        return line
    try:
        return line_of_factory(model)
    except (OSError, SyntaxError):  # no such file, or no Python
        return NO_LINE


def checked(args: argparse.Namespace) -> int:
    """Check, and show what was found; return the exit status."""
    default = RUNGS if is_factory(args.model) else DEFAULT
    levels = list(default) if args.levels is None else args.levels.split(",")
    if unknown := [level for level in levels if level not in RUNGS]:
        raise InputError(f"rung {unknown[0]!r}, expected some of {','.join(RUNGS)}")
    if args.precision not in PRECISIONS:
        raise InputError(f"precision {args.precision!r}, expected one of {', '.join(PRECISIONS)}")
    if args.json is not None and args.json == args.html:
        raise InputError(f"{args.json} is named for --json and for --html, expected two files")
    for path in (args.json, args.html):
        if path is not None:
            check_writable(path)
    bounds = bounds_of(args)
    if args.eval and not is_factory(args.model):
        raise InputError(f"--eval is for a pair of your own; {args.model} is trained")
    if args.devices is not None:
        return shown(several(args), args)
    check = theirs if is_factory(args.model) else ours
    return shown(check(levels, bounds, args), args)


def bounds_of(args: argparse.Namespace) -> Bounds:
    """Return which layers are to be compared.

    Raises:
        InputError: They are not what they must be.
    """
    if args.sample is None and args.sample_seed is not None:
        raise InputError("--sample-seed is of --sample, which is not given")
    sample = None if args.sample is None else parse_sample(args.sample)
    return Bounds.of(args.layers or (), sample, args.sample_seed or 0)


def ours(levels: list[str], bounds: Bounds, args: argparse.Namespace) -> Report:
    """Check one of the project's own networks."""
    if args.model not in MODELS:  # before a framework is loaded
        raise InputError(
            f"model {args.model!r}, expected one of {', '.join(MODELS)}, or FILE.py:FUNCTION"
        )
    size = None if args.size is None else parse_input_size(args.size, MODELS[args.model])
    batch = 2 if args.batch is None else args.batch
    checkpoint = loaded(args) if args.weights is not None else None

    with working() as progress:
        from parity.model_checks.check import check_model

        return check_model(
            args.model,
            levels,
            args.precision,
            checkpoint,
            size,
            batch,
            args.seed or 0,
            args.onnx or (),
            progress,
            bounds.layers,
            bounds.sample,
            bounds.seed,
        )


def loaded(args: argparse.Namespace) -> Checkpoint:
    """Load the checkpoint to check with, and print its notes."""
    import weights_convert
    from weights_convert import notes

    checkpoint = weights_convert.load(args.weights, args.model, choice=choice_of(args))
    to = sys.stderr if args.format in MACHINES else sys.stdout
    print("\n".join(notes.lines(checkpoint)), end="\n" if checkpoint.notes else "", file=to)
    return checkpoint


def theirs(levels: list[str], bounds: Bounds, args: argparse.Namespace) -> Report:
    """Check the port that a user's function makes."""
    if given := [name for name in OURS if getattr(args, name) is not None]:
        raise InputError(f"--{given[0]} is for our own networks; {args.model} makes its own")
    # What a network prints is not to be among what a program reads.
    redirected = (
        contextlib.redirect_stdout(sys.stderr) if args.format in MACHINES else nullcontext()
    )
    try:
        with working() as progress, redirected:
            from parity.diagnosis.check import check

            port = make_port(args.model)
            if args.eval:
                port = dataclasses.replace(port, train=False)
            asked = (bounds.layers, bounds.sample, bounds.seed)
            return check(port, levels, args.precision, progress, *asked)
    except SystemExit as error:  # of a network
        raise InputError(f"{args.model}: a network ended the program") from error


def several(args: argparse.Namespace) -> Report:
    """Run the rungs for several devices."""
    if args.model not in MODELS:
        raise InputError(f"model {args.model!r}, expected one of {', '.join(MODELS)}")
    if given := [name for name in OURS if getattr(args, name) is not None and name != "seed"]:
        raise InputError(f"--{given[0]} is not for --devices, where all is small")
    if args.precision != PRECISIONS[0]:
        raise InputError(f"--precision {args.precision} is not for --devices: all is float64")
    if given := [name for name in ("layers", "sample") if getattr(args, name) is not None]:
        raise InputError(f"--{given[0]} is not for --devices, where all is small")
    counts = [parse_devices(text) for text in args.devices.split(",")]
    levels = None if args.levels is None else args.levels.split(",")

    with working() as progress:
        from parity.model_checks.check import check_devices

        return check_devices(args.model, counts, levels, args.seed, progress)


def shown(report: Report, args: argparse.Namespace) -> int:
    """Print and write.

    Returns:
        The exit status: 0 if the port is faithful, else 1.
    """
    if args.format == "json":
        print(json.dumps(report.to_dict(), indent=1))
    elif args.format == "junit":
        print(formats.junit(report))
    else:
        report.print(verbose=args.verbose)
    if args.format == "github":
        line = line_of_factory(args.model) if is_factory(args.model) else NO_LINE
        print(formats.github(report, line))
    if args.json is not None:
        report.to_json(args.json)
    if args.html is not None:
        report.to_html(args.html)
    return 0 if report.ok else 1
