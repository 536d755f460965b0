"""Pairing the port's layers with the reference's.

They are paired by the given names, by the names of the tensors they hold, by their own names where
these agree, and otherwise by value: in float64 the same activation is the same array up to a
permutation of its axes. Where a fault has changed all later values, they are paired by their
position between paired layers.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Protocol

import numpy as np

from parity.capture.records import Call, Layout
from parity.ladder.axes import permutation, sizes, with_units
from parity.ladder.holders import layers_by_weights, outward
from parity.ladder.weights import WeightMap
from parity.spec.errors import InputError, in_list, listed


@dataclasses.dataclass(frozen=True)
class Pair:
    """One call of a layer on either side.

    Attributes:
        reference: `Call.layer` of the reference.
        port: `Call.layer` of the port.
        how: How they were paired: `given`, `weights`, `name`, `value` or `order`.
        axes: Per output, the permutation from the reference's axes (already in the port's layout)
            to the port's; None where they are the same. Axes of length 1 that one side lacks are
            left out, or -1; see `rearranged`.
    """

    reference: str
    port: str
    how: str
    axes: tuple[tuple[int, ...] | None, ...] = ()


@dataclasses.dataclass(frozen=True)
class Alignment:
    """All pairs, in the reference's order, and the layers without one.

    Attributes:
        pairs: Pairs by the reference's call.
        reference: Unpaired calls of the reference's innermost layers.
        port: Unpaired calls of the port's innermost layers.
    """

    pairs: Mapping[str, Pair]
    reference: tuple[str, ...] = ()
    port: tuple[str, ...] = ()

    def of_port(self) -> dict[str, Pair]:
        """Return the pairs by the port's call."""
        return {pair.port: pair for pair in self.pairs.values()}

    def notes(self) -> list[str]:
        """Return a line per side on layers that could not be paired."""
        sides = (("reference", self.reference), ("port", self.port))
        return [f"not paired, {side}: {listed(names)}" for side, names in sides if names]

    def noted(self) -> set[str]:
        """Return the layers that these lines name: of many, the first."""
        return {*in_list(self.reference), *in_list(self.port)}


def is_over_places(kind: str) -> bool:
    """Return whether PyTorch's layers of a class are convolutions or pool, channels before places.

    Where there are as many places as channels, shapes do not tell how the port turns them.
    """
    return bool(re.fullmatch(r"(Lazy)?Conv(Transpose)?\dd|(Adaptive)?\w*Pool\dd", kind))


def containers(calls: Mapping[str, Call]) -> set[str]:
    """Return the calls of layers within which another layer was called."""
    modules = {c.module for c in calls.values()}
    outer = {m.rpartition(".")[0] for m in modules}
    outer |= {name for m in modules for name in outward(m)[1:]}
    return {name for name, call in calls.items() if call.module in outer}


def by_names(reference: Iterable[str], port: Iterable[str]) -> Alignment:
    """Pair every layer with the one of its name; the others stay unpaired."""
    ours, theirs = list(reference), set(port)
    return Alignment({name: Pair(name, name, "name") for name in ours if name in theirs})


class Ends(Protocol):
    """Tells whether blocks end at the same place; see `block_ends.BlockEnds`."""

    def doubtful(self, a: str, b: str) -> bool: ...

    def alike(self, a: str, b: str, pairs: Mapping[str, Pair]) -> bool | None: ...


