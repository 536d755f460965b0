"""Changes of embeddings and of positions: indices, padding, offsets, the place that is picked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from parity.capture.torch_calls import Invocation, Operation, Origin
from parity.capture.torch_operations import Replacement, Replacements
from parity.diagnosis.catalogue import Fault
from parity.diagnosis.experiments.change import ODD, PLAIN, Changes, given, linked, number, one

OFFSETS = (1, 2, -1, -2)


def changes(operation: Operation, among: Sequence[Operation]) -> Changes:
    name = operation.name
    if name == "embedding":
        yield from _embedding(operation)
    elif name == "arange":
        for offset in OFFSETS:
            text = f"positions moved by {offset}"  # the same words for any first position
            yield one(operation, "position-offset", text, _plus(offset))
        if _first(operation) not in (0, 0.0):
            text = "positions counted from 0 again, behind a cache, too"
            yield one(operation, "position-offset", text, lambda call: call() - call()[:1], ODD)
    elif name == "getitem":
        yield from _picked(operation)
    elif name == "linear":
        yield from _tied_head(operation, among)


def _first(o: Operation) -> Any:
    """Return the first number of a range; a single argument is its end."""
    single = len([name for name in o.given if name not in ("dtype", "device")]) == 1
    return o.arguments.get("start", 0 if single else o.arguments.get("input", 0))


def _plus(offset: int) -> Callable[[Invocation], Any]:
    return lambda call: call() + offset


def _embedding(o: Operation) -> Changes:
    if o.arguments.get("padding_idx") is not None:
        text = "a padding row that is trained"
        yield given(o, "padding-idx", text, padding_idx=None)
        yield one(o, "padding-idx", "a padding row that reads as zeros", _zero_row)
    else:
        text = "row 0 not trained (padding_idx 0)"
        yield given(o, "padding-idx", text, PLAIN, padding_idx=0)
    for offset in OFFSETS:
        text = f"its indices {'+' if offset > 0 else '-'} {abs(offset)}"
        yield one(o, "position-offset", text, _index(offset), PLAIN)
    weight = o.tensor("weight")
    assert weight is not None
    root = math.sqrt(weight.shape[-1])
    text = f"its rows times sqrt(width) ({number(root)})"
    yield one(o, "embedding-scale", text, lambda call: call() * root)


def _zero_row(call: Invocation) -> torch.Tensor:
    index = call["input"]
    return call() * (index != call["padding_idx"])[..., None]


def _index(offset: int) -> Callable[[Invocation], Any]:
    def replacement(call: Invocation) -> Any:
        rows = len(call["weight"])
        return call(input=(call["input"] + offset).clamp(0, rows - 1))

    return replacement


def _tied_head(operation: Operation, among: Sequence[Operation]) -> Changes:
    """Yield a linear layer with an embedding's weights for its own."""
    own = operation.tensor("weight")
    if own is None:
        return
    for other in among:
        table = other.tensor("weight") if other.name == "embedding" else None
        if table is None or table.origin is not Origin.STORED or other.index > operation.index:
            continue
        if table.shape == own.shape and table.source != own.source:
            text = f"{table.source} in place of {own.source} (a tied head)"
            yield linked(operation, Fault.TIED_HEAD, text, _of(other, operation), PLAIN)


def _of(embedding: Operation, head: Operation) -> Callable[[dict[int, Invocation]], Replacements]:
    return lambda kept: {embedding.index: _keep(kept, embedding.index), head.index: _tied(kept)}


def _keep(kept: dict[int, Invocation], index: int) -> Replacement:
    def replacement(call: Invocation) -> Any:
        kept[index] = call
        return call()

    return replacement


def _tied(kept: dict[int, Invocation]) -> Replacement:
    return lambda call: call(weight=next(iter(kept.values()))["weight"])


def _picked(o: Operation) -> Changes:
    """One place of an axis, such as that of a class token: the last for the first."""
    index = o.arguments.get("index")
    places = list(index) if isinstance(index, tuple | list) else [index]
    for i, place in enumerate(places):
        if isinstance(place, int) and not isinstance(place, bool) and place in (0, -1):
            other = -1 - place
            text = f"place {other} of axis {i} instead of {place}"
            yield one(o, "picked-place", text, _elsewhere(i, other), PLAIN)
    x = o.tensor("input")
    if places and isinstance(places[-1], int) and x is not None and len(places) < len(x.shape):
        axis = len(places) - 1
        text = f"the mean over axis {axis}, not one place of it"
        if all(isinstance(p, slice) and p == slice(None) for p in places[:-1]):
            yield one(o, "picked-place", text, lambda call: call.args[0].mean(axis), PLAIN)


def _elsewhere(i: int, other: int) -> Callable[[Invocation], Any]:
    def replacement(call: Invocation) -> Any:
        tensor, index = call.args
        places = list(index) if isinstance(index, tuple) else [index]
        places[i] = other
        return tensor[tuple(places)]

    return replacement
