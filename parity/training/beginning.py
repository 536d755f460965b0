"""What a stage begins with: what was drawn, a checkpoint of weights, or what the last one left."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import weights_convert
from parity.spec.errors import InputError
from parity.spec.initial import initial
from parity.spec.models import MODELS
from parity.spec.training.recipe import Recipe, Stage
from parity.spec.training.stages import carried
from parity.spec.training.trainer import Snapshot
from weights_convert import notes
from weights_convert.wrapping import ANY, Choice


class From:
    """The beginning of each stage of a recipe.

    Args:
        recipe: The recipe.
        start: A checkpoint of weights that the first stage begins with.
        choice: Which of its tensors are meant; see `weights_convert.load`.

    Raises:
        InputError: A stage cannot go on with the optimizer of the one before it.
    """

    def __init__(
        self, recipe: Recipe, start: str | Path | None = None, choice: Choice = ANY
    ) -> None:
        self.recipe = recipe
        self.choice = choice
        self.start = None if start is None else Path(start)
        self.notes: list[str] = []  # of that checkpoint; see `weights_convert.notes`
        for before, stage in zip(recipe.stages, recipe.stages[1:], strict=False):
            same = (before.model, before.optimizer.kind) == (stage.model, stage.optimizer.kind)
            if stage.keep_optimizer and not same:
                raise InputError(
                    f"stage {stage.name} has another network or optimizer than {before.name}:"
                    " keep_optimizer cannot be true"
                )

    def check(self) -> None:
        """Refuse to begin without a checkpoint that the recipe needs, or with a wrong one.

        Raises:
            InputError: It is not given, cannot be read, or holds nothing of the first network.
        """
        if self.recipe.start and self.start is None:
            raise InputError(
                f"recipe {self.recipe.name} begins with a checkpoint of {self.recipe.start}:"
                " --start CHECKPOINT"
            )
        if self.start is not None:
            self._given(self.recipe.stages[0])

    def __call__(self, stage: Stage, before: tuple[Stage, Snapshot] | None) -> Snapshot:
        """What a stage begins with.

        Args:
            stage: One of the recipe.
            before: The stage before it, and what it left, with published names.

        Raises:
            InputError: The checkpoint cannot be read, or holds nothing of this network.
        """
        if before is not None:
            drawn = initial(stage.config, stage.initial, self.recipe.seed)
            arrays = carried(before[0].config, before[1].arrays, stage.config, drawn)
            if stage.keep_optimizer:
                return dataclasses.replace(before[1], arrays=arrays)
            return Snapshot(arrays, {})
        if self.start is not None:
            return Snapshot(self._given(stage), {})
        self.check()
        return Snapshot(initial(stage.config, stage.initial, self.recipe.seed), {})

    def _given(self, stage: Stage) -> dict:
        assert self.start
        wanted = self.recipe.start
        family = MODELS[wanted].family if wanted else None
        found = weights_convert.load(self.start, family, choice=self.choice)
        self.notes = notes.lines(dataclasses.replace(found, assumed=()))  # the recipe says them
        drawn = initial(stage.config, stage.initial, self.recipe.seed)
        try:
            return carried(found.config, found.arrays, stage.config, drawn)
        except InputError as error:
            raise InputError(f"{self.start}: {error}") from error
