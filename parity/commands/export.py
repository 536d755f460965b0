"""Write a network as an ONNX file, from its PyTorch or its JAX side, and run it before it counts.

Both sides' files are interchangeable: `input` is (N, 3, H, W) float32, and the outputs are
`logits`, (N, classes, H, W) or (N, classes); ICNet's are `logits`, `logits4`, `logits8` and
`logits16`. All is in the one file: no external data. Its metadata says which network it is, and of
which checkpoint.
"""

from __future__ import annotations

import argparse

from parity.commands.arguments import SIZES, parse_size
from parity.console import working
from parity.export import FRAMEWORKS, Exported, export
from parity.spec.data.labels import ORDERS
from parity.spec.models import MODELS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=f"the network: {', '.join(MODELS)}")
    parser.add_argument("target", metavar="OUT.onnx", help="what to write; replaced if it is there")
    parser.add_argument("--weights", required=True, metavar="FILE", help="the checkpoint")
    parser.add_argument(
        "--framework",
        default=FRAMEWORKS[0],
        help=f"whose network: {' or '.join(FRAMEWORKS)} (default: %(default)s)",
    )
    parser.add_argument("--size", metavar="HxW", help=SIZES)
    parser.add_argument(
        "--dynamic-batch", action="store_true", help="any number of images (default: one)"
    )
    parser.add_argument(
        "--labels", choices=ORDERS, help="which output is void, to be kept in the manifest"
    )


def run(args: argparse.Namespace) -> int:
    size = None if args.size is None else parse_size(args.size)
    with working() as progress:
        progress(f"exporting {args.weights}, and running the file")
        done = export(
            args.model,
            args.weights,
            args.target,
            args.framework,
            size,
            args.dynamic_batch,
            args.labels,
        )
    print(summary(args.weights, done))
    return 0


def summary(source: str, done: Exported) -> str:
    """What was read and written, a line each."""
    read = done.source
    variant = ", ".join(f"{name} {value}" for name, value in read.config.describe().items())
    worst = min(done.checks, key=lambda check: check.margin)
    return "\n".join(
        [
            f"read      {source}: {read.format}, {read.dialect} names",
            f"network   {read.network}: {variant}",
            f"wrote     {done.path}: {done.framework}'s network, {done.bytes:,} bytes",
            f"input     input: Nx3x{done.size[0]}x{done.size[1]}, float32",
            f"outputs   {', '.join(done.outputs)}",
            f"verified  in ONNX Runtime: {worst.reference} differs by {worst.error:.1e} from"
            f" float64, limit {worst.limit:.1e}",
        ]
    )
