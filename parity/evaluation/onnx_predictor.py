"""Predictions of an ONNX file, and what its inputs and outputs are taken for."""

from __future__ import annotations

import numpy as np

from parity.export.reading import Network
from parity.spec.errors import InputError
from parity.spec.models import CLASSIFIERS
from parity.spec.preprocessing import PLAIN, Preprocessing
from weights_convert.assumptions import (
    WHOLE_IMAGES,
    Assumed,
    Assumptions,
    Used,
    choose,
    label_order,
    only_pixels,
    pixels_said,
    size_said,
)


class OnnxClasses:
    """Images to classes with an ONNX file.

    Args:
        network: The file, open.
        pixels: How an image is preprocessed.
        outputs: Number of the network's outputs.
        whole: Whether it has a class for each image, not for each pixel.
    """

    def __init__(
        self, network: Network, pixels: Preprocessing, outputs: int, whole: bool = False
    ) -> None:
        self.network, self.pixels, self.outputs, self.whole = network, pixels, outputs, whole

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the class of each pixel, the first of equal maxima.

        Args:
            images: (1, H, W, 3) uint8, of the file's size.

        Returns:
            (1, H', W') int64; (1,) for whole images.

        Raises:
            FloatingPointError: A logit is not finite.
            InputError: ONNX Runtime refuses, or the logits have another shape.
        """
        x = np.ascontiguousarray(self.pixels(images, "float32").transpose(0, 3, 1, 2))
        logits = self.network(x)[0]
        if not np.isfinite(logits).all():
            raise FloatingPointError(f"{self.network.path} gives logits that are not finite")
        if logits.ndim != (2 if self.whole else 4) or logits.shape[1] != self.outputs:
            raise InputError(
                f"{self.network.path}: logits of shape {logits.shape[1:]}, expected {self.outputs}"
                f" for each {'image' if self.whole else 'pixel'}"
            )
        return logits.argmax(axis=1)


def assumptions(
    network: Network, outputs: int, classes: tuple[str, ...] | None, order: str | None
) -> Assumptions:
    """Return the assumptions on an ONNX file's inputs and outputs.

    Args:
        network: The file, open.
        outputs: Number of its outputs.
        classes: The classes that it predicts, without void, if they are known.
        order: Which output is void, if the user specifies it.

    Raises:
        InputError: As for `weights_convert.assumptions.label_order`.
    """
    said = network.manifest
    if said is not None and said.network in CLASSIFIERS:
        labels = Used[str | None](None, WHOLE_IMAGES)
    else:
        labels = label_order(outputs, said, network.path, classes, order)
    images = None if said is None else only_pixels(said.preprocessing)
    pixels = choose(None, images, Assumed(PLAIN, "the default"), pixels_said)
    # The file itself shows its size; there is nothing to choose.
    size = None if said is None else said.preprocessing.size
    clash = None if size in (None, network.size) else f"its manifest says {size_said(size)}"
    return Assumptions(labels, pixels, Used(network.size, "the file's input", clash))
