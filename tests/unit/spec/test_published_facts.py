"""Facts of the published reports and repositories that no program prints, as literal numbers.

None is computed from the recipes: this table was written from the reports and the repositories.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from parity.data import DATASETS, pipeline
from parity.spec import datasets, recipes
from parity.spec.training.recipe import Recipe
from parity.training.progress import TrainProgress
from parity.training.run import TrainingRun

DDP = ("mean", "device", "local", "first", "pad", "none")

# Recipe: data, void, size, start, published %, epochs of a validation, what is kept, seed.
RUNS: dict[str, tuple[Any, ...]] = {
    "enet-cityscapes": ("cityscapes", "void-first", None, 59.5, 10, "best", 1),
    "enet-camvid": ("camvid", "void-last", None, 65.2, 10, "best", 1),
    "enet-bench": ("cityscapes", "void-first", None, 59.75, 10, "best", 1),
    "enet-mindspore": ("cityscapes", "void-last", None, 62.19, 20, "last", 1),
    "erfnet-cityscapes": ("cityscapes", "void-last", None, 70.0, 1, "best", 1),
    "erfnet-cityscapes-imagenet": (
        "cityscapes", "void-last", "erfnet-imagenet", 72.1, 1, "best", 1,
    ),
    "erfnet-mindspore": ("cityscapes", "void-last", None, 70.9, 20, "last", 1),
    "icnet-cityscapes": ("cityscapes", None, None, 71.0, 1, "best", 1),
    "icnet-cityscapes-corrected": ("cityscapes", None, None, None, 1, "best", 1),
    "icnet-ascend": ("cityscapes", None, None, 68.3, 1, "best", 1),
    "genet-cifar10": ("cifar10", None, None, 94.76, 1, "last", 49),
    "genet-cifar10-8p": ("cifar10", None, None, 94.81, 1, "last", 49),
}  # fmt: skip

# Stages: network, epochs, batch, first epoch of the schedule, dropout, whether a rest is dropped.
ENCODER, WHOLE, ERF = "enet-mindspore-encoder", "enet-mindspore", (0.03, 0.2)
STAGES: dict[str, list[tuple[Any, ...]]] = {
    "enet-cityscapes": [("enet", 300, 4, 0, None, False)],
    "enet-camvid": [("enet-camvid", 300, 10, 0, None, False)],
    "enet-bench": [("enet", 300, 2, 0, None, False)],
    "enet-mindspore": [
        (ENCODER, 65, 6, 0, None, True),
        (ENCODER, 85, 6, 65, None, True),
        (WHOLE, 100, 6, 0, None, True),
    ],
    "erfnet-cityscapes": [
        ("erfnet-encoder", 150, 6, 0, None, False),
        ("erfnet", 150, 6, 0, None, False),
    ],
    "erfnet-cityscapes-imagenet": [("erfnet", 150, 6, 0, (0.1, 0.1), False)],
    "erfnet-mindspore": [
        ("erfnet-mindspore-encoder", 65, 6, 0, ERF, True),
        ("erfnet-mindspore-encoder", 85, 6, 65, ERF, True),
        ("erfnet-mindspore", 65, 6, 0, ERF, True),
        ("erfnet-mindspore", 85, 6, 65, ERF, True),
    ],
    "icnet-cityscapes": [("icnet", 200, 7, 0, None, True)],
    "icnet-cityscapes-corrected": [("icnet", 200, 7, 0, None, True)],
    "icnet-ascend": [("icnet", 200, 128, 0, None, True)],
    "genet-cifar10": [("genet", 300, 128, 0, None, False)],
    "genet-cifar10-8p": [("genet", 300, 1024, 0, None, False)],
}

# Precision, level, loss scale, devices.
MIXED: dict[str, tuple[Any, ...]] = {
    "enet-mindspore": ("fp32", "O1", "dynamic", 1),
    "erfnet-mindspore": ("fp32", "O1", "dynamic", 1),
    "icnet-ascend": ("fp16", "O1", 128.0, 8),
    "genet-cifar10": ("fp16", "O2", 32.0, 1),
    "genet-cifar10-8p": ("fp16", "O2", 32.0, 8),
}

# What several devices compute; PyTorch's DistributedDataParallel where nothing is written.
PARALLEL = {
    "enet-mindspore": ("sum", *DDP[1:]),
    "erfnet-cityscapes": ("mean", "global", *DDP[2:]),  # DataParallel
    "erfnet-cityscapes-imagenet": ("mean", "global", *DDP[2:]),
}


def of(name: str) -> Recipe:
    return recipes.recipe(name)


def test_no_recipe_is_left_out() -> None:
    """Catches a new recipe that no third party has seen."""
    assert set(recipes.RECIPES) == set(RUNS) == set(STAGES)


@pytest.mark.parametrize("name", RUNS)
def test_runs(name: str) -> None:
    """Catches another void, published number, seed or start; best where the last is reported."""
    r = of(name)
    assert RUNS[name] == (
        r.data, r.labels, r.start, r.published, r.validate_every, r.keep, r.seed,
    )  # fmt: skip
    test = {"cifar10": "test"}.get(r.data, "val")
    assert (r.train_split, r.val_split) == ("train", test)


@pytest.mark.parametrize("name", STAGES)
def test_stages(name: str) -> None:
    """Catches a stage of another network, length, batch, dropout, or place in its schedule."""
    stages = of(name).stages
    assert STAGES[name] == [
        (s.model, s.epochs, s.batch, s.first_epoch, s.dropout, s.drop_last) for s in stages
    ]
    assert not any(s.keep_optimizer for s in stages)  # each begins with a new one
    assert {s.repeat for s in stages} == {1}


@pytest.mark.parametrize("name", RUNS)
def test_precision_and_devices(name: str) -> None:
    """Catches another level or loss scale, and gradients, losses or norms joined otherwise."""
    r, p = of(name), of(name).parallel
    found = (r.precision, r.level, r.loss_scale, r.devices)
    assert found == MIXED.get(name, ("fp32", "O1", None, 1))
    joined = (p.gradients, p.normalizer, p.batch_norm, p.statistics, p.last, p.rate)
    assert joined == PARALLEL.get(name, DDP)


def rate(name: str, epoch: int) -> float:
    """What the loop trains with in the first stage; the epoch counted from 0."""
    loop: Any = SimpleNamespace(progress=TrainProgress(epoch=epoch))
    return TrainingRun._rate(loop, of(name).stages[0], 10)


def test_rates_of_the_bench() -> None:
    """Catches another base rate or warm-up: 1.5e-3 is reached in 10 epochs, then it falls."""
    expected = {0: 1.5e-4, 4: 7.5e-4, 9: 1.5e-3, 10: 1.5e-3, 99: 1.5e-3, 100: 1.5e-4, 200: 1.5e-5}
    for epoch, lr in expected.items():
        np.testing.assert_allclose(rate("enet-bench", epoch), lr, rtol=1e-12)


def test_rates_of_icnet_on_ascend() -> None:
    """Catches a head with a rate of its own, another warm-up, and a cosine from the beginning."""
    (stage,) = of("icnet-ascend").stages
    assert (stage.optimizer.groups, stage.optimizer.momentum) == ((), 0.9)
    assert stage.optimizer.weight_decay == 1e-4
    expected = {0: 0.08 / 3, 1: 0.16 / 3, 2: 0.08, 3: 0.08, 101: None, 199: None}
    for epoch, lr in expected.items():
        cosine = 0.08 * (1 + math.cos(math.pi * (epoch - 3) / 197)) / 2
        np.testing.assert_allclose(rate("icnet-ascend", epoch), lr or cosine, rtol=1e-12)


def test_steps_of_an_epoch() -> None:
    """Catches a last batch that is kept or dropped where the published run does the other."""
    expected = {
        "enet-cityscapes": 744, "enet-bench": 1488, "enet-mindspore": 495,
        "erfnet-cityscapes": 496, "erfnet-mindspore": 495, "icnet-cityscapes": 425,
    }  # fmt: skip
    for name, count in expected.items():
        assert {pipeline.steps(of(name), s, 2975) for s in of(name).stages} == {count}, name
    (camvid_stage,) = of("enet-camvid").stages
    assert pipeline.steps(of("enet-camvid"), camvid_stage, 367) == 37
    (genet,) = of("genet-cifar10").stages
    assert pipeline.steps(of("genet-cifar10"), genet, 50000) == 391


def test_classes() -> None:
    """Catches a data set that gains or loses a class."""
    assert {name: len(data.classes) for name, data in DATASETS.items()} == {
        "cityscapes": 19,
        "camvid": 11,
    }
    names = [name for name, _ in datasets.CAMVID]
    assert names[3] == "road"
    assert names[-1] == "bicyclist"
