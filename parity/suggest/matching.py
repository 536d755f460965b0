"""Which layer of the reference each layer of the port answers, before any tensor is compared."""

from __future__ import annotations

import dataclasses
import enum
import itertools
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence

from parity.suggest.layers import Graph, parts_of

MARGIN = 0.1  # by how much a name must be more alike than any other to decide
# Words that layers are called by, and what they mean.
MEANINGS = {
    "query": "q", "key": "k", "value": "v", "dense": "linear", "fc": "linear", "proj": "linear",
    "projection": "linear", "bn": "norm", "ln": "norm", "layernorm": "norm", "batchnorm": "norm",
    "downsample": "skip", "shortcut": "skip", "first": "1", "second": "2", "third": "3",
    "blocks": "layers", "layer": "layers", "block": "layers", "convolution": "conv",
    "output": "out", "embedding": "embed", "embeddings": "embed",
}  # fmt: skip


class DoubtKind(enum.StrEnum):
    """What is not decided, in the words of the table."""

    PARTS = "which part is which"
    SIDE_BY_SIDE = "layers of equal shapes, side by side"
    AXES = "the shapes do not tell which axis is which"
    NAME = "the name says otherwise"
    SHAPE = "only its shape says so"
    PARTLY = "only one side has all of these tensors"
    MISFIT = "no usual rearrangement fits the shapes"


@dataclasses.dataclass(frozen=True)
class Doubt:
    """Something in a suggestion that is not decided.

    Attributes:
        kind: What it is about.
        choices: Between what: layers of the reference, or formulas of axes; empty if not known.
    """

    kind: DoubtKind
    choices: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = f": {' or '.join(self.choices)}" if self.choices else ""
        return f"{self.kind}{shown}"


@dataclasses.dataclass(frozen=True)
class Match:
    """A layer of the reference and one of the port.

    Attributes:
        reference: Names of the reference's layers: one, or those that are stacked or joined.
        port: Names of the port's.
        how: Why they are thought to be the same.
        doubt: What is not decided, and which layers of the reference it may be instead.
    """

    reference: tuple[str, ...]
    port: tuple[str, ...]
    how: str
    doubt: Doubt | None = None


def likeness(one: str, other: str) -> float:
    """Return how much two names have in common, from 0 to 1; their last words count most."""
    sides = [[MEANINGS.get(w, w) for w in parts_of(name)] for name in (one, other)]
    weights = [{w: 0.5 ** (len(side) - 1 - i) for i, w in enumerate(side)} for side in sides]
    words = weights[0].keys() | weights[1].keys()
    if not words:
        return 1.0
    common = sum(min(weights[0].get(w, 0), weights[1].get(w, 0)) for w in words)
    return common / sum(max(weights[0].get(w, 0), weights[1].get(w, 0)) for w in words)


