"""The two-minute tour: draw streets, convert a network, climb the ladder, evaluate both sides.

It needs only the installed package. Exit status 1 if the two sides disagree.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        default="parity-demo",
        metavar="DIR",
        help="folder for the scenes, the checkpoints and the page (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    from parity.demo import demo

    return 0 if demo(args.out) else 1
