"""Carry a checkpoint to another format or framework, bit by bit.

IN may be a torch file, safetensors, Flax's msgpack, NumPy's .npz, a MindSpore .ckpt or an Orbax
directory, with any names; all is told by its content. The suffix of OUT chooses the format: .pth,
.pt, .tar a torch file, .safetensors safetensors, .msgpack Flax's msgpack, .npz NumPy's, .ckpt a
MindSpore file, .orbax or none an Orbax directory.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Iterator
from contextlib import contextmanager

from parity.spec.data.labels import ORDERS
from weights_convert import Conversion, convert
from weights_convert.dialects import DIALECTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="IN", help="the checkpoint to read")
    parser.add_argument("target", metavar="OUT", help="what to write; replaced if it is there")
    parser.add_argument("--model", help="which network (default: the one whose names the file has)")
    parser.add_argument(
        "--to",
        choices=DIALECTS,
        help="whose names to write (default: torch in a torch file, jax in msgpack and an Orbax"
        " directory, the other framework's than the source's in safetensors and .npz)",
    )
    parser.add_argument(
        "--labels", choices=ORDERS, help="which output is void, to be kept in the manifest"
    )


def run(args: argparse.Namespace) -> int:
    with collector_paused():
        done = convert(args.source, args.target, args.model, args.to, args.labels)
    print(summary(args.source, done))
    return 0


@contextmanager
def collector_paused() -> Iterator[None]:
    """Importing a framework makes objects that stay; walking them is a tenth of the whole time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def summary(source: str, done: Conversion) -> str:
    """What was read and written, a line each."""
    read = done.source
    variant = ", ".join(f"{name} {value}" for name, value in read.config.describe().items())
    void = f", {done.manifest.labels}" if done.manifest.labels else ""
    lines = [
        f"read      {source}: {read.format}, {read.dialect} names",
        f"network   {read.network}: {variant}{void}",
        f"tensors   {done.tensors}, with {done.parameters:,} parameters",
        f"wrote     {done.path}: {done.format}, {done.dialect} names, {done.bytes:,} bytes",
        "verified  read back and compared: bitwise equal",
    ]
    for keys, what in ((read.filled, "absent    set to 0"), (done.lost, "not carried")):
        if keys:
            lines.insert(3, f"{what}: {len(keys)} tensors, such as {keys[0]}")
    if done.skipped:
        lines.insert(3, f"not carried: {', '.join(done.skipped)}")
    return "\n".join(lines)
