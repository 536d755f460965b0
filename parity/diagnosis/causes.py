"""Choosing the faults of the catalogue that explain a failed comparison.

Each hypothesis uses the evidence alone: the layer's class and settings, which quantities failed,
and the layer on its own on both sides. Where it can, it computes the reference's result with that
fault, and how much of the difference that explains.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from parity.capture.records import NETWORK
from parity.diagnosis import layer_causes, update_causes
from parity.diagnosis.catalogue import CATALOGUE, Fault
from parity.diagnosis.layer_causes import POSSIBLE, Suggestions
from parity.diagnosis.signatures import explained
from parity.ladder.evidence import Evidence
from parity.ladder.weights import COUNTER
from parity.report.quantity import Kind, Mode, Scope


@dataclasses.dataclass(frozen=True)
class Cause:
    """A likely cause: the fault and its title, score from 0 to 1, and why."""

    fault: Fault
    title: str
    score: float
    why: str

    def __str__(self) -> str:
        return f"{self.title} (fault {CATALOGUE[self.fault].number}): {self.why}"


def rank(evidence: Evidence) -> list[Cause]:
    """The causes that may explain the evidence, likeliest first."""
    best: dict[Fault, tuple[float, str]] = {}
    for look in _looks(evidence):
        for fault, score, why in look(evidence):
            if score > best.get(fault, (0.0, ""))[0]:
                best[fault] = (score, why)
    causes = [Cause(f, CATALOGUE[f].title, score, why) for f, (score, why) in best.items()]
    return sorted(causes, key=lambda c: (-c.score, CATALOGUE[c.fault].number))


def loss(e: Evidence) -> Suggestions:
    """Suggest faults of the loss: outputs agree, but the loss does not."""
    errors = {c.quantity: c.error for c in e.failures if c.rung == "L3" and c.kind == "structure"}
    gradients = [error for q, error in errors.items() if q.is_gradient]
    of_loss = next((error for q, error in errors.items() if q.kind is Kind.LOSS), 0.0)
    proportional = bool(gradients) and np.isclose(np.median(gradients), of_loss, rtol=1e-3)
    if proportional:
        yield Fault.LOSS_MEAN, 0.8, "loss and gradients differ by one factor"
        yield Fault.LOSS_CLASS_WEIGHTS, 0.8, "loss and gradients differ by one factor"
        yield Fault.IGNORED_LABEL, 0.3, "another number of pixels may count"
    else:
        yield Fault.SOFTMAX, 0.6, "loss and gradients differ, by no common factor"
        yield Fault.IGNORED_LABEL, 0.5, "loss and gradients differ, by no common factor"
        yield Fault.INTERPOLATED_LABELS, 0.4, "loss and gradients differ, by no common factor"
    for fault in (
        Fault.LOSS_MEAN,
        Fault.LOSS_CLASS_WEIGHTS,
        Fault.IGNORED_LABEL,
        Fault.SOFTMAX,
        Fault.INTERPOLATED_LABELS,
    ):
        yield fault, POSSIBLE, "a loss can have it"


def whole(e: Evidence) -> Suggestions:
    """Suggest faults of a block or network whose layers are all right."""
    whole_network = [c.quantity for c in e.failures if c.quantity.scope is Scope.NETWORK]
    updates = [q for q in whole_network if q.kind is Kind.STATISTIC]
    outputs = [c for c in e.failures if c.quantity.mode is Mode.EVAL and c.rung == "L2"]
    if any(q.leaf == COUNTER for q in updates):
        yield Fault.BACKBONE_CUT_SHORT, 0.9, "batch norms have counted another number of batches"
    if updates and not outputs:
        yield (
            Fault.BACKBONE_CUT_SHORT,
            0.8,
            "only statistics differ, and what train mode makes of them",
        )
    if e.fault.note.startswith("missing"):
        yield Fault.BACKBONE_CUT_SHORT, 0.6, "a layer is not called as often as in the reference"
    yield (
        Fault.SHORTCUT_ORDER,
        0.6 if outputs else 0.3,
        "its layers are right alone, what stands between them is not",
    )


# Part of the name of the reference's class -> who knows it; the first that fits.
KINDS: tuple[tuple[str, Callable[[Evidence], Suggestions]], ...] = (
    ("BatchNorm", layer_causes.batch_norm),
    ("ConvTranspose", layer_causes.transposed_convolution),
    ("Conv", layer_causes.convolution),
    ("Linear", layer_causes.convolution),
    ("MaxUnpool", layer_causes.unpooling),
    ("MaxPool", layer_causes.pooling),
    ("Adaptive", layer_causes.adaptive_pooling),
    ("AvgPool", layer_causes.average_pooling),
    ("PReLU", layer_causes.activation),
    ("Dropout", layer_causes.dropout),
    ("Resize", layer_causes.resizing),
    ("Upsample", layer_causes.resizing),
    ("Interpolate", layer_causes.resizing),
)


def several(e: Evidence) -> Suggestions:
    """Suggest faults of a run on several devices that differs from its prediction."""
    s = e.devices
    assert s is not None
    for fault, why, wrong in s.hypotheses:
        yield Fault(fault), explained(s.port, wrong, s.reference), why
    if not s.samples:
        yield Fault.DEVICE_SAMPLES, 0.95, "samples are handed to several devices, or to none"
    if not s.masks:
        yield (
            Fault.DEVICE_DROPOUT_MASKS,
            0.9 if s.samples else 0.1,
            "masks are others than those of their samples",
        )
    for fault in (
        Fault.GRADIENT_SUM,
        Fault.DEVICE_LOSS_NORMALIZER,
        Fault.SYNC_BATCH_NORM,
        Fault.DEVICE_SAMPLES,
        Fault.DEVICE_DROPOUT_MASKS,
    ):
        yield fault, POSSIBLE, "several devices can have it"


def _looks(e: Evidence) -> list[Callable[[Evidence], Suggestions]]:
    if e.devices is not None:
        return [several]
    if e.fault.rung in ("L4", "L5"):
        return [update_causes.update if e.fault.rung == "L4" else update_causes.trajectory]
    broken = {(c.rung, c.layer, c.quantity.kind) for c in e.failures}
    if e.fault.rung == "L3" and ("L3", NETWORK, Kind.LOSS) in broken:
        return [loss]  # the lowest rung that failed is the one where the loss is
    looks = [look for part, look in KINDS if part in e.kind][:1]
    if (e.kind and not looks) or e.fault.rung in ("L2", "L3"):
        looks.append(whole)
    return looks or [layer_causes.precision, whole]
