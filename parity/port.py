"""A port: a network in two frameworks, and all it takes to compare them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from parity.sides import Loss

if TYPE_CHECKING:
    import torch
    from flax import nnx

# Port's parameter or buffer -> the reference's, and the reference's axes in the port's order.
WeightMap = Mapping[str, tuple[str, tuple[int, ...] | None]]


@dataclasses.dataclass(frozen=True)
class Port:
    """A reference, its port, and what to run them on.

    Attributes:
        name: For tables.
        reference: The PyTorch module; not changed.
        port: The NNX module, whose layers carry the same dotted names; not changed.
        weights: How the port's tensors come from the reference's.
        inputs: Of the forward pass: arrays, or mappings of them, in JAX's layout.
        eval_inputs: Of the forward pass in eval mode, where they differ.
        losses: From outputs and `targets` to a scalar, for the reference and for the port.
        targets: Such as labels and class weights.
    """

    name: str
    reference: torch.nn.Module
    port: nnx.Module
    weights: WeightMap
    inputs: tuple[Any, ...]
    eval_inputs: tuple[Any, ...]
    losses: tuple[Loss, Loss]
    targets: tuple[np.ndarray, ...] = ()
