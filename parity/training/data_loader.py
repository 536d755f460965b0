"""The training and validation data of a run, opened for one recipe."""

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
from parity.spec.preprocessing import Preprocessing
from parity.spec.training.recipe import Recipe, Stage
from parity.training.dist_env import ALONE, DistEnv
from parity.training.parts import Batches, Progress

MOST_WORKERS = 4  # by default; one for each core that is left


class NotCountedError(InputError):
    """Class weights cannot be counted: there is no training split."""


class DataLoader:
    """The training and validation data of a run.

    Args:
        recipe: The run's recipe.
        root: The data set's folder, or its file from `parity pack`.
        workers: Number of processes that load data; by default one per remaining core, at most
            `MOST_WORKERS`; 0 uses a thread of this process.
        split: The split to validate on; the recipe's if not given.
        env: The process whose part of each batch is made.
        images: The preprocessing; that of the network's published code if not given.
        count_size: Height and width at which predictions are counted; those of the predictions if
            not given.

    Attributes:
        samples: Number of training samples, once the data is open.

    Raises:
        InputError: The data set cannot be used.
    """

    def __init__(
        self,
        recipe: Recipe,
        root: str | Path,
        workers: int | None,
        split: str | None = None,
        env: DistEnv = ALONE,
        images: Preprocessing | None = None,
        count_size: tuple[int, int] | None = None,
    ) -> None:
        self.recipe, self.root, self.env = recipe.on(env.parts), Path(root), env
        self.images, self.count_size = images, count_size
        self.workers = default_workers(env) if workers is None else workers
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
        """Return the number of steps of an epoch."""
        return pipeline.steps(self.recipe, stage, self.samples, self.env.parts)

    def batches(self, stage: Stage, epoch: int, epochs: int, first_step: int) -> Batches:
        """Return the batches of so many epochs, counted over the whole run, from this step on."""
        made = pipeline.batches(
            self.source,
            self.recipe,
            stage,
            epoch,
            first_step=first_step,
            epochs=epochs,
            workers=self.workers,
            dtype=self.dtype,
            rank=self.env.process,
            ranks=self.env.processes,
            parts=self.env.parts,
        )
        return cast(Batches, made)  # a generator, which is to be closed

    def validation(self, stage: Stage) -> Batches:
        """Yield batches of every validation image once, with its true labels."""
        made = pipeline.validation(
            self.measured,
            self.recipe,
            stage,
            workers=self.workers,
            dtype=self.dtype,
            rank=self.env.process,
            ranks=self.env.processes,
            images=self.images,
            count_size=self.count_size,
        )
        return cast(Batches, made)

    def class_weights(self, stage: Stage, progress: Progress | None = None) -> np.ndarray | None:
        """Return the loss's weights of the network's outputs, or none."""
        source = getattr(self, "source", None)
        if source is None:
            source = self._counted(stage)
        cache = compilation_cache.of_user().parent / "counts"
        return statistics.class_weights(self.recipe, stage, source, cache, progress)

    def _counted(self, stage: Stage) -> Source:
        """Return the data to compute class weights from, where a checkpoint has none.

        Pixels are counted in the training split, which is opened only for rules that count.

        Raises:
            NotCountedError: It cannot be opened; the message says what it is needed for.
        """
        split, rule = self.recipe.train_split, stage.loss.class_weights.rule
        if rule not in statistics.COUNTED:
            return self.measured
        try:
            return pipeline.open_source(self.recipe, self.root, split)
        except InputError as error:
            raise NotCountedError(
                f"{error}; the loss of recipe {self.recipe.name} weighs classes by rule"
                f" {rule!r}, which counts the pixels of split {split!r}"
            ) from error

    def preprocessing(self, stage: Stage) -> Preprocessing:
        """Return the preprocessing of the stage's network, with the recipe's size."""
        found = self.recipe.preprocessing(stage.config)
        return dataclasses.replace(found, size=self.recipe.size)

    def name(self, sample: int) -> str:
        """Return a name of an image of the validation, fit for a file."""
        # Of a packed file's sample the file's name comes first.
        stem = Path(self.measured.name(sample).rpartition(": ")[2]).stem
        return f"{sample:04}-{re.sub(r'[^A-Za-z0-9_.-]+', '_', stem)}"


def default_workers(env: DistEnv = ALONE) -> int:
    """Return this process's number of workers: one per core not used for training."""
    here = env.processes // env.nodes
    return min(MOST_WORKERS, max(1, ((os.cpu_count() or 1) - here) // here))
