"""An optimizer's steps in float64, written out so that one rule of them can be changed."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from parity.diagnosis.experiments.optimizer_clipping import Clipper, Clipping

MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]


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
        clipping: Another way to clip gradients; None as the optimizer's hooks do.
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
    clipping: Clipping | None = None


def known(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether `Stepper` can make this optimizer's steps."""
    own = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop)
    return type(optimizer) in own


def hooks_of(optimizer: torch.optim.Optimizer) -> list[Callable[..., Any]]:
    """Return what an optimizer runs before each step."""
    return list(getattr(optimizer, "_optimizer_step_pre_hooks", {}).values())


def altered(make: MakeOptimizer, rule: Rule) -> MakeOptimizer:
    """Return the optimizer that `make` gives, with its steps made by a rule."""

    def built(module: nn.Module) -> torch.optim.Optimizer:
        optimizer = make(module)
        names = {id(p): name for name, p in module.named_parameters()}
        stepper = Stepper(optimizer, rule, names)
        # Bound to it, as a scheduler expects.
        step: Any = types.MethodType(lambda self, closure=None: stepper(), optimizer)
        optimizer.step = step  # type: ignore[method-assign] # the changed rule instead of its own
        return optimizer

    return built


class Stepper:
    """Makes an optimizer's steps, in the precision of its parameters, by a rule."""

    def __init__(self, optimizer: torch.optim.Optimizer, rule: Rule, names: dict[int, str]) -> None:
        self.optimizer, self.rule, self.names = optimizer, rule, names
        self.clipper = Clipper()
        self.kind = type(optimizer).__name__
        self.memory: dict[int, dict[str, Any]] = {}
        self.first_eps: float | None = None
        self.count = 0

    @torch.no_grad()
    def __call__(self) -> None:
        self.count += 1
        self._run_hooks()
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

    def _run_hooks(self) -> None:
        """Run what the optimizer runs before a step, such as a clipping of gradients."""
        grouped = [p for group in self.optimizer.param_groups for p in group["params"]]
        before = {p: p.grad.clone() for p in grouped if p.grad is not None}
        for hook in hooks_of(self.optimizer):
            hook(self.optimizer, (), {})
        after = [p.grad for p in before if p.grad is not None]
        if self.rule.clipping is not None and len(after) == len(before):
            self.clipper(list(before.values()), after, self.rule.clipping)

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
