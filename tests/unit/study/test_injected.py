"""Faults that cost accuracy, injected in one side, are found by a study; long."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from parity.data import cifar10
from parity.spec.models import Config
from parity.spec.tensors import tensors
from parity.spec.training.optimizers import Optimizer
from parity.study import analysis
from parity.study.plan import Plan, StudyRun, runs_of
from parity.study.running import Ended, Trains, train_all
from parity.training import overrides
from tests.batches import batch_bytes
from tests.study_folders import in_process

pytestmark = pytest.mark.long
SEEDS = [1, 2, 3, 4, 5, 6]
TRAIN, TEST = 40, 200  # images of a file
Sides = tuple[Plan, Path]  # a study of sides that are equal, and its folder


def images(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images whose class is a colour and a direction of stripes, in noise: easy, not too easy."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, count)
    place = np.arange(32)
    made = rng.normal(128, 45, (count, 32, 32, 3))
    for image, label in zip(made, labels, strict=True):
        angle = np.pi * (label % 5) / 5
        phase = rng.uniform(0, 2 * np.pi)
        wave = np.sin(0.6 * (np.cos(angle) * place[:, None] + np.sin(angle) * place) + phase)
        image[..., label // 5] += 35 * wave
    return made.clip(0, 255).astype(np.uint8), labels


def data(root: Path) -> Path:
    folder = root / cifar10.FOLDER
    folder.mkdir(parents=True)
    for split, count in (("train", TRAIN), ("test", TEST)):
        for name in cifar10.SPLITS[split]:
            bytes_ = batch_bytes(*images(len(name) + ord(name[-1]), count), name)
            (folder / name).write_bytes(bytes_)
    return root


def plan(tmp_path: Path) -> Plan:
    settings = ["width=1", "depth=10", "batch=20", "optimizer.lr=0.05", "augmentation=[]"]
    recipe = overrides.find("genet-cifar10")
    recipe = overrides.with_settings(recipe, [f"stages.all.{setting}" for setting in settings])
    recipe = overrides.with_options(recipe, precision="fp32", loss_scale="none")
    recipe = dataclasses.replace(recipe, validate_every=6)
    made = Plan.of(recipe, 6, 1, str(data(tmp_path / "data")))
    made.write(tmp_path / "out")
    return made


def momentum(patch: pytest.MonkeyPatch) -> None:
    """Flax's default, 0.99, which PyTorch calls 0.01: running statistics lag behind."""
    init = nn.BatchNorm2d.__init__

    def other(self: nn.BatchNorm2d, *arguments: Any, **named: Any) -> None:
        init(self, *arguments, **named)
        self.momentum = 0.01

    patch.setattr(nn.BatchNorm2d, "__init__", other)


def smoothing(patch: pytest.MonkeyPatch) -> None:
    """Labels of which a share is spread over all classes: 0.9, where 0.9 was to be left."""
    smoothed = functools.partial(functional.cross_entropy, label_smoothing=0.9)
    patch.setattr(functional, "cross_entropy", smoothed)


def decay_of_norms(patch: pytest.MonkeyPatch) -> None:
    """Scales of norms that decay, and much faster than weights do."""
    right = Optimizer.decays

    def decays(self: Optimizer, config: Config) -> dict[str, float]:
        kinds = tensors(config)
        found = right(self, config).items()
        return {key: 0.5 if kinds[key].kind == "scale" else decay for key, decay in found}

    patch.setattr(Optimizer, "decays", decays)


def with_fault(trains: Trains, inject: Callable[[pytest.MonkeyPatch], None]) -> Trains:
    """Train as before, but PyTorch's side with a fault."""

    def trains_it(plan: Plan, run: StudyRun, out: Path) -> Ended:
        assert run.framework == "torch"
        with pytest.MonkeyPatch.context() as patch:
            inject(patch)
            return trains(plan, run, out)

    return trains_it


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def equal(tmp_path_factory: pytest.TempPathFactory) -> Sides:
    root = tmp_path_factory.mktemp("equal")
    made = plan(root)
    train_all(made, runs_of(["torch", "jax"], SEEDS), root / "out", in_process, print)
    return made, root / "out"


def judged(made: Plan, out: Path) -> analysis.Comparison:
    found = analysis.study(made, out).rows[0].comparisons[0]
    print(found.kept.words, found.kept.difference)
    assert found.seeds == tuple(SEEDS)
    return found


def test_equal_sides_are_not_different(equal: Sides) -> None:
    """Catches a study that sees a difference where there is none."""
    assert not judged(*equal).kept.different


@pytest.mark.parametrize("inject", [momentum, smoothing, decay_of_norms])
def test_a_fault_that_costs_accuracy_is_seen(
    equal: Sides, tmp_path: Path, inject: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """Catches a study that misses a fault that costs accuracy, or names the wrong side better.

    JAX's runs are those without a fault; PyTorch's are trained with it.
    """
    made, right = equal
    shutil.copytree(right, tmp_path / "out", ignore=shutil.ignore_patterns("torch"))
    runs = runs_of(["torch"], SEEDS)
    train_all(made, runs, tmp_path / "out", with_fault(in_process, inject), print)
    wrong = judged(made, tmp_path / "out")
    assert wrong.kept.different
    assert wrong.kept.difference.mean > 1
