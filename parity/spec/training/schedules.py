"""Learning-rate schedules, as data, with the formula of each."""

from __future__ import annotations

import dataclasses
import math

KINDS = ("constant", "step", "multistep", "poly", "cosine")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A learning-rate schedule.

    The rate is `lr * factor(epoch, step, steps)`. Time is counted in epochs, or in steps where
    `per_step`.

    Attributes:
        kind: Its kind, one of `KINDS`.
        every: `step`: after how many epochs the rate falls, each time.
        milestones: `multistep`: the epochs at which it falls.
        gamma: `step`, `multistep`: the factor of each drop.
        power: `poly`: the exponent of the remaining share of time.
        length: `poly`, `cosine`: epochs after which the rate is 0.
        per_step: `poly`, `cosine`: whether it falls with every step, not every epoch.
        first: Added to the time: 1 where the first step is counted as 1, so that the last has rate
            0, as ICNet's does.
        warmup: Epochs in which it rises in a line, by equal parts per epoch, to what it is after
            them; the time of what follows is counted from there where `after_warmup`.
        after_warmup: See `warmup`.

    Raises:
        ValueError: A field is none of these.
    """

    kind: str = "constant"
    every: int = 0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    power: float = 0.9
    length: int = 0
    per_step: bool = False
    first: int = 0
    warmup: int = 0
    after_warmup: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"schedule kind is {self.kind!r}, expected one of {', '.join(KINDS)}")
        if self.kind == "step" and self.every < 1:
            raise ValueError(f"every is {self.every}, expected 1 epoch or more")
        if min(self.gamma, self.power, self.first, self.warmup, *self.milestones) < 0:
            raise ValueError("gamma, power, first, warmup and milestones are expected not below 0")
        if self.kind in ("poly", "cosine") and self.length <= self.warmup * self.after_warmup:
            raise ValueError(f"length is {self.length}, expected epochs beyond the warm-up")

    def factor(self, epoch: int, step: int, steps: int) -> float:
        """Return the factor of the base rate.

        Args:
            epoch: Counted from 0.
            step: Step of the epoch, counted from 0.
            steps: Number of steps of an epoch.
        """
        if epoch < self.warmup:
            return (epoch + 1) / self.warmup * self._after(self.warmup, 0, steps)
        return self._after(epoch, step, steps)

    def _after(self, epoch: int, step: int, steps: int) -> float:
        if self.kind == "step":
            return self.gamma ** (epoch // self.every)
        if self.kind == "multistep":
            return self.gamma ** sum(epoch >= m for m in self.milestones)
        if self.kind == "constant":
            return 1.0
        begin = self.warmup if self.after_warmup else 0
        unit = steps if self.per_step else 1
        time = (epoch - begin) * unit + (step if self.per_step else 0) + self.first
        passed = min(time / ((self.length - begin) * unit), 1.0)
        if self.kind == "poly":
            return (1 - passed) ** self.power
        return (1 + math.cos(math.pi * passed)) / 2
