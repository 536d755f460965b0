"""Networks with an optimizer that has taken steps, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

import torch_impl.state
from parity.spec.networks.genet import GENetConfig
from parity.spec.tensors import tensors

CONFIG = GENetConfig(depth=10, width=1)
TORCH: dict[str, Any] = {
    "adam": lambda p: torch.optim.Adam(p, lr=3e-4, betas=(0.8, 0.99)),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
}


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        key: np.int64(3)[None].reshape(()) if t.kind == "count" else rng.random(t.shape, np.float32)
        for key, t in tensors(CONFIG).items()
    }


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


def trained(kind: str) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """After three steps of an optimizer, a key of `TORCH`."""
    model = torch_impl.state.build(CONFIG, weights())
    optimizer = TORCH[kind](model.parameters())
    for seed in range(3):
        step(model, optimizer, seed)
    return model, optimizer


def saved(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Path:
    """As training programs save it."""
    path = folder / "in.pth.tar"
    state = {"epoch": 3, "arch": "genet", "state_dict": model.state_dict()}
    torch.save(state | {"optimizer": optimizer.state_dict()}, path)
    return path


def named(optimizer: dict, given: list) -> None:
    """Let a saved optimizer say which parameter is which."""
    optimizer["param_groups"][0]["param_names"] = given
