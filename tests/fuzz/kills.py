"""Writing that is killed: afterwards the target is the old one or the new one, whole.

Two sorts of kills. At random instants, half of them anywhere in the run and half while it writes.
And at every step: before each change that Python makes to the file system, which random instants
would hardly hit.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

from parity.spec.errors import InputError
from tests import forking
from tests.fuzz.result import FuzzRow, Job
from tests.fuzz.samples import SUFFIXES, source
from tests.steps import Steps
from weights_convert import convert, formats, load
from weights_convert.hashes import tensor_sha256s, whole_sha256


def endure(job: Job, format: str, way: str) -> FuzzRow:
    """Kill conversions of one format.

    Args:
        job: How many, where they are at random.
        format: A key of `formats.FORMATS`.
        way: `kills` at random, or `steps`: one before each step, however many there are.
    """
    case, row = Case(job.folder, format), FuzzRow(way, format)
    rng = random.Random(f"{job.seed} {format}")
    forking.start()
    whole, begun, steps = case.measure()
    writing = tries = 0
    count, most = (steps, steps) if way == "steps" else (job.count, 10 * job.count)
    while row.tried < count and tries < most:
        job.progress(f"{way}, {format}: {row.tried}/{count}")
        tries += 1
        case.restore()
        if way == "steps":
            run = converted(case, step=tries)
        else:
            late = bool(tries % 2)
            run = converted(case, rng.uniform(0, 1.1 * (whole - begun if late else whole)), late)
        if not run.done:  # some end before they are killed: they do not count
            row.tried += 1
            writing += run.begun > 0
            case.judge(row)
    case.restore()
    converted(case)
    if any(mark in path.name for path in case.there.iterdir() for mark in (".parity-", ".tmp")):
        row.faults.append("left folders that the next run did not remove")
    row.note = f"{writing} while it wrote"
    shutil.rmtree(case.folder)
    return row


class Run(NamedTuple):
    """One conversion.

    Attributes:
        done: Whether it ended before it was killed.
        begun: When it began to write, by `time.perf_counter`; 0 if it did not.
        steps: How many steps its writing took; 0 if it was killed.
    """

    done: bool
    begun: float
    steps: int


def converted(case: Case, delay: float | None = None, late: bool = False, step: int = 0) -> Run:
    """Convert in a child, which is killed.

    Args:
        case: What is written where.
        delay: Seconds until it is killed; not at all if not given.
        late: Count them from when it begins to write.
        step: Or it is killed before this step of the writing, counted from 1.
    """
    begun, steps = forking.FORKS.Value("d"), forking.FORKS.Value("i")
    done = forking.ended(
        *(_convert, case.source, case.target, step, begun, steps),
        delay=delay,
        since=lambda: begun.value or not late,
    )
    return Run(done, begun.value, steps.value)


def _convert(source: Path, target: Path, step: int, begun: Any, steps: Any) -> None:
    """In the child: convert, and die before a step if so asked."""
    write = formats.write

    def begin(*args: Any) -> str:
        begun.value = time.perf_counter()
        counted.append(Steps(step))
        return write(*args)

    counted: list[Steps] = []
    formats.write = begin  # type: ignore[assignment]  # any arguments will do: it passes them on
    convert(source, target, to="torch")
    steps.value = counted[0].counted
    os._exit(0)  # at once, and not after what the libraries do at the end


class Case:
    """An old checkpoint, which a new one is to replace.

    Args:
        folder: In which a folder is made.
        format: A key of `formats.FORMATS`.
    """

    def __init__(self, folder: Path, format: str) -> None:
        self.folder = folder / f"kills-{format}"
        self.old, self.there = self.folder / "old", self.folder / "there"
        for path in (self.folder, self.old, self.there):
            path.mkdir()
        self.name = f"x{SUFFIXES[format]}"
        self.source = source(self.folder, 1)
        self.target = self.there / self.name
        convert(source(self.folder, 0), self.old / self.name, to="torch")
        self.hashes = {"old": self.state(self.old / self.name)}
        self.restore()
        convert(self.source, self.target, to="torch")
        self.hashes["new"] = self.state(self.target)

    @staticmethod
    def state(path: Path) -> tuple[str, str]:
        """What a whole checkpoint with its manifest is told by."""
        found = load(path)
        if found.manifest is None:
            raise InputError(f"{path} has lost its manifest")
        return whole_sha256(tensor_sha256s(found.arrays)), found.manifest.to_json()

    def restore(self) -> None:
        """Put the old one in place; what else lies there stays."""
        for path in self.there.glob(f"{self.name}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(self.old, self.there, dirs_exist_ok=True)

    def judge(self, row: FuzzRow) -> None:
        """Count what lies there now."""
        try:
            found = self.state(self.target)
        except InputError as error:
            row.faults.append(str(error))
            return
        which = next((name for name, state in self.hashes.items() if state == found), None)
        if which is None:
            row.faults.append(f"{self.target} is neither the old nor the new one")
        row.refused += which == "old"
        row.loaded += which == "new"

    def measure(self) -> tuple[float, float, int]:
        """Seconds of a run, seconds before it writes, and its steps while it writes."""
        times = []
        for _ in range(5):
            self.restore()
            start = time.perf_counter()
            run = converted(self)
            assert run.begun
            times.append((time.perf_counter() - start, run.begun - start, run.steps))
        whole, begun, steps = zip(*times, strict=True)
        return statistics.median(whole), statistics.median(begun), max(steps)
