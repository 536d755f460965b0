"""Changes of several operations together: an activation written out, a block's residual."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from parity.capture.torch_operations import Invocation, Operation, Replacement, Value
from parity.diagnosis.experiments.activation import OTHERS
from parity.diagnosis.experiments.change import (
    ODD,
    PLAIN,
    Change,
    Changes,
    linked,
    maker,
    one,
)
from parity.diagnosis.experiments.normalization import NORMS

ELEMENTWISE = ("mul", "add", "sub", "rsub", "div", "pow", "neg", "exp", "clamp", "square")
CURVED = ("tanh", "sigmoid", "erf", "exp", "clamp")  # one of these makes an activation of them
MOST = 8  # values that may stand in a sum in place of its operand


def changes(operation: Operation, among: Sequence[Operation]) -> Changes:
    if operation.name in ELEMENTWISE:
        yield from _activation(operation, among)
    if operation.name == "add":
        yield from _residual(operation, among)
        yield from _from_behind_norm(operation, among)
        yield from _joined_part(operation, among)
    elif operation.name in NORMS:
        yield from _norm_after(operation, among)
        yield from _in_parallel(operation, among)


def _activation(o: Operation, among: Sequence[Operation]) -> Changes:
    """Yield an activation that is written out, such as the tanh GELU, as another one."""
    if any(v.operation == o.index for other in among if _of(other) for v in other.values()):
        return  # it is not the last of them
    source, names = _source(o, among)
    if source is None or len(names) < 2 or not set(CURVED) & set(names):
        return
    first = next((a for a in among if source in a.values()), None)
    if first is None or o.outputs[0].shape != source.shape:
        return
    for name, function in OTHERS.items():
        yield _written_out(o, first, source, name, function)


def _of(o: Operation) -> bool:
    return o.name in ELEMENTWISE or o.name in CURVED


def _source(o: Operation, among: Sequence[Operation]) -> tuple[Value | None, list[str]]:
    """Return the one tensor that an operation and those before it are made of, and their names."""
    known = {a.index: a for a in among}
    sources: set[Value] = set()
    names, waiting, seen = [], [o], {o.index}
    while waiting:
        one = waiting.pop()
        names.append(one.name)
        for value in one.values():
            before = known.get(value.operation) if value.operation is not None else None
            if before is None or not _of(before):
                sources.add(value)
            elif before.index not in seen:
                seen.add(before.index)
                waiting.append(before)
    return (sources.pop() if len(sources) == 1 else None), names


def _written_out(
    o: Operation,
    first: Operation,
    source: Value,
    name: str,
    function: Callable[[torch.Tensor], torch.Tensor],
) -> Change:
    at = next(k for k, v in first.arguments.items() if v == source)

    def make(kept: dict[int, Invocation]) -> Mapping[int, Replacement]:
        def keep(call: Invocation) -> Any:
            kept[first.index] = call
            return call()

        def last(call: Invocation) -> Any:
            del call
            return function(kept[first.index][at])

        return {first.index: keep, o.index: last}

    text = f"{name} instead of the activation that is written out"
    return linked(o, "activation", text, make)


def _residual(o: Operation, among: Sequence[Operation]) -> Changes:
    """A sum in which another value stands for one of its operands, such as a norm's output."""
    shape = o.outputs[0].shape
    before = [
        a
        for a in among
        if a.index < o.index and len(a.outputs) == 1 and a.outputs[0].shape == shape
    ]
    for side, word in (("input", "first"), ("other", "second")):
        mine = o.tensor(side)
        if mine is None or o.tensor("other") is None:
            continue
        for other in before[-MOST:]:
            if other.index != mine.operation:
                where = f" of {other.module}" if other.module else ""
                text = f"the result of `{other.name}`{where} in place of the {word} operand"
                yield _other_operand(o, other, side, text)


