"""Experiments on optimizers: the reference's, computed anew in float64 with one change."""

from __future__ import annotations

import dataclasses
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from parity.capture.records import ForwardError
from parity.capture.torch_operations import Operations, Replacements
from parity.diagnosis.catalogue import Fault
from parity.diagnosis.experiments.change import COMMON, PLAIN, number
from parity.diagnosis.experiments.engine import PATIENCE, Proof
from parity.ladder.keys import full_name
from parity.ladder.l4_update import Update
from parity.ladder.l5_trajectory import Trajectory
from parity.report.quantity import Kind
from parity.report.report import Report

MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]
SAME = 1e-12  # of two rates
BETAS = ((0.9, 0.999), (0.9, 0.99), (0.9, 0.95), (0.9, 0.98), (0.5, 0.999))


@dataclasses.dataclass(frozen=True)
class Rule:
    """How an optimizer makes its steps, where it is not as PyTorch's does.

    Attributes:
        eps: Where eps is: `` (PyTorch's place), `inside` the root, `hat` (TensorFlow's), or
            `constant`: where PyTorch puts it, though the reference moves it with the step.
        coupled: Whether weights' decay is added to the gradient; None as the optimizer has it.
        unscaled_decay: Whether a decoupled decay is not multiplied with the rate.
        decays: Parameter -> another weight decay.
        nesterov: Whether momentum is Nesterov's; None as the optimizer has it.
        dampening: Another dampening; `first` where the first step is dampened, too.
        rate_in_momentum: Whether the momentum sums steps instead of gradients.
        alpha: Another share of the former mean square, of RMSprop.
        offset: How many steps later the step's number is.
        corrected: Whether moments are corrected for their start at zero.
        absent_is_zero: Whether an absent gradient is one of zeros.
        amsgrad: Whether the largest second moment so far is taken.
    """

    eps: str = ""
    alpha: float | None = None
    coupled: bool | None = None
    unscaled_decay: bool = False
    decays: dict[str, float] = dataclasses.field(default_factory=dict)
    nesterov: bool | None = None
    dampening: float | None = None
    rate_in_momentum: bool = False
    offset: int = 0
    corrected: bool = True
    absent_is_zero: bool = False
    amsgrad: bool | None = None


def known(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether `Stepper` can make this optimizer's steps."""
    own = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop)
    return type(optimizer) in own


# Settings of PyTorch's optimizers, and others that ports use.
EPS = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-10, 1e-12, 1e-15, 1e-16, 1e-30, 0.0)
SETTINGS: dict[str, tuple[Any, ...]] = {
    "eps": EPS,
    "alpha": (0.9, 0.99, 0.95, 0.999),
    "rho": (0.9, 0.95, 0.99),
    "betas": (*BETAS, (0.95, 0.98), (0.9, 0.98)),
    "momentum": (0.9, 0.0, 0.99, 0.95),
    "momentum_decay": (4e-3, 0.0),
    "lr_decay": (0.0, 1e-4),
    "initial_accumulator_value": (0.0, 0.1, 1.0),
    "centered": (True, False),
    "nesterov": (True, False),
    "decoupled_weight_decay": (True, False),
}


def with_setting(make: MakeOptimizer, key: str, value: Any) -> MakeOptimizer:
    """Return the optimizer that `make` gives, with another setting of all of its groups."""

    def built(module: nn.Module) -> torch.optim.Optimizer:
        optimizer = make(module)
        for group in optimizer.param_groups:
            group[key] = value
        return optimizer

    return built


# Settings that a `Rule` changes, too, and in better words.
RULED = {"SGD": ("nesterov",), "Adam": ("decoupled_weight_decay",), "AdamW": ()}
NAMED = {"eps": "adam-eps", "betas": "adam-betas"}  # of Adam's settings


def settings(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Any, list[Any]]]:
    """Yield each setting that an optimizer reads at every step, its value, and others."""
    group, ruled = optimizer.param_groups[0], RULED.get(type(optimizer).__name__, ())
    for key, values in SETTINGS.items():
        now: Any = group.get(key)
        now = tuple(now) if isinstance(now, list) else now
        if now is None or key in ruled:
            continue
        more = (now[::-1],) if isinstance(now, tuple) else ()
        # Adafactor's eps are two.
        others = [v for v in (*values, *more) if np.shape(v) == np.shape(now) and v != now]
        yield key, now, others


