"""Recipes and their stages: everything that determines what a training run computes."""

from __future__ import annotations

import dataclasses

from parity.spec.augmentation import Operation
from parity.spec.datasets import BUILT_IN, DataSet
from parity.spec.labels import ORDERS
from parity.spec.models import LANGUAGE, MODELS, Config
from parity.spec.preprocessing import Preprocessing, of_data
from parity.spec.training.losses import Loss
from parity.spec.training.optimizers import Optimizer
from parity.spec.training.parallel import DDP, Distributed, Parallel
from parity.spec.training.schedules import Schedule

HALF = ("bf16", "fp16")
PRECISIONS = ("fp64", "fp32", *HALF)
LEVELS = ("O1", "O2")
INITIALS = ("torch", "xavier", "he-fan-out")
CONSTANT, CROSS_ENTROPY, SAME = Schedule(), Loss(), Distributed()
DATA = tuple(BUILT_IN)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One row of a recipe: one optimizer, from its first step to its last.

    Every stage begins with a new optimizer, and with the previous stage's values of all tensors
    that both networks have; the others are drawn.

    Attributes:
        name: Its name, such as `encoder`.
        model: A key of `parity.spec.models.MODELS`.
        epochs: Number of epochs.
        optimizer: The optimizer, with the base learning rate.
        schedule: The learning-rate schedule.
        loss: The loss to minimise.
        augmentation: Operations on every sample, in order; the last size in pixels is that of the
            network's input.
        batch: Samples per step, over all devices.
        first_epoch: The epoch at which the schedule starts.
        dropout: Probabilities that replace the model's, or None.
        width: A width that replaces the model's, of a GENet, or None.
        depth: A depth that replaces the model's, of a GENet, or None.
        keep_optimizer: Whether it continues with the previous stage's optimizer state.
        initial: How new tensors are drawn, one of `INITIALS`.
        drop_last: Whether a batch that is not full is left out; else it is used as it is.
        repeat: How often an epoch goes through the data set, in a new order each time.
        distributed: Settings that change on several devices; see `on`.
        outputs: Number of the network's outputs, where the data set is the user's; that of the
            model if None.

    Raises:
        ValueError: A field is none of these.
    """

    name: str
    model: str
    epochs: int
    optimizer: Optimizer
    schedule: Schedule = CONSTANT
    loss: Loss = CROSS_ENTROPY
    augmentation: tuple[Operation, ...] = ()
    batch: int = 1
    first_epoch: int = 0
    dropout: tuple[float, ...] | None = None
    keep_optimizer: bool = False
    initial: str = "torch"
    drop_last: bool = False
    repeat: int = 1
    distributed: Distributed = SAME
    outputs: int | None = None
    width: int | None = None
    depth: int | None = None

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise ValueError(f"model is {self.model!r}, expected one of {', '.join(MODELS)}")
        if MODELS[self.model].family in LANGUAGE:
            raise ValueError(f"model is {self.model}, which takes token ids, not images")
        for name in ("width", "depth"):
            if getattr(self, name) is not None and not hasattr(MODELS[self.model], name):
                raise ValueError(f"{name} is {getattr(self, name)}, but {self.model} has no {name}")
        if self.initial not in INITIALS:
            raise ValueError(f"initial is {self.initial!r}, expected one of {', '.join(INITIALS)}")
        if self.epochs < 1 or self.batch < 1 or self.first_epoch < 0:
            raise ValueError("epochs and batch are expected to be 1 or more, first_epoch 0 or more")
        if self.repeat < 1:
            raise ValueError(f"repeat is {self.repeat}, expected 1 or more")
        if self.outputs is not None and self.outputs < 1:
            raise ValueError(f"outputs is {self.outputs}, expected 1 or more")
        if (self.loss.kind == "icnet") != hasattr(MODELS[self.model], "output_sizes"):
            raise ValueError(f"loss kind {self.loss.kind} is not for {self.model}")

    @property
    def config(self) -> Config:
        """Return the network's configuration, with what the stage changes of it."""
        given = {
            "dropout": self.dropout,
            "num_classes": self.outputs,
            "width": self.width,
            "depth": self.depth,
        }
        changed = {name: value for name, value in given.items() if value is not None}
        return dataclasses.replace(MODELS[self.model], **changed) if changed else MODELS[self.model]  # type: ignore[type-var]  # a Config is a frozen dataclass

    def steps(self, samples: int) -> int:
        """Return the number of steps of an epoch.

        Args:
            samples: Number of samples of the data set, as `fitted` to the devices.
        """
        whole = self.repeat * samples
        return whole // self.batch if self.drop_last else -(-whole // self.batch)

    def on(self, devices: int) -> Stage:
        """Return the stage for this many devices, for several with those of `distributed`."""
        if devices == 1:
            return self
        given = {f.name: getattr(self.distributed, f.name) for f in dataclasses.fields(Distributed)}
        given = {name: value for name, value in given.items() if value is not None}
        if "lr" in given:
            given["optimizer"] = dataclasses.replace(self.optimizer, lr=given.pop("lr"))
        if "batch_per_device" in given:
            given["batch"] = devices * given.pop("batch_per_device")
        return dataclasses.replace(self, **given)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A whole training run.

    Attributes:
        name: Its name on the command line.
        about: The source of its numbers, and which are unknown; one line or a few.
        data: The data set, one of `DATA`, or the name of `own`.
        stages: The stages, in order.
        labels: Which output is void, one of `parity.spec.labels.ORDERS`; none without void.
        size: Height and width, in pixels, that validation images are resized to.
        train_split: The data set's training split.
        val_split: The data set's validation split.
        start: The model, such as `erfnet-imagenet`, of a required initial checkpoint; None where
            all weights are drawn.
        precision: The precision in which the network computes, one of `PRECISIONS`.
        level: The level of mixed precision, one of `LEVELS`: `O1` casts at each convolution, `O2`
            keeps weights in half precision with float32 master copies; batch norms and losses are
            float32 in both.
        loss_scale: A number, `dynamic`, or none.
        seed: Seed of every draw.
        devices: Number of devices of the published run.
        parallel: How several devices combine their results.
        validate_every: Epochs between validations.
        keep: Which parameters are reported: `best` by validation, or `last`.
        published: The published run's result in percent, or None.
        own: The user's data set; None where it is one of `DATA`. See
            `parity.spec.training.own_data`.

    Raises:
        ValueError: A field is none of these.
    """

    name: str
    about: str
    data: str
    stages: tuple[Stage, ...]
    labels: str | None = None
    size: tuple[int, int] = (512, 1024)
    train_split: str = "train"
    val_split: str = "val"
    start: str | None = None
    precision: str = "fp32"
    level: str = "O1"
    loss_scale: float | str | None = None
    seed: int = 1
    devices: int = 1
    parallel: Parallel = DDP
    validate_every: int = 1
    keep: str = "best"
    published: float | None = None
    own: DataSet | None = None

    def __post_init__(self) -> None:
        known = DATA if self.own is None else (self.own.name,)
        choices = {
            "data": known,
            "precision": PRECISIONS,
            "level": LEVELS,
            "keep": ("best", "last"),
        }
        for field, known in choices.items():
            if getattr(self, field) not in known:
                raise ValueError(
                    f"{field} is {getattr(self, field)!r}, expected one of {', '.join(known)}"
                )
        if not self.stages:
            raise ValueError("stages: expected one or more")
        if self.labels not in (None, *ORDERS):
            raise ValueError(f"labels are {self.labels!r}, expected one of {', '.join(ORDERS)}")
        if self.own is not None and self.labels is not None:
            raise ValueError(
                f"labels are {self.labels}, but a network of {self.own.name} has no output for void"
            )
        if self.validate_every < 1 or self.devices < 1:
            raise ValueError("validate_every and devices are expected to be 1 or more")
        scale = self.loss_scale
        if isinstance(scale, str) and scale != "dynamic":
            raise ValueError(f"loss_scale is {scale!r}, expected a number or dynamic")
        if isinstance(scale, int | float) and not 0 < scale < float("inf"):
            raise ValueError(f"loss_scale is {scale}, expected a number above 0")

    def on(self, devices: int) -> Recipe:
        """Return the recipe for this many devices; see `Stage.on`."""
        return dataclasses.replace(self, stages=tuple(s.on(devices) for s in self.stages))

    @property
    def dataset(self) -> DataSet:
        """Return the classes of the data set."""
        return BUILT_IN[self.data] if self.own is None else self.own

    def preprocessing(self, config: Config) -> Preprocessing:
        """Return the preprocessing of one of the recipe's networks."""
        return of_data(config, self.labels, self.own)

    @property
    def epochs(self) -> int:
        """Return the number of epochs of all stages."""
        return sum(stage.epochs for stage in self.stages)
