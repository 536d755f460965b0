"""Changes of a value on its way: axes reversed, rolled, interleaved or swapped; rounded; scaled."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch

from parity.capture.torch_calls import Invocation, Operation, Origin, Value
from parity.capture.torch_operations import Replacement
from parity.diagnosis.experiments.arithmetic import SCALE
from parity.diagnosis.experiments.change import RARE, Change, Changes, linked, one
from parity.diagnosis.experiments.rounding import Rounded

TURNED, ROUNDED = "values-turned", "values-rounded"
BITS = {10: "TF32's or float16's", 7: "bfloat16's"}
MOST_AXES = 5
GROUPS = (2, 3, 4, 8, 16)
FACTORS = {"0.5": 0.5, "2": 2.0, "sqrt(1/2)": 0.5**0.5, "sqrt(2)": 2**0.5, "0.1": 0.1, "10": 10.0}
FACTORS |= {"-1": -1.0, "255": 255.0, "1/255": 1 / 255}

Turn = Callable[[torch.Tensor], torch.Tensor]


def changes(operation: Operation, among: Sequence[Operation]) -> Changes:
    """Yield what an operation gives, turned, and what comes from before, at all that take it."""
    if len(operation.outputs) == 1 and operation.name != "__setitem__":
        (made,) = operation.outputs
        for fault, text, turn in turns(made):
            yield one(operation, fault, f"its result {text}", _result(turn), RARE)
    for value in dict.fromkeys(operation.values()):
        if value.operation is None and value.origin in (Origin.INPUT, Origin.LAYER):
            users = [o for o in among if value in o.values()]
            if users[0].index == operation.index:
                for fault, text, turn in turns(value):
                    what = f"{value.source} {text}"
                    yield _given(operation, users, value, (fault, what), turn)


def turns(value: Value) -> list[tuple[str, str, Turn]]:
    """Return what may be done to a value: the fault, in words, and as functions."""
    found = [(TURNED, f"with {text}", turn) for text, turn in orders(value.shape)]
    for bits, whose in BITS.items() if "float" in value.dtype else ():
        for backward in (bits, 0):
            how = "" if backward else ", and its gradient not"
            text = f"rounded to {whose} {bits} bits{how}"
            found.append((ROUNDED, text, _rounded(bits, backward)))
    for name, factor in FACTORS.items() if "float" in value.dtype else ():
        found.append((SCALE, f"times {name}", _scaled(factor)))
    return found


def _scaled(factor: float) -> Turn:
    return lambda x: x * factor


def _rounded(bits: int, backward: int) -> Turn:
    return lambda x: Rounded.apply(x, bits, backward)


def orders(shape: Sequence[int]) -> list[tuple[str, Turn]]:
    """Return orders of the elements of an array in words, and as functions.

    The first axis stays: what is done to each example alone does not see that they have others.
    """
    found: list[tuple[str, Turn]] = []
    n = len(shape)
    if n > MOST_AXES:
        return found
    for axis in range(1, n):
        size = shape[axis]
        if size < 2:
            continue
        found.append((f"axis {axis} reversed", _flipped(axis)))
        for shift in (1, -1) if size > 2 else ():
            found.append((f"axis {axis} rolled by {shift}", _rolled(shift, axis)))
        for groups in GROUPS:
            if size % groups == 0 and size > groups:
                text = f"axis {axis} as {groups} groups, interleaved"
                found.append((text, _interleaved(axis, groups)))
    for a, b in itertools.combinations(range(1, n), 2):
        if shape[a] == shape[b] > 1:
            found.append((f"axes {a} and {b} swapped", _swapped(a, b)))
    return found


def _flipped(axis: int) -> Turn:
    return lambda x: x.flip(axis)


def _rolled(shift: int, axis: int) -> Turn:
    return lambda x: x.roll(shift, axis)


def _swapped(a: int, b: int) -> Turn:
    return lambda x: x.transpose(a, b)


def _interleaved(axis: int, groups: int) -> Turn:
    def turn(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(axis, (groups, -1)).transpose(axis, axis + 1).flatten(axis, axis + 1)

    return turn


def _result(turn: Turn) -> Replacement:
    return lambda call: turn(call())


def _given(
    at: Operation,
    users: Sequence[Operation],
    value: Value,
    what: tuple[str, str],
    turn: Turn,
) -> Change:
    """Return a value turned in every operation that takes it."""
    places = {o.index: [k for k, v in o.arguments.items() if v == value] for o in users}

    def replacement(names: Sequence[str]) -> Replacement:
        return lambda call: call(**{name: turn(call[name]) for name in names})

    def make(kept: dict[int, Invocation]) -> dict[int, Replacement]:
        del kept
        return {index: replacement(names) for index, names in places.items() if names}

    return linked(at, *what, make, RARE)
