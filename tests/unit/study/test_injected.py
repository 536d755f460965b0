"""A fault that costs accuracy, injected in one side, is found by a study; long."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from parity.data import cifar10
from parity.study import analysis
from parity.study.plan import Plan, Run, runs_of
from parity.study.running import Ended, Trains, in_process, train_all
from parity.training import overrides
from tests.batches import batch_bytes

pytestmark = pytest.mark.long
SEEDS = [1, 2, 3, 4, 5, 6]
TRAIN, TEST = 40, 200  # images of a file


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


def with_momentum(trains: Trains, momentum: float) -> Trains:
    """Train with this momentum in PyTorch's batch norms: the fault, injected in one side.

    0.01 is Flax's default, which calls it 0.99, and a common fault of ports.
    """

    def trains_it(plan: Plan, run: Run, out: Path) -> Ended:
        if run.framework == "jax":
            return trains(plan, run, out)
        with pytest.MonkeyPatch.context() as patch:
            init = nn.BatchNorm2d.__init__

            def other(self: nn.BatchNorm2d, *arguments: Any, **named: Any) -> None:
                init(self, *arguments, **named)
                self.momentum = momentum

            patch.setattr(nn.BatchNorm2d, "__init__", other)
            return trains(plan, run, out)

    return trains_it


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def judged(made: Plan, out: Path, trains: Trains) -> analysis.Comparison:
    train_all(made, runs_of(["torch", "jax"], SEEDS), out, trains, print)
    found = analysis.study(made, out).rows[0].comparisons[0]
    print(found.kept.words, found.kept.difference)
    return found


def test_a_wrong_momentum_is_seen_and_a_right_one_is_not(tmp_path: Path) -> None:
    """Catches a study that misses a fault that costs accuracy, or sees one where there is none."""
    made = plan(tmp_path)
    right = judged(made, tmp_path / "out", in_process())
    assert not right.kept.different
    wrong = judged(made, tmp_path / "wrong", with_momentum(in_process(), 0.01))
    assert wrong.seeds == tuple(SEEDS)
    assert wrong.kept.different
    assert wrong.kept.difference.mean > 1  # the side without the fault is better
