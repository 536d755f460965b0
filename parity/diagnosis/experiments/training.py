"""What evidence on training proves: initial values, several devices, a step of another rate."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from parity.diagnosis.catalogue import Fault
from parity.diagnosis.experiments import initial_weights
from parity.diagnosis.experiments.engine import Proof, close
from parity.ladder.evidence import DeviceEvidence, Divergence, Draws, Evidence

SAME = 1e-9  # of two rates
GRADIENTS = 1e-8  # of all gradients of a network, computed on several devices


def proofs(evidence: Evidence) -> list[Proof]:
    """Everything that the evidence proves."""
    found: list[Proof] = []
    if evidence.draws is not None:
        found += _draws(evidence.draws)
    if evidence.devices is not None:
        found += _devices(evidence.devices)
    if evidence.divergence is not None:
        found += _divergence(evidence.divergence)
    return found


def _draws(d: Draws) -> Iterator[Proof]:
    """Constant initial values that should be another constant; weights by another initialiser."""
    if d.kind == "slope" and d.values.size and np.ptp(d.values) == 0:
        what = f"slopes that are {np.ravel(d.values)[0]:g} at first instead of {d.law}"
        yield Proof(Fault.PRELU_INITIAL_SLOPE, what)
    yield from initial_weights.proofs(d)


def _devices(d: DeviceEvidence) -> Iterator[Proof]:
    """Yield each fault with which the prediction is what the devices computed."""
    if close(d.port, d.reference, GRADIENTS):
        if not d.samples:
            text = "samples of a batch handed to several devices, or to none"
            yield Proof(Fault.DEVICE_SAMPLES, text)
        return
    for fault, what, predicted in d.hypotheses:
        if close(d.port, predicted, GRADIENTS):
            yield Proof(fault, what)


def _divergence(d: Divergence) -> Iterator[Proof]:
    """Yield a step that is the reference's times the quotient of two rates of its schedule."""
    if d.begins or d.momentum or d.port.shape != d.reference.shape or len(d.rates) < 2:
        return
    *_, before, now, after = (d.rates[0], *d.rates)
    for rate, word in ((before, "the step before"), (after, "the next step")):
        if now and abs(rate - now) > SAME * now and close(d.port, d.reference * (rate / now), 1e-7):
            yield Proof(Fault.SCHEDULE_OFFSET, f"the learning rate of {word}")
