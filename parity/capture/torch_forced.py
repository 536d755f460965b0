"""Running the reference with other values in the place of what some of its layers give."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from parity.capture.records import Layout, count_name, mapped
from parity.capture.torch_arrays import laid_out, tensors_of, turned_back
from parity.capture.torch_recorder import blamed
from parity.capture.torch_side import TorchSide

# Is told of a call and of the arrays that it is fed, or gives.
Told = Callable[[str, list[np.ndarray]], None]


def ignore(call: str, arrays: list[np.ndarray]) -> None:
    """Take no notice."""


class _Hooks:
    """Puts values into a module's calls, and tells what each call is fed and gives by itself."""

    def __init__(
        self, layout: Layout, values: Mapping[str, Sequence[np.ndarray]], fed: Told, given: Told
    ) -> None:
        self.layout, self.values, self.fed, self.given = layout, values, fed, given
        self.seen: dict[str, None] = {}

    def attach(self, module: nn.Module) -> None:
        for name, layer in module.named_modules():
            if name:
                self._hook(name, layer)

    def _hook(self, name: str, layer: nn.Module) -> None:
        def before(_: nn.Module, args: tuple, kwargs: dict) -> None:
            self.fed(count_name(name, self.seen), self._arrays((args, kwargs)))

        def after(_: nn.Module, args: tuple, kwargs: dict, outputs: Any) -> Any:
            call = count_name(name, self.seen)
            self.seen[call] = None
            if self.given is not ignore:
                self.given(call, self._arrays(outputs))
            return self._replaced(self.values[call], outputs) if call in self.values else None

        layer.register_forward_pre_hook(before, with_kwargs=True)
        layer.register_forward_hook(after, with_kwargs=True)

    def _arrays(self, values: Any) -> list[np.ndarray]:
        return [laid_out(t, self.layout).copy() for t in tensors_of(values)]

    def _replaced(self, arrays: Sequence[np.ndarray], outputs: Any) -> Any:
        """Return a layer's outputs with these values; as they are where the shapes are others."""
        tensors = tensors_of(outputs)
        made = [turned_back(a, self.layout.get(a.ndim)) for a in arrays]
        if [t.shape for t in tensors] != [t.shape for t in made]:
            return outputs
        rest = iter([m.to(t.dtype) for m, t in zip(made, tensors, strict=True)])
        return mapped(outputs, lambda v: next(rest) if isinstance(v, torch.Tensor) else v)


def forced(
    side: TorchSide,
    inputs: tuple[Any, ...],
    values: Mapping[str, Sequence[np.ndarray]],
    fed: Told,
    given: Told = ignore,
) -> list[np.ndarray]:
    """Run the network in eval mode, with some calls of layers giving other values.

    Args:
        side: The reference.
        inputs: The network's inputs, in the port's layout.
        values: Calls of layers, by `Call.layer` -> what they give, in the port's layout.
        fed: Is told of every call and the arrays that it is fed, before it runs.
        given: Is told of every call and the arrays that it gives, before others replace them.

    Returns:
        The network's outputs in the port's layout.

    Raises:
        ForwardError: The network raised, as it may of values that are none of its own.
    """
    module = copy.deepcopy(side.module).eval()
    _Hooks(side.layout, values, fed, given).attach(module)
    with torch.no_grad(), blamed([]), side.wide([]), side.quietly([]):
        outputs = side.whole(module, side.inputs(inputs), False)
    return [laid_out(t, side.layout) for t in tensors_of(outputs)]
