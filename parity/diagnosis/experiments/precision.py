"""Experiments on precision: narrower numbers inside a layer, and a variance that cancels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import ml_dtypes
import numpy as np
import torch

from parity.capture.records import is_float
from parity.capture.torch_operations import Invocation, Operation
from parity.diagnosis.catalogue import Fault
from parity.diagnosis.experiments.change import one
from parity.diagnosis.experiments.engine import Make, Proof
from parity.diagnosis.experiments.layer import Alone
from parity.ladder.keys import Flat, Key
from parity.ladder.tolerances import norm
from parity.ladder.weights import SYNONYMS
from parity.report.quantity import Kind
from parity.report.report import Report

PRODUCTS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "linear")
PRODUCTS += ("matmul", "bmm", "einsum", "scaled_dot_product_attention", "addmm")
NARROW: dict[str, type] = {
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
    "float32": np.float32,
}
UNITS = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24}
FEW_UNITS = 64  # of rounding, that a sum in this precision may be off
SUM = 2.0**-20  # how exact products are that are summed in float32
FARTHER = 32  # times farther the reference must be without the change that is proved so


def in_float64(alone: Alone) -> list[Proof]:
    """Find narrower arithmetic in a layer of the port that should compute in float64."""
    return list(_narrow(alone)) or list(_cancelled(alone)) or list(_products(alone))


def in_working(alone: Alone, report: Report) -> list[Proof]:
    """Find why a layer that is right in float64 is too inexact in the working precision."""
    precision = report.precision
    limits = {
        (c.layer, c.quantity): c.limit
        for c in report.checks
        if c.rung == "L1" and c.kind == "numerics"
    }
    port = {
        mode: alone.runs.alone(
            alone.runs.port_working, call, alone.pair, mode == "train", alone.fed[mode]
        )
        for mode, call in alone.calls.items()
    }

    def within(mode: str, make: Make) -> bool:
        """Whether the changed reference, in float64, is as near to the port as it must be."""
        oracle = alone.reference(mode, make)
        return all(
            _relative(port[mode].get(key), array) <= limits.get(key, UNITS[precision] * FEW_UNITS)
            for key, array in oracle.items()
        )

    proofs = []
    for bits, name, fault in ROUNDINGS:
        make = _all_products(alone, bits)
        if make and all(within(mode, make[mode]) for mode in port):
            what = f"its factors rounded to {name}"
            proofs.append(Proof(fault, what, _at(alone, PRODUCTS)))
    return proofs or list(_cancelled(alone, port["train"], limits, UNITS[precision]))


def _at(alone: Alone, names: tuple[str, ...]) -> str:
    return next((str(o) for o in alone.first() if o.name in names), "")


def _relative(found: np.ndarray | None, target: np.ndarray) -> float:
    if found is None or found.shape != target.shape:
        return float("inf")
    distance = norm(np.asarray(found, np.float64) - target)
    scale = norm(target)
    return distance / scale if scale else distance


def _narrow(alone: Alone) -> Iterator[Proof]:
    """All outputs are numbers of a narrower type, and as near as that type's rounding."""
    outputs = [
        (array, alone.reference(mode)[key])
        for mode, flat in alone.port.items()
        for key, array in flat.items()
        if key.quantity.kind is Kind.OUTPUT and is_float(array.dtype)
    ]
    for dtype, kind in NARROW.items():
        unit = UNITS[dtype]
        if outputs and all(
            _is_narrow(port, kind)
            and not _is_narrow(reference, kind)
            and _relative(port, reference) <= FEW_UNITS * unit
            for port, reference in outputs
        ):
            fault: str = Fault.X64_OFF if dtype == "float32" else f"{dtype}-inside"
            what = f"its arithmetic in {dtype}: all that it gives are numbers of {dtype}"
            yield Proof(fault, what)
            return


def _is_narrow(array: np.ndarray, kind: type) -> bool:
    wide = np.asarray(array, np.float64)
    return bool(np.array_equal(wide.astype(kind).astype(np.float64), wide))


def rounded(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Round to so many bits of mantissa, to even; the gradient passes."""
    with torch.no_grad():
        mantissa, exponent = torch.frexp(x)
        near = torch.round(mantissa * 2.0 ** (bits + 1)) / 2.0 ** (bits + 1)
        moved = torch.ldexp(near, exponent) - x
    return x + moved


ROUNDINGS = (
    (10, "TF32's 10 bits", Fault.TF32),
    (7, "bfloat16's 7 bits", "bfloat16-inside"),
)


def _rounding(bits: int) -> Callable[[Invocation], object]:
    """A product of numbers of so many bits, summed exactly."""

    def narrowed(value: object) -> object:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return rounded(value, bits)
        return value

    def replacement(call: Invocation) -> object:
        bias = call.arguments.get("bias")
        call.args = tuple(a if a is bias else narrowed(a) for a in call.args)
        call.kwargs = {k: a if k == "bias" else narrowed(a) for k, a in call.kwargs.items()}
        return call()

    return replacement


def _all_products(alone: Alone, bits: int) -> dict[str, Make]:
    """Every product of a layer with its factors rounded; nothing where it makes none."""
    found = {}
    for mode, operations in alone.operations.items():
        at = [o.index for o in operations if o.name in PRODUCTS]
        if not at:
            return {}
        found[mode] = lambda at=at: dict.fromkeys(at, _rounding(bits))
    return found


def _products(alone: Alone) -> Iterator[Proof]:
    """Products whose factors are rounded, where they should be of float64."""
    for bits, name, fault in ROUNDINGS:
        make = _all_products(alone, bits)
        if make and all(_nearer(alone, mode, make[mode]) for mode in alone.port):
            yield Proof(fault, f"its factors rounded to {name}", _at(alone, PRODUCTS))


def _nearer(alone: Alone, mode: str, make: Make) -> bool:
    """Whether a change leaves of every difference no more than a sum in float32 would."""
    plain, changed = alone.reference(mode), alone.reference(mode, make)
    for key, array in changed.items():
        left = _relative(alone.port[mode].get(key), array)
        before = _relative(alone.port[mode].get(key), plain[key])
        if left > SUM or (before > SUM and left > before / FARTHER):
            return False
    return True


def _cancelled(
    alone: Alone,
    port: Flat | None = None,
    limits: Mapping[tuple, float] | None = None,
    unit: float = 2.0**-53,
) -> Iterator[Proof]:
    """A batch norm whose variance is off by the rounding of E[x^2], and nothing else.

    Its own variance, read from the statistics that it stored, must give all of its other numbers.
    """
    norms = [o for o in alone.first() if o.name == "batch_norm" and o.arguments.get("training")]
    port = alone.port.get("train") if port is None else port
    if len(norms) != 1 or port is None:
        return
    (operation,) = norms
    stored = _statistic(port, "running_var")
    if stored is None:
        return
    seen: dict[str, torch.Tensor] = {}
    make = _with_variance(operation, torch.as_tensor(np.asarray(stored, np.float64)), seen)
    changed = alone.reference("train", make)
    error, size = seen["error"].abs(), seen["size"]
    if not bool((error <= 64 * unit * size).all()) or float(error.max()) == 0.0:
        return
    if limits is None:
        agree = alone.layers.agree(changed, port, alone.calls["train"].layer)
    else:
        agree = all(
            _relative(port.get(key), array) <= limits.get(key, unit * FEW_UNITS)
            for key, array in changed.items()
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
    """A batch norm that takes the variance that was stored for the batch's."""

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
