"""Compare a network with its port, rung by rung: weights, layers, outputs, gradients, training.

Structure in float64, numerics in the working precision. Exit status 1 names the layer to look at
first. Of our own networks L4 takes the optimizer of the recipe that trains them, and L5, where it
is asked for, rehearses that recipe in small; --devices does so on several devices. Your own pair of
networks: FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION, where the function takes nothing and returns
a parity.Port.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from parity.commands.arguments import add_choice, choice_of, parse_devices, parse_size
from parity.factory import is_factory, make_port
from parity.files import check_writable
from parity.report import PRECISIONS, RUNGS
from parity.spec import draw
from parity.spec.errors import InputError
from parity.spec.models import MODELS, Config

if TYPE_CHECKING:
    import numpy as np

    from parity.port import Port
    from parity.report import Report
    from weights_convert import Manifest

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
        "--size", metavar="HxW", help="of the images (default: one that meets everything quickly)"
    )
    parser.add_argument("--batch", type=int, help="images (default: 2)")
    parser.add_argument(
        "--devices",
        metavar="LIST",
        help="instead: DDP, pmap and shard_map on so many virtual devices each (such as 1,2,4,8)"
        " against one device, and against what is predicted where they differ; L3 to L5",
    )
    parser.add_argument("--seed", type=int, help="of weights, images, labels, masks (default: 0)")
    parser.add_argument("--json", metavar="FILE", help="write every comparison to this file")
    parser.add_argument("--html", metavar="FILE", help="write a page with error against depth")
    parser.add_argument(
        "--debug", action="store_true", help="show the traceback of what a network raised"
    )


def run(args: argparse.Namespace) -> int:
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
    if args.devices is not None:
        return shown(several(args), args)
    try:
        if is_factory(args.model):
            return climb(theirs(args), None, levels, args)
        return climb(*ours(args), levels, args)
    except InputError as error:
        if args.debug and error.__cause__ is not None:
            raise error.__cause__ from None
        raise


def several(args: argparse.Namespace) -> Report:
    """The rungs of several devices."""
    if args.model not in MODELS:
        raise InputError(f"model {args.model!r}, expected one of {', '.join(MODELS)}")
    if given := [name for name in OURS if getattr(args, name) is not None and name != "seed"]:
        raise InputError(f"--{given[0]} is not for --devices, where all is small")
    if args.precision != PRECISIONS[0]:
        raise InputError(f"--precision {args.precision} is not for --devices: all is float64")
    counts = sorted({parse_devices(text) for text in args.devices.split(",")})

    from parity.console import working
    from parity.devices import ladder
    from parity.devices.plan import planned

    levels = list(ladder.RUNGS) if args.levels is None else args.levels.split(",")
    if unknown := [level for level in levels if level not in ladder.RUNGS]:
        known = ", ".join(ladder.RUNGS)
        raise InputError(f"rung {unknown[0]} with --devices, expected some of {known}")
    recipe = ladder.recipe_of(args.model)
    if args.seed is not None:
        recipe = dataclasses.replace(recipe, seed=args.seed)
    with working() as progress:
        return ladder.check(planned(recipe, tuple(counts)), levels, progress)


def climb(port: Port, subject: Subject | None, levels: list[str], args: argparse.Namespace) -> int:
    """Check, print and write."""
    from parity.console import working
    from parity.ladder import check
    from parity.report import Report

    with working() as progress:
        # L5 of our own networks is a rehearsal of their recipe.
        rungs = levels if subject is None else [level for level in levels if level != "L5"]
        report = Report(port.name, args.precision)
        if rungs:
            report = check(port, rungs, args.precision, progress)
        if subject is not None and {"L4", "L5"} & set(levels):
            from parity.rehearsal import recipes

            recipes.add(report, args.model, levels, progress)
        if subject is not None and args.onnx is not None:
            progress("ONNX Runtime")
            witness(report, subject, args)
    return shown(report, args)


def shown(report: Report, args: argparse.Namespace) -> int:
    """Print and write."""
    report.print()
    if args.json is not None:
        report.to_json(args.json)
    if args.html is not None:
        report.to_html(args.html)
    return 0 if report.ok else 1


def opened(names: list[str]) -> list[str]:
    """The files among what `--onnx` was given.

    Raises:
        InputError: One cannot be opened.
    """
    from parity.export.reading import open_network

    for name in (files := [name for name in names if name != MADE]):
        open_network(name)
    return files


def witness(report: Report, subject: Subject, args: argparse.Namespace) -> None:
    """Add the rung of ONNX files to a report."""
    import tempfile

    from parity import witness

    files = subject.files
    with tempfile.TemporaryDirectory() as folder:
        if MADE in args.onnx:
            files = files + witness.made(folder, subject.config, subject.arrays, subject.size)
        facts = (subject.config, subject.arrays, args.seed or 0, subject.said)
        witness.add(report, files, *facts)


def theirs(args: argparse.Namespace) -> Port:
    """The port that a user's function makes."""
    if given := [name for name in OURS if getattr(args, name) is not None]:
        raise InputError(f"--{given[0]} is for our own networks; {args.model} makes its own")
    return make_port(args.model)


class Subject(NamedTuple):
    """What a port of ours was made from."""

    config: Config
    arrays: Mapping[str, np.ndarray]
    size: tuple[int, int]
    said: Manifest | None
    files: list[str]  # of `--onnx`


def ours(args: argparse.Namespace) -> tuple[Port, Subject]:
    """One of the project's own networks."""
    if args.model not in MODELS:
        raise InputError(
            f"model {args.model!r}, expected one of {', '.join(MODELS)}, or FILE.py:FUNCTION"
        )
    config, arrays, said = MODELS[args.model], None, None
    size = config.check_size if args.size is None else parse_size(args.size)
    batch = 2 if args.batch is None else args.batch
    if batch < 1:
        raise InputError(f"batch {batch}, expected 1 or more")
    try:
        config.check_input(*size)
    except ValueError as error:
        raise InputError(str(error)) from None
    files = opened(args.onnx or [])  # before networks are built
    if args.weights is not None:
        import weights_convert
        from weights_convert import notes

        checkpoint = weights_convert.load(args.weights, args.model, choice=choice_of(args))
        config, arrays, said = checkpoint.config, checkpoint.arrays, checkpoint.manifest
        print("\n".join(notes.lines(checkpoint)), end="\n" if checkpoint.notes else "")
    from parity.networks import port

    made = port(args.model, config, size, batch, args.seed or 0, arrays)
    made = with_recipe(made, args.model, config)
    arrays = draw.weights(config, args.seed or 0) if arrays is None else arrays
    return made, Subject(config, arrays, size, said, files)


def with_recipe(port: Port, model: str, config: Config) -> Port:
    """The port with the optimizer of the recipe that trains it, if there is one."""
    from parity.rehearsal import ports

    stage = ports.stage_of(model)
    return (
        port if stage is None else ports.trained(port, config, stage.optimizer, ports.rates(stage))
    )
