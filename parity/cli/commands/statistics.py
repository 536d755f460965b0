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

    from parity.data.sources import Source

CONSTANTS = (1.02, 1.1, 1.2)  # c of ENet, and of ERFNet's decoder and encoder


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
    from parity.data.statistics import count, moments
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
        counts = count(source, size, progress=progress)
        mean, deviation = moments(source, size, progress)
    rows = columns(source, counts)
    standard_output().print(table(rows, f"{name}, {args.split}: {counts.images} images"))
    print(f"mean      {' '.join(f'{x:.4f}' for x in mean)}")
    print(f"deviation {' '.join(f'{x:.4f}' for x in deviation)}")
    if args.json is not None:
        found = {
            "data": name,
            "split": args.split,
            "labels": args.labels,
            "size": size,
            "images": counts.images,
            "mean": mean.tolist(),
            "deviation": deviation.tolist(),
            **rows,
        }
        write_atomically(args.json, json.dumps(found, indent=1).encode())
    return 0


def columns(source: Source, counts: Any) -> dict[str, list[Any]]:
    """Column -> its values, a row for each output."""
    from parity.data.statistics import weights
    from parity.spec.training.losses import ClassWeights

    names = list(source.classes)
    if source.pixels:
        names.insert(source.void, "void")
    rules = {f"log {c}": ClassWeights("log", c=c) for c in CONSTANTS}
    rules["median"] = ClassWeights("median")
    by_rule = {
        said: weights(rule, counts, len(source.classes), source.void, source.pixels).tolist()
        for said, rule in rules.items()
    }
    shares = counts.shares.tolist()
    return {"class": names, "count": counts.pixels.tolist(), "share": shares, **by_rule}


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
