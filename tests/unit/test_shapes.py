"""Shapes of every layer on both sides, written as jaxtyping writes them."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest
import torch
from flax import nnx
from jaxtyping import Float, jaxtyped

import jax_impl.layers
import torch_impl.layers


class Case(NamedTuple):
    """A layer, and the shapes that go in and come out, with PyTorch's order of axes.

    Attributes:
        make: Of one side's layers, and what its constructor needs beside the usual arguments.
        before: What goes in.
        after: What comes out.
        call: Arguments of the call beside the array.
    """

    make: Callable[[ModuleType, dict[str, Any]], Any]
    before: str
    after: str
    call: tuple[Any, ...] = ()


CASES = {
    "Conv2d": Case(lambda m, k: m.Conv2d(3, 5, 3, padding=1, **k), "n 3 h w", "n 5 h w"),
    "Conv2d, stride 2": Case(
        lambda m, k: m.Conv2d(3, 5, 3, stride=2, padding=1, **k), "n 3 h w", "n 5 (h+1)//2 (w+1)//2"
    ),
    "Conv2d, 1x1": Case(lambda m, k: m.Conv2d(3, 5, 1, **k), "n 3 h w", "n 5 h w"),
    "Conv2d, dilated": Case(
        lambda m, k: m.Conv2d(3, 5, 3, dilation=2, **k), "n 3 h w", "n 5 h-4 w-4"
    ),
    "Conv2d, depthwise": Case(
        lambda m, k: m.Conv2d(3, 3, 3, padding=1, groups=3, **k), "n 3 h w", "n 3 h w"
    ),
    "ConvTranspose2d": Case(
        lambda m, k: m.ConvTranspose2d(3, 5, 2, stride=2, **k), "n 3 h w", "n 5 2*h 2*w"
    ),
    "ConvTranspose2dSame": Case(
        lambda m, k: m.ConvTranspose2dSame(3, 5, 3, stride=2, **k), "n 3 h w", "n 5 2*h 2*w"
    ),
    "BatchNorm2d": Case(lambda m, k: m.BatchNorm2d(3, **k), "n 3 h w", "n 3 h w"),
    "PReLU": Case(lambda m, k: m.PReLU(3, **k), "n 3 h w", "n 3 h w"),
    "ReLU": Case(lambda m, k: m.ReLU(**k), "n 3 h w", "n 3 h w"),
    "Sigmoid": Case(lambda m, k: m.Sigmoid(**k), "n 3 h w", "n 3 h w"),
    "MaxPool2d": Case(lambda m, k: m.MaxPool2d(2, 2, **k), "n 3 h w", "n 3 h//2 w//2"),
    "MaxPool2dSame": Case(
        lambda m, k: m.MaxPool2dSame(3, 2, **k), "n 3 h w", "n 3 (h+1)//2 (w+1)//2"
    ),
    "AvgPool2d": Case(lambda m, k: m.AvgPool2d(2, **k), "n 3 h w", "n 3 h//2 w//2"),
    "AdaptiveAvgPool2d": Case(lambda m, k: m.AdaptiveAvgPool2d(3, **k), "n 3 h w", "n 3 3 3"),
    "Resize": Case(lambda m, k: m.Resize(**k), "n 3 h w", "n 3 12 20", ((12, 20),)),
    "Nearest": Case(lambda m, k: m.Nearest(**k), "n 3 h w", "n 3 12 20", ((12, 20),)),
    "BilinearX2": Case(lambda m, k: m.BilinearX2(**k), "n 3 h w", "n 3 2*h 2*w"),
    "Linear": Case(lambda m, k: m.Linear(3, 5, **k), "n 3", "n 5"),
    "GELU": Case(lambda m, k: m.GELU(**k), "n 3", "n 3"),
    "SiLU": Case(lambda m, k: m.SiLU(**k), "n 3", "n 3"),
    "LayerNorm": Case(lambda m, k: m.LayerNorm(3, **k), "n 3", "n 3"),
    "RMSNorm": Case(lambda m, k: m.RMSNorm(3, **k), "n 3", "n 3"),
}
# Layers that have no shapes of their own, or are called with more than one array of numbers:
# test_layers.py, test_attention.py, test_decoder.py.
ELSEWHERE = {"Dropout", "Dropout2d", "Identity", "ModuleList", "Sequential", "MaxUnpool2d"}
ELSEWHERE |= {"Attention", "Embedding", "Rotary"}
SIZES = {"n": 2, "3": 3, "h": 7, "w": 10}


def channels_last(spec: str) -> str:
    n, channels, *space = spec.split()
    return " ".join((n, *space, channels))


@pytest.mark.parametrize("name", CASES)
def test_both_sides_give_the_same_shape(name: str) -> None:
    """Catches a layer that pads, rounds or orders axes otherwise than the other side's."""
    case = CASES[name]
    shape = [SIZES[axis] for axis in case.before.split()]
    layer = case.make(torch_impl.layers, {})
    x = torch.zeros(shape)
    with jaxtyped("context"):
        assert isinstance(x, Float[torch.Tensor, case.before])
        assert isinstance(layer(x, *case.call), Float[torch.Tensor, case.after])
    port = case.make(jax_impl.layers, {"rngs": nnx.Rngs(0)})
    array = jnp.zeros((shape[0], *shape[2:], shape[1]))
    with jaxtyped("context"):
        assert isinstance(array, Float[jax.Array, channels_last(case.before)])
        assert isinstance(port(array, *case.call), Float[jax.Array, channels_last(case.after)])


def test_every_layer_is_here() -> None:
    """Catches a new layer whose shapes nobody states."""
    layers = {n for n in torch_impl.layers.__all__ if n[0].isupper()}
    assert layers == {name.partition(",")[0] for name in CASES} | ELSEWHERE
