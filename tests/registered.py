"""Networks that register their parameters as a published class does, for tests."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.golden_vectors import Golden

GOLDEN = Path(__file__).parent / "golden"
Shapes = dict[str, tuple[int, ...]]


def golden(case: str) -> Shapes:
    """The keys of a published class, in its own order."""
    found = Golden(GOLDEN / f"{case}.npz")
    shapes = [tuple(int(n) for n in s.split("x") if n) for s in found.names("state_shapes")]
    return dict(zip(found.names("state_names"), shapes, strict=True))


def erfnet_on_imagenet() -> Shapes:
    """ERFNet around the encoder of the published classifier of ImageNet."""
    encoder = golden("erfnet_imagenet_c1000").items()
    keys = {k.removeprefix("features."): s for k, s in encoder if k.startswith("features.")}
    return keys | {k: s for k, s in golden("erfnet_c20").items() if k.startswith("decoder.")}


def genet_extent2() -> Shapes:
    """GENet that gathers by one convolution of stride 2, which is in no sequence."""
    return {
        re.sub(r"downop\.0", "downop", key): shape
        for key, shape in golden("genet_wrn16_2_extent4_params").items()
        if "downop.1" not in key
    }


def module(shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """A module whose `state_dict` has these keys, in this order; it computes nothing."""
    root = nn.Module()
    for key, shape in shapes.items():
        *path, last = key.split(".")
        inner = root
        for name in path:
            if not hasattr(inner, name):
                inner.add_module(name, nn.Module())
            inner = getattr(inner, name)
        rng = np.random.default_rng(abs(hash_of(key)))
        if last == "num_batches_tracked":
            inner.register_buffer(last, torch.tensor(3))
        elif last.startswith("running_"):
            inner.register_buffer(last, torch.tensor(rng.random(shape, np.float32)))
        else:
            value = torch.tensor(rng.random(shape, np.float32))
            inner.register_parameter(last, nn.Parameter(value))
    assert list(root.state_dict()) == list(shapes)
    return root


def hash_of(key: str) -> int:
    return int.from_bytes(key.encode()[-7:], "little")


def optimizer_of(kind: str, groups: Any) -> torch.optim.Optimizer:
    if kind == "adam":
        return torch.optim.Adam(groups, lr=3e-4, betas=(0.8, 0.99))
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9)


def trained(
    shapes: Mapping[str, tuple[int, ...]], kind: str, groups: Any = nn.Module.parameters
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """After two steps of an optimizer on gradients that differ between parameters."""
    network = module(shapes)
    optimizer = optimizer_of(kind, groups(network))
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        for parameter in network.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return network, optimizer


def states(
    network: nn.Module, optimizer: torch.optim.Optimizer
) -> Iterator[tuple[str, str, torch.Tensor]]:
    """Name of a parameter, slot and array, of all that an optimizer keeps by parameter."""
    for name, parameter in network.named_parameters():
        for slot, value in optimizer.state[parameter].items():
            yield name, slot, value


def same(a: Any, b: Any) -> None:
    """Assert that two networks' optimizers keep the same of each parameter, bit for bit."""
    one, other = list(states(*a)), list(states(*b))
    assert one
    assert [(n, s) for n, s, _ in one] == [(n, s) for n, s, _ in other]
    wrong = [n for (n, _, x), (_, _, y) in zip(one, other, strict=True) if not torch.equal(x, y)]
    assert not wrong
