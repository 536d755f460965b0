"""Trains a small network on several devices, in a process of its own; `test_parallel.py` runs it.

python devices_side.py torch RANK RANKS PORT OUT.npz
python devices_side.py jax DEVICES OUT.npz
"""

from __future__ import annotations

import sys

import numpy as np

from parity.spec import draw
from parity.spec.networks.erfnet import Block, ERFNetConfig
from parity.spec.training.losses import Loss
from parity.spec.training.optimizers import Optimizer
from parity.spec.training.parallel import Parallel
from parity.spec.training.trainer import Batch
from weights_convert import to_jax, to_torch

CONFIG = ERFNetConfig(
    num_classes=4,
    encoder_only=True,
    encoder=(Block("down", 3, 8), Block("nb1d", 8, 8)),
    decoder=(Block("up", 8, 8),),
)
SIZE, SAMPLES, STEPS, RATE = (8, 12), 8, 3, 0.1
OPTIMIZER = Optimizer("sgd", RATE, weight_decay=1e-3)
CLASS_WEIGHTS = np.array([1.0, 2.0, 5.0, 0.0])
ONE_DEVICE = Parallel(normalizer="global", batch_norm="sync")
PARALLELS = {
    "ddp": Parallel(),
    "one": ONE_DEVICE,
    "local": Parallel(normalizer="global"),
    "device": Parallel(batch_norm="sync"),
    "sum": Parallel(gradients="sum", normalizer="global", batch_norm="sync"),
    "mean": Parallel(normalizer="global", statistics="mean"),
}
SHARDED = (("shard_map", "ddp"), ("shard_map", "one"))  # each is compiled anew


def batch(step: int, part: slice = slice(None)) -> Batch:
    """A step's samples, or a device's part; the first ones' labels are mostly of one class."""
    rng = draw.generator(0, "batch", step)
    images = rng.random((SAMPLES, *SIZE, 3))
    labels = rng.integers(0, 4, (SAMPLES, *CONFIG.output_size(*SIZE))).astype(np.int32)
    labels[: SAMPLES // 2] = np.minimum(labels[: SAMPLES // 2], 1)
    masks = draw.dropout_masks(CONFIG, SIZE, 0, 0, step, range(SAMPLES))
    return Batch(
        images[part],
        (labels[part],),
        {site: mask[part] for site, mask in masks.items()},
        np.arange(SAMPLES)[part],
    )


def options(parallel: Parallel | None, group: object) -> dict:
    given = {"class_weights": CLASS_WEIGHTS, "precision": "fp64"}
    return given if parallel is None else given | {"parallel": parallel, "group": group}


def train(trainer: object, part: slice = slice(None)) -> dict[str, np.ndarray]:
    """Everything after a few steps, and their losses."""
    steps = [trainer.step(batch(step, part), RATE) for step in range(STEPS)]
    assert not any(step.fault for step in steps)
    return trainer.snapshot().arrays | {"losses": np.array([step.loss for step in steps])}


def torch_side(rank: int, ranks: int, port: int, out: str) -> None:
    import torch

    from torch_impl import parallel
    from torch_impl.train import Trainer

    arrays = draw.weights(CONFIG, 0)
    found = {}
    for name, asked in {"alone": None, **PARALLELS}.items():
        if name == "ddp":  # the first with others
            group = parallel.start(("127.0.0.1", port), ranks, ranks, rank)
            size = SAMPLES // ranks
        part = slice(None) if asked is None else slice(rank * size, (rank + 1) * size)
        given = options(asked, None if asked is None else group)
        trainer = Trainer(CONFIG, OPTIMIZER, Loss(), arrays, **given)
        found |= {f"{name}/{key}": array for key, array in train(trainer, part).items()}
    if rank == 0:
        np.savez(out, **found)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def jax_side(devices: int, out: str) -> None:
    from jax_impl import parallel
    from jax_impl.train import Trainer

    group = parallel.start(None, devices)
    arrays = to_jax(CONFIG, draw.weights(CONFIG, 0))
    found = {}
    for way, name in (*(("pmap", name) for name in PARALLELS), *SHARDED):
        given = options(PARALLELS[name], parallel.Group(group.count, way))
        after = train(Trainer(CONFIG, OPTIMIZER, Loss(), arrays, **given))
        losses = after.pop("losses")
        after = to_torch(CONFIG, after) | {"losses": losses}
        found |= {f"{way}/{name}/{key}": array for key, array in after.items()}
    np.savez(out, **found)


if __name__ == "__main__":
    side, *numbers, out = sys.argv[1:]
    {"torch": torch_side, "jax": jax_side}[side](*map(int, numbers), out)
