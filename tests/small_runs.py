"""Whole training runs of the small network of `tests.small_recipe`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from parity.cli import main
from parity.spec.models import MODELS
from parity.spec.training.recipe import Recipe
from parity.spec.training.written import to_toml
from parity.training import checkpoints
from parity.training.folder import Folder
from tests import small_recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_recipe.scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    """The network, registered; one thread for it, as several would only wait for each other."""
    small_recipe.recipe()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    del MODELS[small_recipe.MODEL]


def arguments(tmp_path: Path, data: Path, recipe: Recipe, *more: str) -> list[str]:
    """Runs of `parity train` without a framework."""
    file = tmp_path / "recipe.toml"
    file.write_text(to_toml(recipe))
    common = ["--data", str(data), "--workers", "0", "--keep-every", "1", "--log-every", "1"]
    return ["train", str(file), *common, *more]


def train(
    tmp_path: Path,
    data: Path,
    out: Path,
    framework: str,
    *more: str,
    recipe: Recipe | None = None,
) -> int:
    """`parity train`, in this process: its exit status."""
    found = arguments(tmp_path, data, recipe or small_recipe.recipe(), *more)
    return main([*found, "--framework", framework, "--out", str(out)])


def numbers(out: Path, name: str = "last") -> dict[str, np.ndarray]:
    """Parameters, statistics and the optimizer's state, with published names."""
    found = checkpoints.read(Folder(out).checkpoint(name)).snapshot
    slots = {f"{s}/{k}": a for s, held in found.slots.items() for k, a in held.items()}
    return found.arrays | slots


def farthest(one: Path, other: Path) -> float:
    """The largest difference of two runs' numbers, of 1 or of themselves where they are larger."""
    a, b = numbers(one), numbers(other)
    assert a.keys() == b.keys()
    return max(float(np.max(abs(a[k] - b[k]) / np.maximum(1, abs(b[k])))) for k in a)
