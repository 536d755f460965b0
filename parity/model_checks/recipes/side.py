"""Training of one framework on a scaled-down recipe: the real trainer, pipeline and stages."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterator

import numpy as np

from parity.data import pipeline, statistics
from parity.model_checks.recipes.quick_compile import compile_quickly
from parity.model_checks.recipes.scaled_down import samples
from parity.model_checks.recipes.scaled_down_stage import SmallStage
from parity.model_checks.recipes.scenes import source
from parity.model_checks.small_networks import small
from parity.spec import draw
from parity.spec.training.recipe import Recipe, Stage
from parity.spec.training.trainer import Arrays, Batch, Snapshot, Trainer
from parity.training.side import Side
from parity.training.stage_start import StageStart
from weights_convert import naming

Digests = dict[str, str]
Change = Callable[[Batch], Batch]


@dataclasses.dataclass(frozen=True)
class StepState:
    """The state after a step.

    Attributes:
        stage: The step's stage.
        step: Number of the step in the scaled-down recipe, from 1.
        rate: Its learning rate.
        loss: The loss before it.
        batch_digests: Part of the batch -> hash of the bytes that the trainer received.
        arrays: The JAX network's names -> parameters and statistics, in its layout.
    """

    stage: Stage
    step: int
    rate: float
    loss: float
    batch_digests: Digests
    arrays: Arrays


class TrainedSide:
    """One framework trained on a scaled-down recipe.

    Args:
        framework: `torch` or `jax`.
        recipe: A recipe from `parity.model_checks.recipes.scaled_down`.
        begin: Returns a stage's initial state; by default as the recipe says.
        change: Applied to every batch before the trainer receives it.
        quickly: Whether to compile fast, for few steps.
    """

    def __init__(
        self,
        framework: str,
        recipe: Recipe,
        begin: Callable[[Stage, tuple[Stage, Snapshot] | None], Snapshot] | None = None,
        change: Change = lambda batch: batch,
        quickly: bool = True,
    ) -> None:
        self.recipe, self.side, self.change = recipe, Side(framework), change
        self.quickly = quickly and framework == "jax"
        self.source = source(recipe, samples(recipe))
        self.begin = begin or StageStart(dataclasses.replace(recipe, start=None))

    def rates(self) -> list[float]:
        """Return the learning rates of every step of every stage."""
        found = []
        for stage in self.recipe.stages:
            count = pipeline.steps(self.recipe, stage, len(self.source))
            for epoch in range(stage.first_epoch, stage.first_epoch + stage.epochs):
                factors = (stage.schedule.factor(epoch, step, count) for step in range(count))
                found += [stage.optimizer.lr * factor for factor in factors]
        return found

    def steps(self, max_steps: int) -> Iterator[StepState]:
        """Train, for so many steps or until the recipe ends."""
        before, epochs, rates, made = started(self.recipe), 0, iter(self.rates()), 0
        for stage in self.recipe.stages:
            trainer = self._trainer(stage, self.begin(stage, before))
            for batch in self._batches(stage, epochs):
                made += 1
                yield self._step(trainer, stage, batch, next(rates), made)
                if made == max_steps:
                    return
            before = (stage, self.side.published(stage, trainer.snapshot()))
            epochs += stage.epochs

    def _trainer(self, stage: Stage, state: Snapshot) -> Trainer:
        weights = statistics.class_weights(self.recipe, stage, self.source)
        # The rate is given at each step; but for it, recipes share what is compiled.
        unscaled = dataclasses.replace(
            stage, optimizer=dataclasses.replace(stage.optimizer, lr=1.0)
        )
        trainer = self.side.trainer(self.recipe, unscaled, state.arrays, weights)
        if self.quickly:
            compile_quickly(trainer)
        if state.step:
            trainer.restore(self.side.own(stage, state))
        return trainer

    def _batches(self, stage: Stage, epoch: int) -> Iterator[Batch]:
        made = pipeline.batches(
            self.source,
            self.recipe,
            stage,
            epoch,
            epochs=stage.epochs,
            dtype="float64" if self.recipe.precision == "fp64" else "float32",
        )
        with contextlib.closing(made) as batches:  # type: ignore[type-var]  # it is a generator
            yield from map(self.change, batches)

    def _step(
        self, trainer: Trainer, stage: Stage, batch: Batch, rate: float, number: int
    ) -> StepState:
        handed = digests(batch)
        outcome = trainer.step(batch, rate)
        if outcome.fault:
            raise FloatingPointError(f"stage {stage.name}, step {number}: {outcome.fault}")
        if digests(batch) != handed:
            handed = {"writing": f"{self.side.framework} wrote into its batch"}
        return StepState(stage, number, rate, outcome.loss, handed, self._arrays(stage, trainer))

    def _arrays(self, stage: Stage, trainer: Trainer) -> Arrays:
        found = trainer.snapshot().arrays
        if self.side.framework == "jax":
            return found
        names = naming.names(stage.config, "jax")
        return {name: leaf.array(found[key]) for name, (key, leaf) in names.items()}


def digests(batch: Batch) -> Digests:
    """Return, for every part of a batch, a hash of its dtype, its shape and its bytes."""
    parts = {"images": batch.images, "samples": batch.samples}
    parts |= {f"targets {i}": target for i, target in enumerate(batch.targets)}
    parts |= {f"mask of {site}": mask for site, mask in batch.masks.items()}
    return {name: _digest(array) for name, array in parts.items()}


def _digest(array: np.ndarray) -> str:
    head = f"{array.dtype} {array.shape} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


def started(recipe: Recipe) -> tuple[Stage, Snapshot] | None:
    """Return the network that a recipe starts from, as if left by an earlier stage."""
    if recipe.start is None:
        return None
    network = small(recipe.start, least=True)[0]
    fields = {f.name: getattr(recipe.stages[0], f.name) for f in dataclasses.fields(Stage)}
    stage = SmallStage(**fields | {"model": recipe.start, "dropout": None}, network=network)
    return stage, Snapshot(draw.weights(network, recipe.seed), {})
