"""What the referee needs of either framework, and the records it compares.

Arrays cross this boundary as NumPy arrays in JAX's layout: whatever has four axes is (N, H, W, C).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

Arrays = dict[str, np.ndarray]
Cotangents = Sequence[np.ndarray | None] | None  # None: forward only
Loss = Callable[..., Any]


@dataclasses.dataclass
class Call:
    """One call of one layer.

    Attributes:
        layer: Dotted name in the framework it was recorded in; `#2` and so on behind the name
            from its second call on.
        inputs: Positional arguments, arrays or plain values.
        outputs: Every array it returned.
        cotangents: The loss's gradient for each output, None where it has none.
    """

    layer: str
    inputs: tuple[Any, ...] = ()
    outputs: tuple[np.ndarray, ...] = ()
    cotangents: list[np.ndarray | None] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Result:
    """What one run of a network or of a layer gave.

    Attributes:
        outputs: Of the network.
        calls: Of every layer, by `Call.layer`, in the order in which they returned.
        loss: The scalar that was differentiated, None in eval mode.
        parameter_gradients: By the framework's own parameter name.
        input_gradients: One per floating-point array among the inputs.
        statistics: Buffers after the run, by the framework's own name.
    """

    outputs: tuple[np.ndarray, ...] = ()
    calls: dict[str, Call] = dataclasses.field(default_factory=dict)
    loss: np.ndarray | None = None
    parameter_gradients: Arrays = dataclasses.field(default_factory=dict)
    input_gradients: tuple[np.ndarray, ...] = ()
    statistics: Arrays = dataclasses.field(default_factory=dict)


class Side(Protocol):
    """A network in one framework and one precision."""

    def run(
        self,
        inputs: tuple[Any, ...],
        train: bool,
        loss: Loss | None = None,
        targets: tuple[np.ndarray, ...] = (),
    ) -> Result:
        """Run the whole network on a fresh copy of its state.

        Args:
            inputs: Arrays, or mappings of them; floating-point ones are cast to the precision.
            train: Train mode, else eval mode.
            loss: From the network's outputs and `targets` to the scalar to differentiate; forward
                only if None.
            targets: Such as labels and class weights; cast like the inputs.
        """

    def run_layer(
        self, layer: str, inputs: tuple[Any, ...], cotangents: Cotangents, train: bool
    ) -> Result:
        """Run one layer alone on a fresh copy of its state, and pull the cotangents back."""

    def state(self) -> Arrays:
        """Every parameter and buffer, by the framework's own name."""


def count_name(layer: str, seen: Mapping[str, Any]) -> str:
    """The name of a layer's next call."""
    if layer not in seen:
        return layer
    n = 2
    while f"{layer}#{n}" in seen:
        n += 1
    return f"{layer}#{n}"