def _other_operand(o: Operation, other: Operation, side: str, text: str) -> Change:
    def make(kept: dict[int, Invocation]) -> Mapping[int, Replacement]:
        del kept
        made: list[Any] = []

        def keep(call: Invocation) -> Any:
            made.append(call())
            return made[-1]

        return {other.index: keep, o.index: lambda call: call(**{side: made[-1]})}

    return linked(o, "residual", text, make, ODD)


def _from_behind_norm(o: Operation, among: Sequence[Operation]) -> Changes:
    """Change x + f(norm(x)) to norm(x) + f(norm(x)); the same words for every sum of a block."""
    for side in ("input", "other"):
        mine = o.tensor(side)
        for norm in among if mine is not None else ():
            if norm.name in NORMS and norm.index < o.index and norm.tensor("input") == mine:
                text = "a shortcut from behind its norm, not from before it"
                yield _other_operand(o, norm, side, text)


def _in_parallel(o: Operation, among: Sequence[Operation]) -> Changes:
    """Change norm(a + b) to norm(a): a branch that is fed what the branch before it is fed."""
    total = maker(o, "input", among)
    if total is None or total.name != "add":
        return
    for side, word in (("input", "first"), ("other", "second")):
        if total.tensor(side) is not None:
            text = f"`{o.name}` of the sum's {word} operand, not of the sum (branches in parallel)"
            yield _of_operand(o, total, side, text)


def _of_operand(o: Operation, total: Operation, side: str, text: str) -> Change:
    def make(kept: dict[int, Invocation]) -> Mapping[int, Replacement]:
        def keep(call: Invocation) -> Any:
            kept[total.index] = call
            return call()

        return {total.index: keep, o.index: lambda call: call(input=kept[total.index][side])}

    return linked(o, "residual", text, make, ODD)


def _joined_part(o: Operation, among: Sequence[Operation]) -> Changes:
    """A sum whose other operand is not added to one of the parts that were joined before it."""
    for side, other, word in (("input", "other", "second"), ("other", "input", "first")):
        joined = maker(o, side, among)
        added = o.tensor(other)
        if joined is None or joined.name != "cat" or added is None or not joined.outputs:
            continue
        parts = joined.arguments.get("tensors")
        n = len(joined.outputs[0].shape)
        axis = int(joined.arguments.get("dim", 0)) % n
        back = axis - n  # counted from the last axis: the other operand may have fewer
        if not isinstance(parts, tuple | list) or len(added.shape) < -back:
            continue
        sizes = [part.shape[axis] for part in parts if isinstance(part, Value)]
        if len(sizes) != len(parts) or sum(sizes) != added.shape[back]:
            continue
        for i in range(len(sizes)):
            where = (sum(sizes[:i]), sizes[i])
            text = f"the {word} operand not added to part {i + 1} of the {len(sizes)} joined"
            yield one(o, "part-not-added", text, _not_added(side, other, back, where), PLAIN)


def _not_added(side: str, other: str, axis: int, where: tuple[int, int]) -> Replacement:
    def replacement(call: Invocation) -> Any:
        mask = torch.ones_like(call[other])
        mask.narrow(axis, *where).zero_()
        return call(**{side: call[side], other: call[other] * mask})

    return replacement


def _norm_after(o: Operation, among: Sequence[Operation]) -> Changes:
    """Change x + f(norm(x)) to norm(x + f(x)): the norm after the sum, not before the block."""
    x = o.tensor("input")
    if x is None:
        return
    for total in among:
        operands = (total.tensor("input"), total.tensor("other"))
        if total.name != "add" or total.index < o.index or x not in operands:
            continue
        if maker(total, "other", among) is None and maker(total, "input", among) is None:
            continue
        yield _after(o, total)
        return


def _after(o: Operation, total: Operation) -> Change:
    def make(kept: dict[int, Invocation]) -> Mapping[int, Replacement]:
        def skipped(call: Invocation) -> Any:
            kept[o.index] = call
            return call["input"]

        return {
            o.index: skipped,
            total.index: lambda call: kept[o.index](input=call()),
        }

    text = f"`{o.name}` after the sum (post-norm), not before the block"
    return linked(o, "norm-place", text, make, PLAIN)
