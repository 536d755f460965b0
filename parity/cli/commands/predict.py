"""Predict images with a checkpoint, in either framework, or with an ONNX file.

INPUT is an image, a folder of images, or - for a list of paths on standard input, one a line. OUT
then holds, for each image, color/NAME.png (trainIds with the data set's colours as their palette),
overlay/NAME.png (these over the image) and, with --ids, ids/NAME.png (the data set's own label ids,
such as Cityscapes' test server takes). For networks that classify whole images it is classes.csv.

An image of another size than the network's is resized to it, and its prediction back, to the
nearest pixel; with --fit pad it keeps its size, and is padded at the right and below to the next
multiples of 8.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from parity.cli.arguments import (
    add_choice,
    add_compile,
    choice_of,
    no_folder,
    optional_size,
    reporter,
)
from parity.spec.datasets import BUILT_IN
from parity.spec.errors import InputError
from parity.spec.labels import ORDERS

if TYPE_CHECKING:
    from pathlib import Path

    from parity.spec.datasets import DataSet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("input", metavar="INPUT", help="an image, a folder of images, or - for a list of paths")
    add("--weights", required=True, metavar="FILE", help="the checkpoint, or an ONNX file")
    add("--out", required=True, metavar="DIR", help="the folder to write; it must not be there")
    add(
        "--framework",
        choices=("torch", "jax", "onnx"),
        help="what predicts (default: onnx for an ONNX file, else torch)",
    )
    add("--model", metavar="NAME", help="the network (default: detected from its tensors)")
    add_choice(parser)
    add(
        "--dataset",
        metavar="NAME|FILE",
        help=f"whose classes: {' or '.join(BUILT_IN)}, or a TOML file or its folder (default: what"
        " the checkpoint says of itself, else detected from their number)",
    )
    add(
        "--labels",
        type=no_folder,
        choices=ORDERS,
        help="which output is void (default: what the checkpoint says of itself, else void-last)",
    )
    add("--size", metavar="HxW", help="of the network's images (default: likewise)")
    add(
        "--fit",
        choices=("resize", "pad"),
        default="resize",
        help="what is done with images of another size (default: %(default)s)",
    )
    add_compile(parser)
    add("--ids", action="store_true", help="write label maps with the data set's ids, too")


def run(args: argparse.Namespace) -> int:
    from parity.evaluation.predict import predict
    from parity.report.console import counting
    from parity.report.lines import say

    data = None if args.dataset is None else dataset_of(args.dataset)
    images = listed_paths() if args.input == "-" else args.input
    try:
        with counting("opening the network and the images") as progress:
            done = predict(
                args.weights,
                images,
                args.out,
                args.framework,
                model=args.model,
                data=data,
                labels=args.labels,
                size=optional_size(args.size),
                fit=args.fit,
                ids=args.ids,
                choice=choice_of(args),
                progress=progress,
                compiled=args.compile,
            )
    except FloatingPointError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    reporter(args.command)(args.weights, done.assumed)
    if done.notes:
        say("\n".join(done.notes))
    whose = f", {done.data.name}" if done.data else ""
    s = "s" * (done.images != 1)
    say(f"wrote {done.folder}: {done.images} prediction{s} by {done.framework}{whose}")
    return 0


def dataset_of(text: str) -> DataSet:
    """Return the data set of a name, or of a file that describes one.

    Raises:
        InputError: It is neither.
    """
    from pathlib import Path

    from parity.data.sources import described

    if text in BUILT_IN:
        return BUILT_IN[text]
    if (found := described(Path(text))) is None:
        raise InputError(
            f"--dataset {text}: expected {' or '.join(BUILT_IN)}, or a TOML file or its folder"
        )
    return found[0]


def listed_paths() -> list[Path]:
    """The paths on standard input, one a line, in any encoding; empty lines are left out."""
    from pathlib import Path

    lines = (line.rstrip(b"\r\n") for line in sys.stdin.buffer)
    return [Path(os.fsdecode(line)) for line in lines if line]
