"""What is done to a sample before it is trained on, as data.

Every number that an operation needs is drawn before it, from the generator of its sample.
"""

from __future__ import annotations

import dataclasses

Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Resize:
    """To a size: images bilinearly, antialiased, as Pillow does; labels to the nearest pixel."""

    size: Pair


@dataclasses.dataclass(frozen=True)
class Flip:
    """Left to right, with a probability."""

    p: float = 0.5


@dataclasses.dataclass(frozen=True)
class Shift:
    """By whole pixels, up to so many in either direction, as Eromera/erfnet_pytorch does.

    What comes in from the left or above is 0 in images and void in labels; from the right or below
    it is 0 in both, which is a class (road).
    """

    pixels: int = 2


@dataclasses.dataclass(frozen=True)
class RatioCrop:
    """With a probability, cut out 1 / ratio of either side at a random place, ratio uniform.

    Attributes:
        low: The least ratio; fixed where `high` is the same.
        high: The greatest.
        p: Probability.
    """

    low: float
    high: float
    p: float = 0.5


@dataclasses.dataclass(frozen=True)
class ShortSide:
    """Scale so that the shorter side is a whole number of pixels, uniform from `low` to `high`."""

    low: int
    high: int


@dataclasses.dataclass(frozen=True)
class Crop:
    """Pad at the right and below up to a size, with 0 and void, and cut it out at random."""

    size: Pair


@dataclasses.dataclass(frozen=True)
class PadCrop:
    """Pad by so many pixels of 0 all around, and cut out the old size at random (CIFAR)."""

    pixels: int = 4


@dataclasses.dataclass(frozen=True)
class Blur:
    """With a probability, Gaussian blur of the image, radius uniform from `low` to `high`."""

    low: float = 0.0
    high: float = 1.0
    p: float = 0.5


Operation = Resize | Flip | Shift | RatioCrop | ShortSide | Crop | PadCrop | Blur
