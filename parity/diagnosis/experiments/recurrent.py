"""Changes of recurrent layers: the order of their gates, their biases, direction and axes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch

from parity.capture.torch_calls import Invocation, Operation
from parity.diagnosis.experiments.change import ODD, PLAIN, Changes, one

# The gates, in the order in which PyTorch stores their weights, and what is changed of them.
GATES: dict[str, tuple[str, ...]] = {
    "lstm": ("input", "forget", "cell", "output"),
    "gru": ("reset", "update", "new"),
    "rnn_tanh": (),
    "rnn_relu": (),
}
Weights = list[torch.Tensor]


def changes(operation: Operation, among: Sequence[Operation]) -> Changes:
    del among
    o = operation
    params = o.arguments.get("params")
    if o.name not in GATES or not isinstance(params, tuple | list):
        return  # such as of a packed sequence
    gates = GATES[o.name]
    for order in itertools.permutations(range(len(gates))):
        if order != tuple(range(len(gates))):
            text = f"its gates in the order {', '.join(gates[i] for i in order)}"
            yield one(o, "recurrent-gates", text, _with(_reordered(order)), PLAIN)
    if o.arguments.get("has_biases"):
        text = "its biases of the hidden state (bias_hh) left out"
        yield one(o, "left-out", text, _with(_without_bias(3)))
        text = "its biases of the input (bias_ih) left out"
        yield one(o, "left-out", text, _with(_without_bias(2)))
        if "forget" in gates:
            text = "1 added to the forget gate's bias"
            yield one(o, "recurrent-bias", text, _with(_added(gates.index("forget"))))
    if "update" in gates:
        text = "its update gate as 1 - z, not z"
        yield one(o, "recurrent-gates", text, _with(_negated(gates.index("update"))))
        yield from _reset(o)
    yield one(o, "recurrent-direction", "its steps in reverse", _backwards)
    text = "the axes of time and of the batch swapped"
    yield one(o, "recurrent-axes", text, _swapped, ODD)
    if o.arguments.get("bidirectional"):
        text = "its two directions the other way round"
        yield one(o, "parts-order", text, _other_direction_first)


def _with(change: Callable[[Weights], Weights]) -> Callable[[Invocation], tuple]:
    """Return a call with the weights of each layer and direction changed."""

    def replacement(call: Invocation) -> tuple:
        params = list(call["params"])
        size = len(params) // max(1, _directions(call))
        made = [t for i in range(0, len(params), size) for t in change(params[i : i + size])]
        return call(params=made)

    return replacement


def _directions(call: Invocation) -> int:
    """Return how many groups of weights there are: of each layer, in each direction."""
    return int(call["num_layers"]) * (2 if call.get("bidirectional") else 1)


def _rows(order: Sequence[int], tensor: torch.Tensor) -> torch.Tensor:
    parts = tensor.chunk(len(order))
    return torch.cat([parts[i] for i in order])


def _reordered(order: Sequence[int]) -> Callable[[Weights], Weights]:
    return lambda weights: [_rows(order, t) if t.dim() < 3 else t for t in weights]


def _without_bias(place: int) -> Callable[[Weights], Weights]:
    return lambda weights: [torch.zeros_like(t) if i == place else t for i, t in enumerate(weights)]


def _added(gate: int) -> Callable[[Weights], Weights]:
    def change(weights: Weights) -> Weights:
        size = len(weights[2]) // 4
        moved = torch.zeros_like(weights[2])
        moved[gate * size : (gate + 1) * size] = 1.0
        return [t + moved if i == 2 else t for i, t in enumerate(weights)]

    return change


def _negated(gate: int) -> Callable[[Weights], Weights]:
    """1 - sigmoid(a) is sigmoid(-a)."""

    def change(weights: Weights) -> Weights:
        found = []
        for tensor in weights:
            parts = list(tensor.chunk(3))
            parts[gate] = -parts[gate]
            found.append(torch.cat(parts))
        return found

    return change


def _time(call: Invocation) -> int:
    return 1 if call.get("batch_first") else 0


def _backwards(call: Invocation) -> tuple:
    axis = _time(call)
    outputs, *states = call(input=call["input"].flip(axis))
    return (outputs.flip(axis), *states)


def _swapped(call: Invocation) -> tuple:
    return call(batch_first=not call.get("batch_first"))


def _other_direction_first(call: Invocation) -> tuple:
    outputs, *states = call()
    first, second = outputs.chunk(2, -1)
    return (torch.cat((second, first), -1), *states)


def _reset(o: Operation) -> Changes:
    """The reset gate on the hidden state before its product, as in the paper, not after it."""
    if o.arguments.get("num_layers") != 1 or o.arguments.get("bidirectional"):
        return
    text = "its reset gate before the product with the hidden state, not after it"
    yield one(o, "recurrent-gates", text, _reset_before)


def _reset_before(call: Invocation) -> tuple[torch.Tensor, torch.Tensor]:
    x, h, weights = call["input"], call["hx"][0], list(call["params"])
    axis = _time(call)
    zeros = torch.zeros_like(weights[0][:, 0])
    w_in, w, b_in, b = weights if len(weights) == 4 else (*weights, zeros, zeros)
    outputs = []
    for step in x.unbind(axis):
        given = torch.nn.functional.linear(step, w_in, b_in).chunk(3, -1)
        rows, biases = w.chunk(3), b.chunk(3)
        r, z = (
            torch.sigmoid(given[i] + torch.nn.functional.linear(h, rows[i], biases[i]))
            for i in (0, 1)
        )
        new = torch.tanh(given[2] + torch.nn.functional.linear(r * h, rows[2], biases[2]))
        h = (1 - z) * new + z * h
        outputs.append(h)
    return torch.stack(outputs, axis), h[None]
