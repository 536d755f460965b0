"""Memory and time of `parity convert --rules` on a large checkpoint, made up as Llama's are.

    python -m tests.benchmarks.large_checkpoints --size 10GB

Shards as Hugging Face's libraries write them are carried to an Orbax directory and back, each in a
process of its own, beside what nobody can do without: copying the shards, flushing the copy to the
disk, and hashing it. What came back is compared with the shards bit by bit. The disk of the folder
for temporary files needs three times the size.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from parity.cli.by_rules import parse_bytes
from parity.report.console import standard_output, working
from parity.spec.errors import InputError
from tests import program
from weights_convert.streaming import safetensors_shards
from weights_convert.streaming.opening import open_source
from weights_convert.streaming.plan import Plan, Step, Tensor, tensors_of, units
from weights_convert.streaming.shard_index import SAFETENSORS

# Of Llama 2 with 7 billion numbers; the number of layers follows from the size.
VOCABULARY, CHANNELS, HIDDEN = 32_000, 4_096, 11_008
SHARD = 5 * 10**9  # bytes of a shard, unless the checkpoint has less than two
COPY = 'cp -r "$1" "$2" && sync "$2"/* && sha256sum "$2"/*'

RULES = r"""
rules = [
  ['model\.embed_tokens\.weight', 'embed.embedding'],
  ['lm_head\.weight', 'head.kernel', 'o i -> i o'],
  ['model\.norm\.weight', 'norm.scale'],
  ['model\.(layers\.\d+)\.(input|post_attention)_layernorm\.weight', '\1.\2_norm.scale'],
  ['model\.(layers\.\d+)\.(self_attn|mlp)\.(\w+)_proj\.weight', '\1.\2.\3.kernel', 'o i -> i o'],
]
"""

Progress = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Measured:
    """One process.

    Attributes:
        what: What it did.
        seconds: From its start to its end.
        computing: Seconds of processors, which other work on the machine does not lengthen.
        memory: Its largest resident set in bytes, with the parts of files that it mapped.
    """

    what: str
    seconds: float
    computing: float
    memory: int


def tensors(size: int, vocabulary: int) -> dict[str, Tensor]:
    """Return names and shapes of a Llama-like network of about so many bytes in bfloat16.

    Args:
        size: Bytes.
        vocabulary: Number of tokens.
    """
    width, hidden = CHANNELS, HIDDEN
    table = Tensor((vocabulary, width), "bfloat16")
    norm = Tensor((width,), "bfloat16")
    shapes = {f"self_attn.{n}_proj": (width, width) for n in "qkvo"}
    shapes |= {f"mlp.{n}_proj": (hidden, width) for n in ("gate", "up")}
    shapes["mlp.down_proj"] = (width, hidden)
    layer = {f"{name}.weight": Tensor(shape, "bfloat16") for name, shape in shapes.items()}
    layer |= {f"{name}_layernorm.weight": norm for name in ("input", "post_attention")}
    found = {"model.embed_tokens.weight": table}
    count = max(1, round((size - 2 * table.nbytes) / sum(t.nbytes for t in layer.values())))
    for i in range(count):
        found |= {f"model.layers.{i}.{name}": tensor for name, tensor in layer.items()}
    return found | {"model.norm.weight": norm, "lm_head.weight": table}


def made(folder: Path, held: dict[str, Tensor], shard: int) -> Path:
    """Write shards with an index, of any bits, in as little memory as it takes."""
    folder.mkdir()
    steps = tuple(
        Step((name,), {name: tensor}, lambda arrays: arrays) for name, tensor in held.items()
    )
    parts = units(Plan(steps), shard)
    noise = np.random.default_rng(0).integers(0, 2**16, 1 << 22, np.uint16)
    where = {}
    for number, unit in enumerate(parts, 1):
        name = f"model-{number:05}-of-{len(parts):05}.safetensors"
        inside = tensors_of(unit)
        head, order = safetensors_shards.layout(inside, {"format": "pt"})
        with (folder / name).open("wb") as file:
            file.write(head)
            for i, tensor in enumerate(order):
                where[tensor] = name
                left, at = inside[tensor].nbytes // 2, 977 * i % noise.size
                while left:
                    block = noise[at : at + left]
                    file.write(block.data)
                    left, at = left - block.size, 0
    index = {"metadata": {"total_size": sum(t.nbytes for t in held.values())}, "weight_map": where}
    (folder / SAFETENSORS).write_text(json.dumps(index))
    return folder


def measure(
    folder: Path, held: dict[str, Tensor], shard: int, workers: int, progress: Progress
) -> list[Measured]:
    """Measure everything in a folder.

    Raises:
        InputError: A process fails, or other bits came back.
    """
    progress("writing the checkpoint")
    source = made(folder / "shards", held, shard)
    rules = folder / "rules.toml"
    rules.write_text(RULES)
    there, back, copy = folder / "there.orbax", folder / "back", folder / "copy"
    own = (sys.executable, "-m", "parity", "convert")
    convert = (*own, "--rules", str(rules), "--workers", str(workers))
    found = []
    progress("copying")
    found.append(timed("cp, sync, sha256sum", ("sh", "-ec", COPY, "sh", str(source), str(copy))))
    shutil.rmtree(copy)
    progress("to Orbax")
    found.append(timed("shards to Orbax", (*convert, str(source), str(there))))
    progress("back")
    command = (*convert, "--shard-size", str(shard), str(there), str(back))
    found.append(timed("Orbax to shards", command))
    progress("comparing")
    compare(source, back)
    return found


def compare(source: Path, back: Path) -> None:
    """Compare all tensors of two checkpoints bit by bit.

    Raises:
        InputError: They differ.
    """
    one, other = open_source(source), open_source(back)
    if dict(one.tensors) != dict(other.tensors):
        raise InputError("other names, shapes or dtypes came back")
    for name in one.tensors:
        a, b = one.load(name).view(np.uint16), other.load(name).view(np.uint16)
        if not np.array_equal(a, b):
            raise InputError(f"{name} came back with other bits")


def timed(what: str, command: Sequence[str]) -> Measured:
    """Run a process, and measure it.

    Raises:
        InputError: It fails.
    """
    start = time.perf_counter()
    nowhere, pipe = subprocess.DEVNULL, subprocess.PIPE
    with subprocess.Popen(command, stdout=nowhere, stderr=pipe) as process:
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise InputError(f"{what} failed: {said.decode(errors='replace').strip()[-300:]}")
    computing = usage.ru_utime + usage.ru_stime
    return Measured(what, time.perf_counter() - start, computing, usage.ru_maxrss << 10)


def tables(size: int, largest: int, found: list[Measured]) -> Iterator[Table]:
    """Yield what `rich` prints."""
    table = Table(
        title=f"{size / 1e9:.2f} GB, largest tensor {largest / 1e6:.0f} MB, bitwise equal"
    )
    for column in ("", "seconds", "x copied", "of processors", "most memory, MiB"):
        table.add_column(column, justify="right" if column else "left")
    for each in found:
        ratio = f"{each.seconds / found[0].seconds:.2f}"
        seconds = f"{each.seconds:.1f}", ratio, f"{each.computing:.1f}"
        table.add_row(each.what, *seconds, f"{each.memory >> 20:,}")
    yield table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", default="10GB", help="of the checkpoint (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument(
        "--vocabulary",
        type=int,
        default=VOCABULARY,
        help="number of tokens, by which the largest tensors grow (default: %(default)s)",
    )
    parser.add_argument("--folder", help="where to write (default: that for temporary files)")
    parser.add_argument("--json", metavar="FILE", help="write the numbers to this file")


def run(args: argparse.Namespace) -> int:
    size = parse_bytes(args.size)
    held = tensors(size, args.vocabulary)
    total = sum(t.nbytes for t in held.values())
    with tempfile.TemporaryDirectory(prefix="parity-large-", dir=args.folder) as name:
        if shutil.disk_usage(name).free < 3.2 * total:
            raise InputError(f"{name}: less than {3.2 * total / 1e9:.0f} GB are free")
        with working() as progress:
            shard = min(SHARD, total // 2)
            found = measure(Path(name), held, shard, args.workers, progress)
    for table in tables(total, max(t.nbytes for t in held.values()), found):
        standard_output().print(table)
    entries: dict[str, Any] = {"bytes": total, "runs": [dataclasses.asdict(m) for m in found]}
    program.save(args.json, entries)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return program.start("tests.benchmarks.large_checkpoints", add_arguments, run, argv)


if __name__ == "__main__":
    sys.exit(main())
