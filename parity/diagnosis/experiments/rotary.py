"""Changes of rotary position embeddings: pairs of neighbours or of halves, base, direction."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from parity.capture.torch_calls import Invocation, Operation, Origin, Value
from parity.diagnosis.experiments import rotary_pairs, rotary_sums
from parity.diagnosis.experiments.change import ODD, Changes, given, linked, number, one

BASES = (10_000.0, 500_000.0, 1_000_000.0, 100_000.0, 100.0, 1_000.0)


def changes(operation: Operation, among: Sequence[Operation]) -> Changes:
    o = operation
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
    yield from rotary_sums.changes(o, among)
    yield from rotary_pairs.changes(o, among)
    yield from _frequencies(o)


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
