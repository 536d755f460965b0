"""One framework's trainer, spoken to in published names."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import numpy as np

from parity.spec.training.recipe import Recipe, Stage
from parity.spec.training.trainer import Arrays, Snapshot, Trainer
from weights_convert import dialects
from weights_convert.memory import contiguous

FRAMEWORKS = ("torch", "jax")


class Side:
    """A framework.

    Args:
        framework: `torch` or `jax`; also the dialect of its names.
    """

    def __init__(self, framework: str) -> None:
        self.framework = framework

    def trainer(
        self, recipe: Recipe, stage: Stage, arrays: Arrays, class_weights: np.ndarray | None
    ) -> Trainer:
        """The trainer of a stage.

        Args:
            recipe: Says the precision.
            stage: One of it.
            arrays: Published key -> array of PyTorch's shape.
            class_weights: Of the network's outputs, or none.

        Raises:
            InputError: The arrays are not the network's.
        """
        module: Any = importlib.import_module(f"{self.framework}_impl.train")
        return module.Trainer(
            stage.config,
            stage.optimizer,
            stage.loss,
            dialects.to_dialect(stage.config, arrays, self.framework),
            class_weights,
            recipe.precision,
            recipe.level,
            recipe.loss_scale,
        )

    def published(self, stage: Stage, snapshot: Snapshot) -> Snapshot:
        """The framework's snapshot with published names and shapes."""
        config = stage.config
        names = dialects.names(config, self.framework)
        return dataclasses.replace(
            snapshot,
            arrays=dialects.to_canonical(config, snapshot.arrays, self.framework),
            slots={
                slot: contiguous(
                    {k: leaf.inverse().array(a[n]) for n, (k, leaf) in names.items() if n in a}
                )
                for slot, a in snapshot.slots.items()
            },
        )

    def own(self, stage: Stage, snapshot: Snapshot) -> Snapshot:
        """The inverse of `published`."""
        config = stage.config
        names = dialects.names(config, self.framework)
        return dataclasses.replace(
            snapshot,
            arrays=dialects.to_dialect(config, snapshot.arrays, self.framework),
            slots={
                slot: {n: leaf.array(a[k]) for n, (k, leaf) in names.items() if k in a}
                for slot, a in snapshot.slots.items()
            },
        )
