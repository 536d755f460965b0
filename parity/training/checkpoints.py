"""A run's checkpoints: written atomically, and read back to continue in either framework."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parity.data.pipeline import steps
from parity.io.files import copy_atomically
from parity.spec.errors import InputError, listed
from parity.spec.preprocessing import Preprocessing
from parity.spec.training.optimizers import Optimizer
from parity.spec.training.recipe import Recipe, Stage
from parity.spec.training.trainer import Snapshot
from parity.spec.training.written import differences, plain, recipe_of
from parity.training.folder import Folder
from parity.training.progress import KEY, Origin, TrainProgress, parse
from weights_convert import formats, save
from weights_convert.checkpoint import Checkpoint, understand
from weights_convert.optimizer import Optimizer as Saved


@dataclasses.dataclass(frozen=True)
class Found:
    """A run's checkpoint that was read.

    Attributes:
        path: The file.
        origin: Its record of the run.
        recipe: The run's recipe.
        snapshot: Weights and optimizer state, with published names and shapes.
        checkpoint: The complete contents of the file.
    """

    path: Path
    origin: Origin
    recipe: Recipe
    snapshot: Snapshot
    checkpoint: Checkpoint

    @property
    def stage(self) -> Stage:
        """Return the stage that was trained, as adjusted for the run's devices."""
        return stage_at(self.recipe, self.origin.progress)


def stage_at(recipe: Recipe, progress: TrainProgress) -> Stage:
    """Return the stage that a run is in, as adjusted for its devices."""
    return recipe.stages[progress.stage].on(max(progress.devices, 1))


def write(
    paths: Sequence[Path],
    recipe: Recipe,
    framework: str,
    progress: TrainProgress,
    snapshot: Snapshot,
    class_weights: np.ndarray | None,
    preprocessing: Preprocessing,
) -> None:
    """Write a checkpoint under several names, one after the other, each atomically.

    Args:
        paths: The files; the last one, from which a run is resumed, is replaced after all others.
        recipe: The run's recipe.
        framework: The framework whose names the file uses.
        progress: Where the run is.
        snapshot: Weights and optimizer state, with published names and shapes.
        class_weights: Class weights of the stage's loss.
        preprocessing: The preprocessing that the network expects.

    Raises:
        InputError: A file cannot be written; those before it are written, the others unchanged.
    """
    stage = stage_at(recipe, progress)
    origin = Origin.of(recipe, framework, progress, snapshot, class_weights)
    optimizer = None
    if snapshot.slots:
        numbers = hyperparameters(stage.optimizer)
        optimizer = Saved(stage.optimizer.kind, snapshot.step, snapshot.slots, numbers)
    first, *others = paths
    save(
        first,
        stage.config,
        snapshot.arrays,
        framework,
        optimizer=optimizer,
        labels=recipe.labels,
        preprocessing=preprocessing,
        metadata={KEY: origin.to_json()},
    )
    for path in others:
        copy_atomically(first, path)


def read(path: Path) -> Found:
    """Read a checkpoint of a run.

    Raises:
        InputError: It is not there, damaged, or none.
    """
    contents = formats.read(path)
    origin = parse(contents.metadata.get(KEY), path)
    recipe = recipe_of(origin.recipe, f"the recipe in {path}")
    if not 0 <= origin.progress.stage < len(recipe.stages):
        raise InputError(f"{path}: what it says of its run is damaged")
    config = stage_at(recipe, origin.progress).config
    checkpoint = understand(contents, path, config=config)
    if recipe.labels and checkpoint.labels not in (None, recipe.labels):
        raise InputError(
            f"{path} contradicts itself: its manifest says {checkpoint.labels}, the recipe of its"
            f" run {recipe.labels}"
        )
    slots = checkpoint.optimizer.slots if checkpoint.optimizer else {}
    snapshot = Snapshot(checkpoint.arrays, slots, origin.updates, origin.scale, origin.good)
    return Found(path, origin, recipe, snapshot, checkpoint)


def check_same(found: Found, recipe: Recipe, samples: int, devices: int = 1) -> None:
    """Refuse to resume a checkpoint of another run, or an epoch with other batches.

    Args:
        found: The checkpoint.
        recipe: The recipe to continue with.
        samples: Number of its training samples.
        devices: Number of devices to continue on.

    Raises:
        InputError: One line that says what differs.
    """
    networks = [", ".join(stage.model for stage in r.stages) for r in (found.recipe, recipe)]
    pairs = {} if networks[0] == networks[1] else {"network": tuple(networks)}
    pairs |= differences(plain(found.recipe), plain(recipe))
    if pairs:
        shown = listed((f"{key} {a}, here {b}" for key, (a, b) in pairs.items()), "; ")
        raise InputError(f"{found.path} is of another recipe: {shown}")
    if found.origin.progress.samples != samples:
        raise InputError(
            f"{found.path} was trained on {found.origin.progress.samples} images, here are"
            f" {samples}"
        )
    progress = found.origin.progress
    if progress.step and progress.devices:
        before, now = (
            (stage.batch, steps(recipe, stage, samples, n))
            for n in (progress.devices, devices)
            for stage in (recipe.stages[progress.stage].on(n),)
        )
        if before != now:
            raise InputError(
                f"{found.path} is inside of epoch {progress.epoch + 1}, of {before[1]} batches of"
                f" {before[0]} images; --devices {devices} has {now[1]} of {now[0]}: go on with"
                f" --devices {progress.devices}, or from a checkpoint at the end of an epoch"
            )


def adopt(found: Found, folder: Folder) -> Found:
    """Copy the best checkpoint from another run's folder, when that run continues here.

    Args:
        found: The checkpoint it continues from.
        folder: The folder it continues in.

    Returns:
        The checkpoint; without the best score where the best checkpoint no longer exists.

    Raises:
        InputError: It cannot be written.
    """
    progress = found.origin.progress
    if progress.best is None:
        return found
    name = f"{prefix(found.recipe, progress.stage)}best"
    best = found.path.with_name(folder.checkpoint(name).name)
    if best.exists() and read(best).origin.progress.best == progress.best:
        copy_atomically(best, folder.checkpoint(name))
        return found
    progress = dataclasses.replace(progress, best=None, best_epoch=0)
    return dataclasses.replace(found, origin=dataclasses.replace(found.origin, progress=progress))


def prefix(recipe: Recipe, stage: int) -> str:
    """Return the prefix of a stage's checkpoint names; empty if there is only one stage."""
    return f"{recipe.stages[stage].name}-" if len(recipe.stages) > 1 else ""


def hyperparameters(optimizer: Optimizer) -> dict[str, Any]:
    """Return the hyperparameters with the names of `torch.optim`, with the base rate."""
    common: dict[str, Any] = {"lr": optimizer.lr, "weight_decay": optimizer.weight_decay}
    if optimizer.kind == "adam":
        return common | {"betas": list(optimizer.betas), "eps": optimizer.eps}
    return common | {"momentum": optimizer.momentum, "nesterov": optimizer.nesterov}
