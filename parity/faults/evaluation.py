"""Faults of the evaluation (L6), injected in a small network's port on drawn scenes.

An evaluation is a sequence of steps; the first step whose result differs is reported.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from parity.capture.torch_side import TorchSide
from parity.data.cityscapes import CITYSCAPES
from parity.data.scenes import scene
from parity.diagnosis.catalogue import CATALOGUE, Fault
from parity.diagnosis.experiments.engine import Proof
from parity.faults.rows import MutantRow
from parity.ladder.port import Port
from parity.model_checks.small_networks import Subject
from parity.spec import metrics
from parity.spec.preprocessing import scale

Pair = tuple[int, int]
Steps = dict[str, np.ndarray]  # step -> what it gave
Predict = Callable[[np.ndarray], np.ndarray]

SAMPLES, BATCH = 5, 2  # the last batch is a partial one
CLASSES = CITYSCAPES.outputs
VOID = CITYSCAPES.void


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The steps of a side's evaluation, as functions.

    Attributes:
        image: Resizes (H, W, 3) uint8.
        label: Resizes ids (H, W).
        truth: Maps ids to the network's outputs.
        preprocess: Maps (N, H, W, 3) uint8 to the network's input.
        batches: Returns the samples of each batch.
        mean: Maps a confusion matrix per batch to the mean IoU.
    """

    image: Callable[[np.ndarray, Pair], np.ndarray]
    label: Callable[[np.ndarray, Pair], np.ndarray]
    truth: Callable[[np.ndarray], np.ndarray]
    preprocess: Callable[[np.ndarray], np.ndarray]
    batches: Callable[[int], list[list[int]]]
    mean: Callable[[Sequence[np.ndarray]], float]

    def run(self, scenes: Sequence[Any], size: Pair, predict: Predict) -> Steps:
        """Evaluate scenes: what every step gave, in their order."""
        images = self.preprocess(np.stack([self.image(image, size) for image, _ in scenes]))
        predictions = predict(images)
        at = predictions.shape[1:3]
        truth = self.truth(np.stack([self.label(ids, at) for _, ids in scenes]))
        matrices = [
            metrics.confusion(truth[batch], predictions[batch], CLASSES)
            for batch in self.batches(len(scenes))
        ]
        return {
            "images": images,
            "labels": truth,
            "predictions": predictions,
            "confusion": np.sum(matrices, axis=0),
            "mean IoU": np.array(self.mean(matrices)),
        }


def resized(pixels: np.ndarray, size: Pair, how: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], how))


def train_ids(ids: np.ndarray) -> np.ndarray:
    return np.array(CITYSCAPES.train_ids, np.uint8)[ids]


def in_batches(count: int) -> list[list[int]]:
    samples = list(range(count))
    return [samples[i : i + BATCH] for i in range(0, count, BATCH)]


def of_all(matrices: Sequence[np.ndarray]) -> float:
    return metrics.mean_iou_present(metrics.iou(np.sum(matrices, axis=0), VOID))


SOUND = Evaluation(
    image=lambda pixels, size: resized(pixels, size, Image.Resampling.BILINEAR),
    label=lambda ids, size: resized(ids, size, Image.Resampling.NEAREST),
    truth=train_ids,
    preprocess=lambda images: scale(images, "float32"),
    batches=in_batches,
    mean=of_all,
)


