"""The plan of runs on several devices: cases, numbers of devices, and batches."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator

import numpy as np

from parity.data import pipeline, statistics
from parity.data.makers import Share, Training
from parity.data.sources import Source
from parity.model_checks.recipes.scenes import Blocks, source
from parity.spec import draw
from parity.spec.training.parallel import WAYS, Parallel
from parity.spec.training.recipe import Recipe, Stage
from parity.spec.training.trainer import Arrays, Batch

STEPS = 20
BATCH = 16  # two samples for each of eight devices
MEASURED = 2  # images of a batch of an evaluation
EVALUATED = "ddp"  # the case whose runs evaluate: its devices have statistics of their own
REST = 5  # samples of an epoch's last batch, where it is not full: no count but 1 divides them
DDP = "ddp"
ALONE = 0  # devices: a trainer that knows of no others


@dataclasses.dataclass(frozen=True)
class Case:
    """One way in which several devices combine their results.

    Attributes:
        parallel: The settings.
        same: Whether the result equals that of one device.
        partial: Whether the epoch's last batch is not full.
    """

    parallel: Parallel
    same: bool = False
    partial: bool = False


ONE = Parallel(normalizer="global", batch_norm="sync")
CASES = {
    "one": Case(ONE, same=True),
    "ddp": Case(Parallel()),
    "local": Case(dataclasses.replace(ONE, batch_norm="local")),
    "device": Case(dataclasses.replace(ONE, normalizer="device")),
    "sum": Case(dataclasses.replace(ONE, gradients="sum")),
    "statistics": Case(dataclasses.replace(ONE, batch_norm="local", statistics="mean")),
    "pad": Case(ONE, partial=True),
    "drop": Case(dataclasses.replace(ONE, last="drop"), partial=True),
}


@dataclasses.dataclass(frozen=True)
class Job:
    """One training run.

    Attributes:
        devices: Number of devices; `ALONE` for a trainer without a device group.
        case: A key of `CASES`.
        way: `ddp`, or one of `WAYS`; for `ALONE`, its side.
        fault: The name of a fault to inject, or empty.
        injector: `module:function` that injects it: it takes the fault's name and returns a context
            manager. The worker imports it by name, since this component may not import
            `parity.faults`.
    """

    devices: int
    case: str
    way: str
    fault: str = ""
    injector: str = ""

    @property
    def key(self) -> str:
        return "/".join((str(self.devices), self.case, self.way, self.fault or "sound"))

    @property
    def side(self) -> str:
        """The framework."""
        return "torch" if self.way in (DDP, "torch") else "jax"


@dataclasses.dataclass(frozen=True)
class Plan:
    """The runs of both sides' processes.

    Attributes:
        recipe: A scaled-down recipe of one stage, in float64.
        jobs: The runs, in any order.
        steps: Number of steps of each run.
        images: Numbers of images to evaluate, before and after the runs of `EVALUATED`.
    """

    recipe: Recipe
    jobs: tuple[Job, ...]
    steps: int = STEPS
    images: tuple[int, ...] = ()

    def counts(self, side: str) -> list[int]:
        """Return the numbers of devices of a side's jobs, the largest first."""
        return sorted({job.devices for job in self.jobs if job.side == side}, reverse=True)

    def of(self, case: str) -> tuple[Recipe, Stage, Source]:
        """Return the recipe, stage and data source of a case."""
        found = CASES[case]
        stage = dataclasses.replace(self.recipe.stages[0], batch=BATCH, drop_last=False)
        recipe = dataclasses.replace(self.recipe, stages=(stage,), parallel=found.parallel)
        images = source(recipe, BATCH + REST if found.partial else 2 * BATCH, Blocks)
        return recipe, stage, images

    def arrays(self) -> Arrays:
        """Return every run's initial weights, by published names, in float64."""
        drawn = draw.weights(self.recipe.stages[0].config, self.recipe.seed)
        return {k: a.astype(np.float64) if a.dtype == np.float32 else a for k, a in drawn.items()}

    def class_weights(self) -> np.ndarray | None:
        """Return every run's class weights, counted on full batches."""
        return statistics.class_weights(*self.of("one"))

    def steps_of_epoch(self, case: str, parts: int) -> int:
        recipe, stage, images = self.of(case)
        return pipeline.steps(recipe, stage, len(images), parts)

    def rate(self, case: str, parts: int, number: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        stage, steps = self.recipe.stages[0], self.steps_of_epoch(case, parts)
        epoch, step = divmod(number, steps)
        return stage.optimizer.lr * stage.schedule.factor(epoch, step, steps)

    def batch(self, case: str, share: Share, number: int) -> Batch:
        """Return a process's share of a step's batch."""
        return _batch(self, case if CASES[case].partial else "one", share, number)

    def validation(self, images: int, rank: int, ranks: int) -> Iterator[Batch]:
        """Yield a process's batches of so many images."""
        recipe, stage, _ = self.of("one")
        measured = source(recipe, images, Blocks)
        made = pipeline.validation(
            measured, recipe, stage, batch=MEASURED, dtype="float64", rank=rank, ranks=ranks
        )
        yield from made


@functools.lru_cache(maxsize=64)
def _batch(plan: Plan, case: str, share: Share, number: int) -> Batch:
    recipe, stage, images = plan.of(case)
    steps = plan.steps_of_epoch(case, share.parts)
    return Training(images, recipe, stage, "float64", share, steps)(number)


def forget() -> None:
    """Forget cached batches, where the next ones must differ."""
    _batch.cache_clear()


def digests(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Return digests of each sample's image and targets, and of its masks; (N,) uint64 each."""

    def of(arrays: list[np.ndarray]) -> np.ndarray:
        found = [hashlib.sha256(b"".join(a[i].tobytes() for a in arrays)).digest() for i in samples]
        return np.array([int.from_bytes(d[:8], "little") for d in found], np.uint64)

    samples = range(len(batch.samples))
    return of([batch.images, *batch.targets]), of(list(batch.masks.values()))


def planned(
    recipe: Recipe,
    counts: tuple[int, ...],
    cases: tuple[str, ...] = tuple(CASES),
    ways: tuple[str, ...] = WAYS,
    steps: int = STEPS,
) -> Plan:
    """Plan every case on each number of devices, in every way, and both sides on one device.

    On one device all cases are the same function; of them only two are run.
    """
    jobs = [Job(ALONE, "one", side) for side in ("torch", "jax")]
    for devices in counts:
        some = [c for c in cases if devices > 1 or c in ("one", "ddp")]
        jobs += [Job(devices, case, way) for way in (DDP, *ways) for case in some]
    return Plan(recipe, tuple(jobs), steps)
