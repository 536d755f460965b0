"""Hypotheses on what is wrong with a single layer, by the layer's class."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from parity.diagnosis import signatures
from parity.diagnosis.catalogue import Fault
from parity.diagnosis.signatures import OUTPUT, case, explained, failed, output
from parity.ladder.evidence import Arrays, Evidence
from parity.ladder.weights import SYNONYMS
from parity.report.quantity import Kind, Quantity, Scope

Suggestions = Iterator[tuple[Fault, float, str]]  # fault, score from 0 to 1, why

POSSIBLE = 0.05  # the score of a fault that this kind of layer can have, without any evidence


def batch_norm(e: Evidence) -> Suggestions:
    wrong, eps = failed(e), float(e.settings.get("eps", 1e-5))
    for other in (1e-3, 1e-5, 1e-4, 1e-6, 1e-8, 0.0):
        if other != eps:
            for mode in ("train", "eval"):
                score = output(e, signatures.normalized(e, other, mode, mode == "train"), mode)
                yield (
                    Fault.BATCH_NORM_EPS,
                    score,
                    f"an eps of {other:g} for {eps:g} gives the port's output",
                )
    yield (
        Fault.BATCH_NORM_MODE,
        output(e, signatures.normalized(e, eps, "eval", True), "eval"),
        "eval mode uses the batch",
    )
    yield (
        Fault.BATCH_NORM_MODE,
        output(e, signatures.normalized(e, eps, "train", False)),
        "train mode uses the statistics",
    )
    if e.fault.kind == "numerics":
        yield Fault.FAST_VARIANCE, 0.9, "exact in float64, too inexact in the working precision"
    elif e.fault.error < 1e-6:
        yield (
            Fault.FAST_VARIANCE,
            0.9,
            "the difference in float64 is as small as that of a sum which cancels",
        )
    yield from _statistics(e)
    if wrong and all((q.kind, q.scope) == (Kind.STATISTIC, Scope.LAYER) for q in wrong):
        yield Fault.BATCH_NORM_MOMENTUM, 0.3, "only the stored statistics differ"
        yield Fault.BIASED_RUNNING_VARIANCE, 0.2, "only the stored statistics differ"
    for fault in (
        Fault.BATCH_NORM_MOMENTUM,
        Fault.BATCH_NORM_EPS,
        Fault.BIASED_RUNNING_VARIANCE,
        Fault.FAST_VARIANCE,
        Fault.BATCH_NORM_MODE,
    ):
        yield fault, POSSIBLE, "a batch norm can have it"


def _statistics(e: Evidence) -> Suggestions:
    c, momentum = case(e), e.settings.get("momentum", 0.1)
    mean, var = signatures.tensor(e, "running_mean"), signatures.tensor(e, "running_var")
    if c is None or mean is None or var is None or momentum is None:
        return
    x = np.asarray(c.inputs[0], np.float64)
    n, m = x.size // x.shape[-1], float(momentum)
    statistics = [q for q in c.port if q.kind is Kind.STATISTIC]
    at_mean = next((q for q in statistics if q.path in SYNONYMS["running_mean"]), None)
    at_var = next((q for q in statistics if q.path in SYNONYMS["running_var"]), None)
    batch = x.var((0, 1, 2))
    swapped = m * mean + (1 - m) * x.mean((0, 1, 2))
    score = explained(_of(c.port, at_mean), swapped, _of(c.reference, at_mean))
    yield (
        Fault.BATCH_NORM_MOMENTUM,
        score,
        f"the new batch weighs {1 - m:g} in the running mean, not {m:g}",
    )
    biased = (1 - m) * var + m * batch
    score = explained(_of(c.port, at_var), biased, _of(c.reference, at_var))
    yield (
        Fault.BIASED_RUNNING_VARIANCE,
        score,
        f"the variance is stored without its factor {n} / {n - 1}",
    )


def _of(arrays: Arrays, quantity: Quantity | None) -> np.ndarray | None:
    return None if quantity is None else arrays.get(quantity)


def convolution(e: Evidence) -> Suggestions:
    kernel = signatures.tensor(e, "weight")
    if kernel is not None and kernel.ndim == 4:
        yield (
            Fault.SAME_PADDING,
            output(e, signatures.convolved(e, kernel, same=True)),
            "SAME padding gives its output",
        )
        if kernel.shape[2] == kernel.shape[3]:
            score = output(e, signatures.convolved(e, kernel.swapaxes(2, 3)))
            yield (
                Fault.KERNEL_AXES,
                score,
                "a kernel with in and out swapped gives the port's output",
            )
        if kernel.shape[2] == 1:
            twisted = kernel.transpose(2, 3, 0, 1).reshape(kernel.shape)
            yield (
                Fault.KERNEL_AXES,
                output(e, signatures.convolved(e, twisted)),
                "a depthwise kernel's axes are mixed up",
            )
    yield from _kernels(e)
    yield from precision(e)
    c = case(e)
    if c and OUTPUT in c.port and signatures.border_only(c.port[OUTPUT], c.reference[OUTPUT]):
        yield Fault.SAME_PADDING, 0.5, "only the border differs"
    for fault in (Fault.SAME_PADDING, Fault.KERNEL_AXES):
        yield fault, POSSIBLE, "a convolution can have it"


def transposed_convolution(e: Evidence) -> Suggestions:
    kernel, c = signatures.tensor(e, "weight"), case(e)
    if kernel is not None and kernel.ndim == 4:
        score = output(e, signatures.transposed(e, kernel[::-1, ::-1]))
        yield Fault.KERNEL_NOT_FLIPPED, score, "a flipped kernel gives the port's output"
        score = output(e, signatures.transposed(e, kernel.swapaxes(2, 3)))
        yield Fault.KERNEL_AXES, score, "a kernel with in and out swapped gives the port's output"
    if c and OUTPUT in c.port and (move := signatures.shifted(c.port[OUTPUT], c.reference[OUTPUT])):
        yield (
            Fault.OUTPUT_PADDING_SIDE,
            0.95,
            f"the map is moved by {move[0]} rows and {move[1]} columns",
        )
        yield Fault.SAME_PADDING, 0.5, "the map is moved by a pixel"
    yield from _kernels(e)
    yield from precision(e)
    for fault in (Fault.KERNEL_NOT_FLIPPED, Fault.OUTPUT_PADDING_SIDE, Fault.KERNEL_AXES):
        yield fault, POSSIBLE, "a transposed convolution can have it"


def _kernels(e: Evidence) -> Suggestions:
    """Suggest how a stored kernel was changed: flipped, reordered, or transposed."""
    for name, (reference, port) in e.weights.items():
        if reference.ndim != 4 or np.array_equal(reference, port):
            continue
        if np.array_equal(port, reference[::-1, ::-1]):
            yield Fault.KERNEL_NOT_FLIPPED, 1.0, f"{name} is stored flipped"
        if port.shape == reference.swapaxes(2, 3).shape:
            same = np.array_equal(port, reference.swapaxes(2, 3))
            yield (
                Fault.KERNEL_AXES,
                1.0 if same else 0.2,
                f"{name} is stored with in and out swapped",
            )
        if np.array_equal(np.sort(port, axis=None), np.sort(reference, axis=None)):
            yield Fault.KERNEL_AXES, 0.7, f"{name} holds the same values in another order"


def precision(e: Evidence) -> Suggestions:
    """Suggest faults of arithmetic that is less exact than it should be."""
    if "float32" in e.fault.note and "float64" in e.fault.note:
        yield Fault.X64_OFF, 1.0, "the float64 run is of float32"
    if e.fault.kind == "numerics":
        yield Fault.TF32, 0.9, "exact in float64, too inexact in the working precision"
    elif e.fault.error < 1e-5:
        yield Fault.X64_OFF, 0.9, "the difference in float64 is as small as float32's rounding"


def pooling(e: Evidence) -> Suggestions:
    wrong, c = failed(e), case(e)
    yield (
        Fault.SAME_PADDING,
        output(e, signatures.pooled(e, same=True)),
        "SAME padding gives the port's output",
    )
    yield (
        Fault.POOL_CEIL_MODE,
        output(e, signatures.pooled(e, ceil=True)),
        "rounding the size up gives the port's output",
    )
    if "shape" in e.fault.note:
        up = signatures.pooled(e, ceil=True)
        same = c is not None and up is not None and same_shape(c.port.get(OUTPUT), up)
        yield Fault.POOL_CEIL_MODE, 0.9 if same else 0.6, "the size is another one, rounded up"
    if wrong and all(q.is_gradient for q in wrong):
        yield Fault.MAX_POOL_TIES, 0.95, "outputs agree, and only the gradient differs"
    outputs = {q.index for q in wrong if q.kind is Kind.OUTPUT}
    if 1 in outputs and 0 not in outputs:
        yield Fault.UNPOOL_INDICES, 0.95, "the maxima agree, where they stood does not"
    for fault in (
        Fault.SAME_PADDING,
        Fault.POOL_CEIL_MODE,
        Fault.UNPOOL_INDICES,
        Fault.MAX_POOL_TIES,
    ):
        yield fault, POSSIBLE, "a max-pool can have it"


def same_shape(a: np.ndarray | None, b: np.ndarray) -> bool:
    """Return whether a has b's shape."""
    return a is not None and a.shape == b.shape


