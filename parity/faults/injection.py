"""What the injection of a fault into a layer is made of; `injections` has one for each fault."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from flax import nnx

from parity.diagnosis.catalogue import Fault
from parity.faults.layer_faults import inject_class

Arrays = list[np.ndarray]  # what a layer is fed, NHWC, in float64


def anywhere(layer: Any, fed: Arrays) -> bool:
    return True


def never(layer: Any, fed: Arrays) -> str:
    return ""


@dataclasses.dataclass(frozen=True)
class Injection:
    """A fault of a layer, ready to be injected.

    Attributes:
        fault: Its name in the catalogue.
        name: A description of the change.
        kinds: Names of the layer classes, or of their bases, that can have it.
        act: Injects it, in place, in a layer, given the layer's inputs.
        fits: Returns whether a layer with these inputs can have it.
        equivalent: Returns why no input can reveal it there; empty if one can.
        condition: Condition on the network that it is injected in: a key of `small.CONDITIONS`.
        level: `layer`, or `block` for a fault between a block's layers.
    """

    fault: Fault
    name: str
    kinds: tuple[str, ...]
    act: Callable[[Any, Arrays], Any]
    fits: Callable[[Any, Arrays], bool] = anywhere
    equivalent: Callable[[Any, Arrays], str] = never
    condition: str = ""
    level: str = "layer"

    def takes(self, layer: nnx.Module, fed: Arrays) -> bool:
        """Return whether the layer is of the kind, and can have it."""
        names = {cls.__name__ for cls in type(layer).__mro__}
        return bool(names & set(self.kinds)) and self.fits(layer, fed)


def assign(**settings: Any) -> Callable[[Any, Arrays], None]:
    """Give a layer other settings; a function makes one of the layer's."""

    def act(layer: Any, fed: Arrays) -> None:
        for name, value in settings.items():
            setattr(layer, name, value(layer) if callable(value) else value)

    return act


def substitute(fault: type) -> Callable[[Any, Arrays], None]:
    return lambda layer, fed: inject_class(layer, fault)


def reweigh(tensor: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable:
    """Change a stored tensor."""

    def act(layer: Any, fed: Arrays) -> None:
        variable = getattr(layer, tensor)
        variable.set_value(np.ascontiguousarray(change(np.asarray(variable[...]))))

    return act
