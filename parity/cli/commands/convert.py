"""Convert a checkpoint to another format or framework, bit by bit.

IN may be a torch file, safetensors, Flax's msgpack, NumPy's .npz, a MindSpore .ckpt or an Orbax
directory, with any names; the format and names are detected from the content. The suffix of OUT
chooses the format: .pth, .pt, .tar a torch file, .safetensors safetensors, .msgpack Flax's msgpack,
.npz NumPy's, .ckpt a MindSpore file, .orbax or none an Orbax directory.

With --rules, IN is a checkpoint of any network, and may be shards: their index or its folder. It
is read, converted and written one tensor at a time, in either direction. OUT is a .safetensors
file, an Orbax directory or, with --shard-size, a folder of shards, and must not exist. The same
command goes on where a killed one stopped.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Iterator
from contextlib import contextmanager

from parity.cli import by_rules
from parity.cli.arguments import add_choice, choice_of, no_folder
from parity.io.files import read_json
from parity.spec.errors import listed, printable
from parity.spec.labels import ORDERS
from parity.spec.models import LANGUAGE
from parity.spec.preprocessing import parse
from weights_convert import Checkpoint, Conversion, convert, notes
from weights_convert.assumptions import SILENT, origin_of, pixels_said, size_said
from weights_convert.naming import FLOATS, NAMING_SCHEMES
from weights_convert.notes import coverage, named


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="IN", help="the checkpoint to read")
    parser.add_argument("target", metavar="OUT", help="what to write; replaced if it is there")
    parser.add_argument("--model", help="which network (default: the one whose names the file has)")
    add_choice(parser)
    parser.add_argument(
        "--from",
        dest="naming_scheme",
        choices=NAMING_SCHEMES,
        help="whose names IN carries (default: detected from the names)",
    )
    parser.add_argument(
        "--to",
        choices=NAMING_SCHEMES,
        help="whose names to write (default: torch in a torch file, jax in msgpack and an Orbax"
        " directory, the other framework's than the source's in safetensors and .npz)",
    )
    parser.add_argument(
        "--dtype",
        choices=FLOATS,
        help="cast the network's numbers to this precision (default: as they are)",
    )
    parser.add_argument(
        "--weights-only", action="store_true", help="leave an optimizer's state behind"
    )
    parser.add_argument(
        "--labels",
        type=no_folder,
        choices=ORDERS,
        help="which output is void, to be kept in the manifest",
    )
    parser.add_argument(
        "--preprocessing",
        metavar="FILE",
        help="JSON to be kept in the manifest: size, mean, std, channels, classes, void (default:"
        " the source's, else the published recipe's)",
    )
    by_rules.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from parity.report.console import working
    from parity.report.lines import say

    if args.rules is not None:
        return by_rules.run(args)
    by_rules.refuse(args)
    given = None
    if args.preprocessing is not None:
        given = parse(read_json(args.preprocessing), args.preprocessing)
    with collector_paused(), working() as progress:
        done = convert(
            args.source,
            args.target,
            args.model,
            args.to,
            args.labels,
            naming_scheme=args.naming_scheme,
            choice=choice_of(args),
            dtype=args.dtype,
            preprocessing=given,
            weights_only=args.weights_only,
            progress=progress,
        )
    say(summary(args.source, done, args.dtype, given is not None))
    return 0


@contextmanager
def collector_paused() -> Iterator[None]:
    """Context without garbage collection, a tenth of the time of importing frameworks."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def summary(source: str, done: Conversion, dtype: str | None = None, given: bool = False) -> str:
    """Return the lines that say what was read and written.

    Args:
        source: The source's path as the user gave it.
        done: The conversion.
        dtype: The dtype to which the numbers were cast.
        given: Whether the user specified the preprocessing.
    """
    read = done.source
    variant = ", ".join(f"{name} {value}" for name, value in read.config.describe().items())
    void = f", {done.manifest.labels}" if done.manifest.labels else ""
    lines = [
        f"read      {source}: {read.format}, {read.naming_scheme} names{place(read)}",
        f"network   {read.network}: {variant}{void}",
        f"tensors   {done.tensors}, with {done.parameters:,} parameters",
        f"wrote     {done.path}: {done.format}, {done.naming_scheme} names, {done.bytes:,} bytes",
        "verified  read back and compared: bitwise equal",
    ]
    after = 2  # the line from which on the others stand
    if read.network not in LANGUAGE:
        lines.insert(2, f"images    {images_said(done, given)}")
        after = 3
    if read.labels not in (None, done.manifest.labels):
        lines.insert(
            after, f"labels    {done.manifest.labels}, but its manifest said {read.labels}"
        )
    if done.manifest.optimizer:
        said = done.manifest.optimizer
        covered = coverage(read.config, len(said["absent"]))
        step = "" if said["step"] is None else f"step {said['step']}, "
        lines.insert(after, f"optimizer {said['kind']}, {step}carried{covered}")
    if dtype:
        lines.insert(after, f"cast      to {dtype}, rounded to nearest")
    if read.manifest is None:
        lines.insert(1, "manifest  none: unverified")
    lines[after:after] = notes.lines(read)
    if done.lost:
        lines.insert(after, f"not carried: {len(done.lost)} tensors, {named(done.lost)}")
    if skipped := notes.unsaid(done.skipped, read):
        lines.insert(after, f"not carried: {listed(skipped)}")
    return "\n".join(map(printable, lines))


def place(read: Checkpoint) -> str:
    """Return the words that say where in the file a network was, if not at the top level."""
    key = f", under the key {read.key!r}" if read.key else ""
    return key + (f", each after {read.prefix!r}" if read.prefix else "")


def images_said(done: Conversion, given: bool) -> str:
    """Describe the target's preprocessing of images, and where it comes from."""
    images = done.manifest.preprocessing
    size = "any size" if images.size is None else size_said(images.size)
    whose = f"{origin_of(done.source.config)}; {SILENT}"
    if given:
        whose = "asked for"
    elif done.source.manifest:
        whose = "its manifest says so"
    return f"{pixels_said(images)}, {size} ({whose})"
