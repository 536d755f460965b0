"""The interface between the training loop and a framework's trainer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from parity.spec.errors import InputError
from parity.spec.tensors import check_names

Arrays = dict[str, np.ndarray]
Slots = Mapping[str, Mapping[str, tuple[int, ...]]]


class Batch(NamedTuple):
    """The data of one training step; both sides get the same arrays.

    Attributes:
        images: (N, H, W, 3) float32 or float64, preprocessed.
        targets: The targets of the loss: labels (N, H', W') int32 of one size or, for ICNet, of
            three; (N,) for whole images.
        masks: Site of dropout -> mask, from `parity.spec.draw.dropout_masks`.
        samples: (N,) int64, their indices in the data set.
        truth: In validation, what `Trainer.evaluate` should find: (N, H', W') or (N,) int32, void
            as in the source; None in training.
    """

    images: np.ndarray
    targets: tuple[np.ndarray, ...]
    masks: Mapping[str, np.ndarray]
    samples: np.ndarray
    truth: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Step:
    """The outcome of a step.

    Attributes:
        loss: The unscaled loss before the step.
        fault: Why the weights are invalid, such as `gradient of fc.weight: 3 of 5120 are not
            finite`; empty if they are valid.
        skipped: Whether a gradient overflowed under a dynamic loss scale, so that only the scale
            changed.
        scale: The loss scale of the next step; 1 without one.
    """

    loss: float
    fault: str = ""
    skipped: bool = False
    scale: float = 1.0


@dataclasses.dataclass
class Snapshot:
    """Everything that a run needs to go on; names and layouts are the framework's own.

    Attributes:
        arrays: Parameters (masters, where there are any) and statistics, by name.
        slots: Slot, as PyTorch calls it (`exp_avg`, `exp_avg_sq`, `momentum_buffer`) -> parameter's
            name -> array; empty before the first step.
        step: Updates that the optimizer has made.
        scale: Loss scale; 1 without one.
        good: Steps since the loss scale changed.
    """

    arrays: Arrays
    slots: dict[str, Arrays]
    step: int = 0
    scale: float = 1.0
    good: int = 0

    def check(self, shapes: Mapping[str, tuple[int, ...]], slots: Slots) -> None:
        """Refuse one that is not of this network and this optimizer.

        Args:
            shapes: Name -> shape, of all its arrays.
            slots: Those of the optimizer -> name -> shape, of what it trains.

        Raises:
            InputError: Lists what is missing, left over, or of another shape.
        """
        check_names(shapes, {k: a.shape for k, a in self.arrays.items()}, "snapshot")
        if self.step == 0 and not self.slots:
            return
        if self.slots.keys() != slots.keys():
            there, expected = (", ".join(s) or "nothing" for s in (self.slots, slots))
            raise InputError(f"snapshot: the optimizer's state is {there}, expected {expected}")
        for slot, arrays in self.slots.items():
            found = {k: a.shape for k, a in arrays.items()}
            check_names(slots[slot], found, f"snapshot, {slot}")


class Trainer(Protocol):
    """One stage of training in one framework: `torch_impl.train.Trainer`, `jax_impl.train.Trainer`.

    Constructed from (config, optimizer, loss, arrays, class_weights, precision, level, loss_scale),
    where `arrays` have the framework's own names and layout.
    """

    def step(self, batch: Batch, rate: float) -> Step:
        """Run forward, backward and update.

        Args:
            batch: A batch of the stage's size.
            rate: The learning rate, before the groups' factors.
        """

    def evaluate(self, batch: Batch) -> tuple[np.ndarray, float]:
        """Predict in eval mode: classes, (N, H, W) or (N,) int32, and the loss."""

    @property
    def batches_at_once(self) -> int:
        """Return how many batches `evaluate_each` takes at once: one per device of the process."""

    def evaluate_each(self, batches: Sequence[Batch]) -> list[tuple[np.ndarray, float]]:
        """Evaluate several batches of one size.

        Args:
            batches: From 1 to `batches_at_once` batches.
        """

    def snapshot(self) -> Snapshot:
        """Copy everything that is needed to continue training."""

    def restore(self, snapshot: Snapshot) -> None:
        """Continue from a snapshot, bit for bit.

        Raises:
            InputError: A name is missing, left over, or of another shape.
        """
