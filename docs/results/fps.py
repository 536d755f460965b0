"""Images per second of both sides, training and forward, in each precision, as one table.

    python docs/results/fps.py --model enet-camvid --size 360x480 --batch 10 --json fps.json

A step of training is forward, backward and update; a forward pass is that of a validation, with the
loss and the largest logit. Both take a batch from the memory of the host and return numbers to it,
so they wait for the device. Half precision is at level O1. `tf32` is `fp32` with products and
convolutions whose factors a GPU rounds to 10 bits; in `fp32` both frameworks are told not to.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import torch
from rich.table import Table

from parity.bench.training import RATE, SIDES, batch_of, trainer
from parity.bench.turns import in_turn
from parity.cli.arguments import parse_size
from parity.io import compilation_cache, xla_convolutions
from parity.io.files import write_atomically
from parity.report.console import standard_output
from parity.spec.training.recipe import PRECISIONS
from parity.training.environment import devices, versions

TF32 = "tf32"
KNOWN = (*PRECISIONS, TF32)
Timing = tuple[str, str, dict[str, float]]  # precision, what was timed, side -> images per second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="enet-camvid")
    parser.add_argument("--size", default="360x480", metavar="HxW")
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--runs", type=int, default=20, help="timed, of each")
    parser.add_argument("--precisions", default="fp32,bf16,fp16", help=", ".join(KNOWN))
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="after which no other precision is begun"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    begun, named = time.monotonic(), args.precisions.split(",")
    if unknown := [name for name in named if name not in KNOWN]:
        parser.error(f"--precisions {unknown[0]!r}, expected some of {', '.join(KNOWN)}")
    batch = batch_of(args.model, parse_size(args.size), args.batch)
    rows: list[Timing] = []
    left: list[str] = []
    for precision in named:
        if args.seconds is not None and time.monotonic() - begun > args.seconds:
            left.append(precision)
            continue
        held = "fp32" if precision == TF32 else precision
        with products_in(precision):
            made = {side: trainer(side, args.model, precision=held) for side in SIDES}
            calls: dict[str, dict[str, Callable[[], object]]] = {
                "forward": {s: functools.partial(t.evaluate, batch) for s, t in made.items()},
                "training": {s: functools.partial(t.step, batch, RATE) for s, t in made.items()},
            }
            for what, call in calls.items():
                seconds = in_turn(call, args.runs)
                medians = {side: statistics.median(times) for side, times in seconds.items()}
                rows.append((precision, what, {s: args.batch / m for s, m in medians.items()}))
        if args.json:  # after each, as another one may take too long
            facts = {"rows": rows, "versions": versions(), "model": args.model, "size": args.size}
            facts |= {"batch": args.batch, "devices": {side: devices(side) for side in SIDES}}
            write_atomically(args.json, json.dumps(facts, indent=1).encode())
    standard_output().print(table(args, rows))
    for side in SIDES:
        print(f"{side}: {', '.join(devices(side))}")
    if left:
        print(f"left out, as {args.seconds:g} s were over: {', '.join(left)}")


@contextlib.contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Context in which float32 products are exact, or of TF32, in both frameworks.

    Half precision leaves both as they come.
    """
    if precision not in ("fp32", TF32):
        yield
        return
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = precision == TF32
    try:
        with jax.default_matmul_precision("tensorfloat32" if precision == TF32 else "highest"):
            yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


def table(args: argparse.Namespace, rows: Sequence[Timing]) -> Table:
    """One row for each precision, forward and training."""
    made = Table(title=f"{args.model}, batches of {args.batch} at {args.size}: images per second")
    for name in ("precision", "", *SIDES):
        made.add_column(name, justify="right" if name in SIDES else "left")
    for precision, what, speeds in rows:
        made.add_row(precision, what, *(f"{speeds[side]:,.1f}" for side in SIDES))
    return made


if __name__ == "__main__":
    # What an earlier call has compiled is there; and so are the command line's convolutions.
    compilation_cache.keep_compiled(compilation_cache.of_user())
    xla_convolutions.by_eigen()
    try:
        main()
    except KeyboardInterrupt:  # by gpu.sh, whose time for it is over; --json has what was done
        sys.exit("stopped before it was done")
