"""How results on several devices are combined, as data.

With one device these settings make no difference.
"""

from __future__ import annotations

import dataclasses

WAYS = ("pmap", "shard_map")  # in which JAX maps a step over devices
LOST = 75  # exit status of a process that misses another one; that one is the reason
MEETING = 30  # seconds that processes wait for each other at the beginning
SILENCE = 20  # seconds after which a process that says nothing counts as gone
CHOICES = {
    "gradients": ("mean", "sum"),
    "normalizer": ("device", "global"),
    "batch_norm": ("local", "sync"),
    "statistics": ("first", "mean"),
    "last": ("pad", "drop"),
    "rate": ("none", "linear", "sqrt"),
}


@dataclasses.dataclass(frozen=True)
class Parallel:
    """How N devices combine their results; a step's batch is divided into N equal parts.

    The defaults are those of `torch.nn.parallel.DistributedDataParallel`.

    Attributes:
        gradients: How the devices' gradients are combined: their `mean`, or their `sum`.
        normalizer: The divisor of a device's sum of weighted losses: its own sum of weights
            (`device`), or the N-th part of that of the whole batch (`global`), with which the mean
            of the gradients equals that of one device.
        batch_norm: Normalised by the statistics of the device's part (`local`), or of the whole
            batch (`sync`).
        statistics: Which running statistics are kept: the `first` device's, or the `mean` of all.
            With `sync` they are all equal.
        last: The rule for samples that do not fill equal parts: samples from the epoch's beginning
            are added (`pad`), or they are left out (`drop`).
        rate: How the learning rate changes when the batch size is not the recipe's: not at all, by
            the ratio (`linear`), or by its root (`sqrt`).

    Raises:
        ValueError: A field is none of these.
    """

    gradients: str = "mean"
    normalizer: str = "device"
    batch_norm: str = "local"
    statistics: str = "first"
    last: str = "pad"
    rate: str = "none"

    def __post_init__(self) -> None:
        for field, known in CHOICES.items():
            if getattr(self, field) not in known:
                raise ValueError(
                    f"{field} is {getattr(self, field)!r}, expected {' or '.join(known)}"
                )

    def scaled(self, rate: float, batch: int, published: int) -> float:
        """Return the base rate for a batch of another size than the recipe's."""
        power = {"none": 0.0, "linear": 1.0, "sqrt": 0.5}[self.rate]
        return rate * (batch / published) ** power


DDP = Parallel()


@dataclasses.dataclass(frozen=True)
class Distributed:
    """Settings of a stage that change when it is trained on several devices.

    A field that is None leaves the stage's own value; with one device none of them applies.

    Attributes:
        lr: The base learning rate.
        batch_per_device: Samples of a step on each device: the batch grows with the devices.
        repeat: How often an epoch goes through the data set.
        drop_last: As in `Stage`.
        dropout: As in `Stage`.

    Raises:
        ValueError: A number that cannot be.
    """

    lr: float | None = None
    batch_per_device: int | None = None
    repeat: int | None = None
    drop_last: bool | None = None
    dropout: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for field in ("batch_per_device", "repeat"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"{field} is {value}, expected 1 or more")


def fitted(samples: int, devices: int, last: str) -> int:
    """Return how many of these samples the devices use, in equal parts.

    Args:
        samples: Number of samples in one pass through the data set.
        devices: Number of devices.
        last: The rule for samples that do not fill equal parts; see `Parallel`.
    """
    over = samples % devices
    if not over:
        return samples
    return samples - over if last == "drop" else samples - over + devices
