"""How long conversions of checkpoints take, each in a process of its own, as a user waits for them.

    python -m tests.benchmarks.conversion_speed --runs 5

A large checkpoint is carried between PyTorch's format and safetensors, in turn with what nobody can
do without: copying it, flushing the copy to the disk, and hashing it. ICNet is carried from every
format to every format, once.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from parity.report.console import standard_output, working
from parity.spec import draw
from parity.spec.errors import InputError
from parity.spec.models import MODELS, Config
from tests import program
from tests.fuzz.samples import SUFFIXES
from weights_convert import formats

LARGE: Config = dataclasses.replace(MODELS["genet"], width=27)  # type: ignore[type-var]  # a Config is a frozen dataclass
CARRIED = ("torch", "safetensors")  # between which the large one is
COPY = 'cp "$1" "$2" && sync "$2" && sha256sum "$2"'

Progress = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Speed:
    """What was measured.

    Attributes:
        bytes: Of the large checkpoint.
        copied: Its format -> seconds of each copy.
        carried: Its format -> seconds of each conversion to the other.
        between: ICNet's format and the other -> seconds.
    """

    bytes: int
    copied: dict[str, list[float]]
    carried: dict[str, list[float]]
    between: dict[tuple[str, str], float]

    def ratio(self, format: str) -> float:
        """How many times longer than a copy a conversion takes, by medians."""
        return statistics.median(self.carried[format]) / statistics.median(self.copied[format])

    def tables(self) -> Iterator[Table]:
        """One of the large checkpoint, one of ICNet; `rich` prints them."""
        runs = len(next(iter(self.copied.values())))
        title = f"{self.bytes / 1e6:.0f} MB, {runs} runs of each in turn, seconds"
        table = Table(title=title)
        for column in ("", "median", "min", "max", "x copied"):
            table.add_column(column, justify="right" if column else "left")
        for source, target in (CARRIED, CARRIED[::-1]):
            copied, carried = self.copied[source], self.carried[source]
            name = f"cp, sync, sha256sum of the {source} file"
            table.add_row(name, *_figures(copied), "1.00")
            ratio = f"{self.ratio(source):.2f}"
            table.add_row(f"{source} to {target}", *_figures(carried), ratio)
        yield table
        table = Table(title="icnet, one run of each, seconds")
        table.add_column("from / to")
        for target in formats.FORMATS:
            table.add_column(target, justify="right")
        for source in formats.FORMATS:
            cells = (f"{self.between[source, target]:.1f}" for target in formats.FORMATS)
            table.add_row(source, *cells)
        yield table

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        between = {f"{source} to {target}": s for (source, target), s in self.between.items()}
        ratios = {format: self.ratio(format) for format in self.carried}
        return dataclasses.asdict(self) | {"between": between, "ratio": ratios}


def measure(runs: int, progress: Progress = lambda stage: None) -> Speed:
    """Measure everything, on the disk of the folder for temporary files.

    Args:
        runs: Of each conversion of the large checkpoint, and of each copy.
        progress: Called with what is done next.

    Raises:
        InputError: A program is missing, or a conversion fails.
    """
    if missing := [name for name in ("cp", "sync", "sha256sum") if not shutil.which(name)]:
        raise InputError(f"{missing[0]}: no such program, against which conversions are timed")
    with tempfile.TemporaryDirectory(prefix="parity-speed-") as name:
        folder = Path(name)
        progress("drawing the weights")
        large = {format: made(folder, format, LARGE) for format in CARRIED}
        speed = Speed(large["torch"].stat().st_size, {f: [] for f in CARRIED}, {}, {})
        speed.carried.update({f: [] for f in CARRIED})
        for run in range(runs):
            for source, target in (CARRIED, CARRIED[::-1]):
                progress(f"{source} to {target}, run {run + 1} of {runs}")
                speed.copied[source].append(copying(large[source], folder / "copy"))
                speed.carried[source].append(converting(large[source], folder, target))
        for path in large.values():
            path.unlink()
        for source in formats.FORMATS:
            path = made(folder, source, MODELS["icnet"])
            for target in formats.FORMATS:
                progress(f"icnet, {source} to {target}")
                # Its own names, for MindSpore has none for it.
                speed.between[source, target] = converting(path, folder, target, "--to", "torch")
            remove(path)
    return speed


def made(folder: Path, format: str, config: Config) -> Path:
    """A checkpoint with the published names, without a manifest."""
    path = folder / f"source{SUFFIXES[format]}"
    arrays = {k: np.asarray(v) for k, v in draw.weights(config, 0).items()}
    formats.write(path, format, arrays, {})
    return path


def copying(source: Path, target: Path) -> float:
    """Seconds of a copy, whole on the disk, and of its hash."""
    return timed(("sh", "-ec", COPY, "sh", str(source), str(target)), target)


def converting(source: Path, folder: Path, format: str, *options: str) -> float:
    """Seconds of `parity convert`, from the start of its process to its end."""
    target = folder / f"target{SUFFIXES[format]}"
    command = (sys.executable, "-m", "parity", "convert", str(source), str(target), *options)
    return timed(command, target)


def timed(command: Sequence[str], made: Path) -> float:
    """Seconds of a process, whose output is removed.

    Raises:
        InputError: It fails.
    """
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise InputError(f"{command[0]} failed: {done.stderr.strip()[-300:]}")
    for path in made.parent.glob(f"{made.name}*"):
        remove(path)
    return seconds


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _figures(times: list[float]) -> tuple[str, str, str]:
    return f"{statistics.median(times):.2f}", f"{min(times):.2f}", f"{max(times):.2f}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=5, help="of each (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the times to this file")


def run(args: argparse.Namespace) -> int:
    if args.runs < 1:
        raise InputError(f"runs {args.runs}, expected 1 or more")
    with working() as progress:
        found = measure(args.runs, progress)
    for table in found.tables():
        standard_output().print(table)
    program.save(args.json, found.to_dict())
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return program.start("tests.benchmarks.conversion_speed", add_arguments, run, argv)


if __name__ == "__main__":
    sys.exit(main())
