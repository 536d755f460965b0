"""What the loop of a run is made of: its data, its framework, and what a stage begins with."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Protocol

import numpy as np

from parity.spec.preprocessing import Preprocessing
from parity.spec.training.recipe import Recipe, Stage
from parity.spec.training.trainer import Arrays, Batch, Snapshot, Trainer

Batches = Generator[Batch, None, None]
Progress = Callable[[int, int, str], None]


class Data(Protocol):
    """What a run trains on and is measured by; see `parity.training.data_loader.DataLoader`.

    Attributes:
        samples: Of the training data.
    """

    samples: int

    def steps(self, stage: Stage) -> int:
        """Of an epoch."""

    def batches(self, stage: Stage, epoch: int, epochs: int, first_step: int) -> Batches:
        """Of so many epochs, counted over the whole run, from this step on."""

    def validation(self, stage: Stage) -> Batches:
        """Every image once, with its truth."""

    def class_weights(self, stage: Stage, progress: Progress) -> np.ndarray | None:
        """Of the network's outputs."""

    def preprocessing(self, stage: Stage) -> Preprocessing:
        """What is done to an image before the network gets it."""

    def name(self, sample: int) -> str:
        """Of an image of the validation, fit for a file."""


class ProcessGroup(Protocol):
    """The processes that train together; see `torch_impl.parallel.Group`, `jax_impl.parallel`."""

    def maximum(self, number: int) -> int:
        """The largest number that any process gives; each waits for all."""

    def broadcast(self, value: Any) -> Any:
        """What process 0 gives; the others wait for it."""

    def all_gather(self, value: Any) -> list[Any]:
        """What every process gives, in their order; each waits for all."""


class SingleProcess:
    """One process alone."""

    def maximum(self, number: int) -> int:
        return number

    def broadcast(self, value: Any) -> Any:
        return value

    def all_gather(self, value: Any) -> list[Any]:
        return [value]


class Framework(Protocol):
    """See `parity.training.side.Side`."""

    framework: str

    def trainer(
        self, recipe: Recipe, stage: Stage, arrays: Arrays, class_weights: np.ndarray | None
    ) -> Trainer: ...

    def published(self, stage: Stage, snapshot: Snapshot) -> Snapshot: ...

    def own(self, stage: Stage, snapshot: Snapshot) -> Snapshot: ...


class StartsStage(Protocol):
    """What a stage begins with; see `parity.training.stage_start.StageStart`."""

    def __call__(self, stage: Stage, before: tuple[Stage, Snapshot] | None) -> Snapshot: ...
