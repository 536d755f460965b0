"""What of the port answers what of the reference: every tensor and every layer, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from parity.capture.torch_threads import one_thread
from parity.ladder.port import Port
from parity.ladder.runs import Runs
from parity.report.pairs import Paired

NONE = "(none)"


def pairs(port: Port, precision: str = "float32") -> list[Paired]:
    """Pair a port with its reference, without comparing them.

    Raises:
        InputError: The port cannot be compared; see `Port`.
        ForwardError: A network raised.
    """
    with ThreadPoolExecutor(1) as pool, one_thread():
        runs = Runs(port, precision, pool)
        if runs.failed:
            raise runs.failed
        return list(paired(runs))


def paired(runs: Runs) -> Iterator[Paired]:
    """Yield every tensor, then every call of a layer, with those that have no counterpart."""
    yield from _tensors(runs)
    whole, ported = runs.bounded.whole, runs.port64.traced.get(False, {})
    for name, pair in whole.pairs.items():
        shapes = _text(runs.shapes.get(name)), _first(ported.get(pair.port))
        yield Paired("layer", name, pair.port, *shapes, pair.how)
    for name in whole.reference:
        yield Paired("layer", name, NONE, _text(runs.shapes.get(name)), "", "not paired")
    for name in whole.port:
        yield Paired("layer", NONE, name, "", _first(ported.get(name)), "not paired")


def _tensors(runs: Runs) -> Iterator[Paired]:
    source, target = runs.reference64.state(), runs.port64.state()
    how = "value" if runs.port.weights is None else "weights"
    for name, array in target.items():
        keys = runs.tensors.keys(name)
        shapes = " + ".join(_shape(source[key]) for key in keys if key in source)
        made = f"{how}, rearranged" if name in runs.assignment.parts else how
        if not keys:
            made = "made by the weights function" if name in runs.assignment.derived else "its own"
        yield Paired("tensor", " + ".join(keys) or NONE, name, shapes, _shape(array), made)
    used = {key for name in target for key in runs.tensors.keys(name)}
    for key, array in source.items():
        if key not in used and not runs.tensors.opaque:
            yield Paired("tensor", key, NONE, _shape(array), "", "not used")


def _first(call: Any) -> str:
    return _shape(call.outputs[0]) if call is not None and call.outputs else ""


def _shape(array: Any) -> str:
    return _text(array.shape)


def _text(shape: Sequence[int] | None) -> str:
    return "" if shape is None else "x".join(map(str, shape)) or "number"
