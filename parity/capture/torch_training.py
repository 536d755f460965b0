"""The PyTorch side of training: an optimizer over a module, step by step."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from parity.capture.records import Arrays, Loss
from parity.capture.torch_arrays import gradients_of, to_numpy
from parity.capture.torch_recorder import blamed
from parity.capture.torch_side import TorchSide
from parity.spec.errors import InputError, one_line

MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]
Schedule = Callable[[Any], Any]  # of a step: the rate; or of the optimizer: a scheduler

SINGLE = 2.0**-24  # a port holds an optimizer's settings in float32 at least


class TorchTraining:
    """A copy of a module, with its optimizer and learning-rate schedule.

    Args:
        side: Holds the module, in one precision.
        make: Returns an optimizer for a module.
        schedule: The learning-rate schedule; None where the rate is constant.
        disturb: Whether to change the optimizer's settings by float32's rounding.

    Raises:
        InputError: `make` or `schedule` gives something else, or raises.
    """

    def __init__(
        self,
        side: TorchSide,
        make: MakeOptimizer,
        schedule: Schedule | None = None,
        disturb: bool = False,
    ) -> None:
        self.side = side
        self.module = copy.deepcopy(side.module).train()
        with answered("optimizer"):
            self.optimizer = make(self.module)
        if not isinstance(self.optimizer, torch.optim.Optimizer):
            kind = type(self.optimizer).__name__
            raise InputError(f"the reference's optimizer is a {kind}, expected a torch.optim one")
        if disturb:
            for group in self.optimizer.param_groups:
                group.update({k: _disturbed(v) for k, v in group.items() if k != "params"})
        with answered("schedule"):
            self.scheduler = scheduler(self.optimizer, schedule)

    def gradients(
        self, inputs: tuple[Any, ...], loss: Loss, targets: tuple[np.ndarray, ...]
    ) -> tuple[Arrays, float]:
        """Return each parameter's gradient, by name, and the loss; statistics are updated.

        A parameter without a gradient is absent.

        Raises:
            ForwardError: The network or the loss raised.
        """
        self.module.zero_grad(set_to_none=True)
        arguments = self.side.inputs(inputs)
        with blamed([]), self.side.wide([]), self.side.quietly([]):
            value = loss(
                self.side.whole(self.module, arguments, True), *self.side.arguments(targets)
            )
            self.side.pull_back([value])
        return gradients_of(self.module), float(value.detach())

    def update(self, gradients: Mapping[str, np.ndarray]) -> None:
        """Make one step of the optimizer and of its schedule.

        Args:
            gradients: Gradients by parameter name; a parameter that is absent has none.

        Raises:
            InputError: The optimizer raised.
        """
        for name, parameter in self.module.named_parameters():
            parameter.grad = None
            if name in gradients:
                gradient = torch.tensor(gradients[name])
                parameter.grad = gradient.to(parameter.dtype).reshape(parameter.shape)
        with answered("optimizer"):
            self.optimizer.step()
        with answered("schedule"):
            self.scheduler.step()

    def state(self) -> Arrays:
        """Return a copy of every parameter and buffer, by name."""
        return {k: to_numpy(v).copy() for k, v in self.module.state_dict().items()}

    @property
    def rate(self) -> float:
        """Return the first group's learning rate at the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def momentum(self) -> float:
        """Return the first group's momentum; 0 where the optimizer has none."""
        return float(self.optimizer.param_groups[0].get("momentum", 0.0))

    @property
    def decay(self) -> float:
        """The largest weight decay of any group."""
        return max(float(group.get("weight_decay", 0.0)) for group in self.optimizer.param_groups)

    def settings(self, name: str) -> dict[str, Any]:
        """Return the optimizer's class, and the settings of the group that holds a parameter."""
        wanted = dict(self.module.named_parameters(remove_duplicate=False)).get(name)
        found: dict[str, Any] = {"class": type(self.optimizer).__name__}
        for group in self.optimizer.param_groups:
            if any(p is wanted for p in group["params"]):
                plain = (bool, int, float, tuple)
                found |= {k: v for k, v in group.items() if isinstance(v, plain)}
        return found


class Rates:
    """A scheduler whose learning rate is a function of the step.

    The function's rate is the first group's; the others keep their proportion to it.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, rate: Callable[[int], float]) -> None:
        first = float(optimizer.param_groups[0]["lr"])
        if not first:
            raise InputError("the reference's first group has rate 0, expected another")
        self.optimizer, self.rate = optimizer, rate
        self.factors = [float(group["lr"]) / first for group in optimizer.param_groups]
        self.count = -1
        self.step()

    def step(self) -> None:
        self.count += 1
        for group, factor in zip(self.optimizer.param_groups, self.factors, strict=True):
            group["lr"] = float(self.rate(self.count)) * factor


class Constant:
    """A scheduler that changes nothing."""

    def step(self) -> None:
        pass


def scheduler(optimizer: torch.optim.Optimizer, schedule: Schedule | None) -> Any:
    """Something with a `step()`: a function's rates, or the scheduler that it makes.

    Raises:
        InputError: It is neither.
    """
    if schedule is None:
        return Constant()
    try:
        rate = float(schedule(0))
    except Exception:  # it takes an optimizer; whatever it makes of a number
        found = schedule(optimizer)
        if callable(getattr(found, "step", None)):
            return found
        kind = type(found).__name__
        raise InputError(
            f"the reference's schedule gives a {kind}, expected a rate or a torch scheduler"
        ) from None
    del rate
    return Rates(optimizer, schedule)


def rates(module: nn.Module, make: MakeOptimizer, schedule: Schedule, count: int) -> np.ndarray:
    """Return the first group's rate at each of the first steps; nothing is trained."""
    training = TorchTraining(TorchSide(module, "float64"), make, schedule)
    found = []
    for _ in range(count):
        found.append(training.rate)
        training.update({})
    return np.array(found)


@contextlib.contextmanager
def answered(what: str) -> Iterator[None]:
    """Context that adds to an error whose function raised it."""
    try:
        with warnings.catch_warnings():
            # Of a scheduler that is stepped where no parameter has a gradient.
            warnings.filterwarnings("ignore", "Detected call of", UserWarning)
            yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"the reference's {what} raised {type(error).__name__}: {one_line(error)}"
        ) from error


def _disturbed(value: Any) -> Any:
    if isinstance(value, float):
        return value * (1 + SINGLE)
    if isinstance(value, tuple):
        return tuple(_disturbed(v) for v in value)
    return value
