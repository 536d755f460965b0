"""Write a network as an ONNX or StableHLO file, and verify it by running it.

Both sides' files are interchangeable: `input` is (N, 3, H, W) float32, and the outputs are
`logits`, (N, classes, H, W) or (N, classes); ICNet's are `logits`, `logits4`, `logits8` and
`logits16`. The file is self-contained: no external data. Its metadata names the network and the
checkpoint. NAME.stablehlo, from the JAX side, takes images (N, H, W, 3), holds the weights and has
a separate manifest file; `jax.export.deserialize` reads it.
"""

from __future__ import annotations

import argparse

from parity.cli.arguments import SIZES, add_choice, choice_of, no_folder, parse_size, reporter
from parity.export import FRAMEWORKS, Exported, export
from parity.report.console import working
from parity.report.lines import say
from parity.spec.errors import InputError
from parity.spec.labels import ORDERS
from parity.spec.models import MODELS
from weights_convert import notes

FORMATS = ("onnx", "stablehlo")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=f"the network: {', '.join(MODELS)}")
    parser.add_argument(
        "target",
        metavar="OUT",
        help="what to write, NAME.onnx or NAME.stablehlo; replaced if it is there",
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="onnx, or stablehlo: JAX's own, by jax.export (default: as OUT ends)",
    )
    parser.add_argument("--weights", required=True, metavar="FILE", help="the checkpoint")
    add_choice(parser)
    parser.add_argument(
        "--framework",
        help=f"whose network: {' or '.join(FRAMEWORKS)} (default: {FRAMEWORKS[0]}; of stablehlo"
        " always jax)",
    )
    parser.add_argument(
        "--size", metavar="HxW", help=f"what the checkpoint says of itself, else as usual {SIZES}"
    )
    parser.add_argument(
        "--dynamic-batch", action="store_true", help="any number of images (default: one)"
    )
    parser.add_argument(
        "--labels",
        type=no_folder,
        choices=ORDERS,
        help="which output is void, to be kept in the manifest (default: what the checkpoint says)",
    )


def run(args: argparse.Namespace) -> int:
    size = None if args.size is None else parse_size(args.size)
    format = args.format or (FORMATS[1] if args.target.endswith(".stablehlo") else FORMATS[0])
    more = (size, args.dynamic_batch, args.labels, choice_of(args))
    if format != "onnx" and args.framework not in (None, "jax"):
        raise InputError(f"--framework {args.framework}: --format stablehlo is JAX's own")
    with working() as progress:
        progress(f"exporting {args.weights}, and running the file")
        if format == "onnx":
            framework = args.framework or FRAMEWORKS[0]
            done = export(args.model, args.weights, args.target, framework, *more)
        else:
            from parity.export import stablehlo

            done = stablehlo.export(args.model, args.weights, args.target, *more)
    say(summary(args.weights, done, format))
    reporter(args.command)(args.weights, done.assumed)
    return 0


def summary(source: str, done: Exported, format: str = "onnx") -> str:
    """Return the lines that say what was read and written."""
    read = done.source
    variant = ", ".join(f"{name} {value}" for name, value in read.config.describe().items())
    height, width = done.size
    shape = f"3x{height}x{width}" if format == "onnx" else f"{height}x{width}x3"
    run = "in ONNX Runtime" if format == "onnx" else "read back and run by JAX"
    worst = min(done.checks, key=lambda check: check.margin)
    return "\n".join(
        [
            f"read      {source}: {read.format}, {read.naming_scheme} names",
            f"network   {read.network}: {variant}",
            *notes.lines(read),
            f"wrote     {done.path}: {done.framework}'s network, {done.bytes:,} bytes",
            f"input     input: {done.batch or 'N'}x{shape}, float32",
            f"outputs   {', '.join(done.outputs)}",
            f"verified  {run}: {worst.reference} differs by {worst.error:.1e} from"
            f" float64, limit {worst.limit:.1e}",
        ]
    )
