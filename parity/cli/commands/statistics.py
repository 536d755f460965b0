"""Count the classes of a data set, weigh them by each rule; measure its images.

`log c` is 1 / ln(c + share), `median` the median frequency over that of the class, counted over
images that contain it. Mean and deviation are of each channel of pixels in [0, 1].
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from parity.cli.arguments import add_dataset, dataset_of, no_folder, parse_size
from parity.data.own.description import FILE
from parity.io.files import check_writable, write_atomically
from parity.report.console import counting
from parity.spec.datasets import BUILT_IN
from parity.spec.errors import InputError
from parity.spec.labels import ORDERS
from parity.spec.training.recipe import DATA

if TYPE_CHECKING:
    from rich.table import Table

    from parity.data.statistics import Summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "root",
        metavar="DATA",
        help="the data set's folder, its TOML file, or a file of `parity pack`",
    )
    add_dataset(parser, DATA, required=True)
    parser.add_argument("--split", default="train", help="which part (default: %(default)s)")
    parser.add_argument(
        "--labels",
        type=no_folder,
        choices=ORDERS,
        default=ORDERS[0],
        help="the order of a network's outputs, in which they are listed (default: %(default)s)",
    )
    parser.add_argument("--size", metavar="HxW", help="resize to this (default: as images are)")
    parser.add_argument("--json", metavar="FILE", help="write all numbers to this file")


def run(args: argparse.Namespace) -> int:
    import json

    from parity.data.sources import described, open_data
    from parity.data.statistics import summarize
    from parity.report.console import standard_output

    size = parse_size(args.size) if args.size else None
    if args.json is not None:
        check_writable(args.json)
    name = dataset_of(args, DATA)
    data = described(args.root) if name is None else (BUILT_IN[name], ())
    if data is None:
        raise InputError(
            f"--dataset NAME is missing, expected {' or '.join(DATA)}; or a data set with its own"
            f" {FILE}"
        )
    name = data[0].name
    source = open_data(data[0], args.root, args.split, args.labels)
    with counting("opening the data set") as progress:
        found = summarize(source, size, progress)
    rows = columns(found)
    standard_output().print(table(rows, f"{name}, {args.split}: {found.counts.images} images"))
    print(f"mean      {' '.join(f'{x:.4f}' for x in found.mean)}")
    print(f"deviation {' '.join(f'{x:.4f}' for x in found.deviation)}")
    if args.json is not None:
        entries = {
            "data": name,
            "split": args.split,
            "labels": args.labels,
            "size": size,
            "images": found.counts.images,
            "mean": found.mean.tolist(),
            "deviation": found.deviation.tolist(),
            **rows,
        }
        write_atomically(args.json, json.dumps(entries, indent=1).encode())
    return 0


def columns(found: Summary) -> dict[str, list[Any]]:
    """Column -> its values, a row for each output."""
    counted = {"count": found.counts.pixels, "share": found.counts.shares}
    values = {name: array.tolist() for name, array in (counted | found.weights).items()}
    return {"class": found.classes, **values}


def table(rows: dict[str, list[Any]], title: str) -> Table:
    """Return the rows as a printable table."""
    from rich.markup import escape
    from rich.table import Table

    made = Table(title=escape(title))
    for name in rows:
        made.add_column(name, justify="left" if name == "class" else "right")
    for name, pixels, share, *found in zip(*rows.values(), strict=True):
        made.add_row(escape(name), f"{pixels:,}", f"{share:.4%}", *(f"{x:.4g}" for x in found))
    return made
