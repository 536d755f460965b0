"""The tensors of both sides under the port's names and in its layout."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import TypeVar

from parity.capture.jax_side import JaxSide
from parity.capture.records import Arrays, transposed
from parity.capture.torch_side import TorchSide
from parity.ladder.axes import Axes
from parity.ladder.correspondence import Correspondence
from parity.ladder.pairing import Pair
from parity.ladder.weights import Assignment

T = TypeVar("T")


class Renaming:
    """What the reference's tensors are called in the port.

    Args:
        assignment: Where each of the port's tensors comes from.
        tensors: The same, element by element.
        reference: The reference.
        port: The port, filled.
    """

    def __init__(
        self, assignment: Assignment, tensors: Correspondence, reference: TorchSide, port: JaxSide
    ) -> None:
        self.assignment, self.tensors = assignment, tensors
        self.reference, self.port = reference, port
        # Of this object: a cache of the class would keep every comparison's for ever.
        self._tensors_of = functools.cache(self._find_tensors_of)
        self.frozen = functools.cache(self._find_frozen)

    @functools.cached_property
    def trained(self) -> set[str]:
        """Return the port's names of trained parameters and of tensors made from them."""
        return self.port.parameters() & self.tensors.compared

    @functools.cached_property
    def kept(self) -> frozenset[str]:
        """Return the port's tensors but for its constants, and for what it stores as it runs."""
        return frozenset(self.port.state()) - self.assignment.fixed

    def in_port(self, arrays: Arrays, pair: Pair | None, ported: bool) -> Arrays:
        """Tensors under the port's names and in its layout; of a layer, those below it."""
        if ported:
            prefix = "" if pair is None else _prefix(pair.port)
            return {name: a for name, a in arrays.items() if f"{prefix}{name}" in self.kept}
        found = {
            name: transposed(arrays[key], axes)
            for name, key, axes in self._tensors_of(pair)
            if key in arrays
        }
        if pair is None:
            return found | self.tensors.gathered(arrays)
        return found | self._gathered_of(pair, arrays)

    def _gathered_of(self, pair: Pair, arrays: Arrays) -> Arrays:
        """The reference's arrays of one layer, gathered into the port's rearranged tensors."""
        mine, other = _prefix(pair.port), _prefix(pair.reference)
        full = {f"{other}{key}": array for key, array in arrays.items()}
        parts = {n: self.assignment.parts[n] for n in self.tensors.parts if n.startswith(mine)}
        zeros = self.tensors.frozen
        found = {n.removeprefix(mine): part.gathered(full, zeros) for n, part in parts.items()}
        return {name: array for name, array in found.items() if array is not None}

    def _find_tensors_of(self, pair: Pair | None) -> list[tuple[str, str, Axes]]:
        """Return a layer's tensors: the port's and the reference's local names, and the axes."""
        mine, other = ("", "") if pair is None else (_prefix(pair.port), _prefix(pair.reference))
        return [
            (name.removeprefix(mine), key.removeprefix(other), axes)
            for name, (key, axes) in self.assignment.map.items()
            if name.startswith(mine)
            and key.startswith(other)
            and name not in self.assignment.constants
        ]

    def _find_frozen(self, pair: Pair | None) -> frozenset[str]:
        """Return a port layer's tensors whose reference is not trained, or in another layer.

        Where some elements are trained, the gradient of the others is zero; see `Correspondence`.
        The latter occurs where layers share a tensor; its summed gradient is compared on L3.
        """
        mine, other = ("", "") if pair is None else (_prefix(pair.port), _prefix(pair.reference))
        trained = self.reference.parameters()
        keys = {name: self.tensors.keys(name) for name in self.tensors.compared}
        return frozenset(
            name.removeprefix(mine)
            for name, each in keys.items()
            if name.startswith(mine)
            and not (all(key.startswith(other) for key in each) and trained & set(each))
        )

    def mixed(self, pair: Pair) -> list[str]:
        """Return a port layer's tensors that are not made of its own reference's elements alone.

        Such a layer cannot be run alone: what a scan runs holds the tensors of all its steps.
        """
        mine, other = _prefix(pair.port), _prefix(pair.reference)
        names = sorted(name for name in self.assignment.derived if name.startswith(mine))
        return [
            name
            for name in names
            if name in self.tensors.opaque
            or not all(key.startswith(other) for key in self.tensors.keys(name))
        ]


def without(arrays: Mapping[str, T], names: Collection[str]) -> dict[str, T]:
    """Return the arrays, or what belongs to them, except those with these names."""
    return {name: array for name, array in arrays.items() if name not in names}


def _prefix(call: str) -> str:
    return f"{call.partition('#')[0]}."
