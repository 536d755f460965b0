"""Training and validation batches for both sides, made once, in NumPy, NHWC.

A batch depends only on the recipe, the epoch, the step and the samples, not on the number of worker
processes or devices. So a run can be resumed from any step.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from parity.data.loading import stream
from parity.data.makers import Share, Training, Validation, order, training_size
from parity.data.sources import Source, check_count_size, open_source
from parity.spec.errors import InputError
from parity.spec.preprocessing import Preprocessing
from parity.spec.training.parallel import fitted
from parity.spec.training.recipe import Recipe, Stage
from parity.spec.training.trainer import Batch

__all__ = ["Source", "batches", "open_source", "order", "steps", "training_size", "validation"]


def steps(recipe: Recipe, stage: Stage, n: int, parts: int = 1) -> int:
    """Return the number of steps in an epoch over n samples, on `parts` devices.

    Each pass through the data set is padded, or shortened, to equal parts before batches are made
    of it, as `torch.utils.data.DistributedSampler` and MindSpore's shards do.

    Args:
        recipe: Its rule for samples that do not fill equal parts.
        stage: The stage, as adjusted for the devices; see `Stage.on`.
        n: Number of samples of the data set.
        parts: Number of devices.
    """
    return stage.steps(fitted(n, parts, recipe.parallel.last))


def batches(
    source: Source,
    recipe: Recipe,
    stage: Stage,
    epoch: int,
    *,
    first_step: int = 0,
    epochs: int = 1,
    workers: int = 0,
    dtype: str = "float32",
    rank: int = 0,
    ranks: int = 1,
    parts: int | None = None,
) -> Iterator[Batch]:
    """Yield training batches, step by step, made ahead.

    Args:
        source: The training split.
        recipe: The run's recipe.
        stage: One of its stages.
        epoch: Counted from 0, over all stages.
        first_step: Step of the epoch to begin with; the batches from there on are the same.
        epochs: Number of consecutive epochs to make with the same workers.
        workers: Number of processes that make them; 0 uses a thread of this one.
        dtype: The images' dtype, `float32` or `float64`.
        rank: The process whose part of each batch is made, counted from 0.
        ranks: Number of processes, which divide each batch into equal parts, in order.
        parts: Number of devices of all processes, a multiple of `ranks`; `ranks` if not given.
            Samples that do not fill equal parts are padded or dropped as `recipe.parallel.last`
            says.

    Raises:
        InputError: A sample cannot be read or has another size, the network has no output for a
            label, the batch does not divide, or the samples do not make one.
    """
    parts = parts or ranks
    if stage.batch % parts or parts % ranks:
        raise InputError(
            f"{recipe.name}: a batch of {stage.batch} does not divide into {parts} parts"
        )
    count = steps(recipe, stage, len(source), parts)
    if not count:
        raise InputError(
            f"{source.root}: {len(source)} samples make no step of {stage.batch}, as"
            f" {recipe.name} has it"
        )
    maker = Training(source, recipe, stage, dtype, Share(rank, ranks, parts), count)
    maker.check()
    begin = epoch * count + first_step
    return stream(maker, maker.own, begin, (epoch + epochs) * count, workers)


def validation(
    source: Source,
    recipe: Recipe,
    stage: Stage,
    *,
    batch: int | None = None,
    workers: int = 0,
    dtype: str = "float32",
    rank: int = 0,
    ranks: int = 1,
    images: Preprocessing | None = None,
    count_size: tuple[int, int] | None = None,
) -> Iterator[Batch]:
    """Yield batches of every image once, in order, only resized; the last may be smaller.

    Args:
        source: The validation split.
        recipe: The run's recipe.
        stage: The stage whose network is validated.
        batch: Images at a time; the stage's if not given.
        workers: Number of processes that make them; 0 uses a thread of this one.
        dtype: The images' dtype.
        rank: The process whose batches are made, counted from 0.
        ranks: Number of processes, which take the batches in turn; a batch's result does not depend
            on it.
        images: The preprocessing; that of the network's published code if not given.
        count_size: Height and width of the true label maps; see `parity.data.makers.Validation`.

    Raises:
        InputError: As for `batches`, or the true label maps cannot have this size.
    """
    if count_size is not None:
        check_count_size(source, count_size)
    size, samples = batch or stage.batch, np.arange(len(source), dtype=np.int64)
    mine = samples[samples // size % ranks == rank]
    maker = Validation(
        source, recipe, stage, dtype, mine, size, images=images, count_size=count_size
    )
    maker.check()
    return stream(maker, maker.own, 0, -(-len(mine) // maker.batch), workers)
