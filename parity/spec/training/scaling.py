"""The loss scale, and the handling of steps with non-finite numbers, shared by both sides.

A scale keeps small gradients above what half precision can hold. It rises and falls as in
`torch.amp.GradScaler` with its defaults, except that it halves with a floor of 1.
"""

from __future__ import annotations

import dataclasses
import math

from parity.spec.training.trainer import Step

FIRST = 2.0**16
PATIENCE = 2000  # good steps before it is doubled


@dataclasses.dataclass
class LossScale:
    """The factor of the loss during differentiation, by which gradients are divided afterwards.

    Attributes:
        value: The scale of the next step.
        dynamic: Whether it changes with overflows.
        good: Number of steps since it changed.
    """

    value: float = 1.0
    dynamic: bool = False
    good: int = 0

    @classmethod
    def of(cls, asked: float | str | None) -> LossScale:
        """Create the loss scale that a recipe specifies: a number, `dynamic`, or None."""
        if asked == "dynamic":
            return cls(FIRST, dynamic=True)
        return cls(1.0 if asked is None else float(asked))

    def outcome(self, loss: float, overflow: str = "") -> Step:
        """Return the outcome of a step, and set the scale of the next.

        A smaller scale would not help against a loss that is not finite.

        Args:
            loss: The unscaled loss.
            overflow: A description of a non-finite gradient; empty if all are finite.
        """
        if not math.isfinite(loss):
            return Step(loss, f"the loss is {loss}", scale=self.value)
        if overflow and (not self.dynamic or self.value == 1):
            return Step(loss, overflow, scale=self.value)
        if overflow:
            self.value, self.good = max(self.value / 2, 1.0), 0
            return Step(loss, skipped=True, scale=self.value)
        if self.dynamic:
            self.good += 1
            if self.good == PATIENCE:
                self.value, self.good = self.value * 2, 0
        return Step(loss, scale=self.value)


def not_finite(name: str, count: int, size: int) -> str:
    """Return the message on a gradient that is not finite.

    Args:
        name: The parameter's name.
        count: Number of its elements that are not finite.
        size: Number of its elements.
    """
    return f"gradient of {name}: {count} of {size} are not finite"


def advice(precision: str, loss_scale: float | str | None, loss: float) -> str:
    """Return advice on a failed step; empty where no setting of the precision helps.

    Args:
        precision: The recipe's precision.
        loss_scale: The recipe's loss scale.
        loss: The step's unscaled loss; where it is not finite, no loss scale helps.
    """
    if not math.isfinite(loss):
        return "--precision bf16 or fp32 holds larger numbers" if precision == "fp16" else ""
    if loss_scale == "dynamic":
        return "the loss scale is down to 1: --precision bf16 or fp32 holds larger numbers"
    if precision == "fp16" or loss_scale is not None:
        return "--loss-scale dynamic skips such steps, and lowers the scale until there are none"
    return ""
