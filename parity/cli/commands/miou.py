"""Evaluate a checkpoint in PyTorch and in JAX on a data set, and compare every pixel.

Exit status 1 if pixels disagree that rounding does not explain: in float64 any; in float32 those
that differ in float64, too, or whose two classes differ in the float64 reference's logits by more
than rounding can cause.
"""

from __future__ import annotations

import argparse
import sys

from parity.cli.arguments import (
    add_choice,
    add_compile,
    add_count_size,
    check_data,
    choice_of,
    no_folder,
    optional_size,
    reporter,
)
from parity.data import DATASETS
from parity.evaluation.miou import FRAMEWORKS, miou
from parity.io.files import check_folder, check_writable
from parity.spec.labels import ORDERS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="the network (default: detected from its tensors)")
    parser.add_argument("--weights", required=True, metavar="FILE", help="the checkpoint")
    add_choice(parser)
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="the data set's folder, or its TOML file"
    )
    parser.add_argument(
        "--size",
        metavar="HxW",
        help="resize images and labels to this height and width (default: what the checkpoint says"
        " of itself, else as published)",
    )
    add_count_size(parser)
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help=f"{' or '.join(DATASETS)} (default: detected from the folder's layout)",
    )
    parser.add_argument("--split", default="val", help="of the data set (default: %(default)s)")
    parser.add_argument(
        "--labels",
        type=no_folder,
        metavar="ORDER",
        help=f"{' or '.join(ORDERS)}: which output is void (default: what the checkpoint says of"
        " itself, else void-last)",
    )
    parser.add_argument(
        "--frameworks",
        default=",".join(FRAMEWORKS),
        metavar="LIST",
        help="which sides, with a comma between (default: %(default)s)",
    )
    parser.add_argument("--dtype", default="float32", help="float32 (default) or float64")
    add_compile(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    parser.add_argument("--json", metavar="FILE", help="write all numbers to this file")
    parser.add_argument("--html", metavar="DIR", help="write a page, index.html, to this folder")
    parser.add_argument(
        "--pictures",
        type=int,
        default=20,
        metavar="N",
        help="show the first N images on the page (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    from parity.report.console import counting, standard_output
    from parity.report.lines import say

    check_data(args.data)
    if args.json is not None:
        check_writable(args.json)
    if args.html is not None:
        check_folder(args.html)
    try:
        with counting("reading the data set and the checkpoint") as progress:
            result = miou(
                args.weights,
                args.data,
                size=optional_size(args.size),
                model=args.model,
                dataset=args.dataset,
                split=args.split,
                labels=args.labels,
                frameworks=args.frameworks.split(","),
                dtype=args.dtype,
                limit=args.limit,
                pictures=args.pictures if args.html is not None else 0,
                progress=progress,
                choice=choice_of(args),
                count_size=optional_size(args.count_size),
                say=reporter(args.command),
                compiled=args.compile,
            )
    except FloatingPointError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    say("\n".join([*result.notes, *([result.counted_how] if result.counted_how else [])]))
    standard_output().print(result.table())
    if args.json is not None:
        result.to_json(args.json)
    if args.html is not None:
        print(f"page: {result.to_html(args.html)}")
    say(result.verdict, sys.stdout if result.passed else sys.stderr)
    return 0 if result.passed else 1
