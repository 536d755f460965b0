"""Changes of the weights of convolutions and linear layers: their axes, order and halves."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from parity.capture.torch_operations import Invocation, Operation
from parity.diagnosis.catalogue import Fault
from parity.diagnosis.experiments.change import COMMON, ODD, PLAIN, Changes, one

Sizes = tuple[int, ...]
AXES = "out", "in", "height", "width"


def changes(o: Operation) -> Changes:
    weight = o.tensor("weight")
    if weight is None:
        return
    for fault, what, order, function in arrangements(weight.shape):
        yield one(o, fault, what, weighted(function), order)
    if len(weight.shape) == 2:
        yield from _fused(o, weight.shape)


def arrangements(shape: Sizes) -> Iterator[tuple[str, str, int, Callable]]:
    """Other orders of a weight's axes and values: fault, description, order, function.

    Args:
        shape: PyTorch's shape of it: (out, in, ...), a transposed convolution's (in, out, ...).
    """
    n = len(shape)
    space = tuple(range(2, n))
    if space and max(shape[2:]) > 1:
        text = "the kernel flipped" if n > 3 else "the kernel reversed"
        yield Fault.KERNEL_NOT_FLIPPED, text, COMMON, lambda w: w.flip(space)
        for axis in space if n > 3 else ():
            if shape[axis] > 1 and any(shape[a] > 1 for a in space if a != axis):
                what = f"the kernel flipped in its {AXES[axis] if n == 4 else f'axis {axis}'} alone"
                yield Fault.KERNEL_NOT_FLIPPED, what, PLAIN, lambda w, a=axis: w.flip((a,))
    for axes in itertools.permutations(range(n)):
        if axes != tuple(range(n)) and tuple(shape[a] for a in axes) == shape:
            simple = COMMON if axes[:2] in ((1, 0), (0, 1)) else PLAIN
            text = permuted_text(axes)
            yield Fault.KERNEL_AXES, text, simple, lambda w, a=axes: w.permute(a)
            if space and max(shape[2:]) > 1:
                yield (
                    Fault.KERNEL_AXES,
                    f"{text}, and flipped",
                    ODD,
                    lambda w, a=axes: w.permute(a).flip(space),
                )
    last = (*range(2, n), 1, 0)  # the order of Flax and TensorFlow
    for axes in itertools.permutations(range(n)):
        if axes == tuple(range(n)):
            continue
        text = f"the kernel's values in order of axes {axes}, taken for another order"
        yield Fault.KERNEL_AXES, text, ODD, lambda w, a=axes: _reread(w, a, last)


def _reread(w: torch.Tensor, axes: Sizes, last: Sizes) -> torch.Tensor:
    """Return a kernel kept channels last, whose values are taken in another order of its axes."""
    k = w.permute(last)
    back = [last.index(i) for i in range(w.dim())]
    return k.permute(axes).reshape(k.shape).permute(back)


def permuted_text(axes: Sizes) -> str:
    if axes[:2] == (1, 0) and axes[2:] == tuple(range(2, len(axes))):
        return (
            "the kernel with its in and out axes swapped"
            if len(axes) > 2
            else ("the kernel transposed")
        )
    if axes[:2] == (0, 1):
        return "the kernel with height and width swapped"
    return f"the kernel with its axes in order {axes}"


def weighted(function: Callable) -> Callable[[Invocation], Any]:
    """Return what calls an operation with another weight, made of its own by a function."""
    return lambda call: call(weight=function(call["weight"]))


def _fused(o: Operation, shape: Sizes) -> Changes:
    """Orders of q, k and v, or of gate and up, in one fused linear layer."""
    for count in (2, 3):
        if shape[0] % count:
            continue
        for order in itertools.permutations(range(count)):
            if order != tuple(range(count)):
                names = "qkv" if count == 3 else "01"
                text = f"its outputs in the order {', '.join(names[i] for i in order)}"
                yield one(o, "qkv-order", text, _parts(order), ODD)
        size = shape[0] // count
        for heads in sorted({h for h in range(2, 33) if size % h == 0} | {size} - {1}):
            for fused in (True, False):
                how = "for each head" if fused else "by head, not by kind"
                text = f"its outputs split in {count} {how} ({heads} heads)"
                if heads == size:
                    how = "one part after the other, not in turn"
                    how = how if fused else "in turn, not one part after the other"
                    text = f"its outputs split in {count} {how}"
                yield one(o, "qkv-per-head", text, _by_head(count, heads, fused), ODD)


def _rows(call: Invocation, index: torch.Tensor) -> Any:
    bias = call.get("bias")
    return call(weight=call["weight"][index], bias=None if bias is None else bias[index])


def _parts(order: Sizes) -> Callable[[Invocation], Any]:
    def replacement(call: Invocation) -> Any:
        parts = torch.arange(len(call["weight"])).chunk(len(order))
        return _rows(call, torch.cat([parts[i] for i in order]))

    return replacement


def _by_head(count: int, heads: int, fused: bool) -> Callable[[Invocation], Any]:
    """Rows (kind, head, width) read as (head, kind, width), or the other way."""
    first = (count, heads) if fused else (heads, count)

    def replacement(call: Invocation) -> Any:
        rows = torch.arange(len(call["weight"])).reshape(*first, -1)
        return _rows(call, rows.transpose(0, 1).reshape(-1))

    return replacement
