"""Compare a network with its port, rung by rung: weights, layers, outputs, gradients.

Structure in float64, numerics in float32. Exit status 1 names the layer to look at first.
"""

from __future__ import annotations

import argparse

from parity.commands.arguments import parse_size
from parity.files import check_writable
from parity.report import RUNGS
from parity.spec.errors import InputError
from parity.spec.models import MODELS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=f"the network: {', '.join(MODELS)}")
    parser.add_argument(
        "--weights", metavar="FILE", help="a checkpoint to check with (default: drawn weights)"
    )
    parser.add_argument(
        "--levels",
        default=",".join(RUNGS),
        metavar="LIST",
        help="which rungs, with a comma between (default: %(default)s)",
    )
    parser.add_argument(
        "--size",
        default="72x136",
        metavar="HxW",
        help="of the images; at the default the widest dilation still meets an eighth of the width"
        " (default: %(default)s)",
    )
    parser.add_argument("--batch", type=int, default=2, help="images (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of weights, images, labels, masks (default: 0)"
    )
    parser.add_argument("--json", metavar="FILE", help="write every comparison to this file")


def run(args: argparse.Namespace) -> int:
    if args.model not in MODELS:
        raise InputError(f"model {args.model!r}, expected one of {', '.join(MODELS)}")
    size, config, arrays = parse_size(args.size), MODELS[args.model], None
    try:
        config.check_input(*size)
    except ValueError as error:
        raise InputError(str(error)) from None
    levels = args.levels.split(",")
    if unknown := [level for level in levels if level not in RUNGS]:
        raise InputError(f"rung {unknown[0]!r}, expected some of {','.join(RUNGS)}")
    if args.batch < 1:
        raise InputError(f"batch {args.batch}, expected 1 or more")
    if args.json is not None:
        check_writable(args.json)
    if args.weights is not None:
        import weights_convert

        checkpoint = weights_convert.load(args.weights, args.model)
        config, arrays = checkpoint.config, checkpoint.arrays

    from rich.console import Console

    from parity.ladder import check
    from parity.networks import port

    console = Console()
    ours = port(args.model, config, size, args.batch, args.seed, arrays)
    with Console(stderr=True).status("", refresh_per_second=4) as status:
        report = check(ours, levels, progress=status.update)
    report.print(console)
    if args.json is not None:
        report.to_json(args.json)
    return 0 if report.ok else 1