class Aligner:
    """Pairs the calls of one run, in eval mode and float64, of both sides.

    Args:
        reference: The reference's calls with their outputs, in the order in which they returned.
        port: The port's calls.
        parts: Calls of layers that contain other layers, of the reference and of the port.
        layout: The layout of the reference's arrays, which are already converted to the port's.
        last: Calls of the reference's layers whose channels are on the last axis, such as those of
            a linear layer, however many axes there are.
        first: Calls of those whose channels are always on the second axis; see `is_over_places`.
        ends: Tells whether blocks end at the same place; nobody does if not given.
    """

    def __init__(
        self,
        reference: Mapping[str, Call],
        port: Mapping[str, Call],
        parts: tuple[set[str], set[str]],
        layout: Layout,
        last: Set[str] = frozenset(),
        first: Set[str] = frozenset(),
        ends: Ends | None = None,
    ) -> None:
        self.reference = reference
        self.port = port
        self.parts = parts
        self.layout = layout
        self.last, self.first = last, first
        self.ends = ends
        self.doubtful: list[tuple[str, str, str]] = []  # pairs, and how each would be made
        self.refused: set[tuple[str, str]] = set()
        self.pairs: dict[str, Pair] = {}
        self.used: set[str] = set()

    def align(self, given: Mapping[str, str] | None, weights: WeightMap) -> Alignment:
        """Pair what can be paired.

        Args:
            given: The port's layer -> the reference's.
            weights: The port's tensor -> the reference's.

        Raises:
            InputError: A given layer does not exist, or was not called.
        """
        self._given(given or {})
        self._by_weights(weights)
        for name in self.reference:
            # A name in common may be chance: then the values, or at least the shapes, decide.
            if name in self.port and self._free(name, name) and self._sizes_agree(name, name):
                self._pair_unless_doubtful(name, name, "name")
        self._by_value()
        for a, b, how in self.doubtful:
            if self._free(a, b):
                if self._end_alike(a, b) is not False:
                    self._pair(a, b, how)
                else:
                    self.refused.add((a, b))
        self._blocks_by_weights(weights)
        self._blocks_by_contents(weights)
        self._by_order()
        ours = [n for n in self.reference if n in self.pairs]
        unpaired = (
            [n for n in self.reference if n not in self.pairs and n not in self.parts[0]],
            [n for n in self.port if n not in self.used and n not in self.parts[1]],
        )
        return Alignment({n: self.pairs[n] for n in ours}, tuple(unpaired[0]), tuple(unpaired[1]))

    def _given(self, given: Mapping[str, str]) -> None:
        called = (
            {c.module for c in self.reference.values()},
            {c.module for c in self.port.values()},
        )
        for port, reference in given.items():
            for side, name, names in (
                ("reference", reference, called[0]),
                ("port", port, called[1]),
            ):
                if name not in names:
                    raise InputError(f"layers: the {side} calls no layer {name!r}")
        self._modules(given, "given")

    def _modules(
        self,
        layers: Mapping[str, str],
        how: str,
        despite: Callable[[str, str], bool] | None = None,
    ) -> None:
        """Pair all calls of layers, the first with the first.

        Args:
            layers: The port's layer -> the reference's.
            how: See `Pair`.
            despite: Whether two calls are paired although their outputs are of unlike sizes; all
                are if not given.
        """
        for port, reference in layers.items():
            ours = [n for n, c in self.reference.items() if c.module == reference]
            theirs = [n for n, c in self.port.items() if c.module == port]
            for a, b in zip(ours, theirs, strict=False):
                if not self._free(a, b):
                    continue
                if despite is None or self._sizes_agree(a, b) or despite(a, b):
                    self._pair_unless_doubtful(a, b, how)

    def _by_weights(self, weights: WeightMap) -> None:
        """Pair layers that hold the same tensors.

        Where their outputs are of unlike sizes, the port's layer must hold all that the reference's
        does: a fused projection in a layer of its own is only a part of an attention. It must run
        as often, too: in a scan over images a layer of the port's gives a part of it at each step.
        """
        held: dict[str, set[str]] = {}
        taken: dict[str, set[str]] = {}
        for name, (key, _) in weights.items():
            for layer in outward(key.rpartition(".")[0]):
                held.setdefault(layer, set()).add(key)
            taken.setdefault(name.rpartition(".")[0], set()).add(key)

        counts = [Counter(c.module for c in side.values()) for side in (self.reference, self.port)]

        def whole(a: str, b: str) -> bool:
            mine, other = self.reference[a].module, self.port[b].module
            return held[mine] <= taken[other] and counts[0][mine] == counts[1][other]

        blocks = {self.reference[name].module for name in self.parts[0]}
        self._modules(
            {
                port: layer
                for port, (layer, alike) in layers_by_weights(weights).items()
                if alike or layer not in blocks
            },
            "weights",
            whole,
        )

    def _blocks_by_weights(self, weights: WeightMap) -> None:
        """Pair blocks that hold the same tensors, where they end at the same place.

        Where that cannot be tried, the layer that follows tells: if it is wrong, too, they do.
        """
        blocks = {self.reference[name].module for name in self.parts[0]}
        for port, (layer, _) in layers_by_weights(weights).items():
            for a, b in self._calls(layer, port) if layer in blocks else ():
                alike = self._end_alike(a, b)
                if alike or (alike is None and self._is_followed_by_wrong(a)):
                    self._pair(a, b, "weights")

    def _is_followed_by_wrong(self, a: str) -> bool:
        names = list(self.reference)
        following = names[names.index(a) + 1 :]
        after = next((n for n in following if n in self.pairs and n not in self.parts[0]), None)
        return after is not None and not self._equal(after, self.pairs[after].port)

    def _blocks_by_contents(self, weights: WeightMap) -> None:
        """Pair blocks whose layers hold the same tensors, where it is tried that they end alike."""
        held: tuple[dict[str, set[str]], dict[str, set[str]]] = ({}, {})
        for name, (key, _) in weights.items():
            for i, tensor in enumerate((key, name)):
                for layer in outward(tensor.rpartition(".")[0]):
                    held[i].setdefault(layer, set()).add(key)
        for a in self.reference:
            wanted = held[0].get(self.reference[a].module)
            if a not in self.parts[0] or a in self.pairs or not wanted:
                continue
            for b in self.port:
                module = self.port[b].module
                calls = (self.reference[a].module, module)
                if b not in self.parts[1] or held[1].get(module) != wanted:
                    continue
                if (a, b) in self._calls(*calls) and self._end_alike(a, b):
                    self._pair(a, b, "weights")
                    break

    def _calls(self, reference: str, port: str) -> list[tuple[str, str]]:
        """Return the calls of two layers, the first with the first, that are free and fit."""
        ours = [n for n, c in self.reference.items() if c.module == reference]
        theirs = [n for n, c in self.port.items() if c.module == port]
        if len(ours) != len(theirs):
            return []
        return [
            (a, b)
            for a, b in zip(ours, theirs, strict=True)
            if self._free(a, b) and self._sizes_agree(a, b)
        ]

    def _pair_unless_doubtful(self, a: str, b: str, how: str) -> None:
        """Pair two calls, but for such as may end at different places: these wait."""
        if self.ends is None or how == "given" or not self.ends.doubtful(a, b):
            self._pair(a, b, how)
        else:
            self.doubtful.append((a, b, how))

    def _end_alike(self, a: str, b: str) -> bool | None:
        return None if self.ends is None else self.ends.alike(a, b, self.pairs)

    def _by_value(self) -> None:
        """Pair equal activations; of several, leaves with leaves, in their order."""
        prints: dict[tuple, list[str]] = {}
        for name in self.port:
            if name not in self.used:
                prints.setdefault(_shape(self.port[name]), []).append(name)
        for leaf in (True, False):
            for a, call in self.reference.items():
                if a in self.pairs or (a not in self.parts[0]) != leaf:
                    continue
                for b in prints.get(_shape(call), ()):
                    same_sort = (b not in self.parts[1]) == leaf
                    if b not in self.used and same_sort and self._equal(a, b):
                        self._pair(a, b, "value")
                        break

    def _by_order(self) -> None:
        """Pair calls between the same two pairs, where both sides have as many of equal size."""
        ours = [n for n in self.reference if n not in self.parts[0]]
        theirs = [n for n in self.port if n not in self.parts[1]]
        place = {name: i for i, name in enumerate(theirs)}
        start = 0
        for known, group in itertools.groupby(ours, key=lambda n: n in self.pairs):
            names = list(group)
            if known:
                start = max(start, *(place.get(self.pairs[n].port, -1) + 1 for n in names))
                continue
            after = next((n for n in ours[ours.index(names[-1]) + 1 :]), None)
            end = place.get(self.pairs[after].port, len(theirs)) if after else len(theirs)
            between = [n for n in theirs[start:end] if n not in self.used]
            if [_shape(self.reference[n]) for n in names] == [
                _shape(self.port[n]) for n in between
            ]:
                for a, b in zip(names, between, strict=True):
                    if (a, b) not in self.refused:
                        self._pair(a, b, "order")

    def _free(self, a: str, b: str) -> bool:
        return a not in self.pairs and b not in self.used

    def _sizes_agree(self, a: str, b: str) -> bool:
        return _shape(self.reference[a]) == _shape(self.port[b])

    def _equal(self, a: str, b: str) -> bool:
        mine, other = self.reference[a].outputs, self.port[b].outputs
        return (
            bool(mine)
            and len(mine) == len(other)
            and all(permutation(x, y) is not None for x, y in zip(mine, other, strict=True))
        )

    def _pair(self, a: str, b: str, how: str) -> None:
        axes = []
        for x, y in zip(self.reference[a].outputs, self.port[b].outputs, strict=False):
            order = permutation(x, y) or self._order_by_shape(a, x, y)
            axes.append(None if order is None or order == tuple(range(x.ndim)) else order)
        self.pairs[a] = Pair(a, b, how, tuple(axes))
        self.used.add(b)

    def _order_by_shape(
        self, call: str, reference: np.ndarray, port: np.ndarray
    ) -> tuple[int, ...] | None:
        """Return the axes where the values differ: the port's layout, or as PyTorch has them.

        Networks such as ConvNeXt and Swin have their channels last inside.
        """
        n = reference.ndim
        asis = tuple(range(n))
        turned = self.layout.get(n) or (asis if n < 3 else (0, *range(2, n), 1))
        back = tuple(int(i) for i in np.argsort(turned))
        options: tuple[tuple[int, ...], ...]
        if n not in self.layout:  # both sides may have it alike, or as convolutions do
            options = (turned, asis, back) if call in self.first else (asis, turned, back)
        else:
            options = (back, asis) if call in self.last else (asis, back)
        if n != port.ndim:
            found = (with_units(axes, reference, port) for axes in options)
            return next((axes for axes in found if axes is not None), None)
        shapes = [tuple(reference.shape[i] for i in axes) for axes in options]
        return next((o for o, s in zip(options, shapes, strict=True) if s == port.shape), None)


def _shape(call: Call) -> tuple:
    return tuple(sizes(o) for o in call.outputs)
