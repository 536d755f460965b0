"""Predictions as picture files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from parity.spec.datasets import Colour, DataSet

OPACITY = 0.5  # of the colours that are laid over an image


def coloured(train_ids: np.ndarray, palette: Sequence[Colour]) -> Image.Image:
    """Return a picture whose pixels are trainIds and whose palette shows their colours.

    Args:
        train_ids: (H, W) uint8.
        palette: RGB of each trainId.
    """
    drawn = Image.fromarray(train_ids)
    drawn.putpalette([part for colour in palette for part in colour])
    return drawn


def overlaid(image: np.ndarray, train_ids: np.ndarray, palette: Sequence[Colour]) -> Image.Image:
    """Return an image with the colours of its classes laid over it.

    Args:
        image: (H, W, 3) uint8.
        train_ids: (H, W) uint8.
        palette: RGB of each trainId.
    """
    colours = np.asarray(palette, np.uint8)[train_ids]
    mixed = (1 - OPACITY) * image + OPACITY * colours
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def labelled(train_ids: np.ndarray, data: DataSet) -> Image.Image:
    """Return a label map as the data set's own are: ids in one channel, or colours.

    Args:
        train_ids: (H, W) uint8.
        data: The data set.
    """
    if data.ids:
        return Image.fromarray(np.asarray(data.ids, np.uint8)[train_ids])
    return Image.fromarray(np.asarray(data.palette, np.uint8)[train_ids])


def save(picture: Image.Image, path: Path) -> None:
    """Write a picture, and make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
