"""Changes of convolutions and linear layers: bias, padding, dilation, groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.nn import functional

from parity.capture.torch_operations import Invocation, Operation
from parity.diagnosis.catalogue import Fault
from parity.diagnosis.experiments import kernels
from parity.diagnosis.experiments.change import (
    ODD,
    PLAIN,
    Change,
    Changes,
    given,
    linked,
    one,
)

Sizes = tuple[int, ...]
CONV = ("conv1d", "conv2d", "conv3d")
TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


def changes(operation: Operation, among: Sequence[Operation]) -> Changes:
    if operation.name in CONV:
        yield from _same_padding(operation)
        yield from kernels.changes(operation)
        yield from _paddings(operation)
        yield from _settings(operation)
        yield from _strides(operation, among)
    elif operation.name in TRANSPOSED:
        yield from kernels.changes(operation)
        yield from _output_padding(operation)
        yield from _settings(operation)
    elif operation.name == "linear":
        yield from kernels.changes(operation)
    if operation.name in (*CONV, *TRANSPOSED, "linear") and operation.tensor("bias") is not None:
        yield given(operation, "bias-left-out", "no bias", PLAIN, bias=None)
    if operation.name == "pad":
        yield from _pad(operation)


def tuple_of(value: Any, n: int) -> Sizes:
    """Return a setting in every direction."""
    return tuple(value) if isinstance(value, tuple | list) else (int(value),) * n


def directions(o: Operation) -> tuple[Sizes, Sizes, Sizes, Sizes, Sizes]:
    """Sizes of the map and of the window, stride, dilation and padding, in every direction."""
    x, w = o.tensor("input"), o.tensor("weight")
    assert x is not None
    size = x.shape[2:] if len(x.shape) > 3 or w is not None else x.shape[1:]
    n = len(size)
    window = w.shape[2:] if w is not None else tuple_of(o.arguments["kernel_size"], n)
    stride = o.arguments.get("stride")
    stride = window if stride is None or stride == [] else tuple_of(stride, n)
    dilation = tuple_of(o.arguments.get("dilation", 1), n)
    padding = o.arguments.get("padding", 0)
    if isinstance(padding, str):
        total = [
            d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, window, strict=True)
        ]
        return size, window, stride, dilation, tuple(t // 2 for t in total)
    return size, window, stride, dilation, tuple_of(padding, n)


Ends = tuple[tuple[int, int], ...]


def same_ends(size: Sizes, window: Sizes, stride: Sizes, dilation: Sizes) -> Ends:
    """TensorFlow's SAME: rows added at either end, in every direction."""
    found = []
    for n, k, s, d in zip(size, window, stride, dilation, strict=True):
        total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        found.append((total // 2, total - total // 2))
    return tuple(found)


def padded(x: torch.Tensor, ends: Ends, value: float = 0.0, mode: str = "constant") -> torch.Tensor:
    """Return a map with so many rows added, or cut off where negative, at either end."""
    flat = [edge for pair in reversed(ends) for edge in pair]
    if mode == "constant":
        return functional.pad(x, flat, value=value)
    return functional.pad(x, flat, mode=mode)


def _with_ends(ends: Ends, mode: str = "constant") -> Callable[[Invocation], Any]:
    return lambda call: call(input=padded(call["input"], ends, mode=mode), padding=0)


def _same_padding(o: Operation) -> Changes:
    size, window, stride, dilation, padding = directions(o)
    ends = same_ends(size, window, stride, dilation)
    if ends != tuple((p, p) for p in padding):
        yield one(o, Fault.SAME_PADDING, "SAME padding", _with_ends(ends))


def other_ends(
    size: Sizes, window: Sizes, stride: Sizes, dilation: Sizes, padding: Sizes
) -> Iterator[tuple[str, Ends]]:
    """Paddings that may be taken for the right one, but for SAME: description, rows added."""
    known = {same_ends(size, window, stride, dilation), tuple((p, p) for p in padding)}
    half = tuple((d * (k - 1) // 2,) * 2 for d, k in zip(dilation, window, strict=True))
    full = tuple((d * (k - 1),) * 2 for d, k in zip(dilation, window, strict=True))
    causal = tuple((d * (k - 1), 0) for d, k in zip(dilation, window, strict=True))
    after = tuple((0, d * (k - 1)) for d, k in zip(dilation, window, strict=True))
    candidates = [
        ("no padding", tuple((0, 0) for _ in padding)),
        ("half the kernel as padding", half),
        ("a padding of 1", tuple((1, 1) for _ in padding)),
        ("all padding in front", tuple((2 * p, 0) for p in padding)),
        ("all padding behind", tuple((0, 2 * p) for p in padding)),
        ("one row less in front", tuple((max(p - 1, 0), p) for p in padding)),
        ("one row less behind", tuple((p, max(p - 1, 0)) for p in padding)),
        ("one row more in front", tuple((p + 1, p) for p in padding)),
        ("one row more behind", tuple((p, p + 1) for p in padding)),
        ("padding moved by a row", tuple((p - 1, p + 1) for p in padding if p)),
        ("padding moved back by a row", tuple((p + 1, p - 1) for p in padding if p)),
        ("causal padding", causal),
        ("padding behind alone", after),
        ("full padding", full),
    ]
    if len(set(padding)) > 1:
        swapped = tuple((p, p) for p in reversed(padding))
        candidates.append(("the padding of height and width swapped", swapped))
    for text, ends in candidates:
        if len(ends) == len(padding) and ends not in known:
            known.add(ends)
            yield text, ends


def _paddings(o: Operation) -> Changes:
    size, window, stride, dilation, padding = directions(o)
    for text, ends in other_ends(size, window, stride, dilation, padding):
        yield one(o, "padding", text, _with_ends(ends), PLAIN)
    if any(padding):
        ends = tuple((p, p) for p in padding)
        for mode in ("reflect", "replicate", "circular"):
            yield one(o, "padding-mode", f"`{mode}` padding", _with_ends(ends, mode), PLAIN)


def _settings(o: Operation) -> Changes:
    _, window, stride, dilation, padding = directions(o)
    weight, groups = o.tensor("weight"), int(o.arguments.get("groups", 1))
    assert weight is not None
    if set(dilation) != {1}:
        text = f"dilation 1 instead of {dilation[0]}"
        yield given(o, "dilation", text, PLAIN, dilation=1)
        scaled = tuple(max(p // d, 0) for p, d in zip(padding, dilation, strict=True))
        yield given(o, "dilation", f"{text}, and its padding", PLAIN, dilation=1, padding=scaled)
    for d in (2, 3, 4):
        if set(dilation) != {d} and max(window) > 1 and o.name in CONV:
            wide = tuple(p * d // e for p, e in zip(padding, dilation, strict=True))
            text = f"dilation {d} instead of {dilation[0]}"
            yield given(o, "dilation", text, ODD, dilation=d)
            yield given(o, "dilation", f"{text}, and its padding", ODD, dilation=d, padding=wide)
    for s in (1, 2):
        if set(stride) != {s}:
            yield given(o, "stride", f"stride {s} instead of {stride[0]}", PLAIN, stride=s)
    if groups > 1 and o.name in CONV:
        yield one(o, "group-order", "groups of channels taken in turn", _groups_in_turn, PLAIN)
        filters = weight.shape[0] // groups
        if filters > 1:
            orders = {filters: "of all groups in turn", groups: "group after group"}
            for first, how in orders.items():
                text = f"the kernel's filters stored {how}, taken for the other order"
                yield one(o, "group-order", text, kernels.weighted(_filters(first)), PLAIN)


def _filters(first: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what reads a kernel's filters (a, b) as (b, a), of which there are `first` of a."""
    return lambda w: w.unflatten(0, (first, -1)).transpose(0, 1).flatten(0, 1)


def _groups_in_turn(call: Invocation) -> torch.Tensor:
    """Channel c belongs to group c mod groups."""
    x, groups = call["input"], call["groups"]
    order = torch.arange(x.shape[1]).reshape(-1, groups).T.reshape(-1)
    return call(input=x[:, order])


def _strides(o: Operation, among: Sequence[Operation]) -> Changes:
    """Yield the stride at the next convolution, or at the one before, instead of this one."""
    mine = directions(o)[2]
    convs = [other for other in among if other.name in CONV]
    at = next((i for i, other in enumerate(convs) if other.index == o.index), None)
    if at is None or max(mine) == 1:
        return
    for other in convs[max(at - 1, 0) : at] + convs[at + 1 : at + 2]:
        theirs = directions(other)[2]
        if len(theirs) != len(mine) or max(theirs) > 1:
            continue
        yield _exchanged(o, other, mine, theirs)


def _exchanged(o: Operation, other: Operation, mine: Sizes, theirs: Sizes) -> Change:
    text = f"its stride of {mine[0]} at the convolution in {other.module or other.line} instead"
    return linked(
        o,
        "stride-place",
        text,
        lambda kept: {
            o.index: lambda call: call(stride=theirs),
            other.index: lambda call: call(stride=mine),
        },
    )


def _output_padding(o: Operation) -> Changes:
    """Yield where the rows of a transposed convolution's output padding are, and how many."""
    x, weight = o.tensor("input"), o.tensor("weight")
    assert x is not None
    assert weight is not None
    n = len(x.shape) - 2
    extra = tuple_of(o.arguments.get("output_padding", 0), n)
    padding = tuple_of(o.arguments.get("padding", 0), n)
    stride, window = tuple_of(o.arguments["stride"], n), weight.shape[2:]
    if any(extra):
        ends = tuple((p - e, p) for p, e in zip(padding, extra, strict=True))
        text = "the output padding before the map"
        yield one(o, Fault.OUTPUT_PADDING_SIDE, text, _cut(ends))
        yield given(o, "output-padding", "no output padding", PLAIN, output_padding=0)
    same = []
    for k, s in zip(window, stride, strict=True):
        total = max(k - s, 0)
        same.append((total // 2, total - total // 2))
    if tuple(same) != tuple((p, p - e) for p, e in zip(padding, extra, strict=True)):
        yield one(o, Fault.SAME_PADDING, "SAME padding", _cut(tuple(same)))
    # Flax's and TensorFlow's SAME cuts the larger half in front.
    other = tuple((k - 1 - _front(k, s), -1) for k, s in zip(window, stride, strict=True))
    sizes = [(m - 1) * s + k for m, s, k in zip(x.shape[2:], stride, window, strict=True)]
    flax = tuple(
        (front, full - front - m * s)
        for (front, _), full, m, s in zip(other, sizes, x.shape[2:], stride, strict=True)
    )
    if flax not in (tuple(same), tuple((p, p - e) for p, e in zip(padding, extra, strict=True))):
        yield one(o, Fault.SAME_PADDING, "Flax's SAME padding", _cut(flax), PLAIN)
    if any(padding):
        full = tuple((0, 0) for _ in padding)
        yield one(o, "padding", "nothing cut off (VALID)", _cut(full), PLAIN)
        for text, shift in (("before", -1), ("behind", 1)):
            moved = tuple((p + shift, p - e - shift) for p, e in zip(padding, extra, strict=True))
            yield one(o, Fault.OUTPUT_PADDING_SIDE, f"the map moved a row {text}", _cut(moved), ODD)


def _front(k: int, s: int) -> int:
    """Rows that `lax.conv_transpose` adds in front with SAME."""
    total = k + s - 2
    return k - 1 if s > k - 1 else -(-total // 2)


def _cut(ends: Ends) -> Callable[[Invocation], torch.Tensor]:
    """The whole result, with so many rows cut off, or added where negative, at either end."""

    def replacement(call: Invocation) -> torch.Tensor:
        bias = call.get("bias")
        y = call(padding=0, output_padding=0, bias=None)
        y = padded(y, tuple((-a, -b) for a, b in ends))
        return y if bias is None else y + bias.reshape(-1, *[1] * len(ends))

    return replacement


def _pad(o: Operation) -> Changes:
    pads = list(o.arguments.get("pad", ()))
    mode = o.arguments.get("mode", "constant")
    for other in ("constant", "reflect", "replicate", "circular"):
        if other != mode:
            yield given(o, "padding-mode", f"`{other}` padding instead of `{mode}`", mode=other)
    pairs = [pads[i : i + 2] for i in range(0, len(pads), 2)]
    if any(a != b for a, b in pairs):
        swapped = [e for a, b in pairs for e in (b, a)]
        text = "the padding's front and back swapped"
        yield given(o, Fault.SAME_PADDING, text, pad=swapped)
        even = [e for a, b in pairs for e in ((a + b) // 2, (a + b) - (a + b) // 2)]
        if even not in (pads, swapped):
            yield given(o, Fault.SAME_PADDING, "SAME padding", pad=even)
    if len(pairs) == 2 and pairs[0] != pairs[1]:
        text = "the padding of height and width swapped"
        yield given(o, "padding", text, pad=[*pairs[1], *pairs[0]])
