"""The data of a run: the pipeline of `parity.data`, opened for one recipe."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import cast

import numpy as np

from parity.data import pipeline, statistics
from parity.data.sources import Source
from parity.io import compilation_cache
from parity.spec.errors import InputError
from parity.spec.preprocessing import Preprocessing, published
from parity.spec.training.recipe import Recipe, Stage
from parity.training.dist_env import ALONE, DistEnv
from parity.training.parts import Batches, Progress

MOST_WORKERS = 4  # by default; one for each core that is left


class DataLoader:
    """What a run trains on and is measured by.

    Args:
        recipe: Whose data.
        root: The data set's folder, or what `parity pack` made of it.
        workers: Processes that load; as many as cores are left, at most `MOST_WORKERS`, if not
            given; 0 is a thread of this process.
        split: To validate on; the recipe's if not given.
        place: Whose part of each batch is made.
        images: What is done to an image; what the network's published code does if not given.
        count_size: Height and width at which predictions are counted; those of the predictions if
            not given.

    Attributes:
        samples: How many the training data has, once it is open.

    Raises:
        InputError: The data set cannot be used.
    """

    def __init__(
        self,
        recipe: Recipe,
        root: str | Path,
        workers: int | None,
        split: str | None = None,
        place: DistEnv = ALONE,
        images: Preprocessing | None = None,
        count_size: tuple[int, int] | None = None,
    ) -> None:
        self.recipe, self.root, self.place = recipe.on(place.parts), Path(root), place
        self.images, self.count_size = images, count_size
        self.workers = default_workers(place) if workers is None else workers
        self.dtype = "float64" if recipe.precision == "fp64" else "float32"
        self.measured = pipeline.open_source(recipe, root, split or recipe.val_split)

    def open(self) -> None:
        """Open what is trained on, too.

        Raises:
            InputError: It cannot be used, or a network cannot take images of the recipe's sizes.
        """
        self.source = pipeline.open_source(self.recipe, self.root, self.recipe.train_split)
        self.samples = len(self.source)
        for stage in self.recipe.stages:
            self.batches(stage, 0, 0, 0)
            self.validation(stage)

    def steps(self, stage: Stage) -> int:
        """How many steps an epoch has."""
        return pipeline.steps(self.recipe, stage, self.samples, self.place.parts)

    def batches(self, stage: Stage, epoch: int, epochs: int, first_step: int) -> Batches:
        """The batches of so many epochs, counted over the whole run, from this step on."""
        made = pipeline.batches(
            self.source,
            self.recipe,
            stage,
            epoch,
            first_step=first_step,
            epochs=epochs,
            workers=self.workers,
            dtype=self.dtype,
            rank=self.place.process,
            ranks=self.place.processes,
            parts=self.place.parts,
        )
        return cast(Batches, made)  # a generator, which is to be closed

    def validation(self, stage: Stage) -> Batches:
        """Every image once, with its truth."""
        made = pipeline.validation(
            self.measured,
            self.recipe,
            stage,
            workers=self.workers,
            dtype=self.dtype,
            rank=self.place.process,
            ranks=self.place.processes,
            images=self.images,
            count_size=self.count_size,
        )
        return cast(Batches, made)

    def class_weights(self, stage: Stage, progress: Progress | None = None) -> np.ndarray | None:
        """The loss's weights of the network's outputs, or none."""
        source = getattr(self, "source", None)
        if source is None:
            source = self._counted(stage)
        cache = compilation_cache.of_user().parent / "counts"
        return statistics.class_weights(self.recipe, stage, source, cache, progress)

    def _counted(self, stage: Stage) -> Source:
        """What class weights are made of where a checkpoint does not bring them.

        Pixels are counted in the training split; rules that count none do without it.

        Raises:
            InputError: It cannot be opened; it says what it is needed for.
        """
        split, rule = self.recipe.train_split, stage.loss.class_weights.rule
        if rule not in statistics.COUNTED:
            return self.measured
        try:
            return pipeline.open_source(self.recipe, self.root, split)
        except InputError as error:
            raise InputError(
                f"{error}; the loss of recipe {self.recipe.name} weighs classes by rule"
                f" {rule!r}, which counts the pixels of split {split!r}; parity miou evaluates"
                " without a loss"
            ) from error

    def preprocessing(self, stage: Stage) -> Preprocessing:
        """What is done to an image before the network gets it."""
        found = published(stage.config, self.recipe.labels)
        return dataclasses.replace(found, size=self.recipe.size)

    def name(self, sample: int) -> str:
        """A name of an image of the validation, fit for a file."""
        # Of a packed file's sample the file's name comes first.
        stem = Path(self.measured.name(sample).rpartition(": ")[2]).stem
        return f"{sample:04}-{re.sub(r'[^A-Za-z0-9_.-]+', '_', stem)}"


def default_workers(place: DistEnv = ALONE) -> int:
    """One for each core that is left, where training takes one; of this process."""
    here = place.processes // place.nodes
    return min(MOST_WORKERS, max(1, ((os.cpu_count() or 1) - here) // here))
