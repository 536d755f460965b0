"""The training loop, from any position of a run to its end, for either framework."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time

import numpy as np

from parity.spec.errors import InputError
from parity.spec.training.recipe import Recipe, Stage
from parity.spec.training.scaling import advice
from parity.spec.training.trainer import Snapshot, Step, Trainer
from parity.training import checkpoints
from parity.training.clock import Clock
from parity.training.data_loader import DataLoader
from parity.training.dist_env import ALONE, DistEnv
from parity.training.folder import Folder
from parity.training.image_grid import ImageGrid
from parity.training.logger import Logger, NullLogger
from parity.training.parts import Batches, ProcessGroup, SingleProcess
from parity.training.progress import TrainProgress
from parity.training.progress_bar import Display, duration
from parity.training.scores import Count, Score, Task, measure
from parity.training.side import Side
from parity.training.stage_start import StageStart
from parity.training.stopping import Stop


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings that do not affect the trained weights.

    Attributes:
        epochs: Number of epochs of the whole run after which to stop; all if not given.
        log_every: Steps between lines of the log.
        save_every: Steps between checkpoints within an epoch; one is always written after it.
        keep_every: Epochs of a stage between checkpoints that are kept; 0 keeps none.
        pictures: Number of validation images to show.
    """

    epochs: int | None = None
    log_every: int = 10
    save_every: int = 500
    keep_every: int = 50
    pictures: int = 4


class Stopped(Exception):  # noqa: N818  # it is no error
    """A signal was obeyed; a checkpoint was written, if anything was trained."""


