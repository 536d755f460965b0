"""Deciding whether rounding explains a pixel on which two sides disagree.

Where the two best logits of a pixel are nearly equal, rounding decides which one is larger, and
each side rounds differently. Such a pixel says nothing about the port. With r64 the reference in
float64, it counts against the port only

- where the port in float64 disagrees with the reference in float64: rounding is too small there to
  hide a fault, or to cause anything;
- or where the port's logits in float32 are less exact than rounding explains, and the pixel is not
  near a tie: r64 prefers its best class to the port's by more than 2 * limit, as both logits may be
  off by the limit.

The limit is that of `parity.ladder.tolerances` for a whole network, of all logits of the image:

    limit = K * (error(reference) + sensitivity) + FLOOR * rms(r64)

with error(reference) the root mean square of r32 - r64, and sensitivity that of what r64 moves by
when the image is disturbed. Levels of brightness are disturbed, not pixels: equal pixels stay
equal. An image of 8 bits is full of them, max-pooling takes the first of equal values on either
side, and a disturbance that parts them would turn over far more choices than rounding does.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from parity.ladder import tolerances
from parity.spec import draw
from parity.spec.preprocessing import Preprocessing

REFERENCE, PORT = "torch", "jax"
WORKING = "float32"


@dataclasses.dataclass(frozen=True)
class Judgement:
    """The judgement of one image.

    Attributes:
        disagreeing: Number of pixels on which the sides disagree.
        counting: Number of those that rounding does not explain.
        in_float64: Number of those on which they disagree in float64, too.
        limit: How far rounding may move a logit of this image.
        error: Root mean square error of the port's logits in float32.
        gap: By how much r64 prefers its best class to the port's, on the worst of these pixels.
    """

    disagreeing: int
    counting: int
    in_float64: int
    limit: float
    error: float
    gap: float

    @property
    def explained(self) -> int:
        """Pixels that rounding explains."""
        return self.disagreeing - self.counting

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**dataclasses.asdict(self), "explained": self.explained}


@dataclasses.dataclass(frozen=True)
class Disturbed(Preprocessing):
    """Preprocessing with each brightness level of each channel randomly disturbed."""

    def __call__(self, images: np.ndarray, dtype: str) -> np.ndarray:
        levels = np.arange(256, dtype=np.uint8)[:, None].repeat(3, axis=1)
        generator = draw.generator(0, "stir", 0)
        table = tolerances.disturb(
            super().__call__(levels, dtype), tolerances.input_disturbance(WORKING), generator
        )
        ordered = images if self.channels == "RGB" else images[..., ::-1]
        return table.astype(dtype)[ordered, np.arange(3)]


class Oracle:
    """Judges the pixels on which two sides disagree in float32.

    The networks are built when the first such image occurs.

    Args:
        predictor: (framework, dtype, preprocessing) -> an object with a method `logits`, images (N,
            H, W, 3) uint8 to logits (N, H', W', classes).
        pixels: How an image is preprocessed.
    """

    def __init__(
        self, predictor: Callable[[str, str, Preprocessing], Any], pixels: Preprocessing
    ) -> None:
        self.predictor = functools.cache(predictor)
        self.pixels = pixels
        self.disturbed = Disturbed(mean=pixels.mean, std=pixels.std, channels=pixels.channels)

    def judge(self, image: np.ndarray, reference: np.ndarray, port: np.ndarray) -> Judgement:
        """Judge one image.

        Args:
            image: (H, W, 3) uint8.
            reference: The classes that it predicts in float32, (H', W').
            port: The port's classes, (H', W').
        """
        exact = self._logits(REFERENCE, "float64", image)
        limit = self._limit(exact, image)
        rows, columns = np.nonzero(reference != port)
        there = exact[rows, columns]
        best, chosen = there.argmax(axis=-1), port[rows, columns]
        gap = there.max(axis=-1) - there[np.arange(len(there)), chosen]
        in_float64 = self._logits(PORT, "float64", image)[rows, columns].argmax(axis=-1) != best
        error = rms(self._logits(PORT, WORKING, image) - exact)
        inexact = (gap > 2 * limit) & (error > limit)
        return Judgement(
            disagreeing=len(rows),
            counting=int((in_float64 | inexact).sum()),
            in_float64=int(in_float64.sum()),
            limit=limit,
            error=error,
            gap=float(gap.max(initial=0.0)),
        )

    def _limit(self, exact: np.ndarray, image: np.ndarray) -> float:
        """Return how far rounding may move a logit; see the module's docstring."""
        error = rms(self._logits(REFERENCE, WORKING, image) - exact)
        sensitivity = rms(self._logits(REFERENCE, "float64", image, self.disturbed) - exact)
        return tolerances.K * (error + sensitivity) + tolerances.floor(WORKING) * rms(exact)

    def _logits(
        self, framework: str, dtype: str, image: np.ndarray, pixels: Preprocessing | None = None
    ) -> np.ndarray:
        predictor = self.predictor(framework, dtype, pixels or self.pixels)
        return np.asarray(predictor.logits(image[None])[0], np.float64)


def rms(array: np.ndarray) -> float:
    """Return the root mean square."""
    return tolerances.norm(array) / max(array.size, 1) ** 0.5
