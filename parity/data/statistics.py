"""Statistics of a data set: shares of the classes, class weights, mean and standard deviation."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from parity.data.makers import predicted_size, training_size
from parity.data.sources import Source
from parity.io.replacing import replacing
from parity.spec.augmentation import BILINEAR, NEAREST, resample
from parity.spec.errors import InputError
from parity.spec.training.losses import ClassWeights
from parity.spec.training.recipe import Recipe, Stage

Size = tuple[int, int]
Progress = Callable[[int, int, str], None]
THREADS = min(4, os.cpu_count() or 1)  # decoding does not hold Python's lock
VERSION = 1  # of what is counted; a cache of another is not read
CONSTANTS = (1.02, 1.1, 1.2)  # c of ENet, and of ERFNet's decoder and encoder
COUNTED = ("log", "median")  # rules of class weights that depend on the numbers of pixels


@dataclasses.dataclass(frozen=True)
class Counts:
    """Pixels of a split, or images where an image has one class.

    Attributes:
        pixels: (labels,) int64, number of pixels of each label, including void where there is void.
        beside: (labels,) int64, total pixels of the images that contain each label.
        images: Number of images counted.
    """

    pixels: np.ndarray
    beside: np.ndarray
    images: int

    @property
    def shares(self) -> np.ndarray:
        """(labels,) float64, of all pixels."""
        return self.pixels / self.pixels.sum()


def count(
    source: Source,
    size: Size | None = None,
    labels_size: Size | None = None,
    progress: Progress | None = None,
) -> Counts:
    """Count a split's labels.

    Args:
        source: The split.
        size: Height and width that labels are resized to, to the nearest pixel; their own if not
            given.
        labels_size: And from there to this, as an encoder's are.
        progress: Called with (images done, images, the next one's name).

    Raises:
        InputError: A label cannot be read.
    """
    labels = int(source.outputs.max()) + 1
    pixels, beside = np.zeros((2, labels), np.int64)

    def one(i: int) -> np.ndarray:
        label = source.label(i)
        if isinstance(label, np.ndarray):
            for to in (size, labels_size):
                label = label if to is None else resample(label, to, NEAREST)
        return np.bincount(np.ravel(label), minlength=labels)

    for i, found in enumerate(_each(one, len(source))):
        pixels += found
        beside += found.sum() * (found > 0)
        if progress:
            progress(i + 1, len(source), "counting labels")
    return Counts(pixels, beside, len(source))


def weights(
    rule: ClassWeights, counts: Counts | None, classes: int, void: int, with_void: bool
) -> np.ndarray:
    """Return the class weight of each output of a network.

    Args:
        rule: The rule for class weights.
        counts: Counts of the training split; needed by `log` and `median`.
        classes: Number of classes without void.
        void: The label of void; -1 where there is none.
        with_void: Whether the network has an output for void.

    Returns:
        (outputs,) float32. A class that no pixel has weighs 0 by `median`, and 1 / ln(c) by `log`.

    Raises:
        ValueError: `fixed` has another number of weights.
    """
    if rule.rule == "none":
        found = np.ones(classes)
    elif rule.rule == "fixed":
        if len(rule.values) != classes:
            raise ValueError(f"{len(rule.values)} class weights, expected {classes}")
        found = np.array(rule.values)
    else:
        assert counts is not None
        kept = np.arange(len(counts.pixels)) != void
        if rule.rule == "log":
            found = 1 / np.log(rule.c + counts.shares[kept])
        else:
            found = _median(counts.pixels[kept], counts.beside[kept])
    if with_void:
        found = np.insert(found, void, rule.void)
    return found.astype(np.float32)


def _median(pixels: np.ndarray, beside: np.ndarray) -> np.ndarray:
    """Return the median of the frequencies, each over its `beside`; 0 for absent classes."""
    there = pixels > 0
    frequency = pixels[there] / beside[there]
    found = np.zeros(len(pixels))
    found[there] = np.median(frequency) / frequency if there.any() else 0
    return found


def class_weights(
    recipe: Recipe,
    stage: Stage,
    source: Source,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> np.ndarray | None:
    """Return each output's weight in a stage's loss.

    Args:
        recipe: The run's recipe.
        stage: One of its stages.
        source: The training split, which is counted at the stage's size.
        cache: A folder in which counts are cached; not cached if not given.
        progress: See `count`.

    Returns:
        (outputs,) float32; None where all weigh 1.

    Raises:
        InputError: A label cannot be read.
    """
    rule, config = stage.loss.class_weights, stage.config
    with_void = source.pixels and config.num_classes > len(source.classes)
    if rule.rule == "none" and not with_void:
        return None
    counts = None
    if rule.rule in COUNTED:
        size = training_size(recipe, stage)
        labels_size = predicted_size(config, size)
        counts = _kept(source, size, labels_size, cache, progress)
    found = weights(rule, counts, len(source.classes), source.void, with_void)
    unused = config.num_classes - len(found)  # outputs that no label has
    return np.append(found, np.zeros(max(unused, 0), np.float32))


def _kept(
    source: Source, size: Size, labels_size: Size, cache: Path | None, progress: Progress | None
) -> Counts:
    """Counts from the cache, or counted and put there."""
    if cache is None:
        return count(source, size, labels_size, progress)
    key = {
        "version": VERSION,
        "identity": source.reader.identity(),
        "outputs": source.outputs.tolist(),
        "size": list(size),
        "labels_size": list(labels_size),
    }
    path = cache / f"counts-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.json"
    found = _read(path, key, len(source))
    if found is None:
        found = count(source, size, labels_size, progress)
        _write(path, key, found)
    return found


def _read(path: Path, key: dict[str, Any], images: int) -> Counts | None:
    """Read counts from the cache; None if the file is damaged or has another key."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        if entries["key"] != key:
            return None
        pixels, beside = (np.array(entries[name], np.int64) for name in ("pixels", "beside"))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    expected = (max(key["outputs"]) + 1,)
    right = pixels.shape == beside.shape == expected and (pixels >= 0).all()
    return Counts(pixels, beside, images) if right and (pixels <= beside).all() else None


def _write(path: Path, key: dict[str, Any], counts: Counts) -> None:
    """Keep what was counted; where that cannot be done, it is counted again."""
    entries = {"key": key, "pixels": counts.pixels.tolist(), "beside": counts.beside.tolist()}
    with contextlib.suppress(OSError, InputError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as made:
            made.write_text(json.dumps(entries), encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class Summary:
    """What `parity statistics` shows of a split.

    Attributes:
        classes: Names of a network's outputs, void among them where there is void.
        counts: Pixels of each, or images.
        mean: (3,) float64, of each channel of pixels in [0, 1].
        deviation: (3,) float64.
        weights: Rule of class weights -> those of each output; `log c` for each of `CONSTANTS`.
    """

    classes: list[str]
    counts: Counts
    mean: np.ndarray
    deviation: np.ndarray
    weights: dict[str, np.ndarray]


def summarize(
    source: Source, size: Size | None = None, progress: Progress | None = None
) -> Summary:
    """Count the classes of a split, weigh them by each rule, and measure its images.

    Args:
        source: The split.
        size: Height and width that images and labels are resized to; their own if not given.
        progress: Called with (images done, images, what is done).

    Raises:
        InputError: A file cannot be read.
    """
    counts = count(source, size, progress=progress)
    mean, deviation = moments(source, size, progress)
    names = list(source.classes)
    if source.pixels:
        names.insert(source.void, "void")
    rules = {f"log {c}": ClassWeights("log", c=c) for c in CONSTANTS}
    rules["median"] = ClassWeights("median")
    by_rule = {
        name: weights(rule, counts, len(source.classes), source.void, source.pixels)
        for name, rule in rules.items()
    }
    return Summary(names, counts, mean, deviation, by_rule)


def moments(
    source: Source, size: Size | None = None, progress: Progress | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, over all pixels, in [0, 1].

    Args:
        source: The split.
        size: Height and width that images are resized to; their own if not given.
        progress: Called with (images done, images, the next one's name).

    Returns:
        Two of (3,) float64.

    Raises:
        InputError: An image cannot be read.
    """
    histogram = np.zeros((3, 256), np.int64)

    def one(i: int) -> np.ndarray:
        image = source[i][0]
        image = image if size is None else resample(image, size, BILINEAR)
        return np.stack([np.bincount(image[..., c].ravel(), minlength=256) for c in range(3)])

    for i, found in enumerate(_each(one, len(source))):
        histogram += found
        if progress:
            progress(i + 1, len(source), "measuring images")
    values, total = np.arange(256) / 255, histogram.sum(axis=1)
    mean = histogram @ values / total
    variance = (histogram * (values - mean[:, None]) ** 2).sum(axis=1) / total
    return mean, np.sqrt(variance)


def _each(function: Callable[[int], np.ndarray], n: int) -> Iterator[np.ndarray]:
    """Yield a function's results for 0 to n - 1, in order, computed by several threads."""
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            yield from pool.map(function, range(n))
        finally:
            pool.shutdown(cancel_futures=True)
