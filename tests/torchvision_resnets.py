"""Torchvision's ResNets beside those of `tests/resnet.py`.

`parity check tests.torchvision_resnets:resnet50`
"""

from __future__ import annotations

from typing import Any

import torch
from flax import nnx
from torch import nn

from parity import Port
from tests.pair import STATISTICS
from tests.resnet import KINDS, Bottleneck, ResNet, Unit
from tests.torchvision_import import torchvision

# Of each unit torchvision's name, and its convolutions in the order of `conv1`, `conv2`, ...
PARTS: dict[type, tuple[str, tuple[str, ...]]] = {
    Unit: ("BasicBlock", ("first", "second")),
    Bottleneck: ("Bottleneck", ("reduce", "spatial", "expand")),
}


def resnet18() -> Port:
    """ResNet-18 with images of 40x48, which is quick."""
    return port(18, (2, 40, 48, 3))


def resnet50() -> Port:
    """ResNet-50 with images of 224x224, two at a time."""
    return port(50, (2, 224, 224, 3))


def port(depth: int, shape: tuple[int, ...]) -> Port:
    """A port of torchvision's ResNet of this depth, with random weights."""
    network = ResNet(depth, rngs=nnx.Rngs(0))
    return Port(reference(depth), network, inputs=shape, weights=rules(depth))


def reference(depth: int) -> nn.Module:
    """Torchvision's ResNet, the numbers of whose norms are no constants."""
    torch.manual_seed(0)
    unit, _, counts = KINDS[depth]
    resnets = torchvision().models.resnet
    module: nn.Module = resnets.ResNet(getattr(resnets, PARTS[unit][0]), list(counts))
    with torch.no_grad():
        norms: Any = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
        for norm in norms:
            for tensor in (norm.weight, norm.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (norm.bias, norm.running_mean):
                tensor.normal_(0, 0.1)
    return module


def rules(depth: int) -> list:
    """The rules of names, since nothing of them is alike."""
    found: list = [
        (r"conv1\.weight", "stem.project.kernel", (2, 3, 1, 0)),
        (r"fc\.weight", "classify.kernel", (1, 0)),
        (r"fc\.bias", "classify.bias"),
    ]
    norms = {r"bn1\.": "stem.normalise"}
    kind, _, counts = KINDS[depth]
    blocks = [(stage, i) for stage, count in enumerate(counts, 1) for i in range(count)]
    for n, (stage, i) in enumerate(blocks):
        block, unit = rf"layer{stage}\.{i}\.", f"units.{n}"
        for j, part in enumerate(PARTS[kind][1], 1):
            found.append((rf"{block}conv{j}\.weight", f"{unit}.{part}.kernel", (2, 3, 1, 0)))
            norms[rf"{block}bn{j}\."] = f"{unit}.{part}_norm"
        skip = f"{unit}.skip.layers"
        found.append((rf"{block}downsample\.0\.weight", f"{skip}.0.kernel", (2, 3, 1, 0)))
        norms[rf"{block}downsample\.1\."] = f"{skip}.1"
    return found + [
        (prefix + theirs, f"{layer}.{ours}")
        for prefix, layer in norms.items()
        for theirs, ours in STATISTICS.items()
    ]
