"""Where a run is, to the step: what a checkpoint says beside the numbers that are trained."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np

from parity.spec.errors import InputError
from parity.spec.training.recipe import Recipe
from parity.spec.training.trainer import Snapshot
from parity.spec.training.written import plain

VERSION = 1  # of the form
KEY = "run"  # of a checkpoint's metadata


@dataclasses.dataclass
class TrainProgress:
    """A place in a run; everything that was drawn or shuffled before it follows from it.

    Attributes:
        stage: Index of the recipe's stage.
        epoch: Of the stage; those before it are done.
        step: Of the epoch; those before it are done. Where all are, the epoch is not closed yet.
        batches: Steps of the whole run that are done.
        loss: Sum over the epoch's steps that are done.
        best: The best score of the stage's validations, or none.
        best_epoch: After so many epochs of the stage.
        lines: Of the log, that were written.
        samples: Of the training data.
        devices: That the steps were counted on; 0 where an older checkpoint does not say it.
    """

    stage: int = 0
    epoch: int = 0
    step: int = 0
    batches: int = 0
    loss: float = 0.0
    best: float | None = None
    best_epoch: int = 0
    lines: int = 0
    samples: int = 0
    devices: int = 0

    def next_stage(self) -> None:
        self.stage, self.epoch, self.step, self.loss = self.stage + 1, 0, 0, 0.0
        self.best, self.best_epoch = None, 0

    def next_epoch(self) -> None:
        self.epoch, self.step, self.loss = self.epoch + 1, 0, 0.0


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a checkpoint says of the run that wrote it.

    Attributes:
        recipe: As `parity.spec.training.written.plain` gives it.
        framework: `torch` or `jax`.
        moment: Where the run was.
        updates: That the optimizer of the stage had made.
        scale: Of the loss.
        good: Steps since it changed.
        class_weights: Of the stage's loss, or none.
    """

    recipe: dict[str, Any]
    framework: str
    moment: TrainProgress
    updates: int
    scale: float
    good: int
    class_weights: list[float] | None

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        framework: str,
        moment: TrainProgress,
        snapshot: Snapshot,
        class_weights: np.ndarray | None,
    ) -> Origin:
        """At this moment."""
        weights = None if class_weights is None else class_weights.tolist()
        counts = (snapshot.step, snapshot.scale, snapshot.good)
        return cls(plain(recipe), framework, dataclasses.replace(moment), *counts, weights)

    @property
    def weights(self) -> np.ndarray | None:
        """The class weights as they were."""
        return None if self.class_weights is None else np.asarray(self.class_weights, np.float64)

    def to_json(self) -> str:
        return json.dumps({"version": VERSION, **dataclasses.asdict(self)})


def parse(text: str | None, where: object) -> Origin:
    """What `Origin.to_json` gave.

    Args:
        text: None where there is none.
        where: The file, for the message.

    Raises:
        InputError: It is none, or of another version.
    """
    if text is None:
        raise InputError(f"{where} is no checkpoint of a training run: parity train wrote none")
    try:
        entries = json.loads(text)
        version = entries.pop("version")
        if version != VERSION:
            raise InputError(f"{where}: its run is of version {version}, expected {VERSION}")
        return Origin(**entries | {"moment": TrainProgress(**entries["moment"])})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where}: what it says of its run is damaged") from error
