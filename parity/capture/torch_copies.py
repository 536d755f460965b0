"""Copies of modules that take little memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import nn

PER_BLOCK = 4  # numbers of 64 bits that Philox makes at a time


def borrowed(module: nn.Module) -> nn.Module:
    """Return a copy of a module that shares its parameters' memory, for who does not write to it.

    Buffers, and parameters of another class than PyTorch's own, are copied. (PyTorch's tensors that
    are copied when they are written to would not do: arrays of NumPy that show them are left behind
    in memory that is freed.)
    """
    memo: dict[int, object] = {
        id(p): nn.Parameter(p.detach(), p.requires_grad)
        for p in module.parameters()
        if type(p) is nn.Parameter
    }
    return copied(module, memo)


def copied(module: nn.Module, memo: dict[int, object] | None = None) -> nn.Module:
    """Return a deep copy, also of a layer of `nn.utils.weight_norm`, `spectral_norm` or `prune`.

    Such a layer keeps the weight that it computed last, which PyTorch refuses to copy, and computes
    it anew before each call.

    Args:
        module: What is copied.
        memo: Objects by their `id` that take the place of their copies.
    """
    memo = {} if memo is None else memo
    for layer in module.modules():
        for held in vars(layer).values():
            if isinstance(held, torch.Tensor) and not held.is_leaf:
                memo[id(held)] = held.detach().clone()
    return copy.deepcopy(module, memo)


class Noise:
    """What the tensors of a network are multiplied by, to see what rounding does to a layer.

    Every parameter and float buffer is multiplied by 1 + scale * U(-1, 1), as
    `TorchSide.disturbed` does with the same generator, but a layer at a time: no copy of the whole
    network is made.

    Args:
        module: The network.
        scale: Of the noise.
        make: Returns the generator, at its beginning.
    """

    def __init__(
        self, module: nn.Module, scale: float, make: Callable[[], np.random.Generator]
    ) -> None:
        self.scale, self.make = scale, make
        self.starts: dict[int, int] = {}
        count = 0
        for tensor in float_tensors(module):
            self.starts[id(tensor)] = count
            count += tensor.numel()

    def disturb(self, layer: nn.Module, made: nn.Module) -> None:
        """Disturb a copy of one of the network's layers.

        Args:
            layer: The layer as it is in the network.
            made: The copy.
        """
        with torch.no_grad():
            for tensor, other in zip(float_tensors(layer), float_tensors(made), strict=True):
                noise = torch.tensor(self._drawn(self.starts[id(tensor)], tuple(tensor.shape)))
                other.mul_(1 + noise.to(other.dtype))

    def _drawn(self, start: int, shape: tuple[int, ...]) -> np.ndarray:
        """Return what the generator gives after so many numbers."""
        rng = self.make()
        philox = rng.bit_generator
        assert isinstance(philox, np.random.Philox)  # see `parity.spec.draw`
        philox.advance(start // PER_BLOCK)
        size = int(np.prod(shape))
        skipped = start % PER_BLOCK
        return rng.uniform(-self.scale, self.scale, skipped + size)[skipped:].reshape(shape)


def float_tensors(module: nn.Module) -> list[torch.Tensor]:
    """Return a module's parameters and buffers of floating-point numbers, each once."""
    every = (*module.parameters(), *module.buffers())
    return [tensor for tensor in every if tensor.is_floating_point()]


def multiply(tensors: Iterable[torch.Tensor], scale: float, rng: np.random.Generator) -> None:
    """Multiply each tensor by 1 + scale * U(-1, 1), drawn one tensor after the other."""
    with torch.no_grad():
        for tensor in tensors:
            noise = torch.tensor(rng.uniform(-scale, scale, tuple(tensor.shape)))
            tensor.mul_(1 + noise.to(tensor.dtype))
