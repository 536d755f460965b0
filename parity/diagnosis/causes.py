"""Which fault of the catalogue explains what the ladder found.

Each hypothesis looks at the evidence alone: the layer's class and settings, which quantities
failed, and the layer on its own on both sides. Where it can, it computes what the reference would
give with that fault, and asks how much of the difference that explains.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from parity.capture.records import NETWORK
from parity.diagnosis import signatures, update_causes
from parity.diagnosis.catalogue import CATALOGUE
from parity.diagnosis.signatures import OUTPUT, case, explained, failed, output
from parity.ladder.evidence import Evidence

Found = Iterator[tuple[int, float, str]]  # fault, score from 0 to 1, why

POSSIBLE = 0.05  # the score of what a layer of this kind can have, if nothing speaks for it


@dataclasses.dataclass(frozen=True)
class Cause:
    """A likely cause: number and title in the catalogue, score from 0 to 1, and why."""

    fault: int
    title: str
    score: float
    why: str

    def __str__(self) -> str:
        return f"{self.title} (fault {self.fault}): {self.why}"


def rank(evidence: Evidence) -> list[Cause]:
    """The causes that may explain the evidence, likeliest first."""
    best: dict[int, tuple[float, str]] = {}
    for look in _looks(evidence):
        for fault, score, why in look(evidence):
            if score > best.get(fault, (0.0, ""))[0]:
                best[fault] = (score, why)
    causes = [Cause(n, CATALOGUE[n].title, score, why) for n, (score, why) in best.items()]
    return sorted(causes, key=lambda c: (-c.score, c.fault))


def batch_norm(e: Evidence) -> Found:
    wrong, eps = failed(e), float(e.settings.get("eps", 1e-5))
    for other in (1e-3, 1e-5, 1e-4, 1e-6, 1e-8, 0.0):
        if other != eps:
            for mode in ("train", "eval"):
                score = output(e, signatures.normalized(e, other, mode, mode == "train"), mode)
                yield 2, score, f"an eps of {other:g} for {eps:g} gives the port's output"
    yield (
        5,
        output(e, signatures.normalized(e, eps, "eval", True), "eval"),
        "eval mode uses the batch",
    )
    yield (
        5,
        output(e, signatures.normalized(e, eps, "train", False)),
        "train mode uses the statistics",
    )
    if e.fault.kind == "numerics":
        yield 4, 0.9, "exact in float64, too inexact in the working precision"
    elif e.fault.error < 1e-6:
        yield 4, 0.9, "the difference in float64 is as small as that of a sum which cancels"
    yield from _statistics(e)
    outputs = {q for q in wrong if not q.endswith(" after")}
    if wrong and not outputs:
        yield 1, 0.3, "only the stored statistics differ"
        yield 3, 0.2, "only the stored statistics differ"
    for fault in (1, 2, 3, 4, 5):
        yield fault, POSSIBLE, "a batch norm can have it"


def _statistics(e: Evidence) -> Found:
    c, momentum = case(e), e.settings.get("momentum", 0.1)
    mean, var = signatures.tensor(e, "running_mean"), signatures.tensor(e, "running_var")
    if c is None or mean is None or var is None or momentum is None:
        return
    x = np.asarray(c.inputs[0], np.float64)
    n, m = x.size // x.shape[-1], float(momentum)
    keys = {k.removesuffix(" after"): k for k in c.port if k.endswith(" after")}
    at_mean = next((keys[k] for k in keys if k in ("mean", "running_mean", "moving_mean")), "")
    at_var = next((keys[k] for k in keys if k in ("var", "running_var", "moving_variance")), "")
    batch = x.var((0, 1, 2))
    swapped = m * mean + (1 - m) * x.mean((0, 1, 2))
    score = explained(c.port.get(at_mean), swapped, c.reference.get(at_mean))
    yield 1, score, f"the new batch weighs {1 - m:g} in the running mean, not {m:g}"
    biased = (1 - m) * var + m * batch
    score = explained(c.port.get(at_var), biased, c.reference.get(at_var))
    yield 3, score, f"the variance is stored without its factor {n} / {n - 1}"


def convolution(e: Evidence) -> Found:
    kernel = signatures.tensor(e, "weight")
    if kernel is not None and kernel.ndim == 4:
        yield (
            6,
            output(e, signatures.convolved(e, kernel, same=True)),
            "SAME padding gives its output",
        )
        if kernel.shape[2] == kernel.shape[3]:
            score = output(e, signatures.convolved(e, kernel.swapaxes(2, 3)))
            yield 9, score, "a kernel with in and out swapped gives the port's output"
        if kernel.shape[2] == 1:
            twisted = kernel.transpose(2, 3, 0, 1).reshape(kernel.shape)
            yield (
                9,
                output(e, signatures.convolved(e, twisted)),
                "a depthwise kernel's axes are mixed up",
            )
    yield from _kernels(e)
    yield from precision(e)
    c = case(e)
    if c and OUTPUT in c.port and signatures.border_only(c.port[OUTPUT], c.reference[OUTPUT]):
        yield 6, 0.5, "only the border differs"
    for fault in (6, 9):
        yield fault, POSSIBLE, "a convolution can have it"


def transposed_convolution(e: Evidence) -> Found:
    kernel, c = signatures.tensor(e, "weight"), case(e)
    if kernel is not None and kernel.ndim == 4:
        score = output(e, signatures.transposed(e, kernel[::-1, ::-1]))
        yield 7, score, "a flipped kernel gives the port's output"
        score = output(e, signatures.transposed(e, kernel.swapaxes(2, 3)))
        yield 9, score, "a kernel with in and out swapped gives the port's output"
    if c and OUTPUT in c.port and (move := signatures.shifted(c.port[OUTPUT], c.reference[OUTPUT])):
        yield 8, 0.95, f"the map is moved by {move[0]} rows and {move[1]} columns"
        yield 6, 0.5, "the map is moved by a pixel"
    yield from _kernels(e)
    yield from precision(e)
    for fault in (7, 8, 9):
        yield fault, POSSIBLE, "a transposed convolution can have it"


def _kernels(e: Evidence) -> Found:
    """What was done to a stored kernel."""
    for name, (reference, port) in e.weights.items():
        if reference.ndim != 4 or np.array_equal(reference, port):
            continue
        if np.array_equal(port, reference[::-1, ::-1]):
            yield 7, 1.0, f"{name} is stored flipped"
        if port.shape == reference.swapaxes(2, 3).shape:
            same = np.array_equal(port, reference.swapaxes(2, 3))
            yield 9, 1.0 if same else 0.2, f"{name} is stored with in and out swapped"
        if np.array_equal(np.sort(port, axis=None), np.sort(reference, axis=None)):
            yield 9, 0.7, f"{name} holds the same values in another order"


def precision(e: Evidence) -> Found:
    """Arithmetic that is less exact than it should be."""
    if "float32" in e.fault.note and "float64" in e.fault.note:
        yield 51, 1.0, "the float64 run is of float32"
    if e.fault.kind == "numerics":
        yield 50, 0.9, "exact in float64, too inexact in the working precision"
    elif e.fault.error < 1e-5:
        yield 51, 0.9, "the difference in float64 is as small as float32's rounding"


def pooling(e: Evidence) -> Found:
    wrong, c = failed(e), case(e)
    yield 6, output(e, signatures.pooled(e, same=True)), "SAME padding gives the port's output"
    yield (
        15,
        output(e, signatures.pooled(e, ceil=True)),
        "rounding the size up gives the port's output",
    )
    if "shape" in e.fault.note:
        up = signatures.pooled(e, ceil=True)
        same = c is not None and up is not None and apart_shapes(c.port.get(OUTPUT), up)
        yield 15, 0.9 if same else 0.6, "the size is another one, rounded up"
    if wrong and all(q.startswith("gradient") for q in wrong):
        yield 17, 0.95, "outputs agree, and only the gradient differs"
    if "output 1" in {q.removesuffix(" in eval mode") for q in wrong} and OUTPUT not in wrong:
        yield 16, 0.95, "the maxima agree, where they stood does not"
    for fault in (6, 15, 16, 17):
        yield fault, POSSIBLE, "a max-pool can have it"


def apart_shapes(a: np.ndarray | None, b: np.ndarray) -> bool:
    """Whether a has b's shape."""
    return a is not None and a.shape == b.shape


