"""Turning measurements into verdicts; where the limits come from: `parity.ladder.tolerances`.

A number or a few may be a sum that nearly cancels, and its relative error then is a matter of luck.
So a tensor of fewer than `FEW` elements is measured against at least the median norm of its group
(the same quantity of the same type of layer, anywhere in the network), and shares the largest
error(reference) + sensitivity of its group.

The gradient of a bias before a batch norm is zero, for the norm takes the bias away again; what is
left of it is the rounding of a sum whose terms are not small. A bias is one more tap of its kernel,
on an input of ones, so its gradient is measured against at least `per_tap`: the root mean square of
the kernel's gradient, times the root of the number of biases. So are the steps that an optimizer
makes of it, and what many steps have made of it.

An optimizer treats all tensors alike, and how exact it is does not depend on whose step it makes;
but a step is seen as the difference of two weights, which is exact for a weight that was 0. So each
step is given at least the median noise scale of all tensors' steps.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

from parity.capture.records import NETWORK
from parity.ladder.tolerances import FEW, Difference, K, Measurement, floor
from parity.ladder.weights import SYNONYMS
from parity.report.quantity import Kind
from parity.report.report import Check


def judge(
    rung: str, measurements: Sequence[Measurement], precision: str = "float32"
) -> list[Check]:
    """Turn measurements into verdicts, structure and numerics in the working precision.

    Empty arrays are equal, but do not stand for a rung or for what a network returns: where nothing
    else is there, they fail.
    """
    measurements = _without_vacuous(measurements)
    groups: dict[Hashable, list[Measurement]] = defaultdict(list)
    for m in measurements:
        if m.elements < FEW:
            groups[m.group].append(m)
    typical = {group: float(np.median([m.norm for m in ms])) for group, ms in groups.items()}
    kernels = {(m.layer, m.quantity): m for m in measurements if _is_of(m, "weight")}

    def scale(m: Measurement) -> float:
        leaves = SYNONYMS["weight"] if _is_of(m, "bias") else ()
        siblings = [(m.layer, m.quantity.sibling(leaf)) for leaf in leaves]
        few = [typical[m.group]] if m.elements < FEW else []
        taps = [kernels[key] for key in siblings if key in kernels]
        tapped = [per_tap(k.norm, k.elements, m.elements) for k in taps]
        return max(m.norm, m.terms, *few, *tapped, 0.0)

    shared: dict[Hashable, list[float]] = defaultdict(list)
    for m in measurements:
        if m.shared_group is not None and m.numerics is not None:
            shared[m.shared_group].append(_relative(m.noise_scale, scale(m)))
    least = {group: _median(scales) for group, scales in shared.items()}

    def numerics_limit(m: Measurement) -> float:
        peers = groups[m.group] if m.elements < FEW else [m]
        scales = [_relative(p.noise_scale, scale(p)) for p in peers]
        scales.append(least.get(m.shared_group, 0.0))
        return K * max(filter(math.isfinite, scales), default=0.0) + floor(precision)

    checks = []
    for m in measurements:
        limit = m.limit + K * _relative(m.drift, scale(m))
        if m.narrow and m.numerics is not None:
            limit = max(limit, numerics_limit(m))
        checks.append(_check(rung, "structure", m, m.structure, scale(m), limit))
        if m.numerics is not None:
            numerics, limit = m.numerics, numerics_limit(m)
            if not math.isfinite(m.noise_scale):  # against it anything would be near enough
                note = f"the reference itself is not finite in {precision}"
                numerics, limit = Difference(math.inf, note=note), math.nan
            checks.append(_check(rung, "numerics", m, numerics, scale(m), limit))
    return checks


def _without_vacuous(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Fail empty arrays where no element was compared: in the rung, or in the network's outputs."""
    returned = [m for m in measurements if m.layer == NETWORK and m.quantity.kind is Kind.OUTPUT]
    vacuous: set[int] = set()
    for group in (measurements, returned):
        if not any(m.elements for m in group):
            vacuous |= {id(m) for m in group if m.structure.distance == 0}
    nothing = Difference(math.inf, note="nothing to compare: no elements")
    return [
        dataclasses.replace(m, structure=nothing, numerics=None) if id(m) in vacuous else m
        for m in measurements
    ]


def per_tap(norm: float, elements: int, biases: int) -> float:
    """Return a bias's gradient norm if its elements were as large as its kernel's.

    Args:
        norm: Norm of the kernel's gradient.
        elements: Number of elements of the kernel.
        biases: Number of elements of the bias. A batch norm has as many scales, and no taps: 0.
    """
    return norm * math.sqrt(biases / elements) if elements > biases else 0.0


def _is_of(m: Measurement, kind: str) -> bool:
    """Return whether the quantity is of such a parameter: a key of `SYNONYMS`."""
    return bool(m.quantity.parameter) and m.quantity.leaf in SYNONYMS[kind]


def _median(values: Sequence[float]) -> float:
    """Return the median of the finite values; 0 if there are none."""
    finite = [value for value in values if math.isfinite(value)]
    return float(np.median(finite)) if finite else 0.0


def _check(
    rung: str, kind: str, m: Measurement, d: Difference, scale: float, limit: float
) -> Check:
    error = _relative(d.distance, scale)
    note = d.note or ("the reference is zero everywhere" if math.isinf(error) else "")
    names = (rung, kind, m.layer, m.reference, m.quantity)
    return Check(*names, error, limit, d.index, d.reference, d.port, note)


def _relative(distance: float, scale: float) -> float:
    return 0.0 if distance == 0 else math.inf if scale == 0 else distance / scale
