"""A framework and a data set that cost nothing, for tests of the loop between them.

The network's names are those of a small GENet. A step adds to every number what follows from the
batch, the number itself and the momentum, so that any step, sample or bit that goes astray shows in
all numbers after it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from parity.spec import draw
from parity.spec.models import MODELS
from parity.spec.preprocessing import PLAIN, Preprocessing
from parity.spec.training.optimizers import Optimizer, parameters
from parity.spec.training.parallel import fitted
from parity.spec.training.recipe import Recipe, Stage
from parity.spec.training.trainer import Arrays, Batch, Snapshot, Step
from parity.training import checkpoints, logger
from parity.training.dist_env import DistEnv
from parity.training.folder import Folder
from parity.training.parts import Batches, Progress
from parity.training.progress_bar import Lines
from parity.training.run import Options, TrainingRun
from parity.training.stopping import Stop

TINY = dataclasses.replace(MODELS["genet"], depth=10, width=1)
SAMPLES = 10


def recipe(*stages: Stage) -> Recipe:
    """A recipe of these stages, or of one of 3 epochs; MODELS must have `tiny`."""
    optimizer = Optimizer("sgd", lr=0.01)
    one = Stage("whole", "tiny", epochs=3, optimizer=optimizer, batch=4)
    return Recipe(name="fake", about="", data="cifar10", stages=stages or (one,), size=(8, 8))


class Fake:
    """A framework: see `parity.training.side.Side`.

    Attributes:
        framework: Whose names its files have.
        fault_at: The step of the whole run at which a gradient is not finite.
        steps: That were made.
    """

    framework = "torch"

    def __init__(self, fault_at: int | None = None) -> None:
        self.fault_at, self.steps = fault_at, 0

    def trainer(
        self, recipe: Recipe, stage: Stage, arrays: Arrays, class_weights: np.ndarray | None
    ) -> FakeTrainer:
        del recipe, stage, class_weights
        return FakeTrainer(self, arrays)

    def published(self, stage: Stage, snapshot: Snapshot) -> Snapshot:
        del stage
        return snapshot

    def own(self, stage: Stage, snapshot: Snapshot) -> Snapshot:
        del stage
        return snapshot


class FakeTrainer:
    """Stands for a side's trainer; see `parity.spec.training.trainer.Trainer`."""

    def __init__(self, side: Fake, arrays: Arrays) -> None:
        self.side = side
        self.held = Snapshot({k: np.array(a) for k, a in arrays.items()}, {})

    def step(self, batch: Batch, rate: float) -> Step:
        self.side.steps += 1
        if self.side.steps == self.side.fault_at:
            return Step(0.5, "gradient of fc.weight: 3 of 640 are not finite")
        held, drawn = self.held, float(batch.images.sum())
        if not held.slots:
            zeros = {k: np.zeros_like(held.arrays[k]) for k in parameters(TINY)}
            held.slots["momentum_buffer"] = zeros
        for key, momentum in held.slots["momentum_buffer"].items():
            gradient = np.sin(held.arrays[key] + np.float32(drawn))
            momentum += np.float32(0.1) * gradient
            held.arrays[key] -= np.float32(rate) * momentum
        held.step += 1
        return Step(float(abs(held.arrays["fc.bias"]).sum()), scale=held.scale)

    def evaluate(self, batch: Batch) -> tuple[np.ndarray, float]:
        right = batch.samples < 7 * self.held.step % 11  # not the better the later
        loss = float(abs(self.held.arrays["fc.bias"]).sum())
        return ((batch.samples + ~right) % 3).astype(np.int32), loss

    batches_at_once = 1

    def evaluate_each(self, batches: list[Batch]) -> list[tuple[np.ndarray, float]]:
        return [self.evaluate(batch) for batch in batches]

    def snapshot(self) -> Snapshot:
        held = self.held
        slots = {s: {k: a.copy() for k, a in found.items()} for s, found in held.slots.items()}
        return dataclasses.replace(
            held, arrays={k: a.copy() for k, a in held.arrays.items()}, slots=slots
        )

    def restore(self, snapshot: Snapshot) -> None:
        self.held = dataclasses.replace(
            snapshot,
            arrays={k: a.copy() for k, a in snapshot.arrays.items()},
            slots={s: {k: a.copy() for k, a in f.items()} for s, f in snapshot.slots.items()},
        )