def unpooling(e: Evidence) -> Found:
    yield 16, 0.6, "what is unpooled stands at other places"


def average_pooling(e: Evidence) -> Found:
    counts = bool(e.settings.get("count_include_pad", True))
    score = output(e, signatures.averaged(e, not counts))
    yield 14, score, "counting the padding otherwise gives the port's output"
    for fault in (14, 15, 6):
        yield fault, POSSIBLE, "an average pooling can have it"


def adaptive_pooling(e: Evidence) -> Found:
    yield 48, 0.6, "its windows are others"
    yield 14, POSSIBLE, "an average pooling can have it"


def activation(e: Evidence) -> Found:
    for name, (reference, port) in e.weights.items():
        if reference.shape != port.shape:
            yield 18, 0.95, f"{name} is {port.shape}, the reference's {reference.shape}"
    if "shape" in e.fault.note:
        yield 18, 0.8, "its slopes are others in number"
    yield 18, POSSIBLE, "a PReLU can have it"


def dropout(e: Evidence) -> Found:
    c, p = case(e), float(e.settings.get("p", 0.0))
    if c and OUTPUT in c.port and c.port[OUTPUT].shape == c.reference[OUTPUT].shape:
        port, reference = c.port[OUTPUT], c.reference[OUTPUT]
        factor = signatures.ratio(port, reference)
        if factor is not None:
            yield (
                22,
                float(np.isclose(factor, 1 - p)),
                f"the output is the reference's times {1 - p:g}",
            )
            close = p > 0 and np.isclose(factor, (1 - p) / p)
            yield 21, float(close), f"the output is rescaled by 1 / p, p = {p:g}"
        kept, should = (port != 0), (reference != 0)
        live = np.asarray(c.inputs[0]) != 0
        if (kept != should).any():
            inverted = not (kept & should & live).any()
            yield 21, 0.9 if inverted else 0.1, "what should be dropped is kept"
            yield 20, 0.2 if inverted else 0.9, "other elements are dropped"
    for fault in (20, 21, 22):
        yield fault, POSSIBLE, "a dropout can have it"


