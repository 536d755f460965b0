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
        if ends[0].index == operation.index:
            yield from _made_later(operation, turned, ends, among)
            yield from _made_before(operation, turned, ends, among)


def _made_later(
    operation: Operation, turned: Value, ends: Sequence[Operation], among: Sequence[Operation]
) -> Changes:
    """Yield tensors that are made behind the rotation, which are turned where they are made."""
    source = list(_sources(turned, among))[-1:]
    for value in source:
        chain = _chain(value, ends, among)
        others = [
            o
            for o in among
            if o.index > chain[-1].index
            and o.name not in SHAPING
            and len(o.outputs) == 1
            and _alike(o.outputs[0], value)
        ]
        for other in others[:MOST]:
            make = _turning(value, chain, {other.index: None})
            yield linked(operation, "rope-values", _text(other), make, ODD)


def _made_before(
    operation: Operation, turned: Value, ends: Sequence[Operation], among: Sequence[Operation]
) -> Changes:
    """Yield tensors that are there before the rotation, which are turned where they are taken."""
    for source in _sources(turned, among):
        chain = _chain(source, ends, among)
        made = {o.index for o in chain}
        takers: dict[Value, dict[int, str | None]] = {}
        for o in among:
            for name, value in o.arguments.items():
                if isinstance(value, Value) and value != source and value.operation not in made:
                    before = value.operation is not None and value.operation < chain[-1].index
                    if before and o.index > chain[-1].index and _alike(value, source):
                        takers.setdefault(value, {})[o.index] = name
        for value, places in list(takers.items())[:MOST]:
            maker = _maker(list(_sources(value, among))[-1], among)
            if maker is not None:
                make = _turning(source, chain, places)
                yield linked(operation, "rope-values", _text(maker), make, ODD)


def _text(made_by: Operation) -> str:
    where = f" of {made_by.module}" if made_by.module else ""
    return f"the result of `{made_by.name}`{where} turned by the rotary embedding, too"


def _alike(value: Value, other: Value) -> bool:
    return value.shape == other.shape and value.dtype == other.dtype


def _maker(value: Value, among: Sequence[Operation]) -> Operation | None:
    return next((o for o in among if o.index == value.operation), None)


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


def _sources(value: Value, among: Sequence[Operation]) -> Iterator[Value]:
    """Yield a value, and what it is a part of, or a shape of, one after the other."""
    yield value
    for _ in range(rotary_sums.STEPS):
        before = _maker(value, among)
        taken = before.tensor("input") if before is not None and before.name in SHAPING else None
        if taken is None:
            return
        value = taken
        yield value


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
    source: Value, chain: Sequence[Operation], places: Mapping[int, str | None]
) -> Callable[[dict[int, Invocation]], Mapping[int, Replacement]]:
    """Return a chain of operations done to other tensors, too.

    Args:
        source: What the chain begins with.
        chain: The operations.
        places: Where it is done, behind the chain: an operation, and which of its arguments is
            turned; None: its result.
    """

    def make(kept: dict[int, Invocation]) -> Mapping[int, Replacement]:
        results: dict[int, Any] = {}

        def keep(index: int) -> Replacement:
            def replacement(call: Invocation) -> Any:
                kept[index], results[index] = call, call()
                return results[index]

            return replacement

        def turned(value: torch.Tensor) -> torch.Tensor:
            first = chain[0]
            name = next(k for k, v in first.arguments.items() if v == source)
            known = {id(kept[first.index][name]): value}
            found: Any = None
            for o in chain:
                again = kept[o.index]
                args, kwargs = _with(known, (again.args, again.kwargs))
                found = again.function(*args, **kwargs)
                pairs = zip(tensors_of(results[o.index]), tensors_of(found), strict=True)
                known |= {id(old): new for old, new in pairs}
            return found

        def at(name: str | None) -> Replacement:
            if name is None:
                return lambda call: turned(call())
            return lambda call: call(**{name: turned(call[name])})

        return {o.index: keep(o.index) for o in chain} | {i: at(n) for i, n in places.items()}

    return make


def _with(known: Mapping[int, torch.Tensor], arguments: Any) -> Any:
    """Return arguments with tensors replaced, by their identity."""
    return mapped(arguments, lambda leaf: known.get(id(leaf), leaf))
