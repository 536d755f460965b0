"""The loss scale, and what becomes of a step whose numbers are not finite: one rule for both sides.

A scale keeps small gradients above what half precision can hold. Rising and falling are those of
`torch.amp.GradScaler`, its defaults but for the fall to one half at a floor of 1.
"""

from __future__ import annotations

import dataclasses
import math

from parity.spec.training.trainer import Step

FIRST = 2.0**16
PATIENCE = 2000  # good steps before it is doubled


@dataclasses.dataclass
class LossScale:
    """What the loss is multiplied by before its gradient is taken, and the gradient divided by.

    Attributes:
        value: Of the next step.
        dynamic: It follows what overflows.
        good: Steps since it changed.
    """

    value: float = 1.0
    dynamic: bool = False
    good: int = 0

    @classmethod
    def of(cls, asked: float | str | None) -> LossScale:
        """As a recipe says it: a number, `dynamic`, or none."""
        if asked == "dynamic":
            return cls(FIRST, dynamic=True)
        return cls(1.0 if asked is None else float(asked))

    def outcome(self, loss: float, overflow: str = "") -> Step:
        """What became of a step; sets the scale of the next.

        A loss that is not finite is none that a smaller scale would mend.

        Args:
            loss: Not scaled.
            overflow: Which gradient was not finite; empty if all were.
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
    """How a step says whose gradient overflowed.

    Args:
        name: Of the parameter.
        count: Of numbers that are not finite.
        size: Of all its numbers.
    """
    return f"gradient of {name}: {count} of {size} are not finite"


def advice(precision: str, loss_scale: float | str | None, loss: float) -> str:
    """What helps against a step that failed; empty where no setting of the precision does.

    Args:
        precision: Of the recipe.
        loss_scale: Of the recipe.
        loss: Of the step, not scaled; where it is not finite, no scale of its gradient mends it.
    """
    if not math.isfinite(loss):
        return "--precision bf16 or fp32 holds larger numbers" if precision == "fp16" else ""
    if loss_scale == "dynamic":
        return "the loss scale is down to 1: --precision bf16 or fp32 holds larger numbers"
    if precision == "fp16" or loss_scale is not None:
        return "--loss-scale dynamic skips such steps, and lowers the scale until there are none"
    return ""
