"""Changes of rotary position embeddings: pairs of neighbours or of halves, base, direction."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from parity.capture.torch_calls import Invocation, Operation
from parity.diagnosis.experiments import rotary_base, rotary_pairs, rotary_sums
from parity.diagnosis.experiments.change import ODD, Changes, linked, number, one


def changes(operation: Operation, among: Sequence[Operation]) -> Changes:
    o = operation
    complex_ = [c for c in among if c.name in ("view_as_complex", "view_as_real")]
    if complex_ and o.index == complex_[0].index:
        yield _from_complex(o, complex_)
    yield from rotary_base.changes(o)
    if complex_ and o.name == "mul" and not rotary_base.is_made_here(among):
        yield from _of_complex(o)
    if o.name == "sin":
        yield one(o, "rope-pairs", "the rotation backwards", lambda call: -call(), ODD)
    yield from rotary_sums.changes(o, among)
    yield from rotary_pairs.changes(o, among)


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


def _of_complex(o: Operation) -> Changes:
    """Yield other bases of a table that complex numbers are multiplied with."""
    tables = [v for name in ("input", "other") if (v := o.tensor(name)) is not None]
    if len(tables) != 2 or not all("complex" in table.dtype for table in tables):
        return
    name = "other" if math.prod(tables[0].shape) >= math.prod(tables[1].shape) else "input"
    for base in rotary_base.BASES:
        yield one(o, "rope-base", f"a base of {number(base)}", _complex_rebased(name, base))


def _complex_rebased(name: str, base: float) -> Callable[[Invocation], Any]:
    def replacement(call: Invocation) -> Any:
        cos, sin = rotary_base.rebased(call[name].real, call[name].imag, base)
        return call(**{name: torch.complex(cos, sin)})

    return replacement
