"""Experiments on stored weights: which order of the reference's values is the port's tensor."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping

import ml_dtypes
import numpy as np
import torch

from parity.capture.records import Arrays, is_float
from parity.diagnosis.catalogue import Fault
from parity.diagnosis.experiments.change import COMMON, ODD, PLAIN
from parity.diagnosis.experiments.engine import Proof
from parity.diagnosis.experiments.kernels import arrangements

Axes = tuple[int, ...] | None
ROUNDED = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}


def proofs(name: str, key: str, axes: Axes, source: Arrays, port: np.ndarray) -> list[Proof]:
    """Find how one of the port's tensors was made of the reference's.

    Args:
        name: The port's name of it.
        key: The reference's name of the tensor that it should be.
        axes: The permutation that makes it of the reference's; None where it is as it is.
        source: The reference's tensors, by name.
        port: The port's tensor.

    Returns:
        Every way that gives the port's tensor bit for bit, the simplest first.
    """
    reference = source[key]
    turned = reference if axes is None else reference.transpose(axes)
    found: list[Proof] = []

    def add(fault: str, what: str, order: int, array: np.ndarray | None) -> None:
        if array is not None and array.shape == port.shape and np.array_equal(array, port):
            found.append(Proof(fault, f"{what}, stored as {name}", "", order))

    for fault, what, order, array in _arranged(reference, axes):
        add(fault, what, order, array)
    for fault, what, order, values in _valued(turned, port):
        add(fault, what, order, values)
    if not found:
        for other, array in source.items():
            if other != key:
                add("weights-swapped", f"{other} in place of {key}", PLAIN, _like(array, axes))
    return sorted(found, key=lambda proof: proof.order)


def _like(array: np.ndarray, axes: Axes) -> np.ndarray | None:
    if axes is None:
        return array
    return array.transpose(axes) if len(axes) == array.ndim else None


def _arranged(reference: np.ndarray, axes: Axes) -> Iterator[tuple[str, str, int, np.ndarray]]:
    """The tensor with its axes, values or parts in another order, as the port would store it."""
    if not 2 <= reference.ndim <= 5:
        return
    weight = torch.from_numpy(np.ascontiguousarray(reference))
    for fault, what, order, function in arrangements(reference.shape):
        array = function(weight).numpy()
        yield fault, what, order, array if axes is None else array.transpose(axes)
    given = tuple(range(reference.ndim)) if axes is None else axes
    for other in itertools.permutations(range(reference.ndim)):
        if other != given and _new_shape(reference, given, other):
            text = f"the axes of the kernel in order {other} instead of {given}"
            yield Fault.KERNEL_AXES, text, PLAIN, reference.transpose(other)
    shape = tuple(reference.shape[a] for a in given)
    if axes is not None and axes != tuple(range(reference.ndim)):
        text = "the kernel reshaped instead of transposed"
        yield Fault.KERNEL_AXES, text, COMMON, reference.reshape(shape)
    yield from _rows(reference, given)


def _new_shape(reference: np.ndarray, given: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Return whether another order of axes gives another shape: `arrangements` knows the others."""
    return [reference.shape[a] for a in given] != [reference.shape[a] for a in other]


def _rows(
    reference: np.ndarray, axes: tuple[int, ...]
) -> Iterator[tuple[str, str, int, np.ndarray]]:
    """Outputs of a fused layer in another order: q, k and v, or heads."""
    rows = len(reference)
    for count in (2, 3):
        if rows % count:
            continue
        parts = np.arange(rows).reshape(count, -1)
        for order in itertools.permutations(range(count)):
            if order != tuple(range(count)):
                names = "qkv" if count == 3 else "01"
                text = f"its outputs in the order {', '.join(names[i] for i in order)}"
                index = parts[list(order)].ravel()
                yield "qkv-order", text, ODD, reference[index].transpose(axes)
        for heads in (h for h in range(2, 33) if rows // count % h == 0):
            for first, how in (((count, heads), "for each head"), ((heads, count), "by kind")):
                index = np.arange(rows).reshape(*first, -1).swapaxes(0, 1).ravel()
                text = f"its outputs split in {count} {how} ({heads} heads)"
                yield "qkv-per-head", text, ODD, reference[index].transpose(axes)
    for heads in (h for h in range(2, 33) if rows % (2 * h) == 0):
        halves = np.arange(rows).reshape(heads, 2, -1)
        text = f"the outputs of each of {heads} heads, halves taken in turn (rotary order)"
        index = halves.swapaxes(1, 2).ravel()
        yield "rope-layout", text, ODD, reference[index].transpose(axes)
        text = f"the outputs of each of {heads} heads, every other one first (rotary order)"
        index = np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).ravel()
        yield "rope-layout", text, ODD, reference[index].transpose(axes)


def _valued(
    turned: np.ndarray, port: np.ndarray
) -> Iterator[tuple[str, str, int, np.ndarray | None]]:
    """Yield the tensor with other values: rounded, repeated, offset, inverted."""
    if not is_float(turned.dtype):
        return
    for dtype, kind in ROUNDED.items():
        rounded = turned.astype(kind).astype(turned.dtype)
        if not np.array_equal(rounded, turned):
            yield (
                "weights-rounded",
                f"values rounded to {dtype}",
                COMMON,
                rounded.astype(port.dtype),
            )
    if turned.size == 1 and port.size > 1:
        text = "one value for each channel instead of one for all"
        yield Fault.PRELU_SLOPE_COUNT, text, COMMON, np.full(port.shape, turned.ravel()[0])
    if turned.size > 1 and port.size == 1:
        text = "one value for all channels instead of one for each"
        same = np.ptp(turned) == 0
        yield (
            Fault.PRELU_SLOPE_COUNT,
            text,
            COMMON,
            turned.ravel()[:1].reshape(port.shape) if same else None,
        )
    simple: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
        "1 + the values": lambda a: 1 + a,
        "the values - 1": lambda a: a - 1,
        "zeros instead of the values": np.zeros_like,
        "ones instead of the values": np.ones_like,
        "the values' square root": lambda a: np.sqrt(np.abs(a)),
        "the values squared": np.square,
        "the values' opposite": np.negative,
    }
    for what, function in simple.items():
        yield "weights-values", what, PLAIN, function(turned)
