"""The layers of one side as they are matched: their tensors, and their place in the network."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import re
from collections import Counter
from collections.abc import Hashable, Mapping

from parity.ladder.ruled import is_counter
from parity.ladder.weights import SYNONYMS
from parity.suggest.flow import Flow

ROLES = {leaf: role for role, leaves in SYNONYMS.items() for leaf in leaves}
ROUNDS = 4  # how far a layer's surroundings are looked at


@dataclasses.dataclass(frozen=True)
class Layer:
    """Tensors of one name but for its last part.

    Attributes:
        name: That name; of a tensor alone, its whole name.
        tensors: Role, such as `weight` or `bias` -> name of the tensor.
        shapes: Role -> shape.
    """

    name: str
    tensors: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]

    @functools.cached_property
    def sizes(self) -> tuple[tuple[str, int], ...]:
        """Return what layers that answer each other have in common: tensors of equal size."""
        return tuple(sorted((r, math.prod(s)) for r, s in self.shapes.items()))


def role_of(leaf: str) -> str:
    """Return a tensor's role in its layer, such as `weight`, by the last part of its name."""
    return ROLES.get(leaf.lower(), leaf)


def layer_names(names: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[str, str]]:
    """Return each tensor's layer and role.

    A tensor whose last part is no usual name is a layer of its own, as a table of positions is; so
    is `in_proj` with the tensors `in_proj_weight` and `in_proj_bias`.
    """
    found = {}
    for name in names:
        path, _, leaf = name.rpartition(".")
        head, _, tail = leaf.rpartition("_")
        if leaf.lower() in ROLES or is_counter(name):
            found[name] = path, role_of(leaf)
        elif head and tail in ("weight", "bias", "kernel"):
            found[name] = f"{path}.{head}" if path else head, role_of(tail)
        else:
            found[name] = name, "weight"
    return found


def layers_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Layer]:
    """Group tensors into layers."""
    made: dict[str, tuple[dict[str, str], dict[str, tuple[int, ...]]]] = {}
    for name, (layer, role) in layer_names(shapes).items():
        tensors, found = made.setdefault(layer, ({}, {}))
        while role in tensors:  # two that mean the same, such as `weight` and `scale`
            role += "'"
        tensors[role], found[role] = name, tuple(shapes[name])
    return {name: Layer(name, *parts) for name, parts in made.items()}


class Graph:
    """Layers, and what flows between them.

    Args:
        layers: The layers.
        flow: What was followed.
    """

    def __init__(self, layers: Mapping[str, Layer], flow: Flow) -> None:
        self.layers = layers
        self.order = {name: i for i, name in enumerate(flow.used) if name in layers}
        self.before = {n: {b for b in flow.before[n] if b in layers} for n in layers}
        self.after: dict[str, set[str]] = {n: set() for n in layers}
        for name, others in self.before.items():
            for other in others:
                self.after[other].add(name)

    @functools.cached_property
    def ancestors(self) -> dict[str, set[str]]:
        """Return all layers on the way to each."""
        found: dict[str, set[str]] = {n: set(b) for n, b in self.before.items()}
        for name in self.order:  # what flows into a layer was used before it, but for loops
            for other in self.before[name]:
                found[name] |= found[other]
        return found

    @functools.cached_property
    def depths(self) -> dict[str, int]:
        """Return the length of the longest way to each layer; -1 for one that is not used."""
        found = dict.fromkeys(self.layers, -1)
        for name in self.order:
            found[name] = 1 + max((found[b] for b in self.before[name] if b != name), default=0)
        return found

    @functools.cached_property
    def colours(self) -> list[dict[str, Hashable]]:
        """Return what tells layers apart: their tensors, then their surroundings ever farther."""
        found: list[dict[str, Hashable]] = [{n: la.sizes for n, la in self.layers.items()}]
        for _ in range(ROUNDS):
            last = found[-1]
            found.append(
                {
                    name: hash(
                        (last[name], _seen(self.before[name], last), _seen(self.after[name], last))
                    )
                    for name in self.layers
                }
            )
        return found

    def in_a_row(self, names: list[str]) -> list[str] | None:
        """Return layers in the order in which one follows the other; None if they are parallel."""
        ordered = sorted(names, key=lambda n: self.order.get(n, -1))
        pairs = itertools.pairwise(ordered)
        return ordered if all(a in self.ancestors[b] for a, b in pairs) else None


def _seen(names: set[str], colours: Mapping[str, Hashable]) -> Hashable:
    return tuple(sorted(Counter(hash(colours[n]) for n in names).items()))


def parts_of(name: str) -> list[str]:
    """Return the parts of a name: words and numbers."""
    return re.findall(r"\d+|[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower())
