"""A pairing of layers, bounded: which layers and tensors are compared, and what was left out.

The layers are paired before, by all that is known of them, so a layer's partner does not depend on
the bounds.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

from parity.capture.records import Call, Kept, RunRecord, is_array
from parity.ladder.bounds import Bounds
from parity.ladder.keys import key_of
from parity.ladder.pairing import Alignment, Pair
from parity.report.findings import Bound, Omission
from parity.report.quantity import Kind, Quantity
from parity.spec import draw
from parity.spec.errors import InputError, listed

if TYPE_CHECKING:
    from parity.ladder.runs import Runs

T = TypeVar("T")

NONE = "(none)"
NUMBERS = {"layer_idx", "layer_id", "layer_index", "idx", "index"}  # by which layers are counted
BY_NAME, BY_SAMPLE = "--layers", "--sample"
# Rung -> the quantity of each tensor that it compares; L0 compares all of them, whatever is asked.
TENSORS = {
    "L3": Quantity(Kind.PARAMETER_GRADIENT),
    "L4": Quantity(Kind.STEP, step=1),
    "L5": Quantity(Kind.STATE, step=1),
}


class Bounded:
    """What of both sides is compared.

    Args:
        runs: Both sides, whose layers are paired.
        whole: All pairs of layers.
        bounds: What was asked for.

    Attributes:
        alignment: The pairs that are compared, and the layers without a partner that were asked
            for.
        left: The pairs that are left out, by the reference's call -> the option that did it.
        tensors: The port's tensors that are left out -> the option that did it.
    """

    def __init__(self, runs: Runs, whole: Alignment, bounds: Bounds) -> None:
        self.runs, self.whole, self.bounds = runs, whole, bounds
        self.left: dict[str, str] = {}
        self.tensors: dict[str, str] = {}
        self.alone: dict[str, str] = {}  # unpaired layers that were not asked for
        self.alignment = whole
        # Of this object: a cache of the class would keep every comparison's for ever.
        self._anatomy = functools.cache(self._find_anatomy)
        if bounds.layers:
            self._leave_out_names()
        if bounds.sample is not None:
            self._leave_out_alike(bounds.sample)
        if bounds:
            pairs = {n: p for n, p in whole.pairs.items() if n not in self.left}
            unpaired = (
                tuple(n for n in names if n not in self.alone)
                for names in (whole.reference, whole.port)
            )
            self.alignment = Alignment(pairs, *unpaired)
        if bounds.layers and not (runs.strict or runs.failed):
            self._refuse_unanswered()

    def _refuse_unanswered(self) -> None:
        """Refuse patterns that fit layers of one side alone, of which nothing can be compared.

        Raises:
            InputError: It names them.
        """
        if not self.alignment.pairs and not self.only(self.runs.port64.state()):
            names = [*self.alignment.reference, *self.alignment.port]
            of = f"answers {listed(names)}" if names else "answers them"
            raise InputError(f"{self.bounds.by_name}: nothing of the other side {of}")

    # What is left out.

    def _leave_out_names(self) -> None:
        fits = self.bounds.fits
        for name, pair in self.whole.pairs.items():
            if not (fits(_module(pair.reference)) or fits(_module(pair.port))):
                self.left[name] = BY_NAME
        for name in (*self.whole.reference, *self.whole.port):
            if not fits(_module(name)):
                self.alone[name] = BY_NAME
        compared = [p for n, p in self.whole.pairs.items() if n not in self.left]
        inside = tuple(f"{_module(pair.port)}." for pair in compared)
        for name in self.runs.port64.state():
            keys = self.runs.tensors.keys(name)
            # What was computed of several is not known by their names.
            asked = any(map(fits, (name, *keys))) or (not keys and name.startswith(inside))
            if not asked:
                self.tensors[name] = BY_NAME

    def _leave_out_alike(self, sample: float) -> None:
        """Draw the layers that stand for those that are alike, and leave the others out."""
        kinds: dict[Hashable, dict[str, list[str]]] = {}
        for name, pair in self.whole.pairs.items():
            if name not in self.left:
                kinds.setdefault(self._kind(pair), {}).setdefault(_module(name), []).append(name)
        for number, modules in enumerate(kinds.values()):
            count = sample if isinstance(sample, int) else round(sample * len(modules))
            rng = draw.generator(self.bounds.seed, "sample", number)
            drawn = rng.permutation(len(modules))[: max(1, int(count))]
            for i, calls in enumerate(modules.values()):
                if i not in drawn:
                    self.left |= dict.fromkeys(calls, BY_SAMPLE)
        owners = _owners(self.whole.pairs, self.left)
        for name in self.runs.port64.state():
            held = [owners[o] for o in self._held_by(name) if o in owners]
            if name not in self.tensors and held and all(held):
                self.tensors[name] = BY_SAMPLE

    def _held_by(self, name: str) -> Iterator[tuple[str, str]]:
        """Yield the layers of either side that hold a tensor of the port's."""
        yield "port", name.rpartition(".")[0]
        for key in self.runs.tensors.keys(name):
            yield "reference", key.rpartition(".")[0]

    def _kind(self, pair: Pair) -> Hashable:
        """Return what layers have in common that are alike but for their values."""
        module, theirs = _module(pair.reference), _module(pair.port)
        port = self.runs.port64
        kind = port.kind(theirs) if port.has(theirs) else ""
        return self._anatomy(module), kind, self._shapes(pair.port), pair.axes

    def _find_anatomy(self, module: str) -> Hashable:
        """Return the classes, settings and tensors of a layer of the reference, and inside it."""
        side, shapes = self.runs.reference64, self.runs.tensors.state_shapes
        own: dict[str, list[Hashable]] = {}
        for name, shape in shapes.items():
            if name.startswith(f"{module}."):
                own.setdefault(name.rpartition(".")[0], []).append((name[len(module) :], shape))
        return tuple(
            (
                name[len(module) :],
                side.kind(name),
                repr(sorted(s for s in side.settings(name).items() if s[0] not in NUMBERS)),
                tuple(own.get(name, ())),
            )
            for name in side.parts(module)
        )

    def _shapes(self, call: str) -> Hashable:
        """Return the shapes of what a call of the port takes and returns in each mode."""
        found = []
        for train in self.runs.modes:
            traced = self._traced(train).get(call)
            arrays = [] if traced is None else [*traced.arrays(), *traced.outputs]
            found.append(tuple((tuple(a.shape), str(a.dtype)) for a in arrays if is_array(a)))
        return tuple(found)

    def _traced(self, train: bool) -> Mapping[str, Call]:
        return self.runs.port64.traced.get(train, {})

    # What is compared.

    def compares(self, call: str) -> bool:
        """Return whether a call of the reference is compared if something answers it."""
        if call in self.left or call in self.alone:
            return False
        asked = call in self.alignment.pairs or self.bounds.fits(_module(call))
        return asked or not self.bounds.layers

    def leaves_out(self, key: str) -> bool:
        """Return whether a tensor of the reference is left out: it, or all that is made of it."""
        made = self._made.get(key)
        if made is None:
            return bool(self.bounds.layers) and not self.bounds.fits(key)
        return all(name in self.tensors for name in made)

    @functools.cached_property
    def _made(self) -> dict[str, list[str]]:
        """Return the reference's tensors -> the port's that are made of each."""
        found: dict[str, list[str]] = {}
        for name in self.runs.port64.state():
            for key in self.runs.tensors.keys(name):
                found.setdefault(key, []).append(name)
        return found

    def only(self, arrays: Mapping[str, T]) -> dict[str, T]:
        """Return what is compared of the port's tensors, by name."""
        return {name: array for name, array in arrays.items() if name not in self.tensors}

    @functools.cached_property
    def of_reference(self) -> Kept | None:
        """Return what a run of the reference records; None if it records everything."""
        return self._kept(False) if self.bounds else None

    @functools.cached_property
    def of_port(self) -> Kept | None:
        """Return what a run of the port records; None if it records everything."""
        return self._kept(True) if self.bounds else None

    def _kept(self, ported: bool) -> Kept:
        def modules(names: Iterable[str]) -> set[str]:
            pairs = (self.whole.pairs[name] for name in names)
            return {_module(pair.port if ported else pair.reference) for pair in pairs}

        compared = modules(self.alignment.pairs)
        dropped = modules(self.left) | set(map(_module, self.alone))
        tensors = self._kept_tensors(ported)
        layers = {
            name
            for name in layers_of(self.runs, ported)
            if name not in dropped and (not self.bounds.layers or self.bounds.fits(name))
        }
        owners = {name.rpartition(".")[0] for name in tensors}
        return Kept(frozenset(compared | layers | owners), frozenset(tensors))

    def _kept_tensors(self, ported: bool) -> set[str]:
        runs = self.runs
        found = set(self.only(runs.port64.state()))
        tied = [p for p in runs.projections if found & set(p.port)]
        if ported:
            return found.union(*(p.port for p in tied))
        keys = {key for key in runs.reference64.state() if not self.leaves_out(key)}
        return keys.union(*(p.reference for p in tied))

    def recorded(self, result: RunRecord) -> RunRecord:
        """Return what is kept of a run of the reference that recorded more."""
        kept = self.of_reference
        if kept is None:
            return result
        names = self.runs.reference64.aliases()
        return dataclasses.replace(
            result,
            calls={n: c for n, c in result.calls.items() if c.module in kept.layers},
            parameter_gradients={
                n: g
                for n, g in result.parameter_gradients.items()
                if kept.tensors.intersection(names.get(n, (n,)))
            },
        )

    # What is said of it.

    def bound(self) -> list[Bound]:
        """Return how much each option left out."""
        given = {BY_NAME: self.bounds.by_name, BY_SAMPLE: self.bounds.by_sample}
        every = len(self.whole.pairs) + len(self.whole.reference) + len(self.whole.port)
        return [
            Bound(text, _count({**self.left, **self.alone}, option), every, *self._sizes(option))
            for option, text in given.items()
            if text
        ]

    def _sizes(self, option: str) -> tuple[int, int]:
        """Return how many arrays an option left out, and of how many elements in all.

        They are the layers' outputs in each mode, and their tensors.
        """
        state = self.runs.port64.state()
        left = [self.whole.pairs[n].port for n, by in self.left.items() if by == option]
        calls = [self._traced(t)[n] for n in left for t in self.runs.modes if n in self._traced(t)]
        shapes = [o.shape for call in calls for o in call.outputs if is_array(o)]
        shapes += [state[name].shape for name, by in self.tensors.items() if by == option]
        return len(shapes), sum(math.prod(shape) for shape in shapes)

    def omissions(self, rung: str) -> Iterator[Omission]:
        """Yield what was left out on a rung."""
        if rung in ("L1", "L2"):
            output = Quantity(Kind.OUTPUT)
            for name, option in self.left.items():
                pair = self.whole.pairs[name]
                if rung == "L2" or self._is_leaf(name):
                    yield self._omission(rung, pair.port, name, output, option)
            for name, option in self.alone.items():
                yield self._omission(rung, name, name, output, option)
        if rung not in TENSORS:
            return
        trained = self.runs.port64.parameters()
        for name, option in self.tensors.items():
            if name in trained:
                layer, quantity = key_of(name, TENSORS[rung])
                keys = ", ".join(self.runs.tensors.keys(name)) or NONE
                yield self._omission(rung, layer, keys, quantity, option)

    def _is_leaf(self, call: str) -> bool:
        side, module = self.runs.reference64, _module(call)
        return not side.has_parts(module) and module not in side.silenced

    def _omission(
        self, rung: str, layer: str, reference: str, quantity: Quantity, option: str
    ) -> Omission:
        reason = f"left out by {option}"
        return Omission(rung, layer, reference, quantity, reason, option=option)

    def empty(self, rung: str) -> str:
        """Return why a rung has nothing to compare within the bounds; empty if it has something."""
        if not self.bounds:
            return ""
        if rung == "L1":
            what, left = "layer that runs alone", any(map(self._is_leaf, self.left))
            some = not left or any(map(self._is_leaf, self.alignment.pairs))
        else:
            what, some = "parameter", bool(self.runs.names.trained - self.tensors.keys())
        return "" if some else f"no {what} is within {self.bounds.text}"


def _module(call: str) -> str:
    return call.partition("#")[0]


def _count(left: Mapping[str, str], option: str) -> int:
    return sum(by == option for by in left.values())


def _owners(pairs: Mapping[str, Pair], left: Collection[str]) -> dict[tuple[str, str], bool]:
    """Return each side's layers -> whether all calls of the layer are left out."""
    found: dict[tuple[str, str], bool] = {}
    for name, pair in pairs.items():
        for owner in (("reference", _module(pair.reference)), ("port", _module(pair.port))):
            found[owner] = found.get(owner, True) and name in left
    return found


def layers_of(runs: Runs, ported: bool) -> set[str]:
    """Return the dotted names of all layers of a side."""
    if not ported:
        return set(runs.reference64.parts(""))
    called = (call.module for traced in runs.port64.traced.values() for call in traced.values())
    return {*runs.port64.layers, *called} - {""}


def names_of(runs: Runs) -> Iterable[str]:
    """Return what a pattern may fit: the names of all layers and tensors of both sides."""
    layers = sorted(layers_of(runs, False)) + sorted(layers_of(runs, True))
    return [*layers, *runs.reference64.state(), *runs.port64.state()]
