"""Augmentation: each operation on a training sample, as data and as a function.

An operation is called with a sample, a separate generator, and the label of void. It always draws
the same number of values, whether or not they are used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from parity.spec import draw

Pair = tuple[int, int]
Pixels = Callable[[np.ndarray], np.ndarray]
# Pillow's numbers; it is imported where pixels are resized, which most commands do not.
BILINEAR, NEAREST = 2, 0


def check_range(low: float, high: float, least: float) -> None:
    """Refuse a range that nothing can be drawn from.

    Raises:
        ValueError: It is none, or begins below the least.
    """
    if not least <= low <= high:
        raise ValueError(f"low {low} and high {high}, expected {least} or more, high not below low")


def check_chance(p: float) -> None:
    """Refuse what is no probability.

    Raises:
        ValueError: It is none.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p is {p}, expected a probability in [0, 1]")


def check_pixels(pixels: int) -> None:
    """Refuse a negative distance.

    Raises:
        ValueError: It is one.
    """
    if pixels < 0:
        raise ValueError(f"pixels is {pixels}, expected 0 or more")


class Example(NamedTuple):
    """A sample on its way to the network.

    Attributes:
        image: (H, W, 3) uint8.
        label: (H, W) uint8; None where the image as a whole has a class, which nothing changes.
    """

    image: np.ndarray
    label: np.ndarray | None

    def map(self, image: Pixels, label: Pixels) -> Example:
        """Apply one function to the image and the other to the label map, if there is one."""
        return Example(image(self.image), None if self.label is None else label(self.label))


@dataclasses.dataclass(frozen=True)
class Resize:
    """Resizes images bilinearly, antialiased, as Pillow does; labels to the nearest pixel."""

    size: Pair

    def __call__(self, example: Example, rng: np.random.Generator, void: int) -> Example:
        return resized(example, self.size)


@dataclasses.dataclass(frozen=True)
class Flip:
    """Left to right, with a probability."""

    p: float = 0.5

    def __post_init__(self) -> None:
        check_chance(self.p)

    def __call__(self, example: Example, rng: np.random.Generator, void: int) -> Example:
        return example if rng.random() >= self.p else example.map(np.fliplr, np.fliplr)


@dataclasses.dataclass(frozen=True)
class Shift:
    """Shifts by whole pixels, up to a maximum in either direction, as Eromera/erfnet_pytorch does.

    What comes in from the left or above is 0 in images and void in labels; from the right or below
    it is 0 in both, which is a class (road). In a corner the 0 wins.
    """

    pixels: int = 2

    def __post_init__(self) -> None:
        check_pixels(self.pixels)

    def __call__(self, example: Example, rng: np.random.Generator, void: int) -> Example:
        down, right = (int(n) for n in rng.integers(-self.pixels, self.pixels + 1, 2))
        return example.map(
            lambda image: shifted(image, down, right, 0),
            lambda label: shifted(label, down, right, void),
        )


@dataclasses.dataclass(frozen=True)
class RatioCrop:
    """Crops 1 / ratio of either side at a random place, with a probability; ratio is uniform.

    Attributes:
        low: The least ratio; fixed where `high` is the same.
        high: The greatest.
        p: Probability.
    """

    low: float
    high: float
    p: float = 0.5

    def __post_init__(self) -> None:
        check_chance(self.p)
        check_range(self.low, self.high, least=1)

    def __call__(self, example: Example, rng: np.random.Generator, void: int) -> Example:
        chance, between, x, y = rng.random(4).tolist()
        if chance >= self.p:
            return example
        ratio = self.low + (self.high - self.low) * between
        whole = example.image.shape
        height, width = int(whole[0] / ratio), int(whole[1] / ratio)
        top, left = int(y * (whole[0] - height)), int(x * (whole[1] - width))
        return cut(example, (top, left), (height, width))


@dataclasses.dataclass(frozen=True)
class ShortSide:
    """Scale so that the shorter side is a whole number of pixels, uniform from `low` to `high`."""

    low: int
    high: int

    def __post_init__(self) -> None:
        check_range(self.low, self.high, least=1)

    def __call__(self, example: Example, rng: np.random.Generator, void: int) -> Example:
        short = int(rng.integers(self.low, self.high + 1))
        height, width, _ = example.image.shape
        if height > width:
            return resized(example, (int(height * short / width), short))
        return resized(example, (short, int(width * short / height)))


