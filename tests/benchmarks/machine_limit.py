"""What a machine can do at most, and how much of it a network's forward pass needs.

    python -m tests.benchmarks.machine_limit

Arithmetic is the fastest product of two square float32 matrices; memory is the fastest copy of an
array that no cache holds, read and written. `at best, ms` is the larger of what the convolutions
and products take at that speed, and of what writing and reading each operation's result once takes,
of the program that PyTorch predicts with; one that fuses operations needs less of the second.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from rich.table import Table
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import torch_impl.state
from parity.report.console import standard_output, working
from parity.spec import draw
from parity.spec.models import MODELS, usual_batch, usual_size
from torch_impl.ops import inference

NETWORKS = ("enet", "erfnet", "icnet", "genet", "enet-mindspore")
SIDE = 2048  # of the matrices
COPIED = 1 << 28  # bytes


class Needed(NamedTuple):
    """What a forward pass needs.

    Attributes:
        operations: Multiplications and additions of convolutions and products.
        moved: Bytes of the layers' results, each written and read once.
    """

    operations: int
    moved: int


def fastest(call: Callable[[], object], runs: int = 7) -> float:
    """Return the least seconds that a call took."""
    call()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def arithmetic() -> dict[str, float]:
    """Return operations a second of a product of matrices, of each framework."""
    array = np.random.default_rng(0).random((SIDE, SIDE), np.float32)
    x, y = torch.tensor(array), jnp.asarray(array)
    product = jax.jit(jnp.matmul)
    timed: dict[str, Callable[[], object]] = {
        "PyTorch": lambda: x @ x,
        "JAX": lambda: product(y, y).block_until_ready(),
    }
    return {name: 2 * SIDE**3 / fastest(call) for name, call in timed.items()}


def memory() -> float:
    """Return bytes a second that are read and written."""
    source, target = torch.ones(COPIED // 4), torch.zeros(COPIED // 4)
    return 2 * COPIED / fastest(lambda: target.copy_(source))


class Moved(TorchDispatchMode):
    """Counts the bytes of what each operation makes, written once and read once."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not func.is_view:
            self.count += 2 * result.numel() * result.element_size()
        return result


def needed(name: str) -> Needed:
    """Return what a forward pass of a network in eval mode needs, at its usual size and batch."""
    config = MODELS[name]
    model = torch_impl.state.build(config, draw.weights(config, 0)).eval()
    x = torch.zeros(usual_batch(config), 3, *usual_size(config))
    program = inference.program(model, x)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter, Moved() as moved:
        program(x)
    return Needed(counter.get_total_flops(), moved.count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    with working() as progress:
        progress("measuring")
        speeds, moved = arithmetic(), memory()
        rows = {}
        for name in NETWORKS:
            rows[name] = needed(name)
    print(", ".join(f"{name} {speed / 1e9:.0f} GFLOP/s" for name, speed in speeds.items()))
    print(f"memory {moved / 1e9:.1f} GB/s")
    table = Table("network", *(["GFLOP", "GB", "at best, ms"]))
    for name, found in rows.items():
        best = max(found.operations / max(speeds.values()), found.moved / moved)
        figures = found.operations / 1e9, found.moved / 1e9, 1e3 * best
        table.add_row(name, *(f"{figure:.2f}" for figure in figures[:2]), f"{figures[2]:.0f}")
    standard_output().print(table)


if __name__ == "__main__":
    main()
