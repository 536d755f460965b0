"""How layers depend on each other in a forward pass: which is used first, what flows into what.

Both sides are followed alike. A value is known by the tensors that it is made of without any input
of the network (a transposed kernel), and by the layers that it last went through.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from parity.capture.interpreter import subjaxprs
from parity.capture.jax_models import named
from parity.capture.jax_side import JaxSide
from parity.capture.torch_copies import copied
from parity.capture.torch_side import TorchSide


@dataclasses.dataclass(frozen=True)
class Value:
    """What is known of an array while the network runs.

    Attributes:
        weights: Bits of the layers whose tensors it is made of, no input of the network's.
        through: Bits of the layers that it last went through.
        data: Whether it depends on the network's inputs.
    """

    weights: int = 0
    through: int = 0
    data: bool = False


CONSTANT, INPUT = Value(), Value(data=True)


class Flow:
    """Layers in the order of their first use, and what flows into each.

    Args:
        layers: Tensor -> its layer.

    Attributes:
        used: Layers in the order of their first use.
        before: Layer -> the layers whose results it is fed.
    """

    def __init__(self, layers: Mapping[str, str]) -> None:
        self.names = list(dict.fromkeys(layers.values()))
        self.bits = {name: 1 << i for i, name in enumerate(self.names)}
        self.layers = layers
        self.used: dict[str, None] = {}
        self.before: dict[str, set[str]] = {name: set() for name in self.names}

    def tensor(self, name: str) -> Value:
        """Return the value of a tensor of the network's; what is none of them is a constant."""
        layer = self.layers.get(name)
        return CONSTANT if layer is None else Value(weights=self.bits[layer])

    def combine(self, values: Iterable[Value]) -> Value:
        """Return the value of what an operation makes of others."""
        weights = through = 0
        data = False
        for value in values:
            weights |= value.weights
            through |= value.through
            data |= value.data
        if not (data and weights):
            return Value(weights, through, data)
        for name in self._of(weights):
            self.used.setdefault(name)
            self.before[name].update(n for n in self._of(through) if n != name)
        return Value(0, weights, True)

    def _of(self, bits: int) -> list[str]:
        found = []
        while bits:
            low = bits & -bits
            found.append(self.names[low.bit_length() - 1])
            bits ^= low
        return found


class _Follow(TorchDispatchMode):
    """Follows tensors through every operation of PyTorch's."""

    def __init__(self, flow: Flow, module: torch.nn.Module) -> None:
        super().__init__()
        self.flow = flow
        self.values = WeakTensorKeyDictionary()
        for name, tensor in module.state_dict(keep_vars=True).items():
            self.values.setdefault(tensor, flow.tensor(name))

    def start(self, arguments: Any) -> None:
        """Call tensors the network's inputs."""
        for tensor in tree_leaves(arguments):
            if isinstance(tensor, torch.Tensor):
                self.values[tensor] = INPUT

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        taken = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        value = self.flow.combine(self.values.get(t, CONSTANT) for t in taken)
        made = func(*args, **kwargs)
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._set(tensor, value)
        return made

    def _set(self, tensor: torch.Tensor, value: Value) -> None:
        old = self.values.get(tensor)
        if old is not None and old.weights and not value.data:
            return
        self.values[tensor] = value
        base = tensor._base  # of what was written into in place, the whole is known, too
        if old is not None and base is not None:
            self.values[base] = value


def of_reference(side: TorchSide, inputs: Any, layers: Mapping[str, str]) -> Flow:
    """Follow the reference through a forward pass in eval mode.

    Args:
        side: The reference.
        inputs: Its inputs, in the port's layout.
        layers: Tensor -> its layer.
    """
    flow = Flow(layers)
    module = copied(side.module).eval()  # some modules write to their tensors while they run
    arguments = side.inputs(inputs)
    follow = _Follow(flow, module)
    follow.start(arguments)
    # With gradients, for without them fused operations take the tensors of many layers at once.
    with torch.enable_grad(), follow:
        side.whole(module, arguments, False)
    return flow


def of_port(side: JaxSide, inputs: tuple[Any, ...], layers: Mapping[str, str]) -> Flow:
    """Follow the port through its traced program in eval mode; see `of_reference`."""
    flow = Flow(layers)
    closed = side.jaxpr(inputs, False)
    with side.precision():
        trees = side.trees(inputs, False)
    values: list[Value] = []
    for tree in trees[:2]:
        leaves, structure = jax.tree.flatten(tree)
        numbers = named(jax.tree.unflatten(structure, [np.asarray(i) for i in range(len(leaves))]))
        names = {int(number): name for name, number in numbers.items()}
        values += [flow.tensor(names.get(i, "")) for i in range(len(leaves))]
    values += [INPUT] * (len(closed.jaxpr.invars) - len(values))
    _evaluate(flow, closed.jaxpr, values)
    return flow


def _evaluate(flow: Flow, jaxpr: Any, inputs: Sequence[Value]) -> list[Value]:
    known: dict[Any, Value] = dict(zip(jaxpr.invars, inputs, strict=True))

    def read(var: Any) -> Value:
        return CONSTANT if hasattr(var, "val") else known.get(var, CONSTANT)

    for equation in jaxpr.eqns:
        taken = [read(var) for var in equation.invars]
        made = _made(flow, equation, taken)
        known.update(zip(equation.outvars, made, strict=True))
    return [read(var) for var in jaxpr.outvars]


def _made(flow: Flow, equation: Any, taken: list[Value]) -> list[Value]:
    """Return the values of what an equation makes."""
    inner = list(subjaxprs(equation))
    kind, count = equation.primitive.name, len(equation.outvars)
    if kind == "parity_mark" and len(taken) == count:
        return taken
    if kind == "scan" and len(inner) == 1:
        return _scanned(flow, inner[0], taken, equation.params["num_consts"], count)
    if kind == "cond" and all(len(each.invars) == len(taken) - 1 for each in inner):
        branches = [_evaluate(flow, each, taken[1:]) for each in inner]
        return [flow.combine(values) for values in zip(*branches, strict=True)]
    if kind == "while":
        body = inner[-1]
        skip = equation.params["cond_nconsts"]
        consts = equation.params["body_nconsts"]
        return _scanned(flow, body, taken[skip:], consts, count)
    if inner and len(inner[0].invars) == len(taken) and len(inner[0].outvars) == count:
        return _evaluate(flow, inner[0], taken)
    return [flow.combine(taken)] * count


def _scanned(flow: Flow, body: Any, taken: list[Value], consts: int, count: int) -> list[Value]:
    """Return what a loop makes; two steps of it show what flows from one into the next."""
    made = _evaluate(flow, body, taken)
    again = list(taken)
    for i in range(min(count, len(taken) - consts)):
        if not taken[consts + i].weights:
            again[consts + i] = made[i]
    return _evaluate(flow, body, again)