def resizing(e: Evidence) -> Found:
    c = case(e)
    if c is None:
        return
    before, after = c.inputs[0].shape[1:3], c.reference[OUTPUT].shape[1:3]
    corners = 10 if after > before else 11
    aligned = bool(e.settings.get("align_corners", False))
    wrong = signatures.resized(c, e, mode="bilinear", align_corners=not aligned)
    yield corners, output(e, wrong), f"align_corners={not aligned} gives the port's output"
    wrong = signatures.resized(c, e, mode="bilinear", align_corners=False, antialias=True)
    yield 12, output(e, wrong), "an antialiased resize gives the port's output"
    for mode in ("nearest", "nearest-exact"):
        wrong = signatures.resized(c, e, mode=mode)
        yield 53, output(e, wrong), f"`{mode}` gives the port's output"
    for fault in (corners, 12, 53):
        yield fault, POSSIBLE, "a resize can have it"


def loss(e: Evidence) -> Found:
    """Outputs agree; the loss does not."""
    errors = {c.quantity: c.error for c in e.failures if c.rung == "L3" and c.kind == "structure"}
    gradients = [v for (q, v) in errors.items() if q.startswith("gradient")]
    apart = errors.get("loss", 0.0)
    proportional = bool(gradients) and np.isclose(np.median(gradients), apart, rtol=1e-3)
    if proportional:
        yield 23, 0.8, "loss and gradients differ by one factor"
        yield 24, 0.8, "loss and gradients differ by one factor"
        yield 25, 0.3, "another number of pixels may count"
    else:
        yield 26, 0.6, "loss and gradients differ, by no common factor"
        yield 25, 0.5, "loss and gradients differ, by no common factor"
        yield 49, 0.4, "loss and gradients differ, by no common factor"
    for fault in (23, 24, 25, 26, 49):
        yield fault, POSSIBLE, "a loss can have it"


def whole(e: Evidence) -> Found:
    """A block or the network is wrong although each of its layers is right."""
    updates = {c.quantity for c in e.failures if c.quantity.endswith("after a step")}
    outputs = [c for c in e.failures if "eval mode" in c.quantity and c.rung == "L2"]
    if any("num_batches_tracked" in quantity for quantity in updates):
        yield 47, 0.9, "batch norms have counted another number of batches"
    if updates and not outputs:
        yield 47, 0.8, "only statistics differ, and what train mode makes of them"
    if e.fault.note.startswith("missing"):
        yield 47, 0.6, "a layer is not called as often as in the reference"
    yield 52, 0.6 if outputs else 0.3, "its layers are right alone, what stands between them is not"


# Part of the name of the reference's class -> who knows it; the first that fits.
KINDS: tuple[tuple[str, Callable[[Evidence], Found]], ...] = (
    ("BatchNorm", batch_norm),
    ("ConvTranspose", transposed_convolution),
    ("Conv", convolution),
    ("Linear", convolution),
    ("MaxUnpool", unpooling),
    ("MaxPool", pooling),
    ("Adaptive", adaptive_pooling),
    ("AvgPool", average_pooling),
    ("PReLU", activation),
    ("Dropout", dropout),
    ("Resize", resizing),
    ("Upsample", resizing),
    ("Interpolate", resizing),
)


def several(e: Evidence) -> Found:
    """Several devices do not compute what was predicted of them."""
    s = e.spread
    assert s is not None
    for fault, why, wrong in s.others:
        yield fault, explained(s.port, wrong, s.reference), why
    if not s.samples:
        yield 55, 0.95, "samples are handed to several devices, or to none"
    if not s.masks:
        yield 56, 0.9 if s.samples else 0.1, "masks are others than those of their samples"
    for fault in (35, 36, 37, 55, 56):
        yield fault, POSSIBLE, "several devices can have it"


def _looks(e: Evidence) -> list[Callable[[Evidence], Found]]:
    if e.spread is not None:
        return [several]
    if e.fault.rung in ("L4", "L5"):
        return [update_causes.update if e.fault.rung == "L4" else update_causes.trajectory]
    broken = {(c.rung, c.layer, c.quantity) for c in e.failures}
    if e.fault.rung == "L3" and ("L3", NETWORK, "loss") in broken:
        return [loss]  # the lowest rung that failed is the one where the loss is
    looks = [look for part, look in KINDS if part in e.kind][:1]
    if (e.kind and not looks) or e.fault.rung in ("L2", "L3"):
        looks.append(whole)
    return looks or [precision, whole]
