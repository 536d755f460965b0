"""Predict a folder of images with an ONNX file: coloured predictions, and metric.txt with labels.

Images may be of any size; they are resized to the file's, as `parity miou` does, and predictions
back to the image's. A prediction is a PNG of trainIds whose palette is the data set's.
"""

from __future__ import annotations

import argparse

from parity.spec.data import DATASETS
from parity.spec.data.labels import ORDERS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="OUT", help="the folder to write; it must not be there")
    parser.add_argument("--onnx", required=True, metavar="FILE", help="the network")
    parser.add_argument("--images", required=True, metavar="DIR", help="the images")
    parser.add_argument(
        "--labels",
        metavar="DIR",
        help="label maps of the same names, or Cityscapes' (labelIds or labelTrainIds)",
    )
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help=f"whose classes: {' or '.join(DATASETS)} (default: told by their number)",
    )
    parser.add_argument(
        "--order",
        metavar="ORDER",
        help=f"{' or '.join(ORDERS)}: which output is void (default: what the file says, else"
        " void-last)",
    )


def run(args: argparse.Namespace) -> int:
    from parity.console import counting
    from parity.infer import infer

    with counting("opening the network and the images") as progress:
        done = infer(
            args.onnx, args.images, args.target, args.labels, args.order, args.dataset, progress
        )
    print(f"wrote {done.folder}: {done.images} predictions, {done.data.name}, {done.labels}")
    if done.iou is not None:
        print((done.folder / "metric.txt").read_text(encoding="utf-8"), end="")
    return 0
