"""Write a CIFAR-10 whose images are JPEGs in one .npz in its official layout for Python.

IN.npz holds, of `train` and of `test`, all JPEGs one after the other (train_jpeg, uint8), where
each begins and the last ends (train_offsets), and their classes (train_labels).
"""

from __future__ import annotations

import argparse

from parity.report.console import working


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="IN.npz", help="the file to read")
    parser.add_argument("target", metavar="DIR", help="the folder to write; it must not be there")


def run(args: argparse.Namespace) -> int:
    from parity.data.cifar10 import FOLDER
    from tests.unpack_cifar10 import unpack

    with working() as progress:
        counts = unpack(args.source, args.target, progress)
    said = ", ".join(f"{n:,} of {split}" for split, n in counts.items())
    print(f"wrote {args.target}/{FOLDER}: {said}")
    return 0