def altered(
    make: MakeOptimizer, rule: Rule, clipping: Callable[[], Replacements] = dict
) -> MakeOptimizer:
    """Return the optimizer that `make` gives, with its steps made by a rule."""

    def built(module: nn.Module) -> torch.optim.Optimizer:
        optimizer = make(module)
        names = {id(p): name for name, p in module.named_parameters()}
        stepper = Stepper(optimizer, rule, names, clipping)
        # Bound to it, as a scheduler expects.
        step: Any = types.MethodType(lambda self, closure=None: stepper(), optimizer)
        optimizer.step = step  # type: ignore[method-assign] # the changed rule instead of its own
        return optimizer

    return built


class Stepper:
    """Makes an optimizer's steps, in the precision of its parameters, by a rule."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        rule: Rule,
        names: dict[int, str],
        clipping: Callable[[], Replacements],
    ) -> None:
        self.optimizer, self.rule, self.names, self.clipping = optimizer, rule, names, clipping
        self.kind = type(optimizer).__name__
        self.memory: dict[int, dict[str, Any]] = {}
        self.first_eps: float | None = None
        self.count = 0

    @torch.no_grad()
    def __call__(self) -> None:
        self.count += 1
        hooks = getattr(self.optimizer, "_optimizer_step_pre_hooks", {})
        with Operations(self.clipping()):
            for hook in hooks.values():
                hook(self.optimizer, (), {})
        for group in self.optimizer.param_groups:
            if self.first_eps is None and "eps" in group:
                self.first_eps = float(group["eps"])
            for p in group["params"]:
                gradient = p.grad
                if gradient is None:
                    if not self.rule.absent_is_zero:
                        continue
                    gradient = torch.zeros_like(p)
                gradient = -gradient if group.get("maximize") else gradient
                self._step(p, gradient, group)

    def _step(self, p: torch.Tensor, g: torch.Tensor, group: dict[str, Any]) -> None:
        rule, rate = self.rule, float(group["lr"])
        coupled = self.kind != "AdamW" if rule.coupled is None else rule.coupled
        decay = rule.decays.get(self.names[id(p)], float(group.get("weight_decay", 0.0)))
        held = self.memory.setdefault(id(p), {"count": 0})
        held["count"] += 1
        weight = p.clone()
        if coupled and decay:
            g = g + decay * weight
        steps = {"SGD": self._sgd, "RMSprop": self._rmsprop}
        step = steps.get(self.kind, self._adam)(g, held, group)
        p.sub_(step if rule.rate_in_momentum else rate * step)
        if not coupled and decay:
            p.sub_((1.0 if rule.unscaled_decay else rate) * decay * weight)

    def _sgd(self, g: torch.Tensor, held: dict[str, Any], group: dict[str, Any]) -> torch.Tensor:
        rule, momentum = self.rule, float(group["momentum"])
        if rule.rate_in_momentum:
            g = float(group["lr"]) * g
        if not momentum:
            return g
        dampening = float(group["dampening"]) if rule.dampening is None else rule.dampening
        if "trace" not in held:
            first = 1 - dampening if rule.dampening is not None else 1.0
            held["trace"] = first * g
        else:
            held["trace"] = momentum * held["trace"] + (1 - dampening) * g
        ahead = bool(group["nesterov"]) if rule.nesterov is None else rule.nesterov
        return g + momentum * held["trace"] if ahead else held["trace"].clone()

    def _rmsprop(
        self, g: torch.Tensor, held: dict[str, Any], group: dict[str, Any]
    ) -> torch.Tensor:
        rule, eps, momentum = self.rule, float(group["eps"]), float(group["momentum"])
        alpha = float(group["alpha"]) if rule.alpha is None else rule.alpha
        v = held["v"] = alpha * held.get("v", torch.zeros_like(g)) + (1 - alpha) * g * g
        if group["centered"]:
            mean = alpha * held.get("mean", torch.zeros_like(g)) + (1 - alpha) * g
            held["mean"] = mean
            v = v - mean * mean
        root = torch.sqrt(v + eps) if rule.eps == "inside" else torch.sqrt(v) + eps
        step = g / root
        held["trace"] = momentum * held.get("trace", torch.zeros_like(g)) + step
        return step + momentum * held["trace"] if rule.nesterov else held["trace"].clone()

    def _adam(self, g: torch.Tensor, held: dict[str, Any], group: dict[str, Any]) -> torch.Tensor:
        rule, t = self.rule, held["count"] + self.rule.offset
        (b1, b2), eps = group["betas"], float(group["eps"])
        m = held["m"] = b1 * held.get("m", torch.zeros_like(g)) + (1 - b1) * g
        v = held["v"] = b2 * held.get("v", torch.zeros_like(g)) + (1 - b2) * g * g
        largest = bool(group.get("amsgrad")) if rule.amsgrad is None else rule.amsgrad
        if largest:
            v = held["most"] = torch.maximum(held.get("most", torch.zeros_like(v)), v)
        first, second = (1 - b1**t, 1 - b2**t) if rule.corrected else (1.0, 1.0)
        root = torch.sqrt(v / second)
        if rule.eps == "inside":
            root = torch.sqrt(v / second + eps)
        elif rule.eps == "hat":
            root = root + eps / np.sqrt(second)
        elif rule.eps == "constant":
            assert self.first_eps is not None
            root = root + self.first_eps * np.sqrt(1 - b2)
        else:
            root = root + eps
        return m / first / root


# By an optimizer that is given what it does not take.
RAISED = (ForwardError, ArithmeticError, LookupError, TypeError, ValueError, RuntimeError)
SETTING = "optimizer-setting"
RMSPROP_EPS = "rmsprop-eps"
Hypothesis = tuple[str, str, Rule, int]  # fault, description, rule, how simple it is


def hypotheses(optimizer: torch.optim.Optimizer) -> Iterator[Hypothesis]:
    """Changes of an optimizer's rule."""
    groups, kind = optimizer.param_groups, type(optimizer).__name__
    decays = any(float(group.get("weight_decay", 0.0)) for group in groups)
    if decays:
        coupled = kind != "AdamW"
        text = "decoupled weight decay" if coupled else "weight decay added to the gradient"
        yield Fault.DECOUPLED_DECAY, text, Rule(coupled=not coupled), COMMON
        text = "a decoupled weight decay that is not multiplied with the rate"
        yield Fault.DECOUPLED_DECAY, text, Rule(coupled=False, unscaled_decay=True), PLAIN
    text = "absent gradients taken for zeros: unused parameters decay"
    yield Fault.UNUSED_PARAMETERS_DECAY, text, Rule(absent_is_zero=True), COMMON
    if kind == "SGD":
        yield from _of_sgd(groups[0])
    elif kind == "RMSprop":
        yield from _of_rmsprop(groups[0])
    else:
        yield from _of_adam(groups[0])


