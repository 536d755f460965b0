"""Predict a folder of images with an ONNX file: coloured predictions, and metric.txt with labels.

Images may be of any size; they are resized to the file's, as `parity miou` does, and predictions
back to the image's. A prediction is a PNG of trainIds whose palette is the data set's.
"""

from __future__ import annotations

import argparse
import os

from parity.cli.arguments import hint, reporter
from parity.data import DATASETS
from parity.spec.errors import InputError
from parity.spec.labels import ORDERS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="OUT", help="the folder to write; it must not be there")
    parser.add_argument("--onnx", required=True, metavar="FILE", help="the network")
    parser.add_argument("--images", required=True, metavar="DIR", help="the images")
    parser.add_argument(
        "--label-dir",
        metavar="DIR",
        help="label maps of the same names, or Cityscapes' (labelIds or labelTrainIds)",
    )
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help=f"whose classes: {' or '.join(DATASETS)} (default: detected from their number)",
    )
    parser.add_argument(
        "--labels",
        metavar="ORDER",
        help=f"{' or '.join(ORDERS)}: which output is void (default: what the file says of itself,"
        " else void-last)",
    )
    parser.add_argument("--order", help=argparse.SUPPRESS)  # as --labels was called


def run(args: argparse.Namespace) -> int:
    from parity.evaluation.infer import infer
    from parity.report.console import counting

    labels, folder = labels_of(args)
    with counting("opening the network and the images") as progress:
        done = infer(args.onnx, args.images, args.target, folder, labels, args.dataset, progress)
    reporter(args.command)(args.onnx, done.assumed)
    print(f"wrote {done.folder}: {done.images} predictions, {done.data.name}, {done.labels}")
    if done.iou is not None:
        print((done.folder / "metric.txt").read_text(encoding="utf-8"), end="")
    return 0


def labels_of(args: argparse.Namespace) -> tuple[str | None, str | None]:
    """Return the order of outputs and the folder of label maps, also from their former options.

    Raises:
        InputError: One of them is given twice.
    """
    labels, folder = args.labels, args.label_dir
    if labels is not None and labels not in ORDERS and os.path.isdir(labels):
        if folder is not None:
            raise InputError(f"--labels {labels} is a folder, and --label-dir gives another")
        hint(args.command, f"--labels is an order of outputs; a folder is --label-dir {labels}")
        labels, folder = None, labels
    if args.order is not None:
        if labels is not None:
            raise InputError(f"--order {args.order} and --labels {labels}, expected one of them")
        hint(args.command, f"--order is called --labels {args.order} now, as in other commands")
        labels = args.order
    return labels, folder