class TrainingRun:
    """One training run.

    Args:
        recipe: The recipe.
        side: The framework.
        data: The data.
        folder: The folder it writes to, already locked.
        begin: Returns a stage's initial state.
        options: Settings that do not affect the trained weights.
        display: Where progress is shown.
        stop: Whether a stop was requested.
        found: The checkpoint to resume, of this recipe and data, or None.
        curves: Whether to write TensorBoard's files.
        env: Where this process and its devices are; only the first process writes files and
            shows progress.
        others: The process group; all processes make the same steps.
        first: Index of the stage that a new run begins with.
    """

    def __init__(
        self,
        recipe: Recipe,
        side: Side,
        data: DataLoader,
        folder: Folder,
        begin: StageStart,
        options: Options,
        display: Display,
        stop: Stop,
        found: checkpoints.Found | None = None,
        curves: bool = True,
        env: DistEnv = ALONE,
        group: ProcessGroup | None = None,
        first: int = 0,
    ) -> None:
        self.env, self.group = env, group or SingleProcess()
        self.recipe, self.side, self.data, self.folder = recipe, side, data, folder
        self.begin, self.options, self.display, self.stop = begin, options, display, stop
        self.task = Task.of(recipe)
        self.stages = recipe.on(env.parts).stages
        self.progress = TrainProgress(stage=first, samples=data.samples)
        self.state: Snapshot | None = None  # of this stage, with published names
        self.before: tuple[Stage, Snapshot] | None = None  # what the stage before it left
        self.weights: np.ndarray | None = None  # of this stage's classes
        self.score: Score | None = None  # of the latest validation
        if found:
            self.progress = dataclasses.replace(found.origin.progress)
            self.state = found.snapshot
            self.weights = found.origin.weights
        self.progress.devices = env.parts
        tensorboard = folder.tensorboard if curves else None
        self.log: Logger | NullLogger = NullLogger()
        if env.leads:
            self.log = Logger(folder.log, tensorboard, self.progress.lines)
        self.pace = 0.0  # seconds a step, of late
        self.met: set[int] = set()  # sizes of batches for which the trainer has compiled

    def go(self) -> bool:
        """Train to the end.

        Returns:
            Whether it was reached; else a stop was requested, and a checkpoint was written if
            anything was trained.

        Raises:
            InputError: A file cannot be read or written.
            FloatingPointError: A loss or a gradient is not finite; one line says where.
        """
        try:
            stages = self.stages
            while not self._limited():
                stage = stages[self.progress.stage]
                if self.progress.epoch < stage.epochs:
                    self._train(stage)
                elif self.progress.stage == len(stages) - 1:
                    break
                else:
                    assert self.state
                    self.before, self.state = (stage, self.state), None
                    self.progress.next_stage()
            return True
        except Stopped:
            return False
        finally:
            self.log.close()

    @property
    def epoch(self) -> int:
        """Return the number of finished epochs of the whole run."""
        stages = self.stages[: self.progress.stage]
        return sum(stage.epochs for stage in stages) + self.progress.epoch

    def _limited(self) -> bool:
        return self.options.epochs is not None and self.epoch >= self.options.epochs

    def _train(self, stage: Stage) -> None:
        steps, progress = self.data.steps(stage), self.progress
        if not steps:
            raise InputError(
                f"stage {stage.name}: a batch is {stage.batch} images, the data set has"
                f" {self.data.samples}"
            )
        self.display.say(
            f"{stage.name}: {stage.model} by {self.side.framework}, {self.recipe.precision},"
            f"{self._devices()} {self.data.samples} images, {steps}"
            f" step{'s' * (steps != 1)} an epoch, from epoch {progress.epoch + 1} of"
            f" {self._end(stage)}, step {progress.step + 1}"
        )
        trainer, epochs = self._trainer(stage), self._end(stage) - progress.epoch
        self.met = set()  # this trainer has made no step yet
        # One stream for all epochs: what makes the batches goes on while the loop validates.
        batches = self.data.batches(stage, self.epoch, epochs, progress.step)
        with contextlib.closing(batches):
            for _ in range(epochs):
                try:
                    self._epoch(stage, trainer, batches, steps)
                except InputError:
                    if self.stop.asked:  # a signal to the whole group ends who reads the data, too
                        self._stop(stage, trainer)
                    raise

    def _epoch(self, stage: Stage, trainer: Trainer, batches: Batches, steps: int) -> None:
        clock = Clock(self.met)
        self._steps(stage, trainer, batches, steps, clock)
        names = self._close(stage, trainer, steps, clock)
        self._save(stage, trainer, names)

    def _end(self, stage: Stage) -> int:
        """Return the number of the stage's epochs to train in this process."""
        if self.options.epochs is None:
            return stage.epochs
        return min(stage.epochs, self.options.epochs - self.epoch + self.progress.epoch)

    def _trainer(self, stage: Stage) -> Trainer:
        if not self.state:
            leads = self.env.leads
            own = self.data.class_weights(stage, self._count_labels) if leads else None
            self.weights = self.group.broadcast(own)
        state = self.state or self.begin(stage, self.before)
        trainer = self.side.trainer(self.recipe, stage, state.arrays, self.weights)
        if self.state or state.step:
            trainer.restore(self.side.own(stage, state))
        return trainer

    def _count_labels(self, done: int, total: int, what: str) -> None:
        if self.stop.asked:
            raise Stopped
        if done == 1:
            self.display.begin(what, 0, total)
        self.display.show(done, "")

    def _steps(
        self, stage: Stage, trainer: Trainer, batches: Batches, steps: int, clock: Clock
    ) -> None:
        """Train the remaining steps of an epoch."""
        progress = self.progress
        epochs = f"{progress.epoch + 1}/{self._end(stage)}"
        self.display.begin(f"{stage.name} {epochs}", progress.step, steps)
        while progress.step < steps:
            begun = time.perf_counter()
            batch = next(batches)
            ready = time.perf_counter()
            rate = self._rate(stage, steps)
            done = trainer.step(batch, rate)
            if done.fault:
                hint = advice(self.recipe.precision, self.recipe.loss_scale, done.loss)
                fault = f"{self._where(stage, steps)}: {done.fault}"
                raise FloatingPointError(f"{fault}; {hint}" if hint else fault)
            images = len(batch.images) * self.env.processes
            self._count(clock, images, ready - begun, time.perf_counter() - begun)
            progress.step += 1
            progress.batches += 1
            progress.loss += done.loss
            self._log_step(stage, steps, done, rate, clock)
            self._obey(stage, trainer)
            if progress.step % self.options.save_every == 0 and progress.step < steps:
                self._save(stage, trainer, [])

    def _count(self, clock: Clock, images: int, waited: float, took: float) -> None:
        compiled = images in self.met
        clock.add(images, waited, took)
        if compiled:
            self.pace = took if not self.pace else 0.9 * self.pace + 0.1 * took

    def _rate(self, stage: Stage, steps: int) -> float:
        epoch = stage.first_epoch + self.progress.epoch
        return stage.optimizer.lr * stage.schedule.factor(epoch, self.progress.step, steps)

    def _log_step(self, stage: Stage, steps: int, done: Step, rate: float, clock: Clock) -> None:
        """Show and log the result of a step."""
        progress, speed = self.progress, clock.facts()
        left = duration(self.pace * self._left(steps)) if self.pace else "-"
        pace = f"{speed['images_per_second']:.2f}" if clock.steady else "-"
        self.display.show(
            progress.step,
            f"loss {done.loss:.4f}  lr {rate:.3g}  {pace} images/s"
            f"  waiting {speed['waiting']:.0%}  left {left}",
        )
        due = progress.step % self.options.log_every == 0 or progress.step == steps
        if due or done.skipped:
            facts = {"stage": stage.name, "epoch": progress.epoch + 1, "step": progress.step}
            facts |= {"steps": steps, "batches": progress.batches, "loss": done.loss, "rate": rate}
            facts |= {"scale": done.scale, "skipped": done.skipped}
            self.log.write("step", facts, speed)

    def _left(self, steps: int) -> int:
        """Steps to the end of the run."""
        progress, epochs = self.progress, self.options.epochs or self.recipe.epochs
        total = -progress.step
        for i, stage in enumerate(self.stages):
            here = min(stage.epochs, epochs)
            epochs -= here
            done = progress.epoch if i == progress.stage else 0
            total += max(here - done, 0) * self.data.steps(stage) if i >= progress.stage else 0
        return max(total, steps - progress.step)

    def _close(self, stage: Stage, trainer: Trainer, steps: int, clock: Clock) -> list[str]:
        """End an epoch: validate where it is due, and log.

        Returns:
            Under which names its checkpoint is kept.
        """
        progress, spent, done = self.progress, clock.facts(), self.progress.epoch + 1
        due = done % self.recipe.validate_every == 0 or done == stage.epochs
        due = due or self.epoch + 1 == self.options.epochs
        begun = time.perf_counter()
        score = self._validate(stage, trainer, steps) if due else None
        self._obey(stage, trainer)
        at = {"stage": stage.name, "epoch": done, "batches": progress.batches}
        mean = progress.loss / steps
        # Not before: a validation that is cut short is done again, and so is all of this.
        self.log.write("epoch", {**at, "loss": mean}, spent)
        prefix = checkpoints.prefix(self.recipe, progress.stage)
        line, names = f"{stage.name} {done}/{self._end(stage)}: loss {mean:.4f}", []
        if score:
            best = self._judge(score, done)
            names += [f"{prefix}best"] * best
            took = round(time.perf_counter() - begun, 3)
            facts = {**at, **score.to_dict(), "best": best}
            self.log.write("validation", facts, {"seconds": took})
            line += f", {score.name} {score.value:.4f}{' (best)' if best else ''}"
            line += f", validation loss {score.mean_loss:.4f}"
        after = " without first steps" if clock.steady and clock.first[1] else ""
        line += f"; {spent['images_per_second']:.2f} images/s{after}"
        line += f", waiting {spent['waiting']:.1%}"
        self.display.say(line)
        if self.options.keep_every and done % self.options.keep_every == 0:
            names.append(f"{prefix}epoch-{done:04}")
        if prefix and done == stage.epochs:
            names.append(f"{prefix}last")
        progress.next_epoch()
        return names

    def _judge(self, score: Score, epoch: int) -> bool:
        """Record a score, and return whether it is the best of the stage."""
        self.score, progress = score, self.progress
        better = progress.best is None or score.value > progress.best
        best = not math.isnan(score.value) and better
        if best:
            progress.best, progress.best_epoch = score.value, epoch
        return best

    def _validate(self, stage: Stage, trainer: Trainer, steps: int) -> Score | None:
        """Validate, each process its batches; return the score, or None if a stop was requested."""
        count = Count(self.task)
        images = self.data.preprocessing(stage)
        image_grid = ImageGrid(self.recipe, images, self.data.name, self.options.pictures)
        try:
            with contextlib.closing(self.data.validation(stage)) as batches:
                for batch, classes in measure(trainer, batches, count):
                    image_grid.add(batch, classes)
                    if self.stop.asked:
                        break
        except FloatingPointError as error:
            raise FloatingPointError(f"{self._where(stage, steps)}, validation: {error}") from error
        own = None if self.stop.asked else (count, image_grid.pages, image_grid.tiles)
        found = self.group.all_gather(own)
        if None in found:
            return None
        count = Count(self.task)
        for part, pages, tiles in found:
            count.join(part)
            image_grid.join(pages, tiles)
        score = count.score()
        if not score.images:
            raise InputError("the validation has no images")
        if self.env.leads:
            image_grid.write(self.folder.pictures)
        return score

    def _save(self, stage: Stage, trainer: Trainer, names: list[str]) -> None:
        """Write a checkpoint under these names, and under the one from which a run is resumed."""
        self.state = self.side.published(stage, trainer.snapshot())
        if not self.env.leads:
            return
        self.progress.lines = self.log.lines
        self.log.sync()
        checkpoints.write(
            [*map(self.folder.checkpoint, names), self.folder.last],
            self.recipe,
            self.side.framework,
            self.progress,
            self.state,
            self.weights,
            self.data.preprocessing(stage),
        )

    def _obey(self, stage: Stage, trainer: Trainer) -> None:
        """Stop if any process was asked to; all stop after the same step."""
        self.stop.asked = self.group.maximum(self.stop.asked)
        if self.stop.asked:
            self._stop(stage, trainer)

    def _stop(self, stage: Stage, trainer: Trainer) -> None:
        self._save(stage, trainer, [])
        raise Stopped

    def _devices(self) -> str:
        return f" {self.env.parts} devices," if self.env.parts > 1 else ""

    def _where(self, stage: Stage, steps: int) -> str:
        progress = self.progress
        step = f"step {progress.step + 1} of {steps}" if progress.step < steps else "its end"
        return f"stage {stage.name}, epoch {progress.epoch + 1}, {step}"
