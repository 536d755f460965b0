"""Experiments on precision: narrower numbers inside a layer, and a variance that cancels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import ml_dtypes
import numpy as np
import torch

from parity.capture.records import is_float
from parity.capture.torch_operations import Invocation, Operation, Replacement, Tape
from parity.diagnosis.catalogue import Fault
from parity.diagnosis.experiments.attention import attention
from parity.diagnosis.experiments.change import one
from parity.diagnosis.experiments.engine import DISTINCT, Make, Proof, close, nearest
from parity.diagnosis.experiments.layer import Alone, WholeNetwork
from parity.diagnosis.experiments.rounding import Rounded
from parity.ladder.keys import Flat, Key
from parity.ladder.tolerances import norm
from parity.ladder.weights import SYNONYMS
from parity.report.quantity import Kind
from parity.report.report import Report

PRODUCTS: tuple[str, ...] = (
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "linear",
)
PRODUCTS += ("matmul", "bmm", "einsum", "scaled_dot_product_attention", "addmm")
SUMMANDS = ("bias", "attn_mask")  # arguments that are added to a product
NARROW: dict[str, type] = {
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
    "float32": np.float32,
}
UNITS = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24}
FEW_UNITS = 64  # of rounding, that a sum in this precision may be off
SUM = 2.0**-20  # how exact products are that are summed in float32
SAME = 1e-6  # of a gradient that cancels, computed twice in float64
FARTHER = 16  # times farther the reference must be without the change that is proved so


def in_float64(alone: Alone | WholeNetwork) -> list[Proof]:
    """Find narrower arithmetic in a layer of the port that should compute in float64."""
    found = list(_narrow(alone, alone.port, NARROW))
    if not found and isinstance(alone, Alone):
        found = list(_cancelled(alone, alone.port.get("train"), None))
    return found or _products(alone, alone.port, lambda key: SUM)


def in_working(alone: Alone, report: Report) -> list[Proof]:
    """Find why a layer that is right in float64 is too inexact in the working precision."""
    checks = [c for c in report.checks if c.rung == "L1" and c.kind == "numerics"]
    limits = {Key(c.layer, c.quantity): c.limit for c in checks}
    passed = frozenset(Key(c.layer, c.quantity) for c in checks if c.ok)
    unit = UNITS[report.precision]
    port = {
        mode: alone.runs.layers.alone(
            alone.runs.port_working, call, alone.pair, mode == "train", alone.fed[mode]
        )
        for mode, call in alone.calls.items()
    }

    def limit(key: Key) -> float:
        return limits.get(key, unit * FEW_UNITS)

    narrower = [name for name in NARROW if UNITS[name] > unit]
    found = list(_narrow(alone, port, narrower)) or _products(alone, port, limit, passed)
    return found or list(_cancelled(alone, port.get("train"), limit, unit, passed))


def _at(alone: Alone | WholeNetwork, names: tuple[str, ...]) -> str:
    return next((str(o) for o in alone.first() if o.name in names), "")


def _relative(found: np.ndarray | None, target: np.ndarray) -> float:
    if found is None or found.shape != target.shape:
        return float("inf")
    distance = norm(np.asarray(found, np.float64) - target)
    scale = norm(target)
    return distance / scale if scale else distance


def _narrow(
    alone: Alone | WholeNetwork, port: Mapping[str, Flat], kinds: Iterable[str]
) -> Iterator[Proof]:
    """All outputs are numbers of a narrower type, and as near as that type's rounding."""
    outputs = [
        (array, alone.reference(mode)[key])
        for mode, flat in port.items()
        for key, array in flat.items()
        if key.quantity.kind is Kind.OUTPUT and is_float(array.dtype)
    ]
    for dtype in kinds:
        kind, unit = NARROW[dtype], UNITS[dtype]
        if outputs and all(
            _is_narrow(found, kind)
            and not _is_narrow(reference, kind)
            and _relative(found, reference) <= FEW_UNITS * unit
            for found, reference in outputs
        ):
            fault: str = Fault.X64_OFF if dtype == "float32" else f"{dtype}-inside"
            what = f"its arithmetic in {dtype}: all that it gives are numbers of {dtype}"
            yield Proof(fault, what)
            return


def _is_narrow(array: np.ndarray, kind: type) -> bool:
    wide = np.asarray(array, np.float64)
    return bool(np.array_equal(wide.astype(kind).astype(np.float64), wide))


ROUNDINGS = (
    (10, "TF32's 10 bits", Fault.TF32),
    (7, "bfloat16's 7 bits", "bfloat16-inside"),
)
# Which gradients are rounded, too: those of the factors, and that of the product.
BACKWARD = ((False, False), (True, False), (False, True), (True, True))


def _rounding(
    bits: int, factors: bool = False, product: bool = False
) -> Callable[[Invocation], object]:
    """Return a product of numbers of so many bits, summed exactly; an attention is two of them."""

    def narrowed(value: object) -> object:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return Rounded.apply(value, bits, bits * factors)
        return value

    def replacement(call: Invocation) -> object:
        summands = [call.get(name) for name in SUMMANDS]
        args = [a if any(a is b for b in summands) else narrowed(a) for a in call.args]
        kwargs = {k: a if k in SUMMANDS else narrowed(a) for k, a in call.kwargs.items()}
        rounded = Invocation(call.function, tuple(args), kwargs)
        if call.name == "scaled_dot_product_attention":
            made = attention(rounded, taken=lambda w: Rounded.apply(w, bits, bits * factors))
        else:
            made = rounded()
        return Rounded.apply(made, 0, bits * product)

    return replacement


