"""Changes of any operation: left out, its operands swapped, done before or after another one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from parity.capture.torch_calls import Origin
from parity.capture.torch_operations import Invocation, Operation, Replacement
from parity.diagnosis.catalogue import Fault
from parity.diagnosis.experiments.change import (
    ODD,
    PLAIN,
    Change,
    Changes,
    given,
    linked,
    maker,
    number,
    one,
)

ORDINAL = {"input": "first", "other": "second"}
SCALE = "scale-factor"
BRANCH = (0.5, 2.0, math.sqrt(0.5), 0.1)  # factors of a branch of a sum
BINARY = ("add", "sub", "mul", "div", "matmul", "rsub")


def changes(operation: Operation, among: Sequence[Operation]) -> Changes:
    o = operation
    if o.name in BINARY:
        yield from _operands(o)
        yield from _constants(o, among)
    if o.name in ("flatten", "reshape", "view", "unflatten"):
        yield from _flattened(o)
    if o.name in ("mean", "sum"):
        yield from _reduced(o)
    if o.name in ("cat", "stack"):
        yield from _joined(o)
    if o.name == "mul":
        yield from _gated(o, among)
    if o.name == "bilinear":
        text = "its operands swapped"
        yield one(o, "operands", text, lambda c: c(input1=c["input2"], input2=c["input1"]))
    if o.name == "roll":
        yield from _rolled(o)
    if o.name == "pixel_shuffle":
        text = "rows and columns of its factors swapped"
        yield one(o, "shuffle-order", text, _columns_first)
    yield from _stopped(o)
    yield from _frozen(o, among)
    yield from _left_out(o)
    yield from _moved(o, among)
    yield from _exchanged(o, among)


def keeps_shape(o: Operation) -> bool:
    """Return whether its first output has the shape of its first argument, named `input`."""
    x = o.tensor("input")
    return x is not None and len(o.outputs) == 1 and o.outputs[0].shape == x.shape


def _left_out(o: Operation) -> Changes:
    if keeps_shape(o) and o.name not in ("add", "clone", "contiguous", "to", "detach", "float"):
        text = f"`{o.name}` left out"
        yield one(o, "left-out", text, lambda call: call["input"], PLAIN)


def _operands(o: Operation) -> Changes:
    a, b = o.tensor("input"), o.tensor("other")
    if a is None or b is None:
        return
    if o.name in ("sub", "div", "matmul"):
        text = "its operands swapped"
        yield one(o, "operands", text, lambda call: call(input=call["other"], other=call["input"]))
    if o.name == "matmul":
        text = "its second operand transposed"
        yield one(o, "operands", text, lambda call: call(other=call["other"].mT))
        text = "its first operand transposed"
        yield one(o, "operands", text, lambda call: call(input=call["input"].mT))
        return
    out = o.outputs[0].shape
    if a.shape == out:
        text = "the second operand left out" if o.name != "add" else "the second operand not added"
        yield one(o, "left-out", text, lambda call: call["input"], PLAIN)
    if b.shape == out and o.name in ("add", "mul"):
        text = "the first operand left out" if o.name != "add" else "the first operand not added"
        yield one(o, "left-out", text, lambda call: call["other"], PLAIN)
    for other, function in (("add", torch.add), ("sub", torch.sub), ("mul", torch.mul)):
        if other != o.name:
            text = f"`{other}` instead of `{o.name}`"
            yield one(o, "operation", text, _two(function), ODD)
    if o.name == "add":
        yield one(o, "operation", "the mean of both, not their sum", lambda call: call() / 2, ODD)
        for factor in BRANCH:
            for side in ("input", "other"):
                text = f"its {ORDINAL[side]} operand times {number(factor)}"
                yield one(o, SCALE, text, _times(side, factor), ODD)
    if o.name == "mul":
        text = "a factor of 1 + the other, not the other"
        yield one(o, "operation", text, lambda call: call["input"] * (1 + call["other"]), ODD)
        text = "a factor of 1 + the first, not the first"
        yield one(o, "operation", text, lambda call: (1 + call["input"]) * call["other"], ODD)


def _times(side: str, factor: float) -> Replacement:
    return lambda call: call(**{side: call[side] * factor})


def _two(function: Callable[..., torch.Tensor]) -> Replacement:
    return lambda call: function(call["input"], call["other"])


def _constants(o: Operation, among: Sequence[Operation]) -> Changes:
    """Yield a tensor times, or over, a number: a scale that is another one."""
    c = o.arguments.get("other")
    if o.name not in ("mul", "div") or not isinstance(c, int | float) or isinstance(c, bool):
        return
    c = float(c)
    if c in (0.0, 1.0) or not math.isfinite(c):
        return
    others = {1.0: "not scaled", 1 / c: f"scaled by {number(1 / c)}", -c: "of the opposite sign"}
    if c > 0:
        others |= {c * c: f"scaled by {number(c * c)}", math.sqrt(c): f"scaled by {math.sqrt(c):g}"}
    others |= {2 * c: f"scaled by {number(2 * c)}", c / 2: f"scaled by {number(c / 2)}"}
    for other, what in others.items():
        if other != c:
            sign = "times" if o.name == "mul" else "over"
            text = f"{what}, not {sign} {number(c)}"
            yield given(o, SCALE, text, PLAIN, other=other)
    x, made = o.tensor("input"), maker(o, "input", among)
    if x is not None and len(x.shape) == 4 and made is not None and made.name == "matmul":
        root, heads = math.sqrt(x.shape[1]), x.shape[1]
        for other in (c * root, c / root) if heads > 1 else ():
            text = f"scores scaled by {number(other)}, by the width of all heads"
            yield given(o, Fault.ATTENTION_SCALE, text, PLAIN, other=other)


def _flattened(o: Operation) -> Changes:
    """Flattening in another order of axes: (N, C, H, W) as (N, H, W, C)."""
    x, out = o.tensor("input"), o.outputs[0].shape
    if x is None:
        return
    n = len(x.shape)
    if n == 4 and len(out) in (2, 3):
        text = "a flattening in the order (N, H, W, C), not (N, C, H, W)"
        yield one(o, "flatten-order", text, _permuted((0, 2, 3, 1), out))
        text = "a flattening with height and width swapped"
        yield one(o, "flatten-order", text, _permuted((0, 1, 3, 2), out), PLAIN)
        if out != (x.shape[0], x.shape[1], x.shape[2] * x.shape[3]):
            for names, axes in (("N, W, H, C", (0, 3, 2, 1)), ("N, W, C, H", (0, 3, 1, 2))):
                text = f"a flattening in the order ({names})"
                yield one(o, "flatten-order", text, _permuted(axes, out), ODD)
    if n >= 3:
        for a in range(1, n - 1):
            swapped = list(range(n))
            swapped[a], swapped[a + 1] = swapped[a + 1], swapped[a]
            if tuple(swapped) not in ((0, 2, 3, 1), (0, 1, 3, 2)) or n != 4:
                text = f"axes in the order {tuple(swapped)} before a reshape"
                yield one(o, "flatten-order", text, _permuted(tuple(swapped), out), ODD)
    if len(out) >= 4 and o.name in ("reshape", "view", "unflatten"):
        # Heads and their width, the other way round. No sizes in the text: queries and keys, that
        # are changed together, may have other numbers of heads.
        for a in range(1, len(out) - 1):
            turned = list(out)
            turned[a], turned[a + 1] = turned[a + 1], turned[a]
            text = f"axes {a} and {a + 1} of its result split in the opposite order (interleaved)"
            yield one(o, "heads-order", text, _split_otherwise(tuple(turned), a), ODD)


def _permuted(axes: tuple[int, ...], out: tuple[int, ...]) -> Replacement:
    return lambda call: call["input"].permute(axes).reshape(out)


def _split_otherwise(turned: tuple[int, ...], axis: int) -> Replacement:
    return lambda call: call["input"].reshape(turned).transpose(axis, axis + 1)


def _reduced(o: Operation) -> Changes:
    x, dim = o.tensor("input"), o.arguments.get("dim")
    if x is None or dim is None:
        return
    n = len(x.shape)
    axes = tuple(d % n for d in ([dim] if isinstance(dim, int) else dim))
    keep = bool(o.arguments.get("keepdim"))
    if o.name == "mean":
        yield one(
            o, "reduction", "the sum, not the mean", lambda call: call["input"].sum(axes, keep)
        )
        yield one(
            o, "reduction", "the maximum, not the mean", lambda call: call["input"].amax(axes, keep)
        )
    else:
        yield one(
            o, "reduction", "the mean, not the sum", lambda call: call["input"].mean(axes, keep)
        )
    for other in range(n):
        if len(axes) == 1 and other not in axes:
            text = f"reduced over axis {other} instead of {axes[0]}"
            yield given(o, "reduction", text, PLAIN, dim=other)


def _rolled(o: Operation) -> Changes:
    """Yield a roll the other way, or along some of its axes alone."""
    shifts, dims = o.arguments.get("shifts"), o.arguments.get("dims")
    shifts = [shifts] if isinstance(shifts, int) else shifts
    if not isinstance(shifts, tuple | list) or not all(isinstance(s, int) for s in shifts):
        return
    back = tuple(-s for s in shifts)
    yield given(o, "roll-direction", "rolled the other way", shifts=back)
    for i in range(len(shifts)) if len(shifts) > 1 else ():
        for text, sign in (("not rolled", 0), ("rolled the other way", -1)):
            some = tuple(sign * s if i == k else s for k, s in enumerate(shifts))
            axis = dims[i] if isinstance(dims, tuple | list) else i
            yield given(o, "roll-direction", f"{text} along axis {axis}", PLAIN, shifts=some)


def _columns_first(call: Invocation) -> torch.Tensor:
    x, r = call["input"], int(call["upscale_factor"])
    return call(input=x.unflatten(-3, (-1, r, r)).transpose(-3, -4).flatten(-5, -3))


def _joined(o: Operation) -> Changes:
    tensors = o.arguments.get("tensors")
    if not isinstance(tensors, tuple | list) or len(tensors) < 2:
        return
    text = "its parts in the opposite order"
    yield one(o, "parts-order", text, lambda call: call(tensors=list(call["tensors"])[::-1]))
    dim, n = o.arguments.get("dim", 0), len(o.outputs[0].shape)
    for other in range(n):
        if other != dim % n:
            yield given(o, "parts-axis", f"along axis {other} instead of {dim}", ODD, dim=other)


def _gated(o: Operation, among: Sequence[Operation]) -> Changes:
    """f(a) * b as a * f(b): the activation on the other factor, such as up for gate."""
    for side, other in (("input", "other"), ("other", "input")):
        inner = maker(o, side, among)
        if inner is None or not keeps_shape(inner) or inner.name in BINARY:
            continue
        if o.tensor(other) is not None:
            yield _other_factor(o, inner, side, other)


def _other_factor(o: Operation, inner: Operation, side: str, other: str) -> Change:
    text = f"`{inner.name}` on the {ORDINAL[other]} factor, not on the {ORDINAL[side]}"

    def make(kept: dict[int, Invocation]) -> Mapping[int, Replacement]:
        def first(call: Invocation) -> Any:
            kept[inner.index] = call
            return call()

        def second(call: Invocation) -> Any:
            gate = kept[inner.index]
            return call(**{side: gate["input"], other: gate(input=call[other])})

        return {inner.index: first, o.index: second}

    return linked(o, "gate-order", text, make)


def _stopped(o: Operation) -> Changes:
    """No gradient through an operation, or to one of its parameters."""
    if o.name == "detach":
        text = "the gradient that `detach` stops"
        yield one(o, "stop-gradient", text, lambda call: call["input"] * 1.0)
        return
    if not o.outputs or any("float" not in v.dtype for v in o.outputs):
        return
    if len(o.outputs) == 1:
        text = f"no gradient through `{o.name}` (stop_gradient)"
        yield one(o, "stop-gradient", text, lambda call: call().detach(), ODD)
    for name in o.arguments:
        value = o.tensor(name)
        if value is not None and value.origin is Origin.STORED:
            # Not always by that function: the port may hold a copy of what the reference shares.
            text = f"no gradient to `{o.name}`'s {name} ({value.source}: stop_gradient, or a copy)"
            yield one(o, "stop-gradient", text, _detached(name), ODD)


def _frozen(o: Operation, among: Sequence[Operation]) -> Changes:
    """No gradient to several parameters: of one operation, or of all."""
    stored = {other.index: _stored(other) for other in among if _stored(other)}
    if len(stored.get(o.index, ())) > 1:
        text = f"no gradient to the parameters of `{o.name}` (stop_gradient)"
        yield one(o, "stop-gradient", text, _detached(*stored[o.index]), ODD)
    if len(stored) > 1 and o.index == min(stored):
        text = "no gradient to any parameter (stop_gradient)"
        every = {index: _detached(*names) for index, names in stored.items()}
        yield linked(o, "stop-gradient", text, lambda kept: every, ODD)


def _stored(o: Operation) -> list[str]:
    """Return the names of arguments that are stored and trained."""
    return [
        name
        for name in o.arguments
        if (value := o.tensor(name)) is not None
        and value.origin is Origin.STORED
        and "float" in value.dtype
    ]


def _detached(*names: str) -> Replacement:
    return lambda call: call(**{name: call[name].detach() for name in names})


def _moved(o: Operation, among: Sequence[Operation]) -> Changes:
    """f(a + b) as a + f(b), or f(a) + b: an activation or gate before a sum instead of after."""
    for name in ("input", "other"):
        before = maker(o, name, among)
        if before is None or before.name not in ("add", "mul") or len(o.outputs) != 1:
            continue
        if before.tensor("input") is None or before.tensor("other") is None:
            continue
        if o.name not in BINARY and keeps_shape(o):
            yield _before(o, before, "other", "input")
            yield _before(o, before, "input", "other")
        elif o.name == "add" and before.name == "mul" and o.tensor("other") is not None:
            for side in ("input", "other"):
                yield _gate_after(o, before, name, side)


def _before(o: Operation, before: Operation, side: str, still: str) -> Change:
    word = "sum" if before.name == "add" else "product"
    which = ORDINAL[side]
    text = f"`{o.name}` on the {word}'s {which} operand before the {word}, not after it"

    def make(kept: dict[int, Invocation]) -> Mapping[int, Replacement]:
        def first(call: Invocation) -> Any:
            kept[before.index] = call
            return call()

        def second(call: Invocation) -> Any:
            parts = kept[before.index]
            return parts(**{side: call(input=parts[side]), still: parts[still]})

        return {before.index: first, o.index: second}

    return linked(o, Fault.SHORTCUT_ORDER, text, make)


def _gate_after(o: Operation, before: Operation, name: str, side: str) -> Change:
    """U * gate + x as (u + x) * gate.

    Args:
        o: The sum.
        before: The product.
        name: Which of the sum's operands the product is.
        side: Which of the product's operands x is added to.
    """
    text = f"the sum's other operand added before the product, to its {ORDINAL[side]} factor"
    x = "other" if name == "input" else "input"

    def make(kept: dict[int, Invocation]) -> Mapping[int, Replacement]:
        def first(call: Invocation) -> Any:
            kept[before.index] = call
            return call()

        def second(call: Invocation) -> Any:
            parts = kept[before.index]
            return parts(**{side: parts[side] + call[x]})

        return {before.index: first, o.index: second}

    return linked(o, Fault.SHORTCUT_ORDER, text, make)


def _exchanged(o: Operation, among: Sequence[Operation]) -> Changes:
    """g(f(x)) as f(g(x)): two operations, one after the other, in the other order."""
    before = maker(o, "input", among)
    if before is None or not keeps_shape(o) or not keeps_shape(before):
        return
    if before.name in BINARY or o.name in BINARY or before.name == o.name:
        return
    text = f"`{o.name}` before `{before.name}`, not after it"

    def make(kept: dict[int, Invocation]) -> Mapping[int, Replacement]:
        def first(call: Invocation) -> Any:
            kept[before.index] = call
            return call["input"]

        def second(call: Invocation) -> Any:
            inner = kept[before.index]
            return inner(input=call(input=inner["input"]))

        return {before.index: first, o.index: second}

    yield linked(o, "order", text, make)
