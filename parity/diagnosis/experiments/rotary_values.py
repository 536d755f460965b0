"""A rotary embedding of values, too: the operations that turn keys, done to another tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from parity.capture.records import mapped
from parity.capture.torch_arrays import tensors_of
from parity.capture.torch_calls import Invocation, Operation, Value
from parity.capture.torch_operations import Replacement
from parity.diagnosis.experiments import rotary_pairs, rotary_sums
from parity.diagnosis.experiments.change import ODD, Changes, linked
from parity.diagnosis.experiments.rotary_sums import PARTS

MOST = 8  # tensors that are tried
SHAPING = frozenset(PARTS) - {"neg", "mul"}  # what only shapes, or picks, a tensor


def changes(operation: Operation, among: Sequence[Operation]) -> Changes:
    """Yield other tensors turned as queries or keys are, at the first operation of a rotation."""
    for turned, ends in _rotations(among):
        if ends[0].index != operation.index:
            continue
        source = _source(turned, among)
        if source is None:
            continue
        chain = _chain(source, ends, among)
        others = [
            o
            for o in among
            if o.index > chain[-1].index
            and o.name not in SHAPING
            and len(o.outputs) == 1
            and o.outputs[0].shape == source.shape
            and o.outputs[0].dtype == source.dtype
        ]
        for other in others[:MOST]:
            where = f" of {other.module}" if other.module else ""
            text = f"the result of `{other.name}`{where} turned by the rotary embedding, too"
            yield linked(operation, "rope-values", text, _turning(source, chain, other), ODD)


def _rotations(among: Sequence[Operation]) -> Iterator[tuple[Value, tuple[Operation, ...]]]:
    """Yield a value that each rotation turns, and the operations that give its halves, or all."""
    for o in among:
        if (pair := rotary_pairs.rotation(o, among)) is not None:
            product, name = pair.of_first[0]
            value = product.tensor(name)
            if value is not None:
                yield value, (pair.first, pair.second)
        elif (total := rotary_sums.rotation(o, among)) is not None:
            value = total.straight.tensor(total.x)
            if value is not None:
                yield value, (total.total,)


def _source(value: Value, among: Sequence[Operation]) -> Value | None:
    """Return what a value is a part of, or a shape of."""
    by_index = {o.index: o for o in among}
    for _ in range(rotary_sums.STEPS):
        before = by_index.get(value.operation) if value.operation is not None else None
        if before is None or before.name not in SHAPING:
            return value
        taken = before.tensor("input")
        if taken is None:
            return None
        value = taken
    return None


def _chain(source: Value, ends: Sequence[Operation], among: Sequence[Operation]) -> list[Operation]:
    """Return the operations from a source to the rotation, and those that join its halves."""
    made: set[int] = set()
    chain: list[Operation] = []
    last = max(o.index for o in ends)
    for o in among:
        takes = any(v == source or v.operation in made for v in o.values())
        if o.index > last and not (takes and o.name in SHAPING and o.index == chain[-1].index + 1):
            break  # such as the attention's own shaping of what is turned
        if takes:
            made.add(o.index)
            chain.append(o)
    return chain


def _turning(
    source: Value, chain: Sequence[Operation], other: Operation
) -> Callable[[dict[int, Invocation]], Mapping[int, Replacement]]:
    def make(kept: dict[int, Invocation]) -> Mapping[int, Replacement]:
        results: dict[int, Any] = {}

        def keep(index: int) -> Replacement:
            def replacement(call: Invocation) -> Any:
                kept[index], results[index] = call, call()
                return results[index]

            return replacement

        def turned(call: Invocation) -> torch.Tensor:
            first = chain[0]
            name = next(k for k, v in first.arguments.items() if v == source)
            known = {id(kept[first.index][name]): call()}
            found: Any = None
            for o in chain:
                again = kept[o.index]
                args, kwargs = _with(known, (again.args, again.kwargs))
                found = again.function(*args, **kwargs)
                pairs = zip(tensors_of(results[o.index]), tensors_of(found), strict=True)
                known |= {id(old): new for old, new in pairs}
            return found

        return {o.index: keep(o.index) for o in chain} | {other.index: turned}

    return make


def _with(known: Mapping[int, torch.Tensor], arguments: Any) -> Any:
    """Return arguments with tensors replaced, by their identity."""
    return mapped(arguments, lambda leaf: known.get(id(leaf), leaf))
