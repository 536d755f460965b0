"""Changes of rotary position embeddings: pairs of neighbours or of halves, base, direction."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from parity.capture.torch_calls import Invocation, Operation, Origin, Value
from parity.capture.torch_operations import Replacement
from parity.diagnosis.experiments import rotary_pairs
from parity.diagnosis.experiments.change import ODD, Changes, given, linked, maker, number, one

BASES = (10_000.0, 500_000.0, 1_000_000.0, 100_000.0, 100.0, 1_000.0)


def changes(operation: Operation, among: Sequence[Operation]) -> Changes:
    o = operation
    sums = [s for s in among if rotation(s, among) is not None]
    if sums and o.index == sums[0].index:
        yield from _halves(o, sums, among)
    complex_ = [c for c in among if c.name in ("view_as_complex", "view_as_real")]
    if complex_ and o.index == complex_[0].index:
        yield _from_complex(o, complex_)
    if o.name == "rpow" and isinstance(o.arguments.get("other"), int | float):
        base = float(o.arguments["other"])
        for other in BASES:
            if other != base:
                text = f"a base of {number(other)} instead of {number(base)}"
                yield given(o, "rope-base", text, other=other)
    if o.name == "sin":
        yield one(o, "rope-pairs", "the rotation backwards", lambda call: -call(), ODD)
    yield from rotary_pairs.changes(o, among)
    yield from _frequencies(o)


def rotation(o: Operation, among: Sequence[Operation]) -> tuple[Operation, Operation] | None:
    """Return the products of `x * cos + rotate_half(x) * sin`; None where it is something else."""
    if o.name != "add":
        return None
    straight, turned = maker(o, "input", among), maker(o, "other", among)
    if straight is None or turned is None or straight.name != "mul" or turned.name != "mul":
        return None
    half = maker(turned, "input", among)
    if half is None or half.name != "cat":
        return None
    first = next(iter(half.values()), None)
    negated = next((a for a in among if first is not None and a.index == first.operation), None)
    return (straight, turned) if negated is not None and negated.name == "neg" else None


def _halves(o: Operation, sums: Sequence[Operation], among: Sequence[Operation]) -> Changes:
    def neighbours(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Pairs of neighbours: (x0, x1), (x2, x3)."""
        at = torch.arange(x.shape[-1]) // 2
        turned = torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
        return x * cos[..., at] + turned * sin[..., at]

    def same_tables(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Pairs of neighbours, turned by the angles of halves."""
        turned = torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
        return x * cos + turned * sin

    def other_tables(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Return halves turned by the angles of neighbours."""
        at = torch.arange(x.shape[-1]) // 2
        return x * cos[..., at] + _turned(x) * sin[..., at]

    def backwards(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        return x * cos - _turned(x) * sin

    def swapped(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        return x * sin + _turned(x) * cos

    for text, formula in (
        ("rotary pairs of neighbours, not of halves", neighbours),
        ("rotary pairs of neighbours with the angles of halves", same_tables),
        ("rotary pairs of halves with the angles of neighbours", other_tables),
        ("the rotation backwards", backwards),
        ("sine and cosine swapped", swapped),
    ):
        yield linked(o, "rope-pairs", text, _rotated(sums, among, formula))
    if len(sums) > 1:
        for single, name in zip(sums[:2], ("first", "second"), strict=True):
            text = f"no rotation of the {name} (of queries and keys)"
            yield linked(o, "rope-pairs", text, _rotated([single], among, lambda x, c, s: x), ODD)
    yield linked(o, "rope-pairs", "no rotation", _rotated(sums, among, lambda x, c, s: x))


def _turned(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)


def _rotated(
    sums: Sequence[Operation],
    among: Sequence[Operation],
    formula: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
) -> Callable[[dict[int, Invocation]], Mapping[int, Replacement]]:
    """Return every rotation by another formula of x, cos and sin."""

    def make(kept: dict[int, Invocation]) -> Mapping[int, Replacement]:
        def keep(index: int) -> Replacement:
            def replacement(call: Invocation) -> Any:
                kept[index] = call
                return call()

            return replacement

        found: dict[int, Replacement] = {}
        for o in sums:
            parts = rotation(o, among)
            assert parts is not None
            straight, turned = parts

            def last(
                call: Invocation, a: int = straight.index, b: int = turned.index
            ) -> torch.Tensor:
                return formula(kept[a]["input"], kept[a]["other"], kept[b]["other"])

            found |= {p.index: keep(p.index) for p in parts} | {o.index: last}
        return found

    return make


def _from_complex(o: Operation, every: Sequence[Operation]) -> Any:
    """Pairs of neighbours, as complex numbers; as pairs of halves."""

    def pairs(call: Invocation) -> torch.Tensor:
        x = call.args[0]
        flat = x.flatten(-2)
        return call(input=torch.stack(flat.chunk(2, -1), -1))

    def back(call: Invocation) -> torch.Tensor:
        found = call()
        return torch.cat((found[..., 0], found[..., 1]), -1).reshape(found.shape)

    text = "rotary pairs of halves, not of neighbours"
    replaced = {e.index: pairs if e.name == "view_as_complex" else back for e in every}
    return linked(o, "rope-pairs", text, lambda kept: replaced)


def _frequencies(o: Operation) -> Changes:
    """Yield a stored table of inverse frequencies, of another base."""
    for name, value in o.arguments.items():
        if not isinstance(value, Value) or value.origin is not Origin.STORED:
            continue
        if "inv_freq" in value.source and len(value.shape) == 1 and value.shape[0] > 1:
            for base in BASES:
                yield one(o, "rope-base", f"a base of {number(base)}", _rebased(name, base))


def _rebased(name: str, base: float) -> Callable[[Invocation], Any]:
    def replacement(call: Invocation) -> Any:
        table = call[name]
        now = float(table[1]) ** (-len(table))
        return call(**{name: table ** (math.log(base) / math.log(now))})

    return replacement
