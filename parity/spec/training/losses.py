"""Losses as data."""

from __future__ import annotations

import dataclasses

KINDS = ("cross_entropy", "icnet")
RULES = ("none", "fixed", "log", "median")


@dataclasses.dataclass(frozen=True)
class ClassWeights:
    """The weight of each class in the loss.

    Attributes:
        rule: `none`: 1; `fixed`: `values`; `log`: 1 / ln(c + p), p the class's share of all pixels
            (Paszke et al. 2016, section 5.2); `median`: the median of the classes' frequencies over
            the frequency of this one, counted over images that hold it (Eigen and Fergus 2015).
        c: The constant of `log`.
        values: The weights of `fixed`, in the order of the network's outputs without void.
        void: The weight of void.

    Raises:
        ValueError: An unknown rule, or invalid numbers.
    """

    rule: str = "none"
    c: float = 1.02
    values: tuple[float, ...] = ()
    void: float = 0.0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"class weights are {self.rule!r}, expected one of {', '.join(RULES)}")
        if self.rule == "log" and not self.c > 1:  # a class that is rare would weigh less than none
            raise ValueError(f"c is {self.c}, expected more than 1")
        if not all(0 <= weight < float("inf") for weight in (self.void, *self.values)):
            raise ValueError("void and values are expected to be 0 or more")


@dataclasses.dataclass(frozen=True)
class Loss:
    """The loss to minimise.

    Attributes:
        kind: `cross_entropy`, or `icnet`: cross-entropy of three outputs, the last two times
            `auxiliary`.
        class_weights: Class weights of cross-entropy, which is a mean over weighted pixels.
        ignore_index: The label of pixels to ignore; None where void is a class of weight 0.
        auxiliary: The factor of `icnet`.
        labels: How `icnet`'s labels are resized to its outputs: `published`, as images, which
            creates other classes, or `nearest`.

    Raises:
        ValueError: A field is none of these.
    """

    kind: str = "cross_entropy"
    class_weights: ClassWeights = ClassWeights()
    ignore_index: int | None = None
    auxiliary: float = 0.4
    labels: str = "published"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"loss kind is {self.kind!r}, expected {' or '.join(KINDS)}")
        if self.labels not in ("published", "nearest"):
            raise ValueError(f"labels are {self.labels!r}, expected published or nearest")
