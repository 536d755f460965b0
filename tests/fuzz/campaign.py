"""Which suites there are, and what of them goes into the table."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from parity.spec.models import MODELS
from tests.fuzz import cases, damage, kill_training, kills, mutants, pairs, refusals
from tests.fuzz.hostile import Kind, all_kinds
from tests.fuzz.result import FuzzResult, FuzzRow
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
    "refusals": None,
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
        count = rounds or SUITES[name] or 0
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="parity-fuzz-") as folder:
            told = functools.partial(_of_several, progress, f"suite {i} of {len(suites)}")
            rows = _rows(name, Path(folder), count, seed, whole, told)
            result.rows += rows
        result.seconds[name] = time.perf_counter() - start
    return result


def _of_several(progress: Progress, which: str, what: str) -> None:
    progress(f"{which}: {what}")


def _rows(
    name: str, folder: Path, count: int, seed: int, whole: bool, progress: Progress
) -> Iterator[FuzzRow]:
    if name in damage.KINDS:
        for format in formats.FORMATS:
            yield damage.endure(folder, name, format, count, seed, progress)
    elif name == "hostile":
        yield from by_group(name, hostile(progress))
    elif name == "mutants":
        yield from by_group(name, mutated(count, seed, progress))
    elif name in ("kills", "steps"):
        for i, format in enumerate(formats.FORMATS):
            share = len(range(i, count, len(formats.FORMATS)))  # in turn
            if share or name == "steps":
                yield kills.endure(folder, format, name, share, seed, progress)
    elif name == "refusals":
        for way in refusals.WAYS:
            progress(f"refusals, {way}")
            yield refusals.endure(way)
    elif name == "pairs":
        for case in pairs.cases(whole):
            config = MODELS[case[0]] if whole else pairs.smallest(case[0])
            yield pairs.endure(folder, case, config, progress)
    else:
        for i, runs in enumerate(kill_training.CASES):
            (own := folder / str(i)).mkdir()
            yield kill_training.endure(own, runs, count, seed, progress)


def hostile(progress: Progress) -> Iterator[cases.Read]:
    """Every kind once."""
    with cases.arena() as (sandbox, folder):
        for i, kind in enumerate(all_kinds()):
            progress(f"hostile: {i}/{len(all_kinds())} {kind.group}: {kind.name}")
            yield cases.read(kind, sandbox, folder)


def mutated(count: int, seed: int, progress: Progress) -> Iterator[cases.Read]:
    """So many mutants."""
    stock: tuple[Kind, ...] = tuple(k for k in all_kinds() if not any(b in k.name for b in BOMBS))
    with cases.arena() as (sandbox, folder):
        assert sandbox.canaries is not None
        breeder = mutants.Breeder(stock, folder, sandbox.canaries)
        for number in range(count):
            if number % 50 == 0:
                progress(f"mutants: {number}/{count}")
            yield mutants.read(breeder, sandbox, seed, number)


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
