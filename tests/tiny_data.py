"""Recipes at a tiny size, data sets of a few drawn images for them, and comparison of batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from parity.data import pipeline
from parity.spec.augmentation import Crop, Resize, ShortSide
from parity.spec.recipes import RECIPES
from parity.spec.training.recipe import Recipe
from parity.spec.training.trainer import Batch
from tests.batches import cifar
from tests.scenes import save, scene

SIZE = (16, 24)


def tiny(name: str, stage: int = 0, size: tuple[int, int] = SIZE, **changed: object) -> Recipe:
    """A recipe at a tiny size, of one stage."""
    recipe = RECIPES[name]
    operations = {Resize: Resize(size), Crop: Crop(size), ShortSide: ShortSide(12, 40)}
    found = recipe.stages[stage]
    found = dataclasses.replace(
        found,
        augmentation=tuple(operations.get(type(x), x) for x in found.augmentation),
        batch=2,
        **changed,
    )
    return dataclasses.replace(recipe, size=size, stages=(found,))


def data(root: Path, recipe: Recipe) -> Path:
    """A data set for it, of 7 or more samples."""
    if recipe.data == "cifar10":
        return cifar(root, 2)
    for split in (recipe.train_split, recipe.val_split):
        for i in range(7):
            image, label = scene(i, 12, 32, 48)
            if recipe.data == "camvid":
                save(root / split / f"{i}.png", image)
                save(root / f"{split}annot" / f"{i}.png", label)
            else:
                image, label = scene(i, 34, 32, 64)
                name = f"ulm_{i:06}_000019"
                save(root / "leftImg8bit" / split / "ulm" / f"{name}_leftImg8bit.png", image)
                save(root / "gtFine" / split / "ulm" / f"{name}_gtFine_labelIds.png", label)
    return root


def opened(root: Path, recipe: Recipe, split: str | None = None) -> pipeline.Source:
    return pipeline.open_source(recipe, data(root, recipe), split or recipe.train_split)


def equal(a: Batch, b: Batch) -> None:
    """Bit for bit, types and order of masks included."""
    for x, y in zip((a.images, *a.targets, a.samples), (b.images, *b.targets, b.samples)):  # noqa: B905  # targets are counted below
        np.testing.assert_array_equal(x, y, strict=True)
    assert len(a.targets) == len(b.targets)
    assert list(a.masks) == list(b.masks)
    for site, mask in a.masks.items():
        np.testing.assert_array_equal(mask, b.masks[site], strict=True)
    assert (a.truth is None) == (b.truth is None)
    if a.truth is not None:
        np.testing.assert_array_equal(a.truth, b.truth, strict=True)


def equals(a: Iterable[Batch], b: Iterable[Batch]) -> int:
    count = 0
    for count, pair in enumerate(zip(a, b, strict=True), 1):  # noqa: B007  # counted
        equal(*pair)
    return count