def unpooling(e: Evidence) -> Suggestions:
    yield Fault.UNPOOL_INDICES, 0.6, "what is unpooled stands at other places"


def average_pooling(e: Evidence) -> Suggestions:
    counts = bool(e.settings.get("count_include_pad", True))
    score = output(e, signatures.averaged(e, not counts))
    yield Fault.POOL_COUNTS_PADDING, score, "counting the padding otherwise gives the port's output"
    for fault in (Fault.POOL_COUNTS_PADDING, Fault.POOL_CEIL_MODE, Fault.SAME_PADDING):
        yield fault, POSSIBLE, "an average pooling can have it"


def adaptive_pooling(e: Evidence) -> Suggestions:
    yield Fault.ADAPTIVE_POOL_WINDOWS, 0.6, "its windows are others"
    yield Fault.POOL_COUNTS_PADDING, POSSIBLE, "an average pooling can have it"


def activation(e: Evidence) -> Suggestions:
    for name, (reference, port) in e.weights.items():
        if reference.shape != port.shape:
            yield (
                Fault.PRELU_SLOPE_COUNT,
                0.95,
                f"{name} is {port.shape}, the reference's {reference.shape}",
            )
    if "shape" in e.fault.note:
        yield Fault.PRELU_SLOPE_COUNT, 0.8, "its slopes are others in number"
    yield Fault.PRELU_SLOPE_COUNT, POSSIBLE, "a PReLU can have it"


