"""The initial state of a stage: drawn, from a checkpoint of weights, or from the previous stage."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np

from parity.spec.errors import InputError
from parity.spec.initial import initial
from parity.spec.models import MODELS, Config
from parity.spec.tensors import tensors
from parity.spec.training.recipe import Recipe, Stage
from parity.spec.training.stages import carried
from parity.spec.training.trainer import Snapshot
from parity.training import checkpoints
from parity.training.progress import KEY
from weights_convert import Checkpoint, formats, notes
from weights_convert.assumptions import Assumed, label_order, only_pixels, pixels_said, size_said
from weights_convert.checkpoint import understand
from weights_convert.naming import COUNTERS
from weights_convert.wrapping import ANY, Choice


class StageStart:
    """Creates the initial state of each stage of a recipe.

    Args:
        recipe: The recipe.
        start: A checkpoint of weights that the first stage begins with.
        choice: Which of its tensors to read; see `weights_convert.load`.
        labels: Which of its outputs is void, if the user specifies it; overrides its manifest.
        stage: Name of the first stage to train; earlier ones are left out. The recipe's first if
            not given.

    Attributes:
        first: Index of that stage.

    Raises:
        InputError: A stage cannot continue with the previous stage's optimizer, or there is no such
            stage.
    """

    def __init__(
        self,
        recipe: Recipe,
        start: str | Path | None = None,
        choice: Choice = ANY,
        labels: str | None = None,
        stage: str | None = None,
    ) -> None:
        self.recipe, self.choice, self.labels = recipe, choice, labels
        self.start = None if start is None else Path(start)
        self.notes: list[str] = []  # of that checkpoint; see `weights_convert.notes`
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

    def check(self) -> list[str]:
        """Refuse to begin without a checkpoint that the recipe requires, or with a wrong one.

        Returns:
            Lines on where the checkpoint's manifest differs from the recipe, or is silent.

        Raises:
            InputError: It is not given, cannot be read, or holds nothing of the first network; or
                its outputs stand for other classes than the recipe's; or the stage that is to be
                the first needs more than weights.
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
        return [] if self.start is None else self._compared(stage)

    def __call__(self, stage: Stage, before: tuple[Stage, Snapshot] | None) -> Snapshot:
        """Return the initial state of a stage.

        Args:
            stage: One of the recipe.
            before: The previous stage and its final state, with published names.

        Raises:
            InputError: The checkpoint cannot be read, or holds no tensor of this network.
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

    def _compared(self, stage: Stage) -> list[str]:
        """Compare the checkpoint with the recipe, as described in `check`."""
        assert self.start
        found, taken = self._read(), self._given(stage)
        recipe, whose = self.recipe, f"recipe {self.recipe.name}"
        lines, classes = [], recipe.dataset.classes
        layer = output_layer(stage.config)
        # A new output layer knows no order yet.
        if any(np.array_equal(taken[k], found.arrays[k]) for k in layer if k in found.arrays):
            trained = recipe.labels or "void-last"
            order = label_order(
                found.config.num_classes,
                found.manifest,
                self.start,
                classes,
                self.labels,
                assumed=Assumed(trained, whose, firm=True),
            )
            if order.value != trained:
                raise InputError(
                    f"{self.start}: its outputs are {order.value} ({order.reason}), but {whose}"
                    f" trains {trained}: each would begin as another class;"
                    f" --labels {order.value} trains them as they are"
                )
            lines.append(f"labels: {order.value} ({order.reason})")
        if said := found.manifest:
            images, here = only_pixels(said.preprocessing), recipe.preprocessing(stage.config)
            if images != only_pixels(here):
                lines.append(
                    f"warning: {self.start} was trained on {pixels_said(images)}, {whose} trains on"
                    f" {pixels_said(here)}"
                )
            size = said.preprocessing.size
            if size not in (None, recipe.size):
                lines.append(
                    f"warning: {self.start} is for images of {size_said(size)}, {whose} validates"
                    f" at {size_said(recipe.size)}"
                )
        return lines

    def _read(self) -> Checkpoint:
        assert self.start
        wanted = None if self.first else self.recipe.start
        contents = formats.read(self.start, key=self.choice.key, foreign=True)
        if KEY in contents.metadata:  # of a run, which says its network
            return checkpoints.read(self.start).checkpoint
        family = MODELS[wanted].family if wanted else None
        found = understand(contents, self.start, family, choice=self.choice)
        # The recipe says what is assumed; and a decoder that the file lacks is drawn, not 0.
        counters = tuple(key for key in found.filled if re.fullmatch(COUNTERS, key))
        self.notes = notes.lines(dataclasses.replace(found, assumed=(), filled=counters))
        return found

    def _given(self, stage: Stage) -> dict:
        found = self._read()
        drawn = initial(stage.config, stage.initial, self.recipe.seed)
        before = found.config
        if self.first:
            # Published files of ERFNet's encoder hold a decoder, too, which is untrained.
            last = self.recipe.stages[self.first - 1].config
            before = last if tensors(last).keys() == found.arrays.keys() else before
        try:
            return carried(before, found.arrays, stage.config, drawn)
        except InputError as error:
            raise InputError(f"{self.start}: {error}") from error


def output_layer(config: Config) -> list[str]:
    """Keys of the tensors that have a row for each class: those of the last layer."""
    more = dataclasses.replace(config, num_classes=config.num_classes + 1)  # type: ignore[type-var]  # a Config is a frozen dataclass
    one, other = tensors(config), tensors(more)
    return [key for key in one if one[key].shape != other[key].shape]
