"""Changes of a dropout whose mask is handed over: its scale, its probability, what it drops."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from parity.capture.torch_operations import Invocation, Operation
from parity.diagnosis.catalogue import Fault
from parity.diagnosis.experiments.change import Changes, given, maker, number, one

MASKS = ("bool", "uint8")


def changes(operation: Operation, among: Sequence[Operation]) -> Changes:
    """Changes of a mask, cast to numbers, over the probability that an element is kept."""
    o, keep = operation, operation.arguments.get("other")
    if o.name not in ("div", "mul") or not isinstance(keep, float):
        return
    if o.name == "mul":
        keep = 1 / keep if keep else 0.0
    if not 0 < keep < 1 or not _is_mask(o, among):
        return
    p = 1 - keep

    def scaled(factor: float) -> float:
        return factor if o.name == "div" else 1 / factor

    text = f"what is kept not rescaled by 1 / {number(round(keep, 9))}"
    yield given(o, Fault.DROPOUT_SCALE, text, other=scaled(1.0))
    fault = Fault.DROPOUT_KEEP_PROBABILITY
    if p != keep:
        text = f"the probability of dropping {number(round(keep, 9))} instead of {p:.9g}"
        yield given(o, fault, text, other=scaled(p))
    text = "its mask inverted: what should be dropped is kept"
    yield one(o, fault, text, _inverted)
    text = f"its mask inverted, and rescaled by 1 / {p:.9g}"
    yield one(o, fault, text, lambda call: call(input=1 - call["input"], other=scaled(p)))


def _is_mask(o: Operation, among: Sequence[Operation]) -> bool:
    """Return whether an operation's input is a mask cast to numbers."""
    cast = maker(o, "input", among)
    if cast is None or cast.name not in ("to", "float", "double", "type", "type_as"):
        return False
    mask = cast.tensor("input")
    return mask is not None and mask.dtype in MASKS


def _inverted(call: Invocation) -> torch.Tensor:
    return call(input=1 - call["input"])
