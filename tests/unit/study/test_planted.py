"""Faults that cost accuracy, planted in one side, are found by a study; long."""

from __future__ import annotations

import dataclasses
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
from parity.study import analysis
from parity.study.plan import Plan, Run, runs_of
from parity.study.running import Ended, Trains, in_process, train_all
from parity.training import overrides
from torch_impl import optim

pytestmark = pytest.mark.long
SEEDS = [1, 2, 3, 4, 5, 6]
TRAIN, TEST = 40, 200  # images of a file
DECAY = 0.05  # of weights: large, so that few steps show it
Fault = Callable[[pytest.MonkeyPatch], None]


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
            bytes_ = cifar10.batch_bytes(*images(len(name) + ord(name[-1]), count), name)
            (folder / name).write_bytes(bytes_)
    return root


def plan(tmp_path: Path) -> Plan:
    settings = ["width=1", "depth=10", "batch=20", "optimizer.lr=0.05", "augmentation=[]"]
    settings += ["optimizer.decay=not-norms", f"optimizer.weight_decay={DECAY}"]
    recipe = overrides.find("genet-cifar10")
    recipe = overrides.with_settings(recipe, [f"stages.all.{setting}" for setting in settings])
    recipe = overrides.with_options(recipe, precision="fp32", loss_scale="none")
    recipe = dataclasses.replace(recipe, validate_every=6)
    made = Plan.of(recipe, 6, 1, str(data(tmp_path / "data")))
    made.write(tmp_path / "out")
    return made


def momentum(patch: pytest.MonkeyPatch) -> None:
    """Give batch norms Flax's default momentum, 0.99, which PyTorch calls 0.01, in place of 0.1."""
    init = nn.BatchNorm2d.__init__

    def other(self: nn.BatchNorm2d, *arguments: Any, **named: Any) -> None:
        init(self, *arguments, **named)
        self.momentum = 0.01

    patch.setattr(nn.BatchNorm2d, "__init__", other)


def smoothing(patch: pytest.MonkeyPatch) -> None:
    """Smooth labels by 0.9: what the true class keeps, taken for what it loses."""
    right = functional.cross_entropy

    def other(*arguments: Any, **named: Any) -> torch.Tensor:
        return right(*arguments, **named, label_smoothing=0.9)

    patch.setattr(functional, "cross_entropy", other)


def decay(patch: pytest.MonkeyPatch) -> None:
    """Decay the scales and biases of norms, too."""
    right = optim.build

    def other(config: Any, optimizer: Any, parameters: Any) -> Any:
        return right(config, dataclasses.replace(optimizer, decay="all"), parameters)

    patch.setattr(optim, "build", other)


def planted(trains: Trains, fault: Fault) -> Trains:
    """The same, with a fault in PyTorch's side."""

    def trains_it(plan: Plan, run: Run, out: Path) -> Ended:
        if run.framework == "jax":
            return trains(plan, run, out)
        with pytest.MonkeyPatch.context() as patch:
            fault(patch)
            return trains(plan, run, out)

    return trains_it


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def judged(made: Plan, out: Path, trains: Trains) -> analysis.Comparison:
    train_all(made, runs_of(["torch", "jax"], SEEDS), out, trains, print)
    found = analysis.study(made, out).rows[0].comparisons[0]
    assert found.seeds == tuple(SEEDS)
    print(found.kept.words, found.kept.difference)
    return found


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path, analysis.Comparison]:
    """A study without a fault: its plan, its folder, and what it says."""
    root = tmp_path_factory.mktemp("planted")
    made = plan(root)
    return made, root / "out", judged(made, root / "out", in_process())


def test_equal_sides_are_not_different(right: tuple[Plan, Path, analysis.Comparison]) -> None:
    """Catches a study that sees a fault where there is none."""
    assert not right[2].kept.different


@pytest.mark.parametrize("fault", [momentum, smoothing, decay])
def test_a_fault_is_seen(
    right: tuple[Plan, Path, analysis.Comparison], tmp_path: Path, fault: Fault
) -> None:
    """Catches a study that misses a fault that costs accuracy."""
    made, out, _ = right
    made.write(tmp_path)
    # The side without the fault is that of the other study.
    shutil.copytree(out / "jax", tmp_path / "jax")
    found = judged(made, tmp_path, planted(in_process(), fault)).kept
    assert found.different
    assert found.difference.mean > 1  # the side without the fault is better
