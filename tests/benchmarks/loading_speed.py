"""How fast batches are made, and how long a training waits for them."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.table import Table

from parity.data import pipeline, statistics
from parity.data.loading import Watched
from parity.data.sources import Source
from parity.spec.initial import initial
from parity.spec.training.recipe import Recipe
from parity.spec.training.trainer import Batch
from parity.training.side import Side


@dataclasses.dataclass(frozen=True)
class Row:
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
            machine change less; none where workers take it.
    """

    consumer: str
    workers: int
    first: float
    images: int
    seconds: float
    waited: float
    cpu: float | None

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
) -> list[Row]:
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
) -> Row:
    with _batches(recipe, source, workers, steps + 1) as made:
        batches, images = Watched(made), 0
        take(next(batches))
        start, cpu = time.perf_counter(), time.process_time()
        for batch in batches:
            take(batch)
            images += len(batch.images)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    waited = batches.waited / seconds
    taken = None if workers else cpu
    return Row(consumer, workers, batches.first, images, seconds, waited, taken)


@contextlib.contextmanager
def _batches(recipe: Recipe, source: Source, workers: int, steps: int) -> Iterator[Iterator[Batch]]:
    """So many, from as many epochs as it takes."""
    stage = recipe.stages[0]
    epochs = -(-steps // max(1, pipeline.steps(recipe, stage, len(source))))
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


def table(recipe: Recipe, rows: Sequence[Row]) -> Table:
    """The same to be read."""
    stage = recipe.stages[0]
    height, width = pipeline.training_size(recipe, stage)
    made = Table(title=f"{recipe.name}, batches of {stage.batch} images of {height}x{width}")
    columns = ("taken by", "workers", "first after", "images/s", "CPU ms an image", "waited")
    for column in columns:
        made.add_column(column, justify="left" if column == "taken by" else "right")
    for row in rows:
        cpu = "" if row.cpu is None else f"{1e3 * row.cpu / row.images:.1f}"
        figures = (f"{row.first:.1f} s", f"{row.speed:.1f}", cpu)
        waited = "" if row.consumer == "nobody" else f"{row.waited:.1%}"
        made.add_row(row.consumer, str(row.workers), *figures, waited)
    return made
