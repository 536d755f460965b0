"""Write one split of a data set into one file, which trains as the folder does, and is read faster.

Pixels are kept as they are, so that the file is larger than compressed images. With --size they are
resized first; then only a recipe that begins by resizing to that size takes the file.
"""

from __future__ import annotations

import argparse

from parity.cli.arguments import add_dataset, dataset_of, parse_size
from parity.data.records import SUFFIX
from parity.report.console import counting
from parity.spec.errors import InputError
from parity.spec.training.recipe import DATA


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", metavar="DATA", help="the data set's folder, or its TOML file")
    parser.add_argument("target", metavar=f"OUT{SUFFIX}", help="the file; replaced if it is there")
    add_dataset(parser, DATA)
    parser.add_argument("--split", default="train", help="which part (default: %(default)s)")
    parser.add_argument("--size", metavar="HxW", help="resize to this (default: as images are)")


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    from parity.data.pack import pack

    size = parse_size(args.size) if args.size else None
    if not args.target.endswith(SUFFIX):  # it may be an image of the data set
        raise InputError(f"{args.target}: expected a name that ends with {SUFFIX}")
    name = dataset_of(args, DATA)
    with counting("reading the data set") as progress:
        found = pack(args.root, args.target, name, args.split, size, progress)
    megabytes = Path(args.target).stat().st_size / 2**20
    said = f"{found.data}, {found.split}, {found.count} images, {found.size_said}"
    print(f"wrote {args.target}: {said}, {megabytes:,.0f} MiB, read back")
    return 0
