"""Time a forward pass or a training step of both sides, float32, in one process and in turn.

`plain` is the unmodified PyTorch network: NCHW, eager, batch norm not folded. `torch` and `jax` are
what `parity miou` runs on large images: PyTorch with its arrays in channels-last order, batch norms
folded into convolutions and nothing computed that no output needs; JAX compiled. With --onnx each
side's export is timed in ONNX Runtime, too: `torch.onnx` and `jax.onnx`. With --train a training
step is timed instead, as in `parity train`: forward, backward, update; with --devices its steady
speed with the batch divided among that many devices. The first call, in which all is compiled, is a
column of its own: JAX has no cache if JAX_ENABLE_COMPILATION_CACHE=false, and the ONNX files are
read before. --compile adds `torch.compile`, PyTorch's network compiled. --first-call measures first
calls and memory in processes of their own: with nothing compiled before, and again with what the
first of them has left on disk; memory is by how much the process grew at most, from when the
libraries were imported and nothing was built.
"""

from __future__ import annotations

import argparse
import json
import math
from typing import TYPE_CHECKING

from parity.cli.arguments import BATCHES, SIZES, add_compile, parse_devices, size_for
from parity.io.files import check_writable, write_atomically
from parity.report.console import standard_output, working
from parity.spec.errors import InputError
from parity.spec.models import MODELS, check_takes_images, usual_batch

if TYPE_CHECKING:
    from rich.table import Table

    from parity.bench.alone import First
    from parity.bench.timing import Timing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="enet", help="the network (default: %(default)s)")
    parser.add_argument("--size", metavar="HxW", help=SIZES)
    parser.add_argument("--batch", type=int, help=f"images {BATCHES}")
    parser.add_argument("--threads", type=int, help="PyTorch's (default: 2)")
    parser.add_argument("--runs", type=int, default=15, help="of each (default: %(default)s)")
    parser.add_argument("--onnx", action="store_true", help="also what both sides export")
    parser.add_argument("--train", action="store_true", help="instead, a step of training")
    parser.add_argument(
        "--devices",
        metavar="LIST",
        help="of --train: divide the batch among so many devices (such as 1,2), processes of"
        " PyTorch or virtual devices of JAX, as `parity train --devices` does; without --batch, the"
        " least that each of these numbers divides",
    )
    add_compile(parser)
    parser.add_argument(
        "--first-call",
        action="store_true",
        help="also the first calls, cold and warm, and memory, each in a process of its own; not of"
        " the plain network and of exports",
    )
    parser.add_argument("--json", metavar="FILE", help="write the times to this file")


def run(args: argparse.Namespace) -> int:
    threads = 2 if args.threads is None else args.threads
    if args.model not in MODELS:
        raise InputError(f"model {args.model!r}, expected one of {', '.join(MODELS)}")
    config = MODELS[args.model]
    check_takes_images(config, "parity bench")
    height, width = size_for(config, args.size)
    size = height, width
    batch = usual_batch(config) if args.batch is None else args.batch
    for name, value in (("runs", args.runs), ("threads", threads), ("batch", batch)):
        if value < 1:
            raise InputError(f"{name} {value}, expected 1 or more")
    if args.train and args.onnx:
        raise InputError("--train with --onnx: an exported network does not train")
    if args.devices is not None and (not args.train or args.threads is not None):
        raise InputError("--devices is for --train, where each process has its own threads")
    if args.devices is not None and (args.compile or args.first_call):
        raise InputError("--devices with --compile or --first-call: these are of one process")
    if args.json is not None:
        check_writable(args.json)
    if args.devices is not None:
        return on_devices(size, batch, args)
    return in_one_process(size, batch, threads, args)


def in_one_process(
    size: tuple[int, int], batch: int, threads: int, args: argparse.Namespace
) -> int:
    """Time forward passes or steps of training, print and write."""
    with working() as progress:
        from parity.bench.timing import bench

        timing = bench(
            args.model,
            size,
            batch,
            threads,
            args.runs,
            train=args.train,
            onnx=args.onnx,
            compiled=args.compile,
            first_call=args.first_call,
            progress=progress,
        )
    images = f"{batch} image{'s' if batch > 1 else ''} of {size[0]}x{size[1]}"
    what = ", a step of training" if args.train else ""
    title = f"{args.model}, {images}, float32, {threads} threads{what}"
    standard_output().print(times(title, timing))
    if timing.alone:
        standard_output().print(first_table(timing.alone))
    if args.json is not None:
        write_atomically(args.json, json.dumps(timing.to_dict()).encode())
    return 0


def times(title: str, timing: Timing) -> Table:
    """A line for each network: its times, beside PyTorch's."""
    from rich.table import Table

    medians = timing.medians
    table = Table(title=title)
    beside = [name for name in ("plain", "torch") if name in medians]
    columns = ("", "median ms", "min", "max", *(f"x {name}" for name in beside), "first s")
    for column in columns:
        table.add_column(column, justify="right" if column else "left")
    for name, times in timing.seconds.items():
        figures = (medians[name], min(times), max(times))
        ratios = [medians[name] / medians[other] for other in beside]
        shown = (f"{1e3 * t:.0f}" for t in figures)
        first = f"{timing.first[name]:.1f}"
        table.add_row(name, *shown, *(f"{r:.2f}" for r in ratios), first)
    return table


def first_table(firsts: dict[str, First]) -> Table:
    """A line for each network: its first calls in processes of their own."""
    from rich.table import Table

    table = Table(title="first call in a process of its own")
    for column in ("", "cold s", "warm s", "cold, MiB more", "warm, MiB more"):
        table.add_column(column, justify="right" if column else "left")
    for name, first in firsts.items():
        table.add_row(name, *first.cells())
    return table


def on_devices(size: tuple[int, int], batch: int, args: argparse.Namespace) -> int:
    """Time steps of training on several devices, print and write."""
    from rich.table import Table

    from parity.bench.turns import WARM_UP

    model, runs = args.model, args.runs
    numbers = [parse_devices(text) for text in args.devices.split(",")]
    if args.batch is None:
        batch = math.lcm(batch, *numbers)
    if bad := [n for n in numbers if batch % n]:
        raise InputError(f"--batch {batch} does not divide among {bad[0]} devices")
    with working() as progress:
        from parity.bench.devices import speeds

        found = speeds(model, size, batch, runs, numbers, progress)
    table = Table(title=f"{model}, {batch} images of {size[0]}x{size[1]} a step, float32, training")
    for column in ("", "devices", "by", "median ms", "min", "max", "images/s", "of each"):
        table.add_column(column, justify="left" if column in ("", "by") else "right")
    for row in found:
        figures = (row.median, min(row.seconds), max(row.seconds))
        speed = (f"{row.images:.2f}", f"{row.images / row.devices:.2f}")
        table.add_row(
            row.side, f"{row.devices}", row.way, *(f"{1e3 * t:.0f}" for t in figures), *speed
        )
    console = standard_output()
    console.print(table)
    console.print(
        f"Steady speed: {runs} steps each; the {WARM_UP} before them, in which all is compiled, are"
        " not counted."
    )
    if args.json is not None:
        rows = [row.to_dict() for row in found]
        write_atomically(args.json, json.dumps(rows, indent=1).encode())
    return 0