def _of_sgd(group: dict[str, Any]) -> Iterator[Hypothesis]:
    momentum, ahead = float(group["momentum"]), bool(group["nesterov"])
    if not momentum:
        return
    text = "plain momentum" if ahead else "Nesterov's momentum"
    yield Fault.NESTEROV, text, Rule(nesterov=not ahead), COMMON
    text = "the learning rate inside the momentum"
    yield Fault.RATE_IN_MOMENTUM, text, Rule(rate_in_momentum=True), COMMON
    if not group["dampening"]:
        text = "momentum as an exponential moving average"
        yield "momentum-average", text, Rule(dampening=momentum), COMMON


def _of_rmsprop(group: dict[str, Any]) -> Iterator[Hypothesis]:
    """Yield eps inside the root, Nesterov's momentum, and both, also with another alpha.

    Optax's defaults differ from PyTorch's in two settings at once.
    """
    now = float(group["alpha"])
    alphas = dict.fromkeys((now, *SETTINGS["alpha"]))
    for inside in (True, False):
        for ahead in (False, True) if group["momentum"] else (False,):
            for alpha in alphas if inside or ahead else ():
                texts = ["eps inside the square root"] * inside + ["Nesterov's momentum"] * ahead
                if alpha != now:
                    texts.append(f"alpha {number(alpha)} instead of {number(now)}")
                rule = Rule(eps="inside" if inside else "", alpha=alpha, nesterov=ahead)
                fault = RMSPROP_EPS if inside else Fault.NESTEROV
                yield fault, ", and ".join(texts), rule, COMMON if len(texts) == 1 else PLAIN


def _of_adam(group: dict[str, Any]) -> Iterator[Hypothesis]:
    yield Fault.ADAM_EPS_INSIDE_ROOT, "eps inside the square root", Rule(eps="inside"), COMMON
    yield Fault.ADAM_EPS_HAT, "eps where TensorFlow puts it", Rule(eps="hat"), COMMON
    text = "eps where PyTorch puts it, the same at every step"
    yield Fault.ADAM_EPS_HAT, text, Rule(eps="constant"), PLAIN
    yield "step-number", "steps counted from 0", Rule(offset=-1), COMMON
    yield "step-number", "steps counted from 2", Rule(offset=1), COMMON
    text = "moments that are not corrected for their start"
    yield "bias-correction", text, Rule(corrected=False), COMMON
    largest = bool(group.get("amsgrad"))
    text = "no AMSGrad" if largest else "AMSGrad"
    yield "amsgrad", text, Rule(amsgrad=not largest), COMMON


