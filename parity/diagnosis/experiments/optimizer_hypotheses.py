"""Changes of an optimizer that ports make: other settings, and other rules of its steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from parity.diagnosis.catalogue import Fault
from parity.diagnosis.experiments.change import COMMON, PLAIN, number
from parity.diagnosis.experiments.optimizer_clipping import OTHERS
from parity.diagnosis.experiments.optimizer_rules import MakeOptimizer, Rule, hooks_of

BETAS = ((0.9, 0.999), (0.9, 0.99), (0.9, 0.95), (0.9, 0.98), (0.5, 0.999))
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
# Settings that a `Rule` changes, too, and in better words.
RULED = {"SGD": ("nesterov",), "Adam": ("decoupled_weight_decay",), "AdamW": ()}
NAMED = {"eps": "adam-eps", "betas": "adam-betas"}  # of Adam's settings
SETTING = "optimizer-setting"
RMSPROP_EPS = "rmsprop-eps"
Hypothesis = tuple[str, str, Rule, int]  # fault, description, rule, how simple it is


def with_setting(make: MakeOptimizer, key: str, value: Any) -> MakeOptimizer:
    """Return the optimizer that `make` gives, with another setting of all of its groups."""

    def built(module: nn.Module) -> torch.optim.Optimizer:
        optimizer = make(module)
        for group in optimizer.param_groups:
            group[key] = value
        return optimizer

    return built


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
    for text, clipping in OTHERS.items() if hooks_of(optimizer) else ():
        yield "gradient-clipping", text, Rule(clipping=clipping), COMMON
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
