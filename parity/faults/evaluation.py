"""Faults of the evaluation (L6), injected in a small network's port on drawn scenes.

An evaluation is a sequence of steps; the first step whose result differs is reported.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from parity.capture.torch_side import TorchSide
from parity.data.cityscapes import CITYSCAPES
from parity.data.scenes import scene
from parity.diagnosis.catalogue import CATALOGUE, Fault
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
        feed: Maps (N, H, W, 3) uint8 to the network's input.
        batches: Returns the samples of each batch.
        mean: Maps a confusion matrix per batch to the mean IoU.
    """

    image: Callable[[np.ndarray, Pair], np.ndarray]
    label: Callable[[np.ndarray, Pair], np.ndarray]
    truth: Callable[[np.ndarray], np.ndarray]
    feed: Callable[[np.ndarray], np.ndarray]
    batches: Callable[[int], list[list[int]]]
    mean: Callable[[Sequence[np.ndarray]], float]

    def run(self, scenes: Sequence[Any], size: Pair, predict: Predict) -> Steps:
        """Evaluate scenes: what every step gave, in their order."""
        images = self.feed(np.stack([self.image(image, size) for image, _ in scenes]))
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
    feed=lambda images: scale(images, "float32"),
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
    (Fault.CHANNEL_ORDER, "BGR", "images", {"feed": lambda images: SOUND.feed(images[..., ::-1])}),
    (Fault.IMAGE_RESIZE, "two taps", "images", {"image": two_taps}),
    (
        Fault.IMAGE_SCALE,
        "not divided by 255",
        "images",
        {"feed": lambda images: images.astype(np.float32)},
    ),
    (
        Fault.IMAGE_SCALE,
        "divided twice",
        "images",
        {"feed": lambda i: SOUND.feed(i) / np.float32(255)},
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
        wrong, ranked = differing(stage.reference, steps), causes(stage.reference, steps)
        yield MutantRow(
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
            rank=ranked.index(fault) + 1 if fault in ranked else None,
            seconds=time.perf_counter() - start,
        )


def equivalent(fault: Fault, reference: Steps) -> str:
    """Return why the scenes cannot reveal a fault; empty if they can."""
    counted = reference["confusion"]
    if fault == Fault.ABSENT_CLASSES and not np.isnan(metrics.iou(counted, VOID)).any():
        return "on these scenes no class is absent from truth and predictions"
    if fault == Fault.VOID_PREDICTIONS and not np.delete(counted, VOID, axis=0)[:, VOID].any():
        return "on these scenes the network never predicts void"
    return ""


def causes(reference: Steps, port: Steps) -> list[Fault]:
    """The faults that may explain what differs, likeliest first; from the steps alone."""
    wrong = differing(reference, port)
    if not wrong:
        return []
    step = wrong[0]
    found = sorted(_explain(step, reference, port), key=lambda pair: -pair[1])
    return list(dict.fromkeys(fault for fault, _ in found))


def _explain(step: str, reference: Steps, port: Steps) -> Iterator[tuple[Fault, float]]:
    a, b = reference[step], port[step]
    if step == "images":
        yield Fault.CHANNEL_ORDER, float(np.array_equal(b, a[..., ::-1]))
        factors = b[a > 0] / a[a > 0]
        yield Fault.IMAGE_SCALE, float(np.allclose(factors, factors[0], rtol=1e-4))
        yield Fault.IMAGE_RESIZE, 0.5
    elif step == "labels":
        pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
        yield Fault.LABEL_IDS, 1.0 if len(set(pairs[0])) == pairs.shape[1] else 0.2
        yield Fault.LABEL_IDS, 0.9 if pairs.shape[1] <= 2 * CLASSES else 0.2
        yield Fault.NEAREST_LABELS, 0.6
    elif step == "confusion":
        yield Fault.LAST_BATCH, 1.0 if a.sum() != b.sum() else 0.3
    elif step == "mean IoU":
        each = (reference["confusion"],)
        yield Fault.ABSENT_CLASSES, float(np.isclose(b, absent_as_zero(each), rtol=1e-12))
        yield Fault.VOID_PREDICTIONS, float(np.isclose(b, void_not_missed(each), rtol=1e-12))
        yield Fault.MEAN_OF_BATCHES, 0.5


def _best(logits: Any) -> np.ndarray:
    return np.asarray(logits).argmax(axis=-1).astype(np.int32)
