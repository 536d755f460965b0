"""How fast batches are made of a data set, and how long a training waits for them.

python -m tests.benchmarks.loading_speed --data DIR --recipe enet-camvid --workers 0,1
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psutil
from rich.table import Table

from parity.cli.arguments import parse_size
from parity.data import pipeline, statistics
from parity.data.loading import Watched
from parity.data.sources import Source, open_source
from parity.report.console import standard_output, working
from parity.spec.errors import InputError
from parity.spec.initial import initial
from parity.spec.training.recipe import Recipe
from parity.spec.training.trainer import Batch
from parity.training import overrides
from parity.training.side import Side
from tests import program

CONSUMERS = ("nobody", "torch", "jax")


@dataclasses.dataclass(frozen=True)
class LoadingSpeed:
    """One way to make batches.

    Attributes:
        consumer: Who took them: `nobody`, who asks for the next at once, or a framework that
            trained on each.
        workers: Processes; 0 is a thread.
        first: Seconds until the first was there.
        images: Taken after it.
        seconds: In which they were.
        waited: Part of these in which the consumer waited.
        cpu: Seconds of processor time that this process took for them, which other programs on the
            machine change less. With workers it is what the training process has to do itself: it
            takes the batches out of shared memory.
        workers_cpu: Seconds of processor time of the workers meanwhile, who also put the batches
            into shared memory; 0 without workers.
    """

    consumer: str
    workers: int
    first: float
    images: int
    seconds: float
    waited: float
    cpu: float
    workers_cpu: float = 0.0

    @property
    def speed(self) -> float:
        """Images a second."""
        return self.images / self.seconds


def measure(
    recipe: Recipe,
    source: Source,
    workers: Sequence[int],
    consumers: Sequence[str],
    steps: int,
    progress: Callable[[str], None] = lambda stage: None,
) -> list[LoadingSpeed]:
    """Take so many batches of a recipe's first stage, in each way.

    Args:
        recipe: The run.
        source: What it trains on.
        workers: Numbers of processes to try.
        consumers: `nobody`, `torch`, `jax`.
        steps: Batches that are counted, after a first one that is not.
        progress: Is told what is being done.

    Raises:
        InputError: The data cannot be used.
    """
    rows = []
    for consumer in consumers:
        progress(f"{consumer}: compiling" if consumer != "nobody" else "reading")
        take = _consumer(consumer, recipe, source)
        for count in workers:
            progress(f"{consumer}, {count} workers: {steps} batches")
            rows.append(_row(consumer, take, recipe, source, count, steps))
    return rows


def _row(
    consumer: str,
    take: Callable[[Batch], object],
    recipe: Recipe,
    source: Source,
    workers: int,
    steps: int,
) -> LoadingSpeed:
    with _batches(recipe, source, workers, steps + 1) as made:
        batches, images = Watched(made), 0
        take(next(batches))
        before = _spent()
        for batch in batches:
            take(batch)
            images += len(batch.images)
        seconds, cpu, others = (b - a for a, b in zip(before, _spent(), strict=True))
    waited = batches.waited / seconds
    return LoadingSpeed(consumer, workers, batches.first, images, seconds, waited, cpu, others)


def _spent() -> tuple[float, float, float]:
    """Return a time, and the processor time so far of this process and of its children."""
    children = 0.0
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended since
            times = child.cpu_times()
            children += times.user + times.system
    return time.perf_counter(), time.process_time(), children


@contextlib.contextmanager
def _batches(recipe: Recipe, source: Source, workers: int, steps: int) -> Iterator[Iterator[Batch]]:
    """So many, from one epoch more than it takes: no worker ends while it is measured."""
    stage = recipe.stages[0]
    epochs = 1 - (-steps // max(1, pipeline.steps(recipe, stage, len(source))))
    made: Any = pipeline.batches(source, recipe, stage, 0, epochs=epochs, workers=workers)
    try:
        yield (next(made) for _ in range(steps))
    finally:
        made.close()


def _consumer(name: str, recipe: Recipe, source: Source) -> Callable[[Batch], object]:
    """What is done with each batch; a network is drawn, and has trained on one, so is compiled."""
    if name == "nobody":
        return lambda batch: None
    stage = recipe.stages[0]
    arrays = initial(stage.config, stage.initial, recipe.seed)
    weights = statistics.class_weights(recipe, stage, source)
    trainer = Side(name).trainer(recipe, stage, arrays, weights)
    with _batches(recipe, source, 0, 1) as batches:
        for batch in batches:
            trainer.step(batch, 0.0)
    return lambda batch: trainer.step(batch, 0.0)


def table(recipe: Recipe, rows: Sequence[LoadingSpeed]) -> Table:
    """Return a table of the rows."""
    stage = recipe.stages[0]
    height, width = pipeline.training_size(recipe, stage)
    made = Table(title=f"{recipe.name}, batches of {stage.batch} images of {height}x{width}")
    cost = ("CPU ms an image: this process", "workers")
    columns = ("taken by", "workers", "first after", "images/s", *cost, "waited")
    for column in columns:
        made.add_column(column, justify="left" if column == "taken by" else "right")
    for row in rows:
        cpu = [f"{1e3 * spent / row.images:.1f}" for spent in (row.cpu, row.workers_cpu)]
        figures = (f"{row.first:.1f} s", f"{row.speed:.1f}", *cpu)
        waited = "" if row.consumer == "nobody" else f"{row.waited:.1%}"
        made.add_row(row.consumer, str(row.workers), *figures, waited)
    return made


def on_paper(rows: Sequence[LoadingSpeed], workers: int) -> str | None:
    """Say how many images a second so many workers would make, each on a core of its own.

    Returns:
        A line; None where no processes made batches with nobody to train on them.
    """
    made = [r for r in rows if r.workers and r.consumer == CONSUMERS[0]]
    if not made or not (made[0].cpu and made[0].workers_cpu):
        return None
    first = made[0]
    return (
        f"on paper: {workers} workers make {workers * first.images / first.workers_cpu:,.0f}"
        f" images/s, and the training process can take {first.images / first.cpu:,.0f} a second"
        " out of shared memory"
    )


def parse_count(text: str) -> int:
    """A number of workers.

    Raises:
        InputError: It is none, or more than anybody has.
    """
    if not text.isascii() or not text.isdigit() or int(text) > 256:
        raise InputError(f"workers {text!r}, expected numbers of 0 to 256 with a comma between")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--data", metavar="DIR", required=True, help="the data set")
    add("--recipe", required=True, help="whose batches: a name or a TOML file")
    add("--size", metavar="HxW", help="of its images (default: the recipe's)")
    add("--batch", type=int, help="images (default: the recipe's)")
    add("--runs", type=int, default=20, help="batches that are counted (default: %(default)s)")
    add("--workers", metavar="LIST", default="0,1", help="processes (default: %(default)s)")
    takers = ",".join(CONSUMERS)
    add("--consumers", metavar="LIST", default=CONSUMERS[0], help=f"who takes them, of {takers}")
    add("--paper", type=int, default=8, metavar="N", help="workers (default: %(default)s)")
    add("--json", metavar="FILE", help="write the times to this file")


def run(args: argparse.Namespace) -> int:
    if args.runs < 1:
        raise InputError(f"runs {args.runs}, expected 1 or more")
    workers = [parse_count(text) for text in args.workers.split(",")]
    consumers = args.consumers.split(",")
    if unknown := [name for name in consumers if name not in CONSUMERS]:
        raise InputError(f"consumer {unknown[0]!r}, expected some of {','.join(CONSUMERS)}")
    size = None if args.size is None else parse_size(args.size)
    recipe = overrides.with_options(overrides.find(args.recipe), args.batch, size)
    source = open_source(recipe, args.data, recipe.train_split)
    with working() as progress:
        rows = measure(recipe, source, workers, consumers, args.runs, progress)
    standard_output().print(table(recipe, rows))
    if line := on_paper(rows, args.paper):
        print(line)
    entries = [dataclasses.asdict(row) | {"images_per_second": row.speed} for row in rows]
    program.save(args.json, entries)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return program.start("tests.benchmarks.loading_speed", add_arguments, run, argv)


if __name__ == "__main__":
    sys.exit(main())
