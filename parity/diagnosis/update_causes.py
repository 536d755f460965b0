"""Hypotheses on wrong optimizer steps, and on how training trajectories diverge.

Where NumPy can recompute the reference's optimizer, each hypothesis is tried on the gradients that
both sides were fed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from parity.diagnosis.catalogue import Fault
from parity.diagnosis.layer_causes import Suggestions
from parity.diagnosis.signatures import difference, explained, ratio
from parity.ladder.evidence import Divergence, Draws, Evidence, Steps

KNOWN = 1e-6  # how well NumPy must redo the reference's steps for its hypotheses to count
SAME = 1e-9  # of two rates


def update(e: Evidence) -> Suggestions:
    """Suggest faults of L4: the rates differ, or a step does."""
    if e.draws is not None:
        yield from _draws(e.draws)
        return
    if e.rates is not None:
        yield from schedule(*e.rates)
    if e.steps is not None:
        yield from _steps(e.steps)
    if "float32" in e.fault.note or (e.fault.kind == "structure" and e.fault.error < 1e-6):
        yield Fault.X64_OFF, 0.9, "the difference in float64 is as small as float32's rounding"
    for fault in (
        Fault.ADAM_EPS_INSIDE_ROOT,
        Fault.ADAM_EPS_HAT,
        Fault.DECOUPLED_DECAY,
        Fault.DECAY_MASK,
        Fault.SCHEDULE_OFFSET,
        Fault.NESTEROV,
    ):
        yield fault, 0.05, "an optimizer can have it"


def schedule(reference: np.ndarray, port: np.ndarray) -> Suggestions:
    """Suggest that the rates are the reference's, shifted by some steps."""
    if np.allclose(port, reference, rtol=SAME, atol=0):
        return
    for n in range(1, len(reference)):
        early, late = port[:-n], port[n:]
        for moved, still, word in ((early, reference[n:], "early"), (late, reference[:-n], "late")):
            constant = np.ptp(still) == 0  # any rate is a constant one, moved
            if not constant and np.allclose(moved, still, rtol=SAME, atol=0):
                yield (
                    Fault.SCHEDULE_OFFSET,
                    1.0,
                    f"each rate comes {n} step{'s' * (n > 1)} too {word}",
                )
                return
    yield Fault.SCHEDULE_OFFSET, 0.5, "the learning rate is another one"


def _steps(s: Steps) -> Suggestions:
    if not s.gradients:
        if any(p.any() for p in s.port):
            yield (
                Fault.UNUSED_PARAMETERS_DECAY,
                1.0,
                "the reference has no gradient here, and leaves the weight alone",
            )
        return
    redone = replayed(s)
    if redone is None or difference(_joined(redone), _joined(s.reference)) > KNOWN:
        return
    for fault, why, changes in _hypotheses(s):
        steps = replayed(s, **changes)
        assert steps is not None
        score = explained(_joined(s.port), _joined(steps), _joined(s.reference))
        yield fault, score, f"{why} explains the port's steps"


def _hypotheses(s: Steps) -> Iterator[tuple[Fault, str, dict[str, Any]]]:
    settings = s.settings[0]
    decay, name = float(settings.get("weight_decay", 0.0)), str(settings["class"])
    if name.startswith("Adam"):
        yield Fault.ADAM_EPS_INSIDE_ROOT, "eps inside the square root", {"eps": "inside"}
        yield Fault.ADAM_EPS_HAT, "eps where TensorFlow puts it", {"eps": "hat"}
        yield Fault.ADAM_EPS_HAT, "eps where PyTorch puts it", {"eps": "constant"}
    else:
        yield (
            Fault.NESTEROV,
            "Nesterov's momentum the other way",
            {"nesterov": not settings.get("nesterov")},
        )
    if decay:
        coupled = name != "AdamW"
        yield (
            Fault.DECOUPLED_DECAY,
            f"{'decoupled' if coupled else 'coupled'} weight decay",
            {"coupled": not coupled},
        )
    if decay or s.decay:
        what = "no weight decay" if decay else "weight decay"
        yield Fault.DECAY_MASK, f"{what} of this {s.leaf}", {"decay": 0.0 if decay else s.decay}


def replayed(s: Steps, **changes: Any) -> list[np.ndarray] | None:
    """Recompute the reference's steps with changes; None for an optimizer unknown here.

    Args:
        s: The weight, gradients and settings of the steps.
        **changes: `eps`: `inside`, `hat` or `constant`; `coupled`; `decay`; `nesterov`.
    """
    name = str(s.settings[0]["class"])
    if name in ("Adam", "AdamW"):
        return _adam(s, **{"coupled": name == "Adam"} | changes)
    return _sgd(s, **changes) if name == "SGD" else None


