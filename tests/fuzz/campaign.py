"""Which suites there are, and what of them goes into the table."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from parity.spec.models import MODELS
from tests.fuzz import cases, damage, disk_errors, kill_training, kills, mutants, pairs
from tests.fuzz.hostile import all_kinds
from tests.fuzz.result import FuzzResult, FuzzRow, Job
from weights_convert import formats

Progress = Callable[[str], None]

# Suite -> how many rounds it has, if nobody says otherwise; none where the number is fixed.
SUITES: dict[str, int | None] = {
    "flips": 1000,
    "truncations": 1000,
    "appended": 1000,
    "hostile": None,
    "mutants": 10_000,
    "kills": 100,
    "steps": None,
    "disk-errors": None,
    "pairs": None,
    "training": 50,
}

BOMBS = ("bomb", "million", "0,000")  # what kinds are called that are too large to be mutated


def run(
    names: Iterable[str],
    rounds: int | None = None,
    seed: int = 0,
    whole: bool = False,
    progress: Progress = lambda _: None,
) -> FuzzResult:
    """Run suites.

    Args:
        names: Keys of `SUITES`.
        rounds: How many of each, instead of its own number.
        seed: Of everything random.
        whole: For `pairs`: the networks as they are, instead of narrow ones.
        progress: Called with what is done next.
    """
    result = FuzzResult({"suites": list(names), "rounds": rounds, "seed": seed, "whole": whole})
    suites = result.settings["suites"]
    for i, name in enumerate(suites, 1):
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="parity-fuzz-") as folder:
            named = functools.partial(_of_several, progress, f"suite {i} of {len(suites)}")
            job = Job(Path(folder), rounds or SUITES[name] or 0, seed, named)
            result.rows += _rows(name, job, whole)
        result.seconds[name] = time.perf_counter() - start
    return result


def _of_several(progress: Progress, which: str, what: str) -> None:
    progress(f"{which}: {what}")


def _rows(name: str, job: Job, whole: bool) -> Iterator[FuzzRow]:
    if name in damage.KINDS:
        for format in formats.FORMATS:
            yield damage.endure(job, name, format)
    elif name in ("hostile", "mutants"):
        yield from by_group(name, hostile(job) if name == "hostile" else mutated(job))
    elif name in ("kills", "steps"):
        for i, format in enumerate(formats.FORMATS):
            share = len(range(i, job.count, len(formats.FORMATS)))  # in turn
            if share or name == "steps":
                yield kills.endure(dataclasses.replace(job, count=share), format, name)
    elif name == "disk-errors":
        for way in disk_errors.WAYS:
            job.progress(f"disk-errors, {way}")
            yield disk_errors.endure(way)
    elif name == "pairs":
        for case in pairs.cases(whole):
            config = MODELS[case[0]] if whole else pairs.smallest(case[0])
            yield pairs.endure(job, case, config)
    else:
        for i, runs in enumerate(kill_training.CASES):
            (own := job.folder / str(i)).mkdir()
            yield kill_training.endure(dataclasses.replace(job, folder=own), runs)


def hostile(job: Job) -> Iterator[cases.Read]:
    """Every kind once."""
    with cases.arena() as arena:
        for i, kind in enumerate(all_kinds()):
            job.progress(f"hostile: {i}/{len(all_kinds())} {kind.group}: {kind.name}")
            yield arena.read(kind)


def mutated(job: Job) -> Iterator[cases.Read]:
    """Mutants of all kinds but those that are large."""
    stock = [kind for kind in all_kinds() if not any(bomb in kind.name for bomb in BOMBS)]
    with cases.arena() as arena:
        breeder = mutants.Breeder(arena, stock)
        for number in range(job.count):
            if number % 50 == 0:
                job.progress(f"mutants: {number}/{job.count}")
            yield breeder.read(job.seed, number)


def by_group(name: str, reads: Iterable[cases.Read]) -> Iterator[FuzzRow]:
    """One row per sort of file."""
    groups: dict[str, list[cases.Read]] = {}
    for read in reads:
        groups.setdefault(read.kind.group, []).append(read)
    for group, found in groups.items():
        outcomes = [read.verdict.outcome for read in found]
        slowest = max(read.verdict.seconds for read in found)
        largest = max(read.verdict.memory for read in found)
        yield FuzzRow(
            name,
            group,
            len(found),
            outcomes.count("refused"),
            outcomes.count("loaded"),
            [f"{read.kind.name}: {fault}" for read in found for fault in read.faults],
            f"slowest {slowest:.1f} s, most memory {largest / 2**20:.0f} MiB",
        )
