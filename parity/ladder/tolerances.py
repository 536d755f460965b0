"""Measuring the difference of two arrays, and the limits for it.

Structure, in float64: rounding noise is some 5e8 times smaller than in float32, while a porting
fault is the same size in both, so one fixed limit serves every network.

Numerics, in the working precision: the port may be no less exact than the reference. With r64 the
reference in float64, error(x) = |x - r64| / |r64| in the Euclidean norm:

    error(port) <= K * (error(reference) + sensitivity) + FLOOR

`sensitivity` is how far r64 itself moves when what it is fed is disturbed: the error that no
arithmetic can avoid. A reference that happens to hit the exact value does not condemn a port that
is as good as any other.

- A layer alone: everything it is fed is disturbed by `ROUNDING`, as rounding would.
- A whole network: its input is disturbed by `input_disturbance`, which is more. Rounding inside a
  deep network turns over a few max-pool choices and ReLU signs, other ones in each framework, and a
  single one moves the gradients a thousand times more than all the other rounding does; so the
  reference is disturbed until it turns over enough of them to be a measure.

How measurements are judged by these limits: `parity.ladder.verdicts`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from parity.capture.records import is_array, is_float, narrowed
from parity.report.quantity import Quantity

STRUCTURE_FORWARD = 1e-10
STRUCTURE_GRADIENT = 1e-9
STRUCTURE_UPDATE = 1e-9
STRUCTURE_TRAJECTORY = 1e-8  # after some fifty steps, each of which may add a gradient's error

# Calibrated on clean networks: see docs/tolerances.md.
K = 16.0
FEW = 16
ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}  # half a unit
FLOOR_UNITS = 4  # units in the last place
DISTURBANCE = 2.0**9  # how much more than rounding a whole network's input is disturbed,
LARGEST_DISTURBANCE = 2.0**-5  # but never more than this


def input_disturbance(precision: str) -> float:
    """Return how much a whole network's input is disturbed, relative to each element."""
    return min(DISTURBANCE * ROUNDING[precision], LARGEST_DISTURBANCE)


def floor(precision: str) -> float:
    """Return the difference that any arithmetic of this precision may cause."""
    return FLOOR_UNITS * 2 * ROUNDING[precision]


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far the port's array is from the reference's.

    Attributes:
        distance: |port - reference| in the Euclidean norm; of integers, the share that differs;
            infinite where the arrays cannot be compared.
        index: The index at which they differ most.
        reference: The reference's value there.
        port: The port's value there.
        note: Why they cannot be compared.
    """

    distance: float
    index: tuple[int, ...] = ()
    reference: float | None = None
    port: float | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The measured difference of one quantity of one layer, before it is judged.

    Attributes:
        layer: The port's name.
        reference: The reference's name.
        quantity: What was measured.
        group: Equal for layers and quantities whose norms can be compared.
        limit: The limit in float64: `STRUCTURE_FORWARD` or `STRUCTURE_GRADIENT`.
        elements: Number of elements of the array.
        norm: |r64|.
        structure: Port against reference, float64.
        numerics: Port in the working precision against r64; None if it was not run.
        reference_distance: |reference in the working precision - r64|.
        sensitivity: |r64 disturbed - r64|, the largest of several.
        terms: The norm of the sum of the terms' absolute values, where the quantity is a plain sum
            of which they are known: rounding is relative to them, however much they cancel.
        shared_group: Equal for what one and the same arithmetic made, such as one step of the
            optimizer; its noise scale is shared. None where there is no such thing.
        drift: How far the reference in float64 drifts from itself, or a side moves where constants
            that it knows in a narrower type are disturbed; allowed for in the structure.
        narrow: Whether the port computes in a narrower type in float64, too: then its structure is
            judged by the limit of the numerics.
    """

    layer: str
    reference: str
    quantity: Quantity
    group: Hashable
    limit: float
    elements: int
    norm: float
    structure: Difference
    numerics: Difference | None = None
    reference_distance: float = 0.0
    sensitivity: float = 0.0
    terms: float = 0.0
    shared_group: Hashable = None
    drift: float = 0.0
    narrow: bool = False

    def with_numerics(
        self, numerics: Difference, reference_distance: float, sensitivity: float
    ) -> Measurement:
        return dataclasses.replace(
            self, numerics=numerics, reference_distance=reference_distance, sensitivity=sensitivity
        )

    @property
    def noise_scale(self) -> float:
        """Return how far rounding moves the reference; the port's error is compared with it."""
        return self.reference_distance + self.sensitivity


