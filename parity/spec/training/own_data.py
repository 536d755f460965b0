"""A published recipe, applied to a data set of the user's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from parity.spec.augmentation import Crop, Resize
from parity.spec.datasets import DataSet
from parity.spec.errors import InputError, listed
from parity.spec.models import CLASSIFIERS
from parity.spec.recipes import DECODER_WEIGHTS, ENCODER_WEIGHTS
from parity.spec.training.losses import ClassWeights, Loss
from parity.spec.training.recipe import Recipe, Stage

IGNORED = -1  # the label of pixels that do not count
VALIDATION = ("val", "validation", "test")  # names of splits to validate on, the best first
# What the fixed weights of ERFNet's recipes follow from, at its two sizes of labels.
RULES = {
    ENCODER_WEIGHTS: ClassWeights("log", c=1.2),
    DECODER_WEIGHTS: ClassWeights("log", c=1.1),
}


def applied(recipe: Recipe, data: DataSet, splits: Iterable[str]) -> Recipe:
    """Return a recipe for a data set of the user's.

    Each network has one output per class and none for void: ignored pixels do not count in the
    loss. Class weights that are fixed for the published classes are counted instead, by the rule
    that they come from. Where a stage would take images as they are (CIFAR-10 has one size), they
    are first resized to the recipe's size. All else is the recipe's.

    Args:
        recipe: The recipe; not modified.
        data: The data set.
        splits: The names of its splits.

    Raises:
        InputError: The recipe predicts classes of pixels and the data set has classes of images, or
            the other way round; or the recipe is already for a data set with other classes.
    """
    if recipe.own is not None:
        check_same(recipe, data)
        return recipe
    pixels = recipe.stages[0].config.family not in CLASSIFIERS
    if pixels != data.pixels:
        kinds = {True: "a class for each pixel", False: "one class for each image"}
        raise InputError(
            f"recipe {recipe.name} trains {kinds[pixels]}, but data set {data.name} has"
            f" {kinds[data.pixels]}"
        )
    names = list(splits)
    choices = [name for name in (recipe.val_split, *VALIDATION) if name in names]
    return dataclasses.replace(
        recipe,
        data=data.name,
        own=data,
        labels=None,
        published=None,
        val_split=choices[0] if choices else recipe.val_split,
        stages=tuple(_stage(stage, recipe, data) for stage in recipe.stages),
    )


def check_same(recipe: Recipe, data: DataSet) -> None:
    """Refuse a data set with other classes than those of a recipe's own data set.

    Raises:
        InputError: It says the first difference.
    """
    assert recipe.own is not None
    if recipe.own.same(data):
        return
    ours, theirs = (", ".join(d.classes) for d in (recipe.own, data))
    kind = "" if recipe.own.pixels == data.pixels else ", of pixels in one and images in the other"
    raise InputError(
        f"the network is trained on data set {recipe.own.name} with classes {listed([ours])}, but"
        f" {data.name} has {listed([theirs])}{kind}"
    )


def _stage(stage: Stage, recipe: Recipe, data: DataSet) -> Stage:
    operations = stage.augmentation
    if not any(isinstance(operation, Resize | Crop) for operation in operations):
        operations = (Resize(recipe.size), *operations)
    loss = _loss(stage.loss) if data.pixels else stage.loss
    return dataclasses.replace(stage, outputs=len(data.classes), augmentation=operations, loss=loss)


def _loss(loss: Loss) -> Loss:
    """Return a loss of pixels that ignores void and has no weights of the published classes."""
    weights = RULES.get(loss.class_weights, loss.class_weights)
    return dataclasses.replace(loss, class_weights=weights, ignore_index=IGNORED)