def dropout(e: Evidence) -> Suggestions:
    c, p = case(e), float(e.settings.get("p", 0.0))
    if c and OUTPUT in c.port and c.port[OUTPUT].shape == c.reference[OUTPUT].shape:
        port, reference = c.port[OUTPUT], c.reference[OUTPUT]
        factor = signatures.ratio(port, reference)
        if factor is not None:
            yield (
                Fault.DROPOUT_SCALE,
                float(np.isclose(factor, 1 - p)),
                f"the output is the reference's times {1 - p:g}",
            )
            close = p > 0 and np.isclose(factor, (1 - p) / p)
            yield (
                Fault.DROPOUT_KEEP_PROBABILITY,
                float(close),
                f"the output is rescaled by 1 / p, p = {p:g}",
            )
        kept, should = (port != 0), (reference != 0)
        live = np.asarray(c.inputs[0]) != 0
        if (kept != should).any():
            inverted = not (kept & should & live).any()
            yield (
                Fault.DROPOUT_KEEP_PROBABILITY,
                0.9 if inverted else 0.1,
                "what should be dropped is kept",
            )
            yield Fault.DROPOUT_CHANNELS, 0.2 if inverted else 0.9, "other elements are dropped"
    for fault in (Fault.DROPOUT_CHANNELS, Fault.DROPOUT_KEEP_PROBABILITY, Fault.DROPOUT_SCALE):
        yield fault, POSSIBLE, "a dropout can have it"


def resizing(e: Evidence) -> Suggestions:
    c = case(e)
    if c is None:
        return
    before, after = c.inputs[0].shape[1:3], c.reference[OUTPUT].shape[1:3]
    corners = Fault.ALIGN_CORNERS_UP if after > before else Fault.ALIGN_CORNERS_DOWN
    aligned = bool(e.settings.get("align_corners", False))
    wrong = signatures.resized(c, e, mode="bilinear", align_corners=not aligned)
    yield corners, output(e, wrong), f"align_corners={not aligned} gives the port's output"
    wrong = signatures.resized(c, e, mode="bilinear", align_corners=False, antialias=True)
    yield (
        Fault.ANTIALIASED_RESIZE,
        output(e, wrong),
        "an antialiased resize gives the port's output",
    )
    for mode in ("nearest", "nearest-exact"):
        wrong = signatures.resized(c, e, mode=mode)
        yield Fault.NEAREST_UPSAMPLING, output(e, wrong), f"`{mode}` gives the port's output"
    for fault in (corners, Fault.ANTIALIASED_RESIZE, Fault.NEAREST_UPSAMPLING):
        yield fault, POSSIBLE, "a resize can have it"