def difference(
    port: np.ndarray | None, reference: np.ndarray | None, dtype: str = "float64"
) -> Difference:
    """Compare two arrays in one layout.

    Args:
        port: The port's array; floating-point arrays must be of `dtype`.
        reference: The reference's array.
        dtype: The dtype of the port's floating-point arrays.

    What cannot be compared is infinitely far apart: an array that one side lacks, other shapes
    (nothing is broadcast), other dtypes, a NaN or an infinity on either side. Two arrays of one
    shape without elements are equal; `verdicts.judge` sees to it that something else was compared.
    """
    if port is None or reference is None:
        return Difference(
            math.inf, note=f"missing in the {'port' if port is None else 'reference'}"
        )
    if port.shape != reference.shape:
        return Difference(math.inf, note=f"shape {port.shape}, reference {reference.shape}")
    if is_float(port.dtype) != is_float(reference.dtype) or (
        is_float(port.dtype) and port.dtype != dtype
    ):
        return Difference(math.inf, note=f"dtype {port.dtype}, reference {reference.dtype}")
    port, reference = np.asarray(port), np.asarray(reference)
    if port.size == 0:
        return Difference(0.0)
    if not is_float(reference.dtype):
        wrong = port != reference
        return _located(float(wrong.mean()), wrong, port, reference)
    port = port.astype(np.float64)
    for side, array in (("port", port), ("reference", reference)):
        bad = ~np.isfinite(array)
        if bad.any():
            note = f"{int(bad.sum())} of {bad.size} values in the {side} are not finite"
            return dataclasses.replace(_located(math.inf, bad, port, reference), note=note)
    diff = abs(port - reference)
    return _located(norm(diff), diff, port, reference)


def of_layer(array: np.ndarray, dtype: str) -> np.ndarray:
    """Return a layer's array in the working precision, where the layer gives a narrower type.

    Its numbers then tell how much less exact it is. In float64, and of what a network returns,
    another type is a fault.
    """
    narrow = (
        dtype != "float64"
        and is_float(array.dtype)
        and array.dtype.itemsize < np.dtype(dtype).itemsize
    )
    return array.astype(dtype) if narrow else array


def spread_difference(
    port: np.ndarray, reference: np.ndarray | None, dtype: str = "float64"
) -> Difference:
    """Compare arrays between layers, one of which may still be repeated along an axis later.

    A table of positions has one row for the whole batch on one side, and one for each of its
    samples on the other: they are one answer where all rows are equal. Arguments as in
    `difference`.
    """
    port = of_layer(port, dtype)
    if reference is None or port.shape == reference.shape or port.ndim != reference.ndim:
        return difference(port, reference, dtype)
    if not port.size or not reference.size:  # any row could be repeated no times
        return difference(port, reference, dtype)
    try:
        left, right = np.broadcast_arrays(port, reference)
    except ValueError:
        return difference(port, reference, dtype)
    found = difference(left, right, dtype)
    times = left.size / reference.size  # as many terms more than the reference's norm has
    return dataclasses.replace(found, distance=found.distance / math.sqrt(times))


def measured(
    layer: str,
    named: str,
    quantity: Quantity,
    port: np.ndarray | None,
    reference: np.ndarray,
    limit: float,
) -> Measurement:
    """Measure a quantity that is compared in float64 alone.

    Args:
        layer: The port's name.
        named: The reference's name.
        quantity: What it is; also its group.
        port: The port's array; None where it has none.
        reference: The reference's array.
        limit: The limit in float64.
    """
    return Measurement(
        layer=layer,
        reference=named,
        quantity=quantity,
        group=quantity,
        limit=limit,
        elements=reference.size,
        norm=norm(reference),
        structure=difference(port, reference),
    )


def furthest(port: np.ndarray, reference: np.ndarray) -> Difference:
    """Return the largest relative difference of two rates, and the first step with one."""
    diff = abs(port - reference)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(diff == 0, 0.0, diff / abs(reference))
    at = int(np.argmax(relative > STRUCTURE_UPDATE))
    note = "" if np.isfinite(relative).all() else "the reference's rate is 0 at some step"
    return Difference(float(relative.max()), (at,), float(reference[at]), float(port[at]), note)


def disturb(value: Any, scale: float, rng: np.random.Generator) -> Any:
    """Multiply floating-point arrays by 1 + scale * U(-1, 1), in float64, in any nest of them."""
    if isinstance(value, Mapping):
        return {k: disturb(v, scale, rng) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(disturb(v, scale, rng) for v in value)
    if isinstance(value, np.ndarray) and is_float(value.dtype):
        noise = scale * rng.uniform(-1, 1, value.shape)
        return np.asarray(
            value.astype(np.float64) * (1 + noise)
        )  # without axes the product is a scalar
    return value


def round_to(value: Any, dtype: str) -> Any:
    """Round a floating-point array to numbers of a narrower type, kept in float64.

    What is too large for it stays as it is: of infinities, nothing could be compared.
    """
    if not is_array(value):
        return value
    array = np.asarray(value)
    if not is_float(array.dtype):
        return array
    rounded = narrowed(array, dtype).astype(np.float64)
    finite = np.isfinite(rounded)
    return rounded if finite.all() else np.where(finite, rounded, array)


def overflows(value: Any, dtype: str) -> bool:
    """Return whether a number of an array is finite, but too large for a narrower type."""
    array = np.asarray(value) if is_array(value) else np.zeros(0)
    if not is_float(array.dtype):
        return False
    return bool((np.isfinite(array) & ~np.isfinite(narrowed(array, dtype))).any())


def norm(array: np.ndarray) -> float:
    """Return the Euclidean norm; BLAS would start threads that wait for those of the frameworks."""
    return float(np.sqrt(np.square(np.asarray(array, np.float64)).sum()))


def _located(
    distance: float, diff: np.ndarray, port: np.ndarray, reference: np.ndarray
) -> Difference:
    index = tuple(int(i) for i in np.unravel_index(np.argmax(diff), diff.shape))
    return Difference(distance, index, reference[index].item(), port[index].item())
