"""The batches that both sides train and are validated on, made once, in NumPy, NHWC.

What a batch holds is decided by the recipe, the epoch, the step and the samples: neither by the
processes that make it nor by the devices that it is divided among. So a run goes on from any step.
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
    """Of an epoch over n samples, on so many devices.

    Each pass through the data set is padded, or shortened, to equal parts before batches are made
    of it, as `torch.utils.data.DistributedSampler` and MindSpore's shards do.

    Args:
        recipe: Says what becomes of samples that do not fill equal parts.
        stage: As the devices train it, see `Stage.on`.
        n: Samples of the data set.
        parts: Devices.
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
    """What is trained on, step by step, made ahead.

    Args:
        source: The training split.
        recipe: The run.
        stage: One of its stages.
        epoch: Counted from 0, over all stages.
        first_step: Where in the epoch to begin; what comes is what would have come.
        epochs: How many follow on each other; the workers of the first make all of them.
        workers: Processes that make them; 0 is a thread of this one.
        dtype: Of the images, `float32` or `float64`.
        rank: Whose part of each batch, counted from 0.
        ranks: Processes that train, which divide each batch into equal parts, in order.
        parts: Devices of all of them, a multiple of `ranks`; `ranks` if not given. What does not
            fill equal parts is padded or dropped as `recipe.parallel.last` says.

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
    """Every image once, in order, resized and nothing else; the last batch may be smaller.

    Args:
        source: The validation split.
        recipe: The run.
        stage: Whose network is validated.
        batch: Images at a time; the stage's if not given.
        workers: Processes that make them; 0 is a thread of this one.
        dtype: Of the images.
        rank: Whose batches, counted from 0.
        ranks: Processes, which take the batches in turn: what is measured of a batch depends on
            none of them.
        images: What is done to an image; what the network's published code does if not given.
        count_size: Height and width of the truth; see `parity.data.makers.Validation`.

    Raises:
        InputError: See `batches`; or the truth cannot have this size.
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