class FakeData:
    """What `parity.training.data_loader.DataLoader` gives, without images."""

    samples, devices = SAMPLES, 1

    def steps(self, stage: Stage) -> int:
        return stage.steps(fitted(self.samples, self.devices, "pad"))

    def batches(self, stage: Stage, epoch: int, epochs: int, first_step: int) -> Batches:
        steps = self.steps(stage)
        for number in range(epoch * steps + first_step, (epoch + epochs) * steps):
            order = draw.generator(1, "order", number // steps).permutation(SAMPLES)
            order = np.tile(order, stage.repeat)
            first = number % steps * stage.batch
            yield self._batch(order[first : first + stage.batch])

    def validation(self, stage: Stage) -> Batches:
        del stage
        for first in range(0, SAMPLES, 4):
            batch = self._batch(np.arange(first, min(first + 4, SAMPLES)))
            yield batch._replace(truth=batch.targets[0])

    def class_weights(self, stage: Stage, progress: Progress) -> np.ndarray | None:
        del stage, progress

    def preprocessing(self, stage: Stage) -> Preprocessing:
        del stage
        return PLAIN

    def name(self, sample: int) -> str:
        return f"{sample:05}"

    @staticmethod
    def _batch(samples: np.ndarray) -> Batch:
        images = np.stack([draw.generator(2, "image", int(s)).random((8, 8, 3)) for s in samples])
        labels = (samples % 3).astype(np.int32)
        return Batch(images.astype(np.float32), (labels,), {}, samples.astype(np.int64))


def begin(stage: Stage, before: tuple[Stage, Snapshot] | None) -> Snapshot:
    """Stands for what a stage begins with; see `parity.training.stage_start.StageStart`."""
    del stage
    return Snapshot(before[1].arrays if before else draw.weights(TINY, 3), {})


def run(
    out: Path,
    of: Recipe | None = None,
    side: Fake | None = None,
    options: Options | None = None,
    stop: Stop | None = None,
    data: FakeData | None = None,
    curves: bool = False,
    devices: int = 1,
) -> TrainingRun:
    """A run in a folder, from its last checkpoint if there is one."""
    folder = Folder(out)
    folder.checkpoints.mkdir(parents=True, exist_ok=True)
    folder.sweep()
    of, data = of or recipe(), data or FakeData()
    data.devices = devices
    found = checkpoints.read(folder.last) if folder.last.exists() else None
    if found:
        checkpoints.check_same(found, of, data.samples, devices)
    return TrainingRun(
        of,
        side or Fake(),
        data,
        folder,
        begin,
        options or Options(log_every=1, keep_every=2),
        Lines(),
        stop or Stop(),
        found,
        curves,
        DistEnv(devices=devices),
    )


def state(out: Path, name: str = "last") -> dict[str, np.ndarray]:
    """Every number of a checkpoint, and where the run was."""
    found = checkpoints.read(Folder(out).checkpoint(name))
    slots = {f"{s}/{k}": a for s, held in found.snapshot.slots.items() for k, a in held.items()}
    facts = {**dataclasses.asdict(found.origin.progress), "updates": found.origin.updates}
    return found.snapshot.arrays | slots | {k: np.asarray(v) for k, v in facts.items()}


def assert_same(one: Path, other: Path) -> None:
    """Every checkpoint is bitwise the same, and the log too, times apart."""
    names = sorted(p.stem for p in Folder(one).checkpoints.iterdir())
    assert names == sorted(p.stem for p in Folder(other).checkpoints.iterdir())
    for name in names:
        a, b = state(one, name), state(other, name)
        assert a.keys() == b.keys()
        assert [k for k in a if a[k].tobytes() != b[k].tobytes()] == []
    assert logger.read(one / "log.jsonl", clock=False) == logger.read(
        other / "log.jsonl", clock=False
    )
