"""The data of a run: the pipeline of `parity.spec.data`, opened for one recipe."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import cast

import numpy as np

from parity import compiled
from parity.spec.data import pipeline, statistics
from parity.spec.data.preprocessing import Preprocessing, published
from parity.spec.training.recipe import Recipe, Stage
from parity.training.parts import Batches, Progress
from parity.training.place import ALONE, Place

MOST_WORKERS = 4  # by default; one for each core that is left


class Feed:
    """See `parity.training.parts.Data`.

    Args:
        recipe: Whose data.
        root: The data set's folder, or what `parity pack` made of it.
        workers: Processes that load; as many as cores are left, at most `MOST_WORKERS`, if not
            given; 0 is a thread of this process.
        split: To validate on; the recipe's if not given.
        place: Whose part of each batch is made.

    Raises:
        InputError: The data set cannot be used.
    """

    def __init__(
        self,
        recipe: Recipe,
        root: str | Path,
        workers: int | None,
        split: str | None = None,
        place: Place = ALONE,
    ) -> None:
        self.recipe, self.root, self.place = recipe.on(place.parts), Path(root), place
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
        return pipeline.steps(self.recipe, stage, self.samples, self.place.parts)

    def batches(self, stage: Stage, epoch: int, epochs: int, first_step: int) -> Batches:
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
        made = pipeline.validation(
            self.measured,
            self.recipe,
            stage,
            workers=self.workers,
            dtype=self.dtype,
            rank=self.place.process,
            ranks=self.place.processes,
        )
        return cast(Batches, made)

    def class_weights(self, stage: Stage, progress: Progress | None = None) -> np.ndarray | None:
        source = getattr(self, "source", None)
        if source is None:
            source = pipeline.open_source(self.recipe, self.root, self.recipe.train_split)
        cache = compiled.of_user().parent / "counts"
        return statistics.class_weights(self.recipe, stage, source, cache, progress)

    def preprocessing(self, stage: Stage) -> Preprocessing:
        found = published(stage.config, self.recipe.labels)
        return dataclasses.replace(found, size=self.recipe.size)

    def name(self, sample: int) -> str:
        # Of a packed file's sample the file's name comes first.
        stem = Path(self.measured.name(sample).rpartition(": ")[2]).stem
        return f"{sample:04}-{re.sub(r'[^A-Za-z0-9_.-]+', '_', stem)}"


def default_workers(place: Place = ALONE) -> int:
    """One for each core that is left, where training takes one; of this process."""
    here = place.processes // place.nodes
    return min(MOST_WORKERS, max(1, ((os.cpu_count() or 1) - here) // here))
