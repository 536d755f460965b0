"""The position of a run, to the step, and a checkpoint's record of its run."""

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
    """A position in a run, from which all random draws and orders follow.

    Attributes:
        stage: Index of the recipe's stage.
        epoch: Epoch of the stage; those before it are done.
        step: Step of the epoch; those before it are done. If all are done, the epoch's validation
            is still to come.
        batches: Number of steps of the whole run that are done.
        loss: Sum over the epoch's steps that are done.
        best: The best score of the stage's validations, or None.
        best_epoch: Number of epochs of the stage after which it was reached.
        lines: Number of lines in the log.
        samples: Number of training samples.
        devices: Number of devices on which steps were counted; 0 where an older checkpoint lacks
            it.
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
    """A checkpoint's record of the run that wrote it.

    Attributes:
        recipe: The recipe, from `parity.spec.training.written.plain`.
        framework: `torch` or `jax`.
        progress: Where the run was.
        updates: Number of updates made by the stage's optimizer.
        scale: The loss scale.
        good: Number of steps since the loss scale changed.
        class_weights: Class weights of the stage's loss, or None.
    """

    recipe: dict[str, Any]
    framework: str
    progress: TrainProgress
    updates: int
    scale: float
    good: int
    class_weights: list[float] | None

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        framework: str,
        progress: TrainProgress,
        snapshot: Snapshot,
        class_weights: np.ndarray | None,
    ) -> Origin:
        """Create the record for the run's current position."""
        weights = None if class_weights is None else class_weights.tolist()
        counts = (snapshot.step, snapshot.scale, snapshot.good)
        return cls(plain(recipe), framework, dataclasses.replace(progress), *counts, weights)

    @property
    def weights(self) -> np.ndarray | None:
        """Return the class weights as an array."""
        return None if self.class_weights is None else np.asarray(self.class_weights, np.float64)

    def to_json(self) -> str:
        entries = dataclasses.asdict(self)
        entries["moment"] = entries.pop("progress")  # as files of version 1.0 call it
        return json.dumps({"version": VERSION, **entries})


def parse(text: str | None, where: object) -> Origin:
    """Parse the result of `Origin.to_json`.

    Args:
        text: The text; None where there is none.
        where: The file, for the message.

    Raises:
        InputError: It is not such a record, or of another version.
    """
    if text is None:
        raise InputError(f"{where} is no checkpoint of a training run: parity train wrote none")
    try:
        entries = json.loads(text)
        version = entries.pop("version")
        if version != VERSION:
            raise InputError(f"{where}: its run is of version {version}, expected {VERSION}")
        progress = TrainProgress(**entries.pop("moment"))
        return Origin(**entries, progress=progress)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where}: what it says of its run is damaged") from error
