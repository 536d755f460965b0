"""Pictures of a few predictions: the input, the true labels and the prediction."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from parity.io.files import make_folder, write_atomically
from parity.spec.labels import outputs
from parity.spec.preprocessing import Preprocessing
from parity.spec.training.recipe import Recipe
from parity.spec.training.trainer import Batch

GAP = 4  # white pixels between pictures
SHEET = 32  # whole images of one sheet
FRAMES = ((200, 30, 40), (30, 150, 70))  # wrong, right


class ImageGrid:
    """Pictures of the first images of a validation.

    Args:
        recipe: The recipe, for its data set.
        preprocessing: The preprocessing of the images.
        name: Returns a sample's name.
        count: Number of pictures to keep.
    """

    def __init__(
        self,
        recipe: Recipe,
        preprocessing: Preprocessing,
        name: Callable[[int], str],
        count: int,
    ) -> None:
        self.preprocessing, self.name, self.count = preprocessing, name, count
        self.pages: dict[int, np.ndarray] = {}  # of a sample
        self.tiles: dict[int, np.ndarray] = {}
        self.palette = None
        data = recipe.dataset
        if data.pixels:
            order = outputs(recipe.labels or "void-last", len(data.classes))
            self.palette = np.asarray(data.palette, np.uint8)[np.argsort(order)]

    def add(self, batch: Batch, classes: np.ndarray) -> None:
        """Keep what is wanted of a batch and what was predicted for it."""
        truth = batch.truth
        assert truth is not None
        for i, sample in enumerate(batch.samples.tolist()):
            if self.palette is not None and len(self.pages) < self.count:
                parts = [seen(batch.images[i], self.preprocessing)]
                parts += [self._coloured(m[i], parts[0].shape[:2]) for m in (truth, classes)]
                self.pages[sample] = beside(parts)
            elif self.palette is None and self.count and len(self.tiles) < SHEET:
                image = seen(batch.images[i], self.preprocessing)
                self.tiles[sample] = framed(image, FRAMES[int(truth[i] == classes[i])])

    def join(self, pages: dict[int, np.ndarray], tiles: dict[int, np.ndarray]) -> None:
        """Take what another has kept, and keep the first ones of all."""
        self.pages = dict(sorted((self.pages | pages).items())[: self.count])
        self.tiles = dict(sorted((self.tiles | tiles).items())[:SHEET])

    def write(self, folder: Path) -> None:
        """Write one file per image, or one for all small images.

        Raises:
            InputError: It cannot be written.
        """
        pages = {self.name(sample): page for sample, page in self.pages.items()}
        if self.tiles:
            tiles = list(self.tiles.values())
            rows = [beside(tiles[i : i + 8]) for i in range(0, len(tiles), 8)]
            whole = [row for row in rows if row.shape == rows[0].shape]
            pages["sheet"] = np.concatenate(whole)
        if pages:
            make_folder(folder)
        for name, pixels in pages.items():
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            write_atomically(folder / f"{name}.png", file.getvalue())

    def _coloured(self, labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Labels at the size of their image."""
        assert self.palette is not None
        image = Image.fromarray(self.palette[labels])
        return np.asarray(image.resize(size[::-1], Image.Resampling.NEAREST))


def seen(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """(H, W, 3) as the network takes it, back to uint8 RGB."""
    pixels = image * np.asarray(preprocessing.std) + np.asarray(preprocessing.mean)
    pixels = np.clip(np.rint(pixels * 255), 0, 255).astype(np.uint8)
    return pixels if preprocessing.channels == "RGB" else pixels[..., ::-1]


def beside(parts: list[np.ndarray]) -> np.ndarray:
    """Pictures of one height in a row."""
    gap = np.full((parts[0].shape[0], GAP, 3), 255, np.uint8)
    row = [piece for part in parts for piece in (part, gap)]
    return np.concatenate(row[:-1], axis=1)


def framed(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Add a frame of two pixels."""
    height, width = image.shape[:2]
    made = np.full((height + 4, width + 4, 3), colour, np.uint8)
    made[2:-2, 2:-2] = image
    return made
