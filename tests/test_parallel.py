"""Several devices: DDP, pmap and shard_map compute the same, and it is what was asked for."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from parity.spec.training.parallel import Parallel

SIDE = Path(__file__).with_name("devices_side.py")
DEVICES = 2
LIMIT = 1e-9  # structure, of updates: docs/tolerances.md
OPTIONS = ("ddp", "one", "local", "device", "sum", "mean")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """What both sides have after three steps: `ddp/...` of torch, `pmap/ddp/...` of JAX."""
    folder, port = tmp_path_factory.mktemp("devices"), free_port()
    commands = [
        ["torch", str(rank), str(DEVICES), str(port), str(folder / "torch.npz")]
        for rank in range(DEVICES)
    ]
    commands.append(["jax", str(DEVICES), str(folder / "jax.npz")])
    started = [
        subprocess.Popen([sys.executable, str(SIDE), *command], cwd=os.getcwd())
        for command in commands
    ]
    assert [process.wait(300) for process in started] == [0] * len(started)
    return {**np.load(folder / "torch.npz"), **np.load(folder / "jax.npz")}


def free_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def of(runs: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in runs.items() if k.startswith(prefix)}


def apart(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """The largest relative difference of two runs' arrays; counters too."""
    assert one.keys() == other.keys()
    assert one
    return max(
        float(np.linalg.norm(one[k] - other[k]) / (np.linalg.norm(one[k]) + 1e-30)) for k in one
    )


@pytest.mark.parametrize(
    ("way", "name"),
    [*(("pmap", name) for name in OPTIONS), ("shard_map", "ddp"), ("shard_map", "one")],
)
def test_ddp_and_jax_compute_the_same(runs: dict, way: str, name: str) -> None:
    """Catches another normaliser, join of gradients, batch norm or statistics on one side."""
    assert apart(of(runs, f"{name}/"), of(runs, f"{way}/{name}/")) < LIMIT


def test_synchronised_and_globally_normalised_is_one_device(runs: dict) -> None:
    """Catches anything of several devices that is not of one, where they are said to be equal."""
    assert apart(of(runs, "alone/"), of(runs, "one/")) < LIMIT


@pytest.mark.parametrize("name", ["ddp", "local", "device", "sum", "mean"])
def test_each_choice_shows(runs: dict, name: str) -> None:
    """Catches a choice that is not acted upon: each of these differs from one device."""
    assert apart(of(runs, "alone/"), of(runs, f"{name}/")) > 1e-6


def test_the_mean_of_statistics_is_not_the_first_devices(runs: dict) -> None:
    """Catches `statistics` that is not acted upon; the weights do not depend on it."""
    first, mean = of(runs, "local/"), of(runs, "mean/")
    weights = [k for k in first if k.endswith((".weight", ".bias"))]
    means = [k for k in first if k.endswith("running_mean")]
    assert apart({k: first[k] for k in weights}, {k: mean[k] for k in weights}) < LIMIT
    assert apart({k: first[k] for k in means}, {k: mean[k] for k in means}) > 1e-6


def test_rates_of_other_batches() -> None:
    """Catches a rule of the learning rate that is another."""
    rules = {"none": 0.1, "linear": 0.4, "sqrt": 0.2}
    assert {r: Parallel(rate=r).scaled(0.1, 64, 16) for r in rules} == pytest.approx(rules)


def test_unknown_choice_is_refused() -> None:
    """Catches a misspelt choice that would silently be the default."""
    with pytest.raises(ValueError, match="gradients is 'average', expected mean or sum"):
        Parallel(gradients="average")
