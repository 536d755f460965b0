"""Finding the reference's counterpart, element by element, of each of the port's tensors."""

from __future__ import annotations

import functools
import math

import numpy as np

from parity.capture.records import Arrays
from parity.capture.torch_side import TorchSide
from parity.ladder.weights import Assignment


class Correspondence:
    """An assignment of weights, applied to gradients, steps and statistics.

    Args:
        assignment: Where each tensor of the port comes from.
        reference: The reference, with all of its tensors.
    """

    def __init__(self, assignment: Assignment, reference: TorchSide) -> None:
        self.assignment = assignment
        self.reference = reference

    @functools.cached_property
    def parts(self) -> frozenset[str]:
        """Return the port's derived tensors that are compared element by element.

        Excluded are those that share a parameter's element with another tensor: each then gets part
        of its gradient, and an optimizer makes them diverge.
        """
        return frozenset(
            name
            for name, part in self.assignment.parts.items()
            if not (name in self.assignment.repeated and self.shapes.keys() & set(part.keys))
        )

    @functools.cached_property
    def opaque(self) -> frozenset[str]:
        """Return the port's derived tensors that cannot be compared element by element."""
        return self.assignment.derived - self.parts

    @functools.cached_property
    def compared(self) -> frozenset[str]:
        """Return the port's tensors that can be compared."""
        return frozenset(self.assignment.map) | self.parts

    @functools.cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the reference's trained parameters, by its names."""
        return {name: self.state_shapes[name] for name in self.reference.parameters()}

    @functools.cached_property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of all of the reference's tensors, by its names."""
        state = self.reference.state() | self.reference.unsaved()
        return {name: array.shape for name, array in state.items()}

    def zeros(self, name: str) -> dict[str, tuple[int, ...]]:
        """Return the shapes of parameters that count as zero in a derived tensor if absent.

        Where the reference trains only some of a tensor's elements, the others' gradient is zero.
        """
        keys = self.assignment.parts[name].keys
        frozen = self.frozen if self.shapes.keys() & set(keys) else {}
        return self.shapes | frozen

    @functools.cached_property
    def frozen(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the reference's parameters that it does not train."""
        every = (key for names in self.reference.aliases().values() for key in names)
        return {key: self.state_shapes[key] for key in every if key not in self.shapes}

    def gathered(self, arrays: Arrays) -> Arrays:
        """Return the reference's arrays, gathered into the port's derived tensors."""
        found = {n: self.assignment.parts[n].gathered(arrays, self.zeros(n)) for n in self.parts}
        return {name: array for name, array in found.items() if array is not None}

    def keys(self, name: str) -> tuple[str, ...]:
        """Return the reference's tensors that a port's tensor consists of; empty if unknown."""
        if name in self.assignment.map:
            return (self.assignment.map[name][0],)
        part = self.assignment.parts.get(name)
        return part.keys if part is not None else ()

    def held(self, name: str) -> dict[str, np.ndarray]:
        """Return, for a tensor of the port, the reference's -> flat mask of the elements used."""
        shapes = self.state_shapes
        keys = [key for key in self.keys(name) if key in shapes]
        part = self.assignment.parts.get(name)
        if part is None or name in self.assignment.map:
            return {key: np.ones(math.prod(shapes[key]), bool) for key in keys}
        sizes = [math.prod(shapes[key]) for key in keys]
        places = np.bincount(part.index.ravel(), minlength=sum(sizes)) > 0
        return dict(zip(keys, np.split(places, np.cumsum(sizes)[:-1]), strict=True))