@dataclasses.dataclass(frozen=True)
class Crop:
    """Pad at the right and below up to a size, with 0 and void, and cut it out at random."""

    size: Pair

    def __call__(self, example: Example, rng: np.random.Generator, void: int) -> Example:
        height, width, _ = example.image.shape
        below, right = max(self.size[0] - height, 0), max(self.size[1] - width, 0)
        return cut_at_random(padded(example, (0, below), (0, right), void), self.size, rng)


@dataclasses.dataclass(frozen=True)
class PadCrop:
    """Pad by so many pixels of 0 all around, and cut out the old size at random (CIFAR)."""

    pixels: int = 4

    def __post_init__(self) -> None:
        check_pixels(self.pixels)

    def __call__(self, example: Example, rng: np.random.Generator, void: int) -> Example:
        height, width, _ = example.image.shape
        around = (self.pixels, self.pixels)
        return cut_at_random(padded(example, around, around, void), (height, width), rng)


@dataclasses.dataclass(frozen=True)
class Blur:
    """Blurs the image with a probability: Gaussian, radius uniform from `low` to `high`."""

    low: float = 0.0
    high: float = 1.0
    p: float = 0.5

    def __post_init__(self) -> None:
        check_chance(self.p)
        check_range(self.low, self.high, least=0)

    def __call__(self, example: Example, rng: np.random.Generator, void: int) -> Example:
        chance, between = rng.random(2).tolist()
        if chance >= self.p:
            return example
        from PIL import Image, ImageFilter

        blur = ImageFilter.GaussianBlur(self.low + (self.high - self.low) * between)
        return example._replace(image=np.asarray(Image.fromarray(example.image).filter(blur)))


Operation = Resize | Flip | Shift | RatioCrop | ShortSide | Crop | PadCrop | Blur


def augment(
    operations: Iterable[Operation], example: Example, void: int, key: tuple[int, int, int, int]
) -> Example:
    """Apply all operations, in order.

    Args:
        operations: A stage's operations.
        example: A sample as it was read.
        void: The label of padded pixels.
        key: The run's seed, the epoch, its step, and the sample's index in the data set: they alone
            determine the random draws.
    """
    seed, *counters = key
    for i, operation in enumerate(operations):
        example = operation(example, draw.generator(seed, f"augmentation/{i}", *counters), void)
    return example


def resized(example: Example, size: Pair) -> Example:
    """At another size: the image bilinearly, antialiased; the label to the nearest pixel."""
    return example.map(
        lambda image: resample(image, size, BILINEAR), lambda label: resample(label, size, NEAREST)
    )


def resample(pixels: np.ndarray, size: Pair, how: int) -> np.ndarray:
    """Resample with Pillow; pixels that already have the size are returned unchanged."""
    height, width = size
    if pixels.shape[:2] == (height, width):
        return pixels
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).resize((width, height), how))


def shifted(pixels: np.ndarray, down: int, right: int, above: int) -> np.ndarray:
    """Shift; `above` enters from the left and from above, 0 from the right and from below."""
    height, width = pixels.shape[:2]
    down, right = max(-height, min(down, height)), max(-width, min(right, width))
    moved = np.full_like(pixels, above)
    (rows, from_rows), (columns, from_columns) = _overlap(height, down), _overlap(width, right)
    moved[rows, columns] = pixels[from_rows, from_columns]
    moved[height + min(down, 0) :] = 0
    moved[:, width + min(right, 0) :] = 0
    return moved


def _overlap(length: int, by: int) -> tuple[slice, slice]:
    """Return the slices of the visible part of a shifted axis: its target and its source."""
    return slice(max(by, 0), length + min(by, 0)), slice(max(-by, 0), length - max(by, 0))


def padded(example: Example, rows: Pair, columns: Pair, void: int) -> Example:
    """Pad with rows above and below and columns left and right: 0 in images, void in labels."""
    if not any((*rows, *columns)):
        return example
    return example.map(
        lambda image: np.pad(image, (rows, columns, (0, 0))),
        lambda label: np.pad(label, (rows, columns), constant_values=void),
    )


def cut_at_random(example: Example, size: Pair, rng: np.random.Generator) -> Example:
    """Crop to a size; every place is equally likely."""
    height, width, _ = example.image.shape
    top, left = rng.integers(0, (height - size[0] + 1, width - size[1] + 1)).tolist()
    return cut(example, (top, left), size)


def cut(example: Example, corner: Pair, size: Pair) -> Example:
    """Crop to a size, from the upper left corner of the part."""
    part = tuple(slice(start, start + n) for start, n in zip(corner, size, strict=True))
    return example.map(lambda image: image[part], lambda label: label[part])