def of_span(tape: Tape, target: np.ndarray, error: float, right: Sequence[str]) -> list[Proof]:
    """Find products between two layers whose factors are rounded.

    Args:
        tape: The reference's operations that lead to a value.
        target: The port's value.
        error: The relative difference of the two.
        right: The reference's layers that are right alone.
    """
    made = [o for o in tape.operations if o.name in PRODUCTS]
    between = [o for o in made if o.module not in right]
    for products in (between, made):
        for bits, name, fault in ROUNDINGS if products else ():
            every = dict.fromkeys([o.index for o in products], _rounding(bits))
            if nearest(tape.replay(every), np.asarray(target)) <= min(SUM, error / DISTINCT):
                return [Proof(fault, f"its factors rounded to {name}", str(products[0]))]
    return []


def _all_products(
    alone: Alone | WholeNetwork, rounding: Callable[[Invocation], object]
) -> dict[str, Make]:
    """Return every product of a layer with its factors rounded; nothing where it makes none."""
    found: dict[str, Make] = {}
    for mode, operations in alone.operations.items():
        at = [o.index for o in operations if o.name in PRODUCTS]
        if not at:
            return {}
        found[mode] = _everywhere(at, rounding)
    return found


def _everywhere(at: list[int], replacement: Replacement) -> Make:
    return lambda: dict.fromkeys(at, replacement)


def _products(
    alone: Alone | WholeNetwork,
    port: Mapping[str, Flat],
    limit: Callable[[Key], float],
    passed: frozenset[Key] = frozenset(),
) -> list[Proof]:
    """Products whose factors are rounded to fewer bits than they have."""
    plain = {mode: alone.reference(mode) for mode in port}

    def nearer(mode: str, make: Make) -> bool:
        return all(
            _nearer(key, port[mode], array, plain[mode][key], limit, passed)
            for key, array in alone.reference(mode, make).items()
        )

    for bits, name, fault in ROUNDINGS:
        for factors, product in BACKWARD:
            make = _all_products(alone, _rounding(bits, factors, product))
            if make and all(nearer(mode, make[mode]) for mode in port):
                return [Proof(fault, f"its factors rounded to {name}", _at(alone, PRODUCTS))]
    return []


def _nearer(
    key: Key,
    port: Flat,
    changed: np.ndarray,
    plain: np.ndarray,
    limit: Callable[[Key], float],
    passed: frozenset[Key],
) -> bool:
    """Return whether a change leaves no more of a difference than is allowed.

    What it does not change must have passed: the check knows the terms of a sum that cancels.
    A gradient that is rounded once more, after a sum in the working precision, may fall to the
    other side here and there, and a variance is known no better than it was stored: a gradient may
    instead be `FARTHER` times nearer than without the change.
    """
    left = _relative(port.get(key), changed)
    if left <= limit(key) or (key in passed and close(changed, plain, SAME)):
        return True
    return key.quantity.is_gradient and left <= _relative(port.get(key), plain) / FARTHER


def _cancelled(
    alone: Alone,
    port: Flat | None,
    limit: Callable[[Key], float] | None,
    unit: float = 2.0**-53,
    passed: frozenset[Key] = frozenset(),
) -> Iterator[Proof]:
    """Yield a batch norm whose variance is off by the rounding of E[x^2], and nothing else.

    Its own variance, read from the statistics that it stored, must give all of its other numbers.
    """
    norms = [o for o in alone.first() if o.name == "batch_norm" and o.arguments.get("training")]
    if len(norms) != 1 or port is None:
        return
    (operation,) = norms
    stored = _statistic(port, "running_var")
    if stored is None:
        return
    seen: dict[str, torch.Tensor] = {}
    make = _with_variance(operation, torch.tensor(np.array(stored, np.float64)), seen)
    changed = alone.reference("train", make)
    error, size = seen["error"].abs(), seen["size"]
    if not bool((error <= 64 * unit * size).all()) or float(error.max()) == 0.0:
        return
    if limit is None:
        agree = alone.layers.agree(changed, port, alone.calls["train"].layer)
    else:
        plain = alone.reference("train")
        agree = all(
            _nearer(key, port, array, plain[key], limit, passed) for key, array in changed.items()
        )
    if agree:
        what = "the variance as E[x^2] - E[x]^2: it is off by the rounding of E[x^2]"
        yield Proof(Fault.FAST_VARIANCE, what, str(operation))


def _statistic(flat: Flat, kind: str) -> np.ndarray | None:
    found: list[Key] = [
        key
        for key in flat
        if key.quantity.kind is Kind.STATISTIC and key.quantity.leaf in SYNONYMS[kind]
    ]
    return flat[found[0]] if len(found) == 1 else None


def _with_variance(o: Operation, stored: torch.Tensor, seen: dict[str, torch.Tensor]) -> Make:
    """Return a batch norm that takes the variance that was stored for the batch's."""

    def replacement(call: Invocation) -> torch.Tensor:
        x, m, before = call["input"], call["momentum"], call["running_var"].clone()
        axes = [i for i in range(x.dim()) if i != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        n = x.numel() // x.shape[1]
        call()
        mean, var = x.mean(axes), x.var(axes, unbiased=False)
        with torch.no_grad():
            taken = (stored - (1 - m) * before) / m * ((n - 1) / n)
            seen["error"], seen["size"] = taken - var, x.square().mean(axes)
            call["running_var"].copy_(stored)
        var = var + (taken - var).detach()
        y = (x - mean.reshape(shape)) / torch.sqrt(var.reshape(shape) + call["eps"])
        if call.get("weight") is not None:
            y = y * call["weight"].reshape(shape)
        return y if call.get("bias") is None else y + call["bias"].reshape(shape)

    return one(o, Fault.FAST_VARIANCE, "", replacement).make
