"""What a stage begins with: what was drawn, a checkpoint of weights, or what the last one left."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from parity.spec.errors import InputError
from parity.spec.initial import initial
from parity.spec.models import MODELS
from parity.spec.tensors import tensors
from parity.spec.training.recipe import Recipe, Stage
from parity.spec.training.stages import carried
from parity.spec.training.trainer import Snapshot
from parity.training import checkpoints
from parity.training.moment import KEY
from weights_convert import formats
from weights_convert.checkpoint import understand


class From:
    """The beginning of each stage of a recipe.

    Args:
        recipe: The recipe.
        start: A checkpoint of weights that the first stage begins with.
        stage: Name of the stage that is the first; those before it are left out. The recipe's
            first if not given.

    Attributes:
        first: Index of that stage.

    Raises:
        InputError: A stage cannot go on with the optimizer of the one before it, or there is no
            such stage.
    """

    def __init__(
        self, recipe: Recipe, start: str | Path | None = None, stage: str | None = None
    ) -> None:
        self.recipe = recipe
        self.start = None if start is None else Path(start)
        names = [known.name for known in recipe.stages]
        if stage is not None and stage not in names:
            raise InputError(f"--from-stage {stage!r}, expected one of {', '.join(names)}")
        self.first = 0 if stage is None else names.index(stage)
        for before, after in zip(recipe.stages, recipe.stages[1:], strict=False):
            same = (before.model, before.optimizer.kind) == (after.model, after.optimizer.kind)
            if after.keep_optimizer and not same:
                raise InputError(
                    f"stage {after.name} has another network or optimizer than {before.name}:"
                    " keep_optimizer cannot be true"
                )

    def check(self) -> None:
        """Refuse to begin without a checkpoint that the recipe needs, or with a wrong one.

        Raises:
            InputError: It is not given, cannot be read, or holds nothing of the first network; or
                the stage that is to be the first needs more than weights.
        """
        stage = self.recipe.stages[self.first]
        if self.first and self.start is None:
            before = self.recipe.stages[self.first - 1]
            raise InputError(
                f"--from-stage {stage.name} begins with what stage {before.name} leaves, a"
                f" {before.model}: --start CHECKPOINT"
            )
        if self.first and stage.keep_optimizer:
            raise InputError(
                f"--from-stage {stage.name}: it goes on with the optimizer of the stage before it,"
                " which a checkpoint of weights does not hold"
            )
        if self.recipe.start and self.start is None:
            raise InputError(
                f"recipe {self.recipe.name} begins with a checkpoint of {self.recipe.start}:"
                " --start CHECKPOINT"
            )
        if self.start is not None:
            self._given(stage)

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
        wanted = None if self.first else self.recipe.start
        contents = formats.read(self.start)
        if KEY in contents.metadata:  # of a run, which says its network
            found = checkpoints.read(self.start).checkpoint
        else:
            family = MODELS[wanted].family if wanted else None
            found = understand(contents, self.start, family)
        drawn = initial(stage.config, stage.initial, self.recipe.seed)
        before = found.config
        if self.first:
            # Published files of ERFNet's encoder hold a decoder, too, which nobody trained.
            last = self.recipe.stages[self.first - 1].config
            before = last if tensors(last).keys() == found.arrays.keys() else before
        try:
            return carried(before, found.arrays, stage.config, drawn)
        except InputError as error:
            raise InputError(f"{self.start}: {error}") from error
