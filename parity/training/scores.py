"""Scores of validations."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from parity.data.makers import nearest
from parity.io.background import Behind
from parity.spec import metrics
from parity.spec.labels import outputs
from parity.spec.training.recipe import Recipe
from parity.spec.training.trainer import Batch, Trainer


@dataclasses.dataclass(frozen=True)
class Task:
    """The prediction task.

    Attributes:
        classes: Names of the evaluated classes.
        void: The ignored label; None for whole images.
    """

    classes: tuple[str, ...]
    void: int | None = None

    @classmethod
    def of(cls, recipe: Recipe) -> Task:
        """Create the task of a recipe."""
        classes = recipe.dataset.classes
        if not recipe.dataset.pixels:
            return cls(classes)
        return cls(classes, int(outputs(recipe.labels or "void-last", len(classes))[-1]))

    @property
    def outputs(self) -> int:
        """Return the number of outputs: the classes, and void where there is one."""
        return len(self.classes) + (self.void is not None)


@dataclasses.dataclass(frozen=True)
class Score:
    """How good a network's predictions are.

    Attributes:
        task: What was predicted.
        matrix: (outputs, outputs) int64: pixels, or images, by true class and predicted class.
        mean_loss: Mean over images of their batches' loss; NaN where it was not computed.
        images: Number of images.
    """

    task: Task
    matrix: np.ndarray
    mean_loss: float
    images: int

    @property
    def iou(self) -> np.ndarray:
        """(classes,) float64; NaN where a class is absent."""
        assert self.task.void is not None
        return metrics.iou(self.matrix, self.task.void)

    @property
    def mean_iou(self) -> float:
        """Return the mean IoU over present classes; NaN where there are none."""
        return metrics.mean_iou_present(self.iou)

    @property
    def accuracy(self) -> float:
        """The share of pixels, or images, of known class that are predicted right."""
        counted = np.array(self.matrix)
        if self.task.void is not None:
            counted[self.task.void] = 0
        total = int(counted.sum())
        return int(np.diag(counted).sum()) / total if total else math.nan

    @property
    def recall(self) -> np.ndarray:
        """(outputs,) float64: the share of each class that is predicted right; NaN where absent."""
        totals = self.matrix.sum(axis=1)
        right = np.diag(self.matrix).astype(np.float64)
        return np.divide(right, totals, out=np.full(len(totals), np.nan), where=totals > 0)

    @property
    def value(self) -> float:
        """Return the score to maximise: mean IoU, or accuracy for whole images."""
        return self.accuracy if self.task.void is None else self.mean_iou

    @property
    def name(self) -> str:
        """Return the name of the score: `accuracy` or `mean_iou`."""
        return "accuracy" if self.task.void is None else "mean_iou"

    def to_dict(self) -> dict[str, Any]:
        """JSON values; null for NaN."""
        made: dict[str, Any] = {"score": _number(self.value), "mean_loss": _number(self.mean_loss)}
        made |= {"images": self.images, "accuracy": _number(self.accuracy)}
        if self.task.void is not None:
            made["mean_iou"] = _number(self.mean_iou)
            pairs = zip(self.task.classes, self.iou.tolist(), strict=True)
            made["iou_class"] = {name: _number(value) for name, value in pairs}
        else:
            pairs = zip(self.task.classes, self.recall.tolist(), strict=True)
            made["accuracy_class"] = {name: _number(value) for name, value in pairs}
        return made

    def to_text(self, path: object) -> str:
        """Return the text of `NAME.metrics.txt`, in the format of the published reports."""
        lines = [f"model path {path}"]
        if self.task.void is not None:
            lines += [f"mean_iou {self.mean_iou}", f"mean_loss {self.mean_loss}"]
            lines.append(f"iou_class {np.array2string(self.iou, max_line_width=100)}")
        else:
            lines += [f"accuracy {self.accuracy}", f"mean_loss {self.mean_loss}"]
        return "\n".join(lines) + "\n"


class Count:
    """Accumulates a score.

    Args:
        task: The prediction task.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.matrix = np.zeros((task.outputs, task.outputs), np.int64)
        self.losses: dict[int, tuple[float, int]] = {}  # first sample of a batch: its loss, images

    def add(self, batch: Batch, classes: np.ndarray, loss: float) -> None:
        """Count a batch.

        Args:
            batch: The batch, with its true labels.
            classes: The predicted classes. If the true labels have another size, each is compared
                with the nearest pixel of these.
            loss: The batch's loss.

        Raises:
            ValueError: The batch was already counted.
        """
        assert batch.truth is not None
        first = int(batch.samples[0])
        if first in self.losses:
            raise ValueError(f"the batch of sample {first} is counted twice")
        if batch.truth.ndim == 3:
            classes = nearest(classes, batch.truth.shape[1:])
        self.matrix += metrics.confusion(batch.truth, classes, self.task.outputs)
        self.losses[first] = loss, len(batch.samples)

    def join(self, other: Count) -> None:
        """Count what another has counted.

        Raises:
            ValueError: Both have counted a batch.
        """
        if both := self.losses.keys() & other.losses.keys():
            raise ValueError(f"the batch of sample {min(both)} is counted twice")
        self.matrix += other.matrix
        self.losses |= other.losses

    def score(self) -> Score:
        """Return the score, bit for bit the same however batches were shared among processes."""
        images = sum(n for _, n in self.losses.values())
        total = sum(loss * n for _, (loss, n) in sorted(self.losses.items()))
        return Score(self.task, self.matrix, total / images if images else math.nan, images)


def measure(
    trainer: Trainer, batches: Iterable[Batch], count: Count
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Evaluate batches with a trainer, and count the results: each while the next is predicted.

    Of batches that several devices predict together, it is the last that is counted while the next
    group is predicted.

    Returns:
        An iterator of each batch and its predicted classes. At its end, all are counted.

    Raises:
        FloatingPointError: A loss is not finite.
    """
    with Behind() as counting:
        for several in grouped(batches, trainer.batches_at_once):
            for batch, (classes, loss) in zip(several, trainer.evaluate_each(several), strict=True):
                if not math.isfinite(loss):
                    raise FloatingPointError(f"the loss is {loss}")
                counting.do(functools.partial(count.add, batch, classes, loss))
                yield batch, classes


def grouped(batches: Iterable[Batch], most: int) -> Iterator[list[Batch]]:
    """Yield batches in order, in groups of up to `most` of one size."""
    held: list[Batch] = []
    for batch in batches:
        if held and (len(held) == most or len(batch.samples) != len(held[0].samples)):
            yield held
            held = []
        held.append(batch)
    if held:
        yield held


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