def of_update(update: Update, report: Report) -> list[Proof]:
    """Find the changes of the optimizer, or the rates, with which all steps are the port's."""
    make = update.optimizers[0]
    failed = [c for c in report.failures() if c.rung == "L4" and c.kind == "structure"]
    if not failed:
        return []
    rates = _rates(update)
    if rates is not None:
        late, what = rates
        fixed = update.agrees(make, late)
        return [Proof(Fault.SCHEDULE_OFFSET, what)] if fixed else []
    optimizer = make(update.runs.reference64.module)
    if update.rates_differ:
        return []
    found = _proofs(optimizer, make, update.agrees, lambda: update.gives(altered(make, Rule())))
    if not found and known(optimizer):
        found += _decay_mask(update, optimizer, report)
    return sorted(found, key=lambda proof: proof.order)


def _proofs(
    optimizer: torch.optim.Optimizer,
    make: MakeOptimizer,
    agrees: Callable[[MakeOptimizer], bool],
    is_as_known: Callable[[], bool] = lambda: True,
) -> list[Proof]:
    """Return the changes of an optimizer's rule, or of one of its settings, that are proved.

    Args:
        optimizer: The reference's.
        make: Makes it.
        agrees: Whether the steps of another one are the port's.
        is_as_known: Whether the steps that are written out here are PyTorch's.
    """
    kind = type(optimizer).__name__
    where, found, end = f"{kind}'s step", [], time.thread_time() + PATIENCE

    def fits(other: MakeOptimizer) -> bool:
        """Return whether the steps are the port's; those of one that raises are not."""
        if time.thread_time() > end:
            return False
        try:
            return agrees(other)
        except RAISED:
            return False

    if known(optimizer) and is_as_known():
        for fault, what, rule, order in hypotheses(optimizer):
            if fits(altered(make, rule)):
                found.append(Proof(fault, what, where, order))
    for key, now, others in settings(optimizer):
        values = [value for value in others if fits(with_setting(make, key, value))]
        if values:
            same = " (the steps are the same)" if len(values) > 1 else ""
            text = f"{key} {' or '.join(map(number, values))}{same} instead of {number(now)}"
            fault = NAMED.get(key, SETTING) if kind.startswith("Adam") else SETTING
            found.append(Proof(fault, text, where, PLAIN if key == "betas" else COMMON))
    return found


def _decay_mask(update: Update, optimizer: torch.optim.Optimizer, report: Report) -> list[Proof]:
    """Return the weight decay of just those parameters whose steps failed, the other way."""
    names = {
        full_name(c.layer, c.quantity.path)
        for c in report.failures()
        if c.rung == "L4" and c.quantity.kind in (Kind.STEP, Kind.DECAY_STEP)
    }
    keys = {key for name in names for key in update.runs.tensors.keys(name)}
    module = update.runs.reference64.module
    own = {id(p): name for name, p in module.named_parameters()}
    largest = max(float(g.get("weight_decay", 0.0)) for g in optimizer.param_groups)
    decays: dict[str, float] = {}
    gained = False
    for group in optimizer.param_groups:
        now = float(group.get("weight_decay", 0.0))
        for p in group["params"]:
            if own.get(id(p)) in keys:
                decays[own[id(p)]] = 0.0 if now else largest
                gained |= not now
    if not decays or not largest:
        return []
    if not update.agrees(altered(update.optimizers[0], Rule(decays=decays))):
        return []
    kinds = sorted({name.rpartition(".")[2] for name in names})
    word = "weight decay" if gained else "no weight decay"
    what = f"{word} of {len(decays)} parameters ({', '.join(kinds)})"
    return [Proof(Fault.DECAY_MASK, what, f"{type(optimizer).__name__}'s step")]


def _rates(update: Update) -> tuple[Any, str] | None:
    """A schedule that gives the port's rates, where they are the reference's, some steps off."""
    if update.rates is None or not update.rates_differ:
        return None
    reference, port = update.rates
    for n in range(1, min(len(reference), 10)):
        for moved, still, word in (
            (port[:-n], reference[n:], "early"),
            (port[n:], reference[:-n], "late"),
        ):
            if np.ptp(still) and np.allclose(moved, still, rtol=SAME, atol=0):
                what = f"each rate {n} step{'s' * (n > 1)} too {word}"
                return (lambda step: float(port[min(step, len(port) - 1)])), what
    return None


def of_trajectory(trajectory: Trajectory) -> list[Proof]:
    """Find the changes of the optimizer with which training goes the port's way."""
    optimizers = trajectory.runs.port.optimizers
    assert optimizers is not None
    make = optimizers[0]
    optimizer = make(trajectory.runs.reference64.module)
    found = _proofs(optimizer, make, trajectory.agrees)
    return sorted(found, key=lambda proof: proof.order)
