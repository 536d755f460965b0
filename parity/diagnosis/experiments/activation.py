"""Changes of activations, of softmax, and of dropout."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from parity.capture.torch_operations import WHOLE, Invocation, Operation
from parity.diagnosis.catalogue import Fault
from parity.diagnosis.experiments.change import COMMON, ODD, PLAIN, Changes, given, number, one

SLOPES = (0.01, 0.1, 0.2, 0.3, 0.25, 0.05, 0.02)


def _leaky(slope: float, x: torch.Tensor) -> torch.Tensor:
    return functional.leaky_relu(x, slope)


OTHERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "the exact GELU": functional.gelu,
    "the tanh GELU": lambda x: functional.gelu(x, approximate="tanh"),
    "the quick GELU, x * sigmoid(1.702 x)": lambda x: x * torch.sigmoid(1.702 * x),
    "SiLU": functional.silu,
    "ReLU": functional.relu,
    "ReLU6": functional.relu6,
    **{f"leaky ReLU of slope {s}": functools.partial(_leaky, s) for s in SLOPES},
    "ELU": functional.elu,
    "SELU": functional.selu,
    "CELU": functional.celu,
    "hard swish": functional.hardswish,
    "hard sigmoid, relu6(x + 3) / 6": functional.hardsigmoid,
    "hard sigmoid, clip(0.2 x + 0.5)": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "hard tanh": functional.hardtanh,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": functional.softplus,
    "softsign": functional.softsign,
    "mish": functional.mish,
    "log sigmoid": functional.logsigmoid,
    "squared ReLU": lambda x: functional.relu(x).square(),
}
# Operations that an activation may follow where none should, and which.
FOLLOWED: tuple[str, ...] = (
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose2d",
    "linear",
    "batch_norm",
    "layer_norm",
)
FOLLOWED += ("group_norm", "add", "matmul")
AFTER = ("ReLU", "the exact GELU", "the tanh GELU", "SiLU", "sigmoid", "tanh")
# Operations that are one of them -> which.
NAMES = {
    "gelu": "the exact GELU",
    "silu": "SiLU",
    "relu": "ReLU",
    "relu6": "ReLU6",
    "leaky_relu": "",
    "elu": "ELU",
    "selu": "SELU",
    "celu": "CELU",
    "hardswish": "hard swish",
    "hardsigmoid": "hard sigmoid, relu6(x + 3) / 6",
    "hardtanh": "",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "softplus": "softplus",
    "softsign": "softsign",
    "mish": "mish",
    "logsigmoid": "log sigmoid",
    "prelu": "",
    "clamp": "",
    "threshold": "",
}


def changes(operation: Operation, among: Sequence[Operation]) -> Changes:
    del among
    name = operation.name
    if operation.index == WHOLE:
        for other, function in OTHERS.items():
            text = f"{other} instead of {name}"
            yield one(operation, "activation", text, _replaced(function))
    elif name in NAMES:
        yield from _activation(operation)
    elif name in ("softmax", "log_softmax", "softmin"):
        yield from _softmax(operation)
    elif name in FOLLOWED:
        for other in AFTER:
            text = f"{other} after `{name}`"
            yield one(operation, "activation-added", text, _followed(OTHERS[other]), ODD)
        text = f"a softmax after `{name}`"
        yield one(operation, "activation-added", text, lambda call: call().softmax(-1), ODD)
        yield one(operation, "activation-added", f"{text}'s channels", _over_channels, ODD)
    elif name == "dropout":
        yield from _dropout(operation)
    elif name == "glu":
        yield one(operation, "gate-order", "the gate and what it gates swapped", _glu_swapped)


def _activation(o: Operation) -> Changes:
    now = NAMES[o.name]
    if o.name == "gelu":
        tanh = o.arguments.get("approximate") == "tanh"
        now = "the tanh GELU" if tanh else now
        first = "the exact GELU" if tanh else "the tanh GELU"
        text = f"{first} instead of {now}"
        yield one(o, "gelu-approximation", text, _replaced(OTHERS[first]))
    if o.name in ("leaky_relu", "elu", "celu"):
        key = "negative_slope" if o.name == "leaky_relu" else "alpha"
        slope = float(o.arguments.get(key, 0.01 if o.name == "leaky_relu" else 1.0))
        for other in (*SLOPES, 0.0, 1.0, 0.5):
            if other != slope:
                word = "slope" if o.name == "leaky_relu" else "alpha"
                text = f"{word} {number(other)} instead of {number(slope)}"
                yield given(o, "negative-slope", text, COMMON, **{key: other})
    if o.name == "softplus" and o.arguments.get("beta", 1) != 1:
        text = f"beta 1 instead of {number(o.arguments['beta'])}"
        yield one(o, "softplus-beta", text, lambda call: functional.softplus(call["input"]))
    if o.name == "prelu":
        text = "the slope not applied (ReLU)"
        yield one(o, "negative-slope", text, lambda call: functional.relu(call["input"]))
        for other in (0.25, 0.01):
            slope_text = f"a slope of {other}, not the learned one"
            yield one(o, "negative-slope", slope_text, _slope(other))
    for name, function in OTHERS.items():
        if name == now or (o.name == "gelu" and "GELU" in name and "quick" not in name):
            continue
        text = f"{name} instead of {now or o.name}"
        yield one(o, "activation", text, _replaced(function), PLAIN)


def _followed(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Invocation], Any]:
    return lambda call: function(call())


def _over_channels(call: Invocation) -> torch.Tensor:
    return call().softmax(1)


def _slope(slope: float) -> Callable[[Invocation], torch.Tensor]:
    return lambda call: functional.leaky_relu(call["input"], slope)


def _replaced(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Invocation], Any]:
    return lambda call: function(call["input"])


def _glu_swapped(call: Invocation) -> torch.Tensor:
    first, second = call["input"].chunk(2, call.get("dim", -1))
    return torch.sigmoid(first) * second


def _softmax(o: Operation) -> Changes:
    x = o.tensor("input")
    dim = o.arguments.get("dim")
    if x is None or not isinstance(dim, int):
        return
    n = len(x.shape)
    for other in range(n):
        if other != dim % n:
            text = f"the softmax over axis {other} instead of {dim % n}"
            yield given(o, Fault.SOFTMAX, text, dim=other)
    yield one(o, Fault.SOFTMAX, "the softmax twice", lambda call: call(input=call()))
    text = "softmax with one more in its sum (softmax one)"

    def quiet(call: Invocation) -> torch.Tensor:
        y, axis = call["input"], call["dim"]
        high = y.amax(axis, keepdim=True).clamp_min(0)
        e = torch.exp(y - high)
        return e / (e.sum(axis, keepdim=True) + torch.exp(-high))

    if o.name == "softmax":
        yield one(o, Fault.SOFTMAX, text, quiet, ODD)
        sigmoid = "a sigmoid instead of a softmax"
        yield one(o, Fault.SOFTMAX, sigmoid, _replaced(torch.sigmoid), PLAIN)
        log = "the softmax's logarithm"
        yield one(o, Fault.SOFTMAX, log, lambda call: torch.log(call()), PLAIN)
        scale = 1 / math.sqrt(x.shape[-1])
        text = f"its input times {number(scale)}"
        yield one(o, "attention-scale", text, lambda call: call(input=call["input"] * scale), ODD)


def _dropout(o: Operation) -> Changes:
    p = float(o.arguments.get("p", 0.5))
    if p:
        text = f"not rescaled by 1 / (1 - {number(p)})"
        yield one(o, Fault.DROPOUT_SCALE, text, lambda call: call() * (1 - p))