class Matcher:
    """Matches layers by values, by names and by the order of their use.

    Args:
        reference: The reference's layers.
        port: The port's.
    """

    def __init__(self, reference: Graph, port: Graph) -> None:
        self.graphs = reference, port
        self.matches: dict[str, Match] = {}  # by the port's layer
        self.taken: set[str] = set()

    def match(self, values: dict[str, str]) -> list[Match]:
        """Match what can be matched one to one.

        Args:
            values: The port's layers -> the reference's that hold the same values.
        """
        for port, reference in values.items():
            self._add(reference, port, "values")
        keys: list[tuple[Callable[[int, str], Hashable], str]] = [
            (self._key(ROUNDS_AND_DEPTH), "order of use"),
            (self._key(2), "order of use"),
            (self._key(1), "order of use"),
        ]
        names = self._by_name()
        for key, how in keys:
            for ours, theirs in self._classes(key):
                self._class(ours, theirs, how, names)
        several = joined(*self.graphs, self.taken, set(self.matches))
        self.taken |= {name for match in several for name in match.reference}
        self.matches |= {name: match for match in several for name in match.port}
        for ours, theirs in self._classes(self._key(0)):
            self._class(ours, theirs, "shape", names)
        self._rest(names)
        self._partly()
        return list(dict.fromkeys(self.matches.values()))

    def _key(self, round_: int) -> Callable[[int, str], Hashable]:
        def key(side: int, name: str) -> Hashable:
            graph = self.graphs[side]
            if round_ == ROUNDS_AND_DEPTH:
                return graph.colours[-1][name], graph.depths[name]
            return graph.colours[round_][name]

        return key

    def _by_name(self) -> dict[str, str]:
        """Return the port's layers that are called like one of the reference's of these shapes."""
        ours, theirs = (graph.layers for graph in self.graphs)
        return {
            name: name
            for name, layer in theirs.items()
            if name in ours and ours[name].sizes == layer.sizes
        }

    def _classes(self, key: Callable[[int, str], Hashable]) -> list[tuple[list[str], list[str]]]:
        """Return layers that cannot be told apart so far, if there are as many on both sides."""
        found: dict[Hashable, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
        for side, graph in enumerate(self.graphs):
            for name in graph.layers:
                if name not in (self.taken, self.matches)[side]:
                    found[key(side, name)][side].append(name)
        return [(a, b) for a, b in found.values() if len(a) == len(b)]

    def _class(self, ours: list[str], theirs: list[str], how: str, names: dict[str, str]) -> None:
        """Match layers of one class, if order or names say which is which."""
        rows = [g.in_a_row(n) for g, n in zip(self.graphs, (ours, theirs), strict=True)]
        if len(ours) == 1 or (rows[0] and rows[1]):
            for a, b in zip(rows[0] or ours, rows[1] or theirs, strict=True):
                doubt = None
                if b in names and names[b] != a:
                    doubt = Doubt(DoubtKind.NAME, (names[b],))
                elif how == "shape" and a != b and likeness(a, b) < MARGIN and len(ours) == 1:
                    doubt = Doubt(DoubtKind.SHAPE)
                self._add(a, b, "name and " + how if names.get(b) == a else how, doubt)
            return
        for a, b in self._decided(ours, theirs):
            self._add(a, b, f"name, among layers of equal {how}")

    def _decided(self, ours: Sequence[str], theirs: Sequence[str]) -> list[tuple[str, str]]:
        """Return pairs whose names are more alike than either's with any other."""
        alike = {(a, b): likeness(a, b) for a in ours for b in theirs}
        found = []
        for (a, b), score in alike.items():
            others = [s for (x, y), s in alike.items() if (x == a) != (y == b)]
            if a == b or score >= max(others, default=0) + MARGIN:
                found.append((a, b))
        return found

    def _rest(self, names: dict[str, str]) -> None:
        """Match what is left of equal shapes in the order of use, all of it in doubt."""
        ours: dict[Hashable, list[str]] = defaultdict(list)
        for name, layer in self.graphs[0].layers.items():
            if name not in self.taken:
                ours[layer.sizes].append(name)
        for name, layer in self._in_order(1):
            free = [n for n in ours[layer.sizes] if n not in self.taken]
            if not free:
                continue
            free.sort(key=lambda n: (-likeness(n, name), self.graphs[0].order.get(n, 0)))
            same = names.get(name)
            chosen = same if same in free else self._next(free)
            rivals = tuple(n for n in ours[layer.sizes] if n != chosen)
            doubt = None if chosen == same else Doubt(DoubtKind.SIDE_BY_SIDE, rivals)
            self._add(str(chosen), name, "name" if chosen == same else "order", doubt)

    def _partly(self) -> None:
        """Match layers whose weights alone are of equal size, as where one side has no bias."""
        for name, layer in self._in_order(1):
            weight = dict(layer.sizes).get("weight")
            free = [
                n
                for n, la in self.graphs[0].layers.items()
                if n not in self.taken and weight and dict(la.sizes).get("weight") == weight
            ]
            if free and len(layer.sizes) * len(self.graphs[0].layers[free[0]].sizes) > 1:
                free.sort(key=lambda n: (-likeness(n, name), self.graphs[0].order.get(n, 0)))
                self._add(free[0], name, "weight", Doubt(DoubtKind.PARTLY))

    def _next(self, free: list[str]) -> str:
        return min(free, key=lambda n: self.graphs[0].order.get(n, len(self.graphs[0].order)))

    def _in_order(self, side: int) -> list:
        graph = self.graphs[side]
        left = [(n, la) for n, la in graph.layers.items() if n not in self.matches]
        return sorted(left, key=lambda item: graph.order.get(item[0], len(graph.order)))

    def _add(self, a: str, b: str, how: str, doubt: Doubt | None = None) -> None:
        if a not in self.taken and b not in self.matches:
            self.matches[b] = Match((a,), (b,), how, doubt)
            self.taken.add(a)


ROUNDS_AND_DEPTH = -1  # the farthest surroundings, and the depth in the network


def joined(reference: Graph, port: Graph, taken: set[str], matched: set[str]) -> list[Match]:
    """Match layers of one side that are one layer on the other, such as query, key and value."""
    found: list[Match] = []
    for swapped, (one, many, used, others) in enumerate(
        ((reference, port, taken, matched), (port, reference, matched, taken))
    ):
        free = [n for n in many.layers if n not in others]
        known = {many.layers[n].sizes for n in free}
        whole = [n for n in one.layers if n not in used and one.layers[n].sizes not in known]
        for name in sorted(whole, key=lambda n: one.order.get(n, 0)):
            parts = _parts(one, many, name, free)
            if parts:
                free = [n for n in free if n not in parts]
                sides = (name,), tuple(parts)
                ours, theirs = sides[::-1] if swapped else sides
                found.append(Match(ours, theirs, "sizes", Doubt(DoubtKind.PARTS)))
    return found


def _parts(one: Graph, many: Graph, name: str, free: list[str]) -> list[str]:
    """Return layers, all fed the same, that are as large as one of the other side together."""
    whole = dict(one.layers[name].sizes)
    beside: dict[Hashable, list[str]] = defaultdict(list)
    for other in free:
        sizes = dict(many.layers[other].sizes)
        if sizes.keys() == whole.keys() and all(sizes[r] < whole[r] for r in whole):
            fed = frozenset(many.before[other])
            beside[other.rpartition(".")[0], fed, other in many.order].append(other)
    for group in beside.values():
        for count in (3, 2):
            for parts in itertools.combinations(sorted(group, key=_usual), count):
                sizes_of = [dict(many.layers[n].sizes) for n in parts]
                if all(sum(s[r] for s in sizes_of) == whole[r] for r in whole):
                    return list(parts)
    return []


def _usual(name: str) -> tuple[int, str]:
    """Order query, key and value as they usually are in one matrix, and gate before up."""
    words = [MEANINGS.get(w, w) for w in parts_of(name)]
    order = ("q", "k", "v", "gate", "up")
    return next((i for i, w in enumerate(order) if w in words), len(order)), name
