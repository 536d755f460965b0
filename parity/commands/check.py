"""Compare a network with its port, layer by layer: weights, outputs, statistics, gradients."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="network, such as enet")
    parser.add_argument("--weights", metavar="FILE", help="checkpoint; drawn weights if not given")
    parser.add_argument("--levels", default="L0,L1,L2,L3", help="rungs (default: %(default)s)")
    parser.add_argument("--size", default="72x136", help="HEIGHTxWIDTH (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=2, help="images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, images, labels and masks")
    parser.add_argument("--json", metavar="FILE", help="write every comparison")


def run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from parity.ladder import check
    from parity.networks import port
    from parity.spec.models import MODELS

    p = port(
        args.model, MODELS[args.model], tuple(map(int, args.size.split("x"))), args.batch, args.seed
    )
    console = Console()
    with console.status("") as status:
        report = check(p, args.levels.split(","), progress=status.update)
    report.print(console)
    if args.json:
        report.to_json(args.json)
    return 0 if report.ok else 1
