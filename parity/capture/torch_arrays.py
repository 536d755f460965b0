"""Tensors of PyTorch as arrays of NumPy, in the port's layout, and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch import nn

from parity.capture.records import Arrays, is_exact, leaves

Axes = tuple[int, ...] | None  # from the reference's to the port's


def gradients_of(module: nn.Module) -> Arrays:
    """Return the gradient of every parameter that has one, by name."""
    return {
        name: to_numpy(p.grad.to_dense() if p.grad.is_sparse else p.grad)
        for name, p in module.named_parameters()
        if p.grad is not None
    }


def forget_gradients(module: nn.Module, wanted: Collection[str]) -> None:
    """Let a module drop each gradient as it is made, but for those of the parameters of some names.

    Args:
        module: The module.
        wanted: Dotted names; of a tied parameter, one of its names is enough.
    """
    every = list(module.named_parameters(remove_duplicate=False))
    kept = {id(parameter) for name, parameter in every if name in wanted}
    for parameter in module.parameters():
        if id(parameter) not in kept and parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(_forget)


def _forget(parameter: torch.Tensor) -> None:
    parameter.grad = None


def statistics(module: nn.Module) -> Arrays:
    """Return a module's buffers, not copied: a backward pass that computes again updates them."""
    return {k: to_numpy(v) for k, v in module.named_buffers()}


def tensors_of(outputs: Any) -> list[torch.Tensor]:
    return [leaf for leaf in leaves(outputs) if isinstance(leaf, torch.Tensor)]


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def is_short(buffer: torch.Tensor) -> bool:
    """Return whether numbers are short enough to be exact in float32, or were never in it."""
    array = to_numpy(buffer)
    narrow = array.astype(np.float32)
    return not np.array_equal(narrow.astype(array.dtype), array, equal_nan=True) or is_exact(narrow)


def turned_back(array: np.ndarray, axes: Axes) -> torch.Tensor:
    """Return an array as a tensor in PyTorch's layout, from which `axes` lead to the port's."""
    array = array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array
    return torch.tensor(array if axes is None else array.transpose(np.argsort(axes)).copy())


def laid_out(tensor: torch.Tensor, layout: Mapping[int, Axes]) -> np.ndarray:
    """Return the tensor as an array in the port's layout."""
    array = to_numpy(tensor)
    axes = layout.get(array.ndim)
    return array if axes is None else array.transpose(axes)
