"""Checkpoints of a run: written whole, and read back by whichever framework goes on."""

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
    """A run's checkpoint, as it was read.

    Attributes:
        path: The file.
        origin: What it says of the run.
        recipe: The run's.
        snapshot: With published names and shapes.
        checkpoint: All that the file says.
    """

    path: Path
    origin: Origin
    recipe: Recipe
    snapshot: Snapshot
    checkpoint: Checkpoint

    @property
    def stage(self) -> Stage:
        """Which was trained, as the run's devices did."""
        return stage_at(self.recipe, self.origin.moment)


def stage_at(recipe: Recipe, moment: TrainProgress) -> Stage:
    """The stage that a run is in, as its devices train it."""
    return recipe.stages[moment.stage].on(max(moment.devices, 1))


def write(
    paths: Sequence[Path],
    recipe: Recipe,
    framework: str,
    moment: TrainProgress,
    snapshot: Snapshot,
    class_weights: np.ndarray | None,
    preprocessing: Preprocessing,
) -> None:
    """Write a checkpoint under several names, one after the other; each is there whole or not.

    Args:
        paths: The last one is what a run goes on from: it is replaced when all others are there.
        recipe: The run's.
        framework: Whose names the file has.
        moment: Where the run is.
        snapshot: With published names and shapes.
        class_weights: Of the stage's loss.
        preprocessing: What the network expects of an image.

    Raises:
        InputError: The file system refuses; those before it are there, and no other has changed.
    """
    stage = stage_at(recipe, moment)
    origin = Origin.of(recipe, framework, moment, snapshot, class_weights)
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
    if not 0 <= origin.moment.stage < len(recipe.stages):
        raise InputError(f"{path}: what it says of its run is damaged")
    config = stage_at(recipe, origin.moment).config
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
    """Refuse to go on from a checkpoint of another run, or inside of an epoch of other batches.

    Args:
        found: The checkpoint.
        recipe: That is to go on.
        samples: Of its training data.
        devices: On which it is to go on.

    Raises:
        InputError: One line that says what differs.
    """
    networks = [", ".join(stage.model for stage in r.stages) for r in (found.recipe, recipe)]
    pairs = {} if networks[0] == networks[1] else {"network": tuple(networks)}
    pairs |= differences(plain(found.recipe), plain(recipe))
    if pairs:
        told = listed((f"{key} {a}, here {b}" for key, (a, b) in pairs.items()), "; ")
        raise InputError(f"{found.path} is of another recipe: {told}")
    if found.origin.moment.samples != samples:
        raise InputError(
            f"{found.path} was trained on {found.origin.moment.samples} images, here are {samples}"
        )
    moment = found.origin.moment
    if moment.step and moment.devices:
        before, now = (
            (stage.batch, steps(recipe, stage, samples, n))
            for n in (moment.devices, devices)
            for stage in (recipe.stages[moment.stage].on(n),)
        )
        if before != now:
            raise InputError(
                f"{found.path} is inside of epoch {moment.epoch + 1}, of {before[1]} batches of"
                f" {before[0]} images; --devices {devices} has {now[1]} of {now[0]}: go on with"
                f" --devices {moment.devices}, or from a checkpoint at the end of an epoch"
            )


def adopt(found: Found, folder: Folder) -> Found:
    """Take the best checkpoint over from the folder of another run, which goes on in this one.

    Args:
        found: What it goes on from.
        folder: Where it goes on.

    Returns:
        The same; where the best is not there any more, without its score.

    Raises:
        InputError: It cannot be written.
    """
    moment = found.origin.moment
    if moment.best is None:
        return found
    name = f"{prefix(found.recipe, moment.stage)}best"
    best = found.path.with_name(folder.checkpoint(name).name)
    if best.exists() and read(best).origin.moment.best == moment.best:
        copy_atomically(best, folder.checkpoint(name))
        return found
    moment = dataclasses.replace(moment, best=None, best_epoch=0)
    return dataclasses.replace(found, origin=dataclasses.replace(found.origin, moment=moment))


def prefix(recipe: Recipe, stage: int) -> str:
    """Of the names of a stage's checkpoints, where there are several stages."""
    return f"{recipe.stages[stage].name}-" if len(recipe.stages) > 1 else ""


def hyperparameters(optimizer: Optimizer) -> dict[str, Any]:
    """As `torch.optim` names them, with the base rate."""
    common: dict[str, Any] = {"lr": optimizer.lr, "weight_decay": optimizer.weight_decay}
    if optimizer.kind == "adam":
        return common | {"betas": list(optimizer.betas), "eps": optimizer.eps}
    return common | {"momentum": optimizer.momentum, "nesterov": optimizer.nesterov}