def _adam(s: Steps, coupled: bool, eps: str = "", decay: float | None = None) -> list[np.ndarray]:
    weight = np.asarray(s.weight, np.float64)
    m, v, found = np.zeros_like(weight), np.zeros_like(weight), []
    for t, (g, group) in enumerate(zip(s.gradients, s.settings, strict=True), 1):
        b1, b2 = group["betas"]
        wd, lr, small = _decay(group, decay), float(group["lr"]), float(group["eps"])
        g = g + wd * weight * coupled
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        root, scale = np.sqrt(v / (1 - b2**t)), np.sqrt(1 - b2**t)
        if eps == "inside":
            root = np.sqrt(v / (1 - b2**t) + small)
        elif eps == "hat":
            root = root + small / scale
        elif eps == "constant":
            root = root + float(s.settings[0]["eps"]) * np.sqrt(1 - b2)
        else:
            root = root + small
        step = -lr * m / (1 - b1**t) / root - lr * wd * weight * (not coupled)
        found.append(step)
        weight = weight + step
    return found


def _sgd(
    s: Steps,
    coupled: bool = True,
    decay: float | None = None,
    nesterov: bool | None = None,
) -> list[np.ndarray]:
    weight = np.asarray(s.weight, np.float64)
    trace, found = np.zeros_like(weight), []
    for g, group in zip(s.gradients, s.settings, strict=True):
        momentum, wd, lr = float(group["momentum"]), _decay(group, decay), float(group["lr"])
        g = g + wd * weight * coupled
        trace = momentum * trace + g
        ahead = bool(group.get("nesterov")) if nesterov is None else nesterov
        step = -lr * (g + momentum * trace if ahead else trace) - lr * wd * weight * (not coupled)
        found.append(step)
        weight = weight + step
    return found


def _decay(group: Mapping[str, Any], decay: float | None) -> float:
    return float(group.get("weight_decay", 0.0)) if decay is None else decay


def _joined(steps: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.ravel(step) for step in steps])


def _draws(d: Draws) -> Suggestions:
    """Suggest which other distribution a tensor was drawn from."""
    if d.kind == "slope":
        yield Fault.PRELU_INITIAL_SLOPE, 1.0, f"slopes are {np.ravel(d.values)[0]:g}, not {d.law}"
        return
    values = np.ravel(d.values).astype(np.float64)
    spread, area = float(values.std()), math.prod(d.shape[2:])
    fans = {"in": math.prod(d.shape[1:]), "out": d.shape[0] * area}
    others = {
        "U(-b, b), b = 1 / sqrt(fan_out)": 1 / math.sqrt(3 * fans["out"]),
        "N(0, 1 / fan_in), LeCun's": 1 / math.sqrt(fans["in"]),
        "U or N of variance 2 / fan_in, He's": math.sqrt(2 / fans["in"]),
        "variance 2 / (fan_in + fan_out), Glorot's": math.sqrt(2 / (fans["in"] + fans["out"])),
    }
    for name, deviation in others.items():
        if abs(spread / deviation - 1) < 5 / math.sqrt(2 * max(values.size, 2)):
            yield Fault.INITIAL_WEIGHTS, 1.0, f"its deviation is that of {name}, not of {d.law}"
            return
    yield Fault.INITIAL_WEIGHTS, 0.6, f"it is not drawn from {d.law}"


def trajectory(e: Evidence) -> Suggestions:
    """Suggest faults of L5: trajectories diverge although single steps agree."""
    if e.divergence is not None:
        yield from _divergence(e.divergence)
    for fault in (Fault.RATE_IN_MOMENTUM, Fault.SCHEDULE_OFFSET, Fault.ENCODER_STATISTICS):
        yield fault, 0.05, "a trajectory can have it"


def _divergence(d: Divergence) -> Suggestions:
    if d.begins:
        yield Fault.ENCODER_STATISTICS, 0.95, "they diverge with the first step of a stage"
    *_, before, now, after = (d.rates[0], *d.rates)
    found = ratio(d.port, d.reference) if d.port.shape == d.reference.shape else None
    others = [r / now for r in (before, after) if now and abs(r - now) > SAME * now]
    if found is not None and any(abs(found - r) < 1e-6 * r for r in others):
        yield Fault.SCHEDULE_OFFSET, 1.0, "the step is made with a neighbour's rate"
    elif abs(before - now) > SAME * abs(before):
        yield (
            Fault.RATE_IN_MOMENTUM,
            0.9 if d.momentum else 0.1,
            "they diverge where the rate changes, with momentum",
        )
        yield Fault.SCHEDULE_OFFSET, 0.4, "they diverge where the rate changes"
    elif others:
        yield Fault.SCHEDULE_OFFSET, 0.6, "they diverge beside a change of the rate"
