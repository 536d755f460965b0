"""Training data for scaled-down recipes: drawn scenes, labelled as a recipe's data set is."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from parity.data.cityscapes import CITYSCAPES
from parity.data.scenes import scene
from parity.data.sources import Source
from parity.spec import draw
from parity.spec.labels import outputs
from parity.spec.training.recipe import Recipe

BLOCK = 4  # pixels
LARGER = 2  # a scene than what is trained on, so that there is something to cut off


class Scenes:
    """Drawn scenes, as a `parity.data.sources.Reader`.

    Args:
        size: Height and width of a scene, in pixels.
        count: Number of scenes.
        classes: Names of the pixels' classes, without void.
        whole: Whether each scene has one class.
    """

    def __init__(self, size: tuple[int, int], count: int, classes: int, whole: bool) -> None:
        self.size, self.count, self.classes, self.whole = size, count, classes, whole

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray | int]:
        image, ids = _scene(i, *self.size)
        return image, i % self.classes if self.whole else self._trained(ids)

    def label(self, i: int) -> np.ndarray | int:
        return self[i][1]

    def name(self, i: int) -> str:
        return f"scene {i}"

    def identity(self) -> str:
        return f"scenes {self.size} {self.count} {self.classes} {self.whole}"

    def _trained(self, ids: np.ndarray) -> np.ndarray:
        """Cityscapes' trainIds; those that the data set does not have are void."""
        found = np.array(CITYSCAPES.train_ids, np.uint8)[ids]
        return np.minimum(found, self.classes).astype(np.uint8)


class Blocks(Scenes):
    """Noise instead of scenes, which is fast to make, labelled in blocks.

    The number of classes and the amount of void differ between samples, so that the parts of a
    batch have different weights.
    """

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray | int]:
        rng, (height, width) = draw.generator(0, "blocks", i), self.size
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        if self.whole:
            return image, i % self.classes
        shape = -(-height // BLOCK), -(-width // BLOCK)
        blocks = rng.integers(0, 1 + i % self.classes, shape)
        blocks[rng.random(shape) < i % 3 / 8] = self.classes  # void
        return image, np.kron(blocks, np.ones((BLOCK, BLOCK)))[:height, :width].astype(np.uint8)

    def identity(self) -> str:
        return super().identity().replace("scenes", "blocks")


@functools.lru_cache(maxsize=64)
def _scene(i: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    return scene(0, i, height, width)


def source(recipe: Recipe, count: int, kind: type[Scenes] = Scenes) -> Source:
    """Return a source of scenes, as the training split of a scaled-down recipe.

    Args:
        recipe: The recipe.
        count: Scenes.
        kind: Or blocks.
    """
    classes, pixels = recipe.dataset.classes, recipe.dataset.pixels
    # CIFAR's images are padded, the others have something cut off.
    height, width = (n * LARGER if pixels else n for n in recipe.size)
    reader = kind((height, width), count, len(classes), whole=not pixels)
    order = recipe.labels or "void-last"
    labels = outputs(order, len(classes)) if pixels else np.arange(len(classes), dtype=np.uint8)
    return Source(Path("scenes"), "train", reader, classes, labels, pixels)