def floored(ids: np.ndarray, size: Pair) -> np.ndarray:
    """Nearest by floor(i * scale)."""
    rows, columns = (np.arange(m) * n // m for n, m in zip(ids.shape, size, strict=True))
    return ids[rows][:, columns]


def two_taps(pixels: np.ndarray, size: Pair) -> np.ndarray:
    """Bilinear from the two nearest pixels, however much smaller the picture becomes."""
    found = pixels.astype(np.float64)
    for axis, m in enumerate(size):
        n = pixels.shape[axis]
        at = np.clip((np.arange(m) + 0.5) * (n / m) - 0.5, 0, n - 1)
        low = np.floor(at).astype(int)
        share = (at - low).reshape((-1,) + (1,) * (found.ndim - 1 - axis))
        high = np.minimum(low + 1, n - 1)
        found = found.take(low, axis) * (1 - share) + found.take(high, axis) * share
    return np.round(found).astype(np.uint8)


def void_first(ids: np.ndarray) -> np.ndarray:
    return (train_ids(ids) + 1) % np.uint8(CLASSES)


def not_mapped(ids: np.ndarray) -> np.ndarray:
    """Ids taken for trainIds; those that are none are void."""
    return np.where(ids < VOID, ids, VOID).astype(np.uint8)


def of_batches(matrices: Sequence[np.ndarray]) -> float:
    return float(np.mean([metrics.mean_iou_present(metrics.iou(m, VOID)) for m in matrices]))


def absent_as_zero(matrices: Sequence[np.ndarray]) -> float:
    return metrics.mean_iou_absent_as_zero(metrics.iou(np.sum(matrices, axis=0), VOID))


def void_not_missed(matrices: Sequence[np.ndarray]) -> float:
    counted = np.sum(matrices, axis=0)
    counted[:, VOID] = 0
    return metrics.mean_iou_present(metrics.iou(counted, VOID))


# Number, what is done, the step that shows it, and the changed part of the evaluation.
FAULTS: tuple[tuple[Fault, str, str, dict[str, Any]], ...] = (
    (Fault.NEAREST_LABELS, "labels by floor", "labels", {"label": floored}),
    (
        Fault.CHANNEL_ORDER,
        "BGR",
        "images",
        {"preprocess": lambda images: SOUND.preprocess(images[..., ::-1])},
    ),
    (Fault.IMAGE_RESIZE, "two taps", "images", {"image": two_taps}),
    (
        Fault.IMAGE_SCALE,
        "not divided by 255",
        "images",
        {"preprocess": lambda images: images.astype(np.float32)},
    ),
    (
        Fault.IMAGE_SCALE,
        "divided twice",
        "images",
        {"preprocess": lambda i: SOUND.preprocess(i) / np.float32(255)},
    ),
    (Fault.LABEL_IDS, "void first", "labels", {"truth": void_first}),
    (Fault.LABEL_IDS, "labelIds", "labels", {"truth": not_mapped}),
    (
        Fault.LAST_BATCH,
        "last batch dropped",
        "confusion",
        {"batches": lambda n: in_batches(n)[:-1]},
    ),
    (
        Fault.LAST_BATCH,
        "last batch twice",
        "confusion",
        {"batches": lambda n: [*in_batches(n), in_batches(n)[-1]]},
    ),
    (Fault.MEAN_OF_BATCHES, "mean of batches", "mean IoU", {"mean": of_batches}),
    (Fault.ABSENT_CLASSES, "absent as 0", "mean IoU", {"mean": absent_as_zero}),
    (Fault.VOID_PREDICTIONS, "void is no miss", "mean IoU", {"mean": void_not_missed}),
)


class Stage:
    """Both sides of a small network, and the scenes that they evaluate.

    Args:
        subject: The network; its outputs are (N, H, W, classes).
        predict: Maps the port's inputs to its outputs, in float32 and eval mode.
    """

    def __init__(self, subject: Subject, predict: Callable[[Port, np.ndarray], Any]) -> None:
        height, width = self.size = subject.port.arguments(train=False)[0].shape[1:3]
        finer = 4 if max(self.size) < 128 else 2
        self.scenes = [scene(0, i, finer * height, finer * width) for i in range(SAMPLES)]
        side = TorchSide(subject.port.reference, "float32", subject.port.layout)
        self.known: dict[bytes, np.ndarray] = {}
        self.predict = lambda images: _best(predict(subject.port, images))
        self.reference = SOUND.run(
            self.scenes, self.size, lambda images: _best(side.run((images,), False).outputs[0])
        )

    def port(self, changes: dict[str, Any]) -> Steps:
        """Return the results of every step on the port's side, with these changes."""
        evaluation = dataclasses.replace(SOUND, **changes)
        return evaluation.run(self.scenes, self.size, self._predicted)

    def _predicted(self, images: np.ndarray) -> np.ndarray:
        key = images.tobytes()
        if key not in self.known:
            self.known[key] = self.predict(images)
        return self.known[key]


def differing(reference: Steps, port: Steps) -> list[str]:
    """Return the steps whose results differ, in order."""
    found = []
    for step, expected in reference.items():
        got = port[step]
        if got.shape != expected.shape or not np.array_equal(got, expected, equal_nan=True):
            found.append(step)
    return found


def rows(subject: Subject, predict: Callable[[Port, np.ndarray], Any]) -> Iterator[MutantRow]:
    """Yield the result of every fault of the evaluation.

    Args:
        subject: A network that predicts a class for each pixel; others yield no rows.
        predict: As for `Stage`.

    Raises:
        AssertionError: The sides differ without a fault.
    """
    if predict(subject.port, subject.port.arguments(train=False)[0]).ndim != 4:
        return
    stage = Stage(subject, predict)
    clean = differing(stage.reference, stage.port({}))
    assert not clean, f"{subject.model}: clean evaluations differ in {clean[0]}"
    for fault, name, step, changes in FAULTS:
        start = time.perf_counter()
        steps = stage.port(changes)
        wrong = differing(stage.reference, steps)
        row = MutantRow(
            fault,
            CATALOGUE[fault].title,
            name,
            subject.model,
            f"({step})",
            "evaluation",
            equivalent(fault, stage.reference),
            killed=bool(wrong),
            rung="L6" if wrong else "",
            named=f"({wrong[0]})" if wrong else "",
            right=wrong[0] == step if wrong else None,
            margin=float("inf") if wrong else 0.0,
            seconds=time.perf_counter() - start,
        )
        yield row.explained(proofs(stage, steps))


def equivalent(fault: Fault, reference: Steps) -> str:
    """Return why the scenes cannot reveal a fault; empty if they can."""
    counted = reference["confusion"]
    if fault == Fault.ABSENT_CLASSES and not np.isnan(metrics.iou(counted, VOID)).any():
        return "on these scenes no class is absent from truth and predictions"
    if fault == Fault.VOID_PREDICTIONS and not np.delete(counted, VOID, axis=0)[:, VOID].any():
        return "on these scenes the network never predicts void"
    return ""


def proofs(stage: Stage, port: Steps) -> list[Proof]:
    """Return the changes with which the reference's evaluation gives the differing step."""
    wrong = differing(stage.reference, port)
    if not wrong:
        return []
    step = wrong[0]
    found, target = [], port[step]
    for fault, what, array in _hypotheses(step, stage):
        if array.shape == target.shape and np.allclose(array, target, rtol=1e-6, atol=0):
            found.append(Proof(fault, what, step))
    if step == "labels" and _renumbered(stage.reference[step], target):
        found.append(Proof(Fault.LABEL_IDS, "its classes numbered otherwise", step))
    return found


def _hypotheses(step: str, stage: Stage) -> Iterator[tuple[Fault, str, np.ndarray]]:
    """Yield what a step gives with a change; made here of the step before it, in the reference."""
    reference, size = stage.reference, stage.size
    images, labels, predictions = (reference[key] for key in ("images", "labels", "predictions"))
    if step == "images":
        yield Fault.CHANNEL_ORDER, "its channels in the opposite order", images[..., ::-1]
        yield Fault.IMAGE_SCALE, "images not divided by 255", images * np.float32(255)
        yield Fault.IMAGE_SCALE, "images divided by 255 twice", images / np.float32(255)
        text = "bilinear interpolation of two pixels, without smoothing"
        pixels = [_interpolated(image, size, "bilinear") for image, _ in stage.scenes]
        yield Fault.IMAGE_RESIZE, text, scale(np.stack(pixels), "float32")
    elif step == "labels":
        at = predictions.shape[1:3]
        ids = [_interpolated(label[..., None], at, "nearest")[..., 0] for _, label in stage.scenes]
        yield Fault.NEAREST_LABELS, "nearest labels by rounding down", train_ids(np.stack(ids))
        ids = [SOUND.label(label, at) for _, label in stage.scenes]
        clipped = np.minimum(np.stack(ids), VOID).astype(labels.dtype)
        yield Fault.LABEL_IDS, "ids taken for classes", clipped
    elif step == "confusion":
        batches = in_batches(len(labels))
        for what, chosen in (("dropped", batches[:-1]), ("twice", [*batches, batches[-1]])):
            rows_ = [i for batch in chosen for i in batch]
            matrix = metrics.confusion(labels[rows_], predictions[rows_], CLASSES)
            yield Fault.LAST_BATCH, f"the last batch {what}", matrix
    elif step == "mean IoU":
        each = (reference["confusion"],)
        yield Fault.ABSENT_CLASSES, "absent classes as 0", np.array(absent_as_zero(each))
        missed = each[0].copy()
        missed[:, VOID] = 0
        value = metrics.mean_iou_present(metrics.iou(missed, VOID))
        yield Fault.VOID_PREDICTIONS, "void predictions not counted as misses", np.array(value)
        parts = [
            metrics.confusion(labels[batch], predictions[batch], CLASSES)
            for batch in in_batches(len(labels))
        ]
        values = [metrics.mean_iou_present(metrics.iou(part, VOID)) for part in parts]
        yield Fault.MEAN_OF_BATCHES, "the mean of the batches' mean IoU", np.array(np.mean(values))


def _interpolated(pixels: np.ndarray, size: Pair, mode: str) -> np.ndarray:
    """Resize (H, W, C) of uint8 as PyTorch does, without antialiasing."""
    wide = torch.tensor(np.moveaxis(pixels.astype(np.float64), -1, 0)[None])
    how = {"align_corners": False} if mode == "bilinear" else {}
    found = torch.nn.functional.interpolate(wide, size, mode=mode, **how)
    return np.moveaxis(np.rint(found[0].numpy()), 0, -1).astype(np.uint8)


def _renumbered(reference: np.ndarray, port: np.ndarray) -> bool:
    """Return whether one side's labels are a function of the other's, pixel by pixel."""
    if reference.shape != port.shape:
        return False
    pairs = np.unique(np.stack([reference.ravel(), port.ravel()]), axis=1)
    counts = [len(set(side)) for side in pairs]
    return max(counts) == pairs.shape[1] and min(counts) > 1


def _best(logits: Any) -> np.ndarray:
    return np.asarray(logits).argmax(axis=-1).astype(np.int32)
